//! An API server for Leases in memory, with a resourceVersion that every write must carry, a watch, and knobs for
//! everything that goes wrong between a replica and it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use jiff::Timestamp;
use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::Time};
use kube::runtime::watcher::Event;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{sync::watch, time::Instant};

use super::client::{LeaseApi, LeaseError};
use crate::ownership::lease::{MemberLease, SourceLease, Version};

mod watches;

/// One write, as the API server saw it.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) at: Instant,
    /// Whose connection it came over.
    pub(super) writer: String,
    pub(super) before: Option<Lease>,
    /// `None`: deleted.
    pub(super) after: Option<Lease>,
}

/// The API server.
pub(super) struct FakeApi {
    state: Mutex<State>,
    length: watch::Sender<usize>,
    /// Sees each write in the moment in which it happens.
    witness: OnceLock<Witness>,
}

type Witness = Box<dyn Fn(&Entry) + Send + Sync>;

#[derive(Default)]
struct State {
    leases: BTreeMap<String, Lease>,
    log: Vec<Entry>,
}

impl FakeApi {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), length: watch::Sender::new(0), witness: OnceLock::new() })
    }

    pub(super) fn is_witnessed_by(&self, witness: impl Fn(&Entry) + Send + Sync + 'static) {
        assert!(self.witness.set(Box::new(witness)).is_ok(), "one witness is enough");
    }

    /// A connection of its own for one replica.
    pub(super) fn connect(self: &Arc<Self>, writer: &str, faults: &Arc<Faults>, seed: u64) -> Arc<FakeLeases> {
        Arc::new(FakeLeases {
            api: self.clone(),
            writer: writer.to_owned(),
            faults: faults.clone(),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
        })
    }

    pub(super) fn leases(&self) -> Vec<Lease> {
        self.lock().leases.values().cloned().collect()
    }

    pub(super) fn log(&self) -> Vec<Entry> {
        self.lock().log.clone()
    }

    /// Edits a Lease by hand, as somebody with kubectl would.
    pub(super) fn edit(&self, name: &str, edit: impl FnOnce(&mut Lease)) {
        let Some(mut lease) = self.lock().leases.get(name).cloned() else { return };
        edit(&mut lease);
        self.replace("kubectl", &lease).unwrap();
    }

    /// Deletes a Lease by hand.
    pub(super) fn remove(&self, name: &str) {
        let _ = self.delete("kubectl", name, None);
    }

    fn create(&self, writer: &str, lease: &Lease) -> Result<Lease, LeaseError> {
        let mut state = self.lock();
        let name = lease.metadata.name.clone().unwrap();
        if state.leases.contains_key(&name) {
            return Err(LeaseError::Conflict);
        }
        let mut lease = lease.clone();
        lease.metadata.uid = Some(format!("{name}-{}", state.log.len()));
        let created = Timestamp::UNIX_EPOCH + Duration::from_secs(state.log.len() as u64);
        lease.metadata.creation_timestamp = Some(Time(created));
        Ok(self.write(&mut state, writer, None, lease))
    }

    fn replace(&self, writer: &str, lease: &Lease) -> Result<Lease, LeaseError> {
        let mut state = self.lock();
        let name = lease.metadata.name.as_ref().unwrap();
        let Some(before) = state.leases.get(name).cloned() else {
            drop(state);
            // As the real one does it for Leases: only the UID keeps a PUT from creating.
            return if lease.metadata.uid.is_some() { Err(LeaseError::Conflict) } else { self.create(writer, lease) };
        };
        let guards = |lease: &Lease| (lease.metadata.resource_version.clone(), lease.metadata.uid.clone());
        if guards(&before) != guards(lease) {
            return Err(LeaseError::Conflict);
        }
        let mut lease = lease.clone();
        lease.metadata.creation_timestamp.clone_from(&before.metadata.creation_timestamp);
        Ok(self.write(&mut state, writer, Some(before), lease))
    }

    fn delete(&self, writer: &str, name: &str, version: Option<&Version>) -> Result<(), LeaseError> {
        let mut state = self.lock();
        let Some(before) = state.leases.get(name).cloned() else { return Err(LeaseError::NotFound) };
        if version.is_some_and(|version| *version != Version::of(&before)) {
            return Err(LeaseError::Conflict);
        }
        state.leases.remove(name);
        self.note(&mut state, writer, Some(before), None);
        Ok(())
    }

    fn write(&self, state: &mut State, writer: &str, before: Option<Lease>, mut lease: Lease) -> Lease {
        lease.metadata.resource_version = Some((state.log.len() + 1).to_string());
        state.leases.insert(lease.metadata.name.clone().unwrap(), lease.clone());
        self.note(state, writer, before, Some(lease.clone()));
        lease
    }

    fn note(&self, state: &mut State, writer: &str, before: Option<Lease>, after: Option<Lease>) {
        let entry = Entry { at: Instant::now(), writer: writer.to_owned(), before, after };
        if let Some(witness) = self.witness.get() {
            witness(&entry);
        }
        state.log.push(entry);
        self.length.send_replace(state.log.len());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// What goes wrong between one replica and the API server.
#[derive(Default)]
pub(super) struct Faults {
    /// Nothing gets through, in either direction, and nobody is told.
    partitioned: watch::Sender<bool>,
    /// Out of 1,000 calls, so many fail before they arrive, and as many after they were carried out.
    unanswered: AtomicU32,
    /// Every call is answered with 403.
    forbidden: AtomicBool,
    /// No source Lease may be created, as when a quota is used up.
    full: AtomicBool,
    /// No Lease of a source may be deleted.
    kept: AtomicBool,
    /// No Lease of a source may be written that is there already.
    fixed: AtomicBool,
    /// No other member may be declared dead, which was tried so often.
    immortal: AtomicBool,
    declarations: AtomicUsize,
    /// Each page of a list takes so long.
    page_ms: AtomicU32,
    /// The watch shows nothing any more, without an error.
    deaf: AtomicBool,
    watches_dropped: watch::Sender<u64>,
    /// So many of the next writes of source Leases are carried out, and their answers lost.
    swallowed: AtomicU32,
    /// So many of the next creations of a member Lease are carried out, and their answers lost.
    swallowed_joins: AtomicU32,
    /// So many of the next renewals never arrive.
    lost_renewals: AtomicU32,
    /// So many of the next renewals are answered as if there were no such Lease.
    misled_renewals: AtomicU32,
    /// No deletion of a Lease with this in its name is answered.
    unanswered_deletions: Mutex<Option<String>>,
    /// How many deletions were asked for.
    deletions: AtomicUsize,
    /// Each deletion under way has one.
    deletion: Arc<()>,
    most_deletions_at_once: AtomicUsize,
}

impl Faults {
    pub(super) fn partition(&self, partitioned: bool) {
        self.partitioned.send_replace(partitioned);
    }

    pub(super) fn leave_unanswered(&self, per_mille: u32) {
        self.unanswered.store(per_mille, Ordering::Relaxed);
    }

    pub(super) fn swallow_answers_to_source_writes(&self, count: u32) {
        self.swallowed.store(count, Ordering::Relaxed);
    }

    pub(super) fn deny_new_source_leases(&self, denied: bool) {
        self.full.store(denied, Ordering::Relaxed);
    }

    pub(super) fn deny_deletions(&self, denied: bool) {
        self.kept.store(denied, Ordering::Relaxed);
    }

    pub(super) fn deny_source_writes(&self, denied: bool) {
        self.fixed.store(denied, Ordering::Relaxed);
    }

    pub(super) fn deny_declarations(&self) {
        self.immortal.store(true, Ordering::Relaxed);
    }

    pub(super) fn declarations(&self) -> usize {
        self.declarations.load(Ordering::Relaxed)
    }

    pub(super) fn slow_lists_down(&self, each_page: Duration) {
        self.page_ms.store(u32::try_from(each_page.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub(super) fn leave_deletions_unanswered_of(&self, part: &str) {
        *self.unanswered_deletions.lock().unwrap() = Some(part.to_owned());
    }

    pub(super) fn deletions(&self) -> usize {
        self.deletions.load(Ordering::Relaxed)
    }

    pub(super) fn most_deletions_at_once(&self) -> usize {
        self.most_deletions_at_once.load(Ordering::Relaxed)
    }

    pub(super) fn swallow_answers_to_joins(&self, count: u32) {
        self.swallowed_joins.store(count, Ordering::Relaxed);
    }

    pub(super) fn lose_renewals(&self, count: u32) {
        self.lost_renewals.store(count, Ordering::Relaxed);
    }

    pub(super) fn mislead_renewals(&self, count: u32) {
        self.misled_renewals.store(count, Ordering::Relaxed);
    }

    /// Takes the permission for everything away, or gives it back.
    pub(super) fn forbid(&self, forbidden: bool) {
        self.forbidden.store(forbidden, Ordering::Relaxed);
    }

    /// Breaks the watches; they list anew.
    pub(super) fn drop_watches(&self) {
        self.watches_dropped.send_modify(|count| *count += 1);
    }

    /// The watches that are open now go silent for good.
    pub(super) fn deafen(&self) {
        self.deaf.store(true, Ordering::Relaxed);
    }

    async fn healed(&self) {
        let _ = self.partitioned.subscribe().wait_for(|partitioned| !partitioned).await;
    }

    fn is_partitioned(&self) -> bool {
        *self.partitioned.borrow()
    }
}

/// One replica's connection.
pub(super) struct FakeLeases {
    api: Arc<FakeApi>,
    writer: String,
    faults: Arc<Faults>,
    rng: Mutex<StdRng>,
}

impl FakeLeases {
    async fn call<T>(&self, carry_out: impl FnOnce() -> Result<T, LeaseError>) -> Result<T, LeaseError> {
        let (there, back, luck) = {
            let mut rng = self.rng.lock().unwrap();
            (rng.random_range(1..15), rng.random_range(1..15), rng.random_range(0..1_000))
        };
        let unlucky = self.faults.unanswered.load(Ordering::Relaxed);
        self.travel(there).await;
        if luck < unlucky {
            return Err(unanswered());
        }
        let forbidden = self.faults.forbidden.load(Ordering::Relaxed);
        let answer = if forbidden { Err(self::forbidden()) } else { carry_out() };
        self.travel(back).await;
        if luck < 2 * unlucky { Err(unanswered()) } else { answer }
    }

    async fn travel(&self, milliseconds: u64) {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        if self.faults.is_partitioned() {
            // A packet that was lost never arrives; the caller's patience ends first.
            std::future::pending::<()>().await;
        }
    }
}

/// Once less from now on; whether any was left.
fn one_of(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// Ends never, as often as is left.
async fn swallow(left: &AtomicU32) {
    if one_of(left) {
        std::future::pending::<()>().await;
    }
}

fn forbidden() -> LeaseError {
    let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    LeaseError::Denied { action: "reach the fake API server", source: source.into() }
}

fn unanswered() -> LeaseError {
    let source = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    LeaseError::Unanswered { action: "reach the fake API server", source: source.into() }
}

#[async_trait]
impl LeaseApi for FakeLeases {
    async fn get(&self, name: &str) -> Result<Lease, LeaseError> {
        self.call(|| self.api.lock().leases.get(name).cloned().ok_or(LeaseError::NotFound)).await
    }

    async fn create(&self, lease: &Lease) -> Result<Lease, LeaseError> {
        let full = self.faults.full.load(Ordering::Relaxed) && SourceLease::read(lease).is_some();
        let create = || if full { Err(forbidden()) } else { self.api.create(&self.writer, lease) };
        let answer = self.call(create).await;
        if MemberLease::read(lease).is_some() {
            swallow(&self.faults.swallowed_joins).await;
        }
        answer
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, LeaseError> {
        let (member, source) = (MemberLease::read(lease), SourceLease::read(lease).is_some());
        if member.as_ref().is_some_and(|member| member.holder().is_some()) {
            swallow(&self.faults.lost_renewals).await;
            if one_of(&self.faults.misled_renewals) {
                return Err(LeaseError::NotFound);
            }
        }
        let declares = member.is_some_and(|member| member.death().is_some());
        self.faults.declarations.fetch_add(declares.into(), Ordering::Relaxed);
        let denied = declares && self.faults.immortal.load(Ordering::Relaxed)
            || source && self.faults.fixed.load(Ordering::Relaxed);
        let replace = || if denied { Err(forbidden()) } else { self.api.replace(&self.writer, lease) };
        let answer = self.call(replace).await;
        if source {
            swallow(&self.faults.swallowed).await;
        }
        answer
    }

    async fn delete(&self, name: &str, version: &Version) -> Result<(), LeaseError> {
        let kept = self.faults.kept.load(Ordering::Relaxed);
        self.faults.deletions.fetch_add(1, Ordering::Relaxed);
        let _under_way = self.faults.deletion.clone();
        self.faults.most_deletions_at_once.fetch_max(Arc::strong_count(&self.faults.deletion) - 1, Ordering::Relaxed);
        let unanswered = self.faults.unanswered_deletions.lock().unwrap().clone();
        if unanswered.is_some_and(|part| name.contains(&part)) {
            std::future::pending::<()>().await;
        }
        self.call(|| if kept { Err(forbidden()) } else { self.api.delete(&self.writer, name, Some(version)) }).await
    }

    fn watch(&self) -> BoxStream<'static, Result<Event<Lease>, LeaseError>> {
        self.faults.deaf.store(false, Ordering::Relaxed);
        let watch = watches::Watch::open(self.api.clone(), self.faults.clone());
        futures::stream::unfold(watch, |mut watch| async move { Some((watch.next().await, watch)) }).boxed()
    }
}
