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
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
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
    /// The newest request is not logged yet.
    serving: AtomicBool,
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
                        serving: AtomicBool::default(),
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
        served.scripted.lock().expect("no holder panics").is_empty() && served.serving.load(Ordering::SeqCst)
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
    let mut unread = Vec::new();
    while let Some(request) = wire::read_request(&mut stream, &mut unread).await? {
        let Some(source) = served.get(&request.source) else {
            wire::write_whole(&mut stream, &wire::head(404, &[("content-length", "0")])).await?;
            continue;
        };
        source.serving.store(true, Ordering::SeqCst);
        let fault = source.next_fault();
        let guarded = source.config.guard.as_ref().is_some_and(|(name, value)| request.header(name) != value);
        let after = request.after.as_deref().map_or(Some(0), |id| source.config.feed.index(id));
        let mut access = Access {
            source: request.source.clone(),
            path: request.path.clone(),
            replica: request.header("headgate-replica").to_owned(),
            attempt: request.header("headgate-attempt").to_owned(),
            connection,
            after: after.unwrap_or(0),
            limit: request.limit,
            accepted,
            started: request.started,
            parsed: request.parsed,
            first_byte: None,
            ended: 0,
            status: 0,
            fault: FaultKind::from(fault.as_ref()),
            delivered: Vec::new(),
            complete: false,
            retry_after: None,
        };
        tokio::time::sleep(Duration::from_millis(source.config.latency_ms)).await;
        let answer = match after {
            _ if guarded => answer::Answer::status(401),
            Some(after) => answer::plan(&source.config.feed, fault.as_ref(), after, request.limit, source.available()),
            None => answer::Answer::status(400),
        };
        let sent = answer.send(&mut stream, &mut access).await;
        access.ended = clock::now_us();
        let keep = sent.is_ok() && access.complete;
        log.note(access);
        source.serving.store(false, Ordering::SeqCst);
        sent?;
        if !keep {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::access_log::Delivered;

    async fn orders(config: SourceConfig) -> FakeSource {
        FakeSource::start("127.0.0.1:0", vec![config], 7, AccessLog::in_memory()).await.unwrap()
    }

    /// Sends one request and reads until the source closes or the answer is complete.
    async fn ask(source: &FakeSource, after: &str) -> String {
        let mut stream = TcpStream::connect(source.address()).await.unwrap();
        let request = format!(
            "GET /orders/events?afterId={after}&limit=10 HTTP/1.1\r\nHost: x\r\nHeadgate-Replica: a_1\r\nHeadgate-Attempt: 0f\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// The log, once a request has ended in it.
    async fn logged(source: &FakeSource) -> Access {
        let logged = async {
            loop {
                if let Some(access) = source.log().entries().pop() {
                    return access;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), logged).await.expect("a request ends in the log")
    }

    #[tokio::test]
    async fn a_page_follows_the_id_and_is_logged_with_who_asked() {
        let source = orders(SourceConfig::new("orders", 100)).await;
        let answer = ask(&source, "20").await;
        assert!(answer.contains("\"id\":21,") && answer.contains("\"id\":30,") && !answer.contains("\"id\":31,"));
        let access = logged(&source).await;
        assert_eq!((access.replica.as_str(), access.attempt.as_str(), access.after), ("a_1", "0f", 20));
        assert_eq!(access.delivered, [Delivered { first: 21, last: 30 }]);
        assert!(access.complete && access.started <= access.parsed && Some(access.parsed) <= access.first_byte);
    }

    #[tokio::test]
    async fn a_guarded_source_answers_401_to_a_request_without_the_header() {
        let (open, closed) = (("Headgate-Attempt", "0f"), ("X-Api-Key", "7f"));
        for (header, status) in [(open, "HTTP/1.1 200"), (closed, "HTTP/1.1 401")] {
            let source = orders(SourceConfig::new("orders", 5).behind_header(header.0, header.1)).await;
            assert!(ask(&source, "").await.starts_with(status), "{header:?}");
        }
    }

    #[tokio::test]
    async fn a_cut_body_is_logged_with_the_events_that_were_really_sent() {
        let source = orders(SourceConfig::new("orders", 100)).await;
        source.script("orders", [Some(Fault::CutBody { share: 0.55 })]);
        let answer = ask(&source, "").await;
        let access = logged(&source).await;
        assert_eq!(access.delivered, [Delivered { first: 1, last: 5 }]);
        assert!(!access.complete && answer.contains("\"id\":5,") && !answer.ends_with(']'));
    }

    #[tokio::test]
    async fn a_closed_source_is_empty_until_it_is_opened() {
        let source = orders(SourceConfig::new("orders", 100).once_opened()).await;
        assert!(ask(&source, "").await.ends_with("[]"));
        assert!(source.open() <= clock::now_us());
        assert!(ask(&source, "").await.contains("\"id\":1,"));
    }

    #[tokio::test]
    async fn scripted_faults_come_first_one_for_each_request() {
        let source = orders(SourceConfig::new("orders", 5)).await;
        let date = Fault::RateLimited { seconds: 3, as_date: true };
        source.script("orders", [Some(Fault::Status(503)), None, Some(date), Some(Fault::Redirect)]);
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(ask(&source, "").await);
        }
        assert!(answers[0].starts_with("HTTP/1.1 503") && answers[1].starts_with("HTTP/1.1 200"));
        assert!(answers[2].contains("retry-after: ") && answers[2].contains("\r\ndate: "));
        assert!(answers[3].starts_with("HTTP/1.1 302") && answers[3].contains("location: /orders/"));
    }

    #[tokio::test]
    async fn a_storm_meets_every_request_until_it_is_over() {
        let source = orders(SourceConfig::new("orders", 5)).await;
        source.weather("orders", Some(Fault::Status(503)));
        assert!(
            ask(&source, "").await.starts_with("HTTP/1.1 503") && ask(&source, "").await.starts_with("HTTP/1.1 503")
        );
        source.weather("orders", None);
        assert!(ask(&source, "").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_request_that_is_never_answered_ends_when_the_client_goes() {
        let source = orders(SourceConfig::new("orders", 5)).await;
        source.script("orders", [Some(Fault::NeverAnswers)]);
        assert_eq!(ask(&source, "").await, "");
        let access = logged(&source).await;
        assert!(access.first_byte.is_none() && access.delivered.is_empty() && !access.complete);
    }

    #[tokio::test]
    async fn the_same_seed_gives_the_same_faults() {
        let flaky = || SourceConfig::new("orders", 5).sometimes(0.5, Fault::Status(500));
        let mut runs = Vec::new();
        for _ in 0..2 {
            let source = orders(flaky()).await;
            for _ in 0..20 {
                ask(&source, "").await;
            }
            runs.push(source.log().entries().iter().map(|access| access.status).collect::<Vec<_>>());
        }
        assert_eq!(runs[0], runs[1]);
        assert!(runs[0].contains(&500) && runs[0].contains(&200));
    }
}
