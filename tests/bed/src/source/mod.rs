//! A source to load from: pages by id, misbehaves on request, and logs what it *really* sent.
//!
//! It speaks HTTP/1.1 on raw sockets, because the log needs the moment at which a request's first byte was read and the
//! bytes that the network stack really took; no server library tells either. Several sources share one listener:
//! `GET /<name>/events?afterId=…&limit=…`.

mod answer;
mod config;
mod fault;
mod feed;
pub mod hostile;
mod wire;

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, lookup_host},
    task::JoinHandle,
};

pub use answer::UNSPEAKABLE;
pub use config::SourceConfig;
pub use fault::{Chance, Fault, FaultKind};
pub use feed::{Feed, IdStyle, fingerprint};

use crate::{
    access_log::{Access, AccessLog},
    clock,
};

/// How often it is asked whether all requests are logged.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One source while it is served.
struct Served {
    config: SourceConfig,
    /// Faults for the next requests, before any chance is taken. `None` is a request that goes well.
    scripted: Mutex<VecDeque<Option<Fault>>>,
    /// What every request meets that nothing is scripted for.
    weather: Mutex<Option<Fault>>,
    dice: Mutex<StdRng>,
    /// Since when its events exist; not yet while it is closed.
    born: OnceLock<u64>,
    /// How many requests are not logged yet.
    serving: AtomicUsize,
}

impl Served {
    fn next_fault(&self) -> Option<Fault> {
        if let Some(scripted) = self.scripted.lock().expect("no holder panics").pop_front() {
            return scripted;
        }
        if let Some(fault) = &*self.weather.lock().expect("no holder panics") {
            return Some(fault.clone());
        }
        let mut roll: f64 = self.dice.lock().expect("no holder panics").random();
        for chance in &self.config.chances {
            if roll < chance.of {
                return Some(chance.fault.clone());
            }
            roll -= chance.of;
        }
        None
    }

    /// Answers as it does now, and notes how.
    async fn answer(
        &self,
        request: &wire::Request,
        stream: &mut TcpStream,
        unread: &mut wire::Unread,
        access: &mut Access,
    ) -> std::io::Result<()> {
        let feed = &self.config.feed;
        let fault = self.next_fault();
        let guarded = self.config.guard.as_ref().is_some_and(|(name, value)| request.header(name) != value);
        let after = request.after.as_deref().map_or(Some(0), |id| feed.index(id));
        (access.after, access.fault) = (after.unwrap_or(0), FaultKind::from(fault.as_ref()));
        tokio::time::sleep(Duration::from_millis(self.config.latency_ms)).await;
        let answer = match after {
            _ if guarded => answer::Answer::status(401),
            Some(after) => answer::plan(feed, fault.as_ref(), after, request.limit, self.available()),
            None => answer::Answer::status(400),
        };
        answer.send(stream, unread, access).await
    }

    fn available(&self) -> u64 {
        self.born.get().map_or(0, |born| self.config.feed.available(clock::now_us() - born))
    }
}

/// Serves sources until it is dropped.
pub struct FakeSource {
    address: SocketAddr,
    served: Arc<HashMap<String, Served>>,
    log: Arc<AccessLog>,
    accepting: JoinHandle<()>,
}

