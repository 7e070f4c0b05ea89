//! What addresses a name has.
//!
//! The resolver of the system blocks a thread for each lookup, and nothing ends one early: where the DNS is silent, a lookup
//! that nobody waits for any more keeps its thread for half a minute. Those threads are shared with all else that must block,
//! the way back to the database among it. So a lookup takes a thread only together with **a place**, of which there are few,
//! and the place comes back when the lookup has ended, not when it was given up. Waiting for a place takes no thread, and
//! can be given up.
//!
//! Who asks for a name that is being looked up waits for that answer: a name takes one place, however many sources stand
//! behind it. And the names of one zone take a part of the places at most, so that a zone whose servers are silent leaves the
//! others room. That is no fence against who owns many such zones; their sources back off, as any that fail.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

/// The most lookups at a time, a quarter of the threads that tokio has for what blocks. With a DNS that answers in 20 ms enough
/// for 6,000 names a second.
const PLACES: usize = 128;

/// The most lookups at a time of the names of one zone: thousands of sources may be under one.
const PLACES_OF_A_ZONE: usize = 48;

/// Zones are spread over so many lanes by a hash that nobody outside can foresee. A fixed number of them, so that names that
/// come and go leave nothing behind.
const LANES: usize = 16;

/// Why a name led nowhere. The texts follow the name.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum LookupError {
    #[error("has no address ({0}); check `http.url` and the DNS of the cluster")]
    NoAddress(Arc<io::Error>),
    #[error("was not resolved in time; check `http.url` and the DNS of the cluster")]
    Late,
    #[error("was not looked up in time, because lookups of other names do not end; check the DNS of the cluster")]
    NoPlace,
}

/// What addresses a name has now.
#[async_trait]
pub(super) trait Names: Send + Sync {
    /// Waits until `until` at most.
    async fn addresses(&self, name: &str, port: u16, until: Instant) -> Result<Vec<SocketAddr>, LookupError>;
}

type Answer = Result<Arc<[SocketAddr]>, Arc<io::Error>>;
type Resolve = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;
type Running = Mutex<HashMap<String, watch::Receiver<Option<Answer>>>>;

/// As the system resolves them.
pub(super) struct SystemNames {
    /// Blocks its thread.
    resolve: Arc<Resolve>,
    places: Arc<Semaphore>,
    lanes: [Arc<Semaphore>; LANES],
    lane_of_zone: RandomState,
    running: Arc<Running>,
}

impl SystemNames {
    pub(super) fn new() -> Self {
        Self::resolved_by(|name| (name, 0).to_socket_addrs().map(Iterator::collect))
    }

    fn resolved_by(resolve: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self {
            resolve: Arc::new(resolve),
            places: Arc::new(Semaphore::new(PLACES)),
            lanes: std::array::from_fn(|_| Arc::new(Semaphore::new(PLACES_OF_A_ZONE))),
            lane_of_zone: RandomState::new(),
            running: Arc::default(),
        }
    }

    fn lane(&self, name: &str) -> &Arc<Semaphore> {
        let [first, ..] = self.lane_of_zone.hash_one(zone(name)).to_le_bytes();
        &self.lanes[usize::from(first) % LANES]
    }

    async fn place(&self, name: &str) -> Place {
        let of_zone = Arc::clone(self.lane(name)).acquire_owned().await;
        let of_all = Arc::clone(&self.places).acquire_owned().await;
        let never_closed = "the semaphores of the lookups are never closed";
        Place { _of_zone: of_zone.expect(never_closed), _of_all: of_all.expect(never_closed) }
    }

    fn running(&self, name: &str) -> Option<watch::Receiver<Option<Answer>>> {
        locked(&self.running).get(name).cloned()
    }

    /// Looks a name up, if nobody has begun to meanwhile.
    fn look_up(&self, name: &str, place: Place) -> watch::Receiver<Option<Answer>> {
        let (tell, told) = watch::channel(None);
        match locked(&self.running).entry(name.to_owned()) {
            Entry::Occupied(running) => return running.get().clone(),
            Entry::Vacant(entry) => entry.insert(told.clone()),
        };
        let lookup = Lookup { name: name.to_owned(), running: Arc::clone(&self.running), _place: place };
        let resolve = Arc::clone(&self.resolve);
        spawn_blocking(move || {
            let answer = resolve(&lookup.name).map(Arc::from).map_err(Arc::new);
            // First, so that who asks after the answer asks anew.
            drop(lookup);
            tell.send_replace(Some(answer));
        });
        told
    }
}

#[async_trait]
impl Names for SystemNames {
    async fn addresses(&self, name: &str, port: u16, until: Instant) -> Result<Vec<SocketAddr>, LookupError> {
        let mut told = if let Some(told) = self.running(name) {
            told
        } else {
            let place = timeout_at(until, self.place(name)).await.map_err(|_| LookupError::NoPlace)?;
            self.look_up(name, place)
        };
        let answer = async { told.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone()) };
        let answer = timeout_at(until, answer).await.map_err(|_| LookupError::Late)?;
        let found = answer.unwrap_or_else(|| Err(Arc::new(io::Error::other("the lookup broke off"))));
        let mut addresses = found.map_err(LookupError::NoAddress)?.to_vec();
        for address in &mut addresses {
            address.set_port(port);
        }
        Ok(addresses)
    }
}

/// The right to block a thread.
struct Place {
    _of_zone: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// One that runs, until its thread is free again, however that comes about.
struct Lookup {
    name: String,
    running: Arc<Running>,
    _place: Place,
}

impl Drop for Lookup {
    fn drop(&mut self) {
        locked(&self.running).remove(&self.name);
    }
}

/// A panic cannot leave the map half written.
fn locked(running: &Running) -> MutexGuard<'_, HashMap<String, watch::Receiver<Option<Answer>>>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last two labels: near enough to what one set of servers answers for.
fn zone(name: &str) -> &str {
    let name = name.trim_end_matches('.');
    name.rmatch_indices('.').nth(1).map_or(name, |(dot, _)| &name[dot + 1..])
}

#[cfg(test)]
mod tests;
