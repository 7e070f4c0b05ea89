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
//! others room. Nothing in a name tells where the zone of its owner begins: `example.com` is one, `co.uk` holds those of many,
//! and `svc.cluster.local` the namespaces of a cluster. So the names that end alike are counted at several depths, and the
//! deeper, the fewer places they have. That is no fence against who owns many such zones; their sources back off, as any
//! that fail.

use std::{
    collections::{HashMap, hash_map::Entry},
    convert::Infallible,
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

use super::by_content::{ByContent, Digest};

/// The most lookups at a time, a quarter of the threads that tokio has for what blocks. With a DNS that answers in 20 ms enough
/// for 6,000 names a second.
const PLACES: usize = 128;

/// The most lookups at a time of names with the same last labels, and how many labels those are. Thousands of sources may be
/// under two; two owners beside each other under three (`co.uk`) or four (namespaces of a cluster) leave each other half.
const PLACES_OF_ZONES: [(usize, usize); 3] = [(4, 12), (3, 24), (2, 48)];

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
    /// Of the zones in which a lookup runs or waits now.
    places_of_zones: ByContent<Semaphore>,
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
            places_of_zones: ByContent::default(),
            running: Arc::default(),
        }
    }

    fn places_of(&self, zone: &str, places: usize) -> Arc<Semaphore> {
        let make = || Ok::<_, Infallible>(Arc::new(Semaphore::new(places)));
        self.places_of_zones.get_or_make(Digest::of(&[zone.as_bytes()]), make).unwrap_or_else(|never| match never {})
    }

    /// Waits for the deepest zone first, so that who waits there holds nothing that others need.
    async fn place(&self, name: &str) -> Place {
        let never_closed = "the semaphores of the lookups are never closed";
        let mut held = Vec::with_capacity(PLACES_OF_ZONES.len() + 1);
        for (zone, places) in zones(name) {
            held.push(self.places_of(zone, places).acquire_owned().await.expect(never_closed));
        }
        held.push(Arc::clone(&self.places).acquire_owned().await.expect(never_closed));
        Place { _held: held }
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
    /// Of its zones, and of all.
    _held: Vec<OwnedSemaphorePermit>,
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

/// The zones that a name may be of, the deepest first, with their places. All of a name with no more than two labels.
fn zones(name: &str) -> impl Iterator<Item = (&str, usize)> {
    let name = name.trim_end_matches('.');
    PLACES_OF_ZONES.into_iter().enumerate().filter_map(move |(at, (labels, places))| {
        let is_widest = at + 1 == PLACES_OF_ZONES.len();
        let dot = name.rmatch_indices('.').nth(labels - 1);
        let zone = dot.map(|(dot, _)| &name[dot + 1..]).or(is_widest.then_some(name));
        zone.map(|zone| (zone, places))
    })
}

#[cfg(test)]
mod tests;