impl FakeSource {
    /// Listens on `address` (port 0 picks one) and serves.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(address: &str, sources: Vec<SourceConfig>, seed: u64, log: AccessLog) -> Result<Self> {
        let send_buffer = sources.iter().filter_map(|source| source.send_buffer).min();
        let listener = listen(address, send_buffer).await.with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr().context("cannot read the address listened on")?;
        let now = clock::now_us();
        let served: HashMap<_, _> = sources
            .into_iter()
            .zip(seed..)
            .map(|(config, seed)| {
                let name = config.feed.name.clone();
                let dice = Mutex::new(StdRng::seed_from_u64(seed));
                let born = if config.closed { OnceLock::new() } else { OnceLock::from(now) };
                (
                    name,
                    Served {
                        config,
                        scripted: Mutex::default(),
                        weather: Mutex::default(),
                        dice,
                        born,
                        serving: AtomicUsize::default(),
                    },
                )
            })
            .collect();
        let (served, log) = (Arc::new(served), Arc::new(log));
        let accepting = tokio::spawn(accept(listener, served.clone(), log.clone()));
        Ok(Self { address, served, log, accepting })
    }

    /// The URL of one source, as it goes into `spec.http.url`.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}/events", self.address)
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next requests to this source go like this, one each.
    ///
    /// # Panics
    /// When no such source is served.
    pub fn script(&self, name: &str, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.served[name].scripted.lock().expect("no holder panics").extend(faults);
    }

    /// From now on every request to this source goes like this; with none, as its chances have it.
    ///
    /// # Panics
    /// When no such source is served.
    pub fn weather(&self, name: &str, fault: Option<Fault>) {
        *self.served[name].weather.lock().expect("no holder panics") = fault;
    }

    /// From now on the events of the sources that were closed exist. Returns the moment, on the clock of the log.
    #[must_use]
    pub fn open(&self) -> u64 {
        let now = clock::now_us();
        for served in self.served.values() {
            // The others exist since they were started.
            let _ = served.born.set(now);
        }
        now
    }

    /// How many events exist now.
    ///
    /// # Panics
    /// When no such source is served.
    #[must_use]
    pub fn available(&self, name: &str) -> u64 {
        self.served[name].available()
    }

    /// Whether the last request that was scripted has come and has not ended, so that it is not in the log yet.
    ///
    /// # Panics
    /// When no such source is served.
    #[must_use]
    pub fn is_serving_what_was_scripted(&self, name: &str) -> bool {
        let served = &self.served[name];
        served.scripted.lock().expect("no holder panics").is_empty() && served.serving.load(Ordering::SeqCst) > 0
    }

    /// Waits until every request that has come stands in the log.
    ///
    /// # Errors
    /// When one is served for longer.
    pub async fn rests(&self, within: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            let is_busy = |served: &Served| served.serving.load(Ordering::SeqCst) > 0;
            let busy: Vec<&String> = self.served.iter().filter(|(_, it)| is_busy(it)).map(|(name, _)| name).collect();
            if busy.is_empty() {
                return Ok(());
            }
            ensure!(begun.elapsed() < within, "still serving, {within:?} after the last replica has ended: {busy:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    #[must_use]
    pub fn feeds(&self) -> Vec<Feed> {
        self.served.values().map(|served| served.config.feed.clone()).collect()
    }

    /// What was sent so far.
    #[must_use]
    pub fn log(&self) -> &AccessLog {
        &self.log
    }
}

impl Drop for FakeSource {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn listen(address: &str, send_buffer: Option<u32>) -> Result<TcpListener> {
    let address = lookup_host(address).await?.next().context("it names no address")?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if let Some(bytes) = send_buffer {
        // Those that are accepted inherit it.
        socket.set_send_buffer_size(bytes)?;
    }
    socket.bind(address)?;
    Ok(socket.listen(1024)?)
}

async fn accept(listener: TcpListener, served: Arc<HashMap<String, Served>>, log: Arc<AccessLog>) {
    let connections = AtomicU64::new(0);
    loop {
        // Out of file descriptors: the listener stays, so the next accept may work again.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let connection = connections.fetch_add(1, Ordering::Relaxed) + 1;
        tokio::spawn(serve(stream, connection, served.clone(), log.clone()));
    }
}

/// Serves the requests of one connection, one after the other.
async fn serve(
    mut stream: TcpStream,
    connection: u64,
    served: Arc<HashMap<String, Served>>,
    log: Arc<AccessLog>,
) -> std::io::Result<()> {
    let accepted = clock::now_us();
    stream.set_nodelay(true)?;
    let mut unread = wire::Unread::default();
    while let Some(request) = wire::read_request(&mut stream, &mut unread).await? {
        let mut access = noted(&request, connection, accepted);
        let Some(source) = served.get(&request.source).filter(|_| request.is_whole) else {
            // Nobody to answer for, and sent all the same.
            access.status = if request.is_whole { 404 } else { 400 };
            access.ended = clock::now_us();
            log.note(access);
            wire::write_whole(&mut stream, &wire::head(404, &[("content-length", "0")])).await?;
            continue;
        };
        source.serving.fetch_add(1, Ordering::SeqCst);
        let sent = source.answer(&request, &mut stream, &mut unread, &mut access).await;
        access.ended = clock::now_us();
        let keep = sent.is_ok() && (access.complete || !unread.is_empty());
        log.note(access);
        source.serving.fetch_sub(1, Ordering::SeqCst);
        sent?;
        if !keep {
            break;
        }
    }
    Ok(())
}

/// A request, before anything is known of its answer.
fn noted(request: &wire::Request, connection: u64, accepted: u64) -> Access {
    Access {
        source: request.source.clone(),
        path: request.path.clone(),
        replica: request.header("headgate-replica").to_owned(),
        attempt: request.header("headgate-attempt").to_owned(),
        connection,
        after: 0,
        limit: request.limit,
        accepted,
        started: request.started,
        parsed: request.parsed,
        first_byte: None,
        ended: 0,
        status: 0,
        fault: FaultKind::None,
        delivered: Vec::new(),
        complete: false,
        retry_after: None,
    }
}

#[cfg(test)]
mod tests;
