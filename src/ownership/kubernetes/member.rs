//! The member Lease of this replica: one incarnation after the other, each kept alive by renewals.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

use super::{
    Config,
    client::{LeaseApi, LeaseError, within},
    database::DatabaseClock,
};
use crate::{
    clock::Moment,
    ownership::{
        Renewal,
        lease::{MemberLease, MemberState, Version},
    },
    store::Holder,
};

/// A call that failed at once is made again this long after it began. One that hung was pause enough.
const RETRY: Duration = Duration::from_millis(500);

/// What the replica wants its member Lease to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) part: Part,
    pub(super) database_lost: bool,
}

/// How far this replica takes part. It only ever goes forward.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The view is not complete yet.
    #[default]
    Waiting,
    Joined,
    Draining,
    /// All is handed off: free the Lease and end.
    Leaving,
}

/// What became of the member Lease.
#[derive(Debug)]
pub(super) enum Sign {
    /// A new incarnation lives.
    Joined { holder: Holder, lease: Lease },
    Renewed {
        lease: Lease,
        /// When this renewal was issued.
        issued: Moment,
    },
    /// A renewal failed. The incarnation lives as long as nobody says otherwise.
    Failed,
    /// Somebody declared it dead, or deleted its Lease.
    Ended,
    /// It was freed, or tried long enough.
    Left,
}

/// Keeps this replica's member Lease.
pub(super) struct Member {
    pub(super) config: Arc<Config>,
    pub(super) renewals: Arc<dyn LeaseApi>,
    pub(super) wish: watch::Receiver<Wish>,
    /// Renew now: the watch shows an end of this incarnation, or its last sign of life was long ago.
    pub(super) nudge: Arc<Notify>,
    pub(super) database: Arc<DatabaseClock>,
    pub(super) renewed: watch::Sender<Option<Renewal>>,
    pub(super) signs: mpsc::UnboundedSender<Sign>,
}

impl Member {
    /// Joins, renews, and joins again with a new nonce when an incarnation has ended; until told to leave.
    pub(super) async fn run(mut self) {
        loop {
            // The replica holds the sender for as long as this runs.
            if self.wish.wait_for(|wish| wish.part > Part::Waiting).await.is_err() {
                return;
            }
            if self.leaves() {
                break;
            }
            let Some(incarnation) = self.join().await else { break };
            let left = self.live(incarnation).await;
            self.renewed.send_replace(None);
            if left {
                break;
            }
            self.tell(Sign::Ended);
        }
        self.tell(Sign::Left);
    }

    /// Creates the Lease of a new incarnation. `None` when told to leave meanwhile.
    async fn join(&mut self) -> Option<MemberLease> {
        let (mut lease, mut began) = (self.begin(), Moment::now());
        while !self.leaves() {
            lease.state = self.state();
            let written = lease.write(Timestamp::now());
            let begun = Instant::now();
            let mut issued = Some(begun);
            let answer = match self.call(self.renewals.create(&written)).await {
                // The nonce is random: what exists already is what I wrote without hearing of it, some time ago.
                Err(LeaseError::Conflict) => {
                    issued = None;
                    self.find(&lease).await
                }
                answer => answer.map(Some),
            };
            match answer {
                Ok(Some(created)) if Moment::now().since(began) >= self.config.lease_duration => {
                    // It may have been created before without an answer, declared dead, and removed since; and nobody lives twice.
                    self.free(adopt(lease, &created)).await;
                    (lease, began) = (self.begin(), Moment::now());
                }
                Ok(Some(created)) => {
                    lease = adopt(lease, &created);
                    let holder = lease.holder()?.clone();
                    tracing::info!(holder = %holder, lease = %lease.name, "joined");
                    match issued {
                        Some(issued) => self.note_renewal(&lease, issued),
                        // Its peers have measured its silence since it was created.
                        None => self.nudge.notify_one(),
                    }
                    self.tell(Sign::Joined { holder, lease: created });
                    return Some(lease);
                }
                Ok(None) => {
                    tracing::warn!(lease = %lease.name, "declared dead before I heard that I had joined; joining anew");
                    (lease, began) = (self.begin(), Moment::now());
                    // A conflict may have other reasons, and then each creation ends in one.
                    self.tell(Sign::Failed);
                    self.pause_after(begun).await;
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "failed to join; trying again");
                    self.tell(Sign::Failed);
                    self.pause_after(begun).await;
                }
            }
        }
        None
    }

    /// Renews until the incarnation ends. True when it was left.
    async fn live(&mut self, mut lease: MemberLease) -> bool {
        let nudge = self.nudge.clone();
        loop {
            let due = tokio::time::sleep(self.config.renew_interval);
            tokio::select! {
                () = due => {}
                () = nudge.notified() => {}
                _ = self.wish.changed() => {}
            }
            if self.leaves() {
                self.free(lease).await;
                return true;
            }
            loop {
                lease.state = self.state();
                let written = lease.write(Timestamp::now());
                let issued = Moment::now();
                match self.call(self.renewals.replace(&written)).await {
                    Ok(renewed) => {
                        lease = adopt(lease, &renewed);
                        self.note_renewal(&lease, issued.at);
                        self.tell(Sign::Renewed { lease: renewed, issued });
                        break;
                    }
                    // That there is none, a proxy may say in the API server's place, which would create it, or find a conflict.
                    Err(LeaseError::Conflict | LeaseError::NotFound) => match self.look(&lease).await {
                        Some(current) if current.version == lease.version => self.pause_after(issued.at).await,
                        Some(current) => lease = current,
                        None => return false,
                    },
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "failed to renew; trying again");
                        self.tell(Sign::Failed);
                        self.pause_after(issued.at).await;
                    }
                }
                if self.leaves() {
                    break;
                }
            }
        }
    }

    fn begin(&self) -> MemberLease {
        let Config { pod, pod_template, lease_duration, .. } = &*self.config;
        MemberLease::begin(pod, rand::random(), pod_template, *lease_duration)
    }

    /// After a conflict: the Lease as it stands, unless it is gone or names this incarnation no more. An earlier write of mine may
    /// have landed without an answer, or somebody put a label on it; neither is a death.
    async fn find(&self, lease: &MemberLease) -> Result<Option<Lease>, LeaseError> {
        match self.call(self.renewals.get(&lease.name)).await {
            Ok(current) => {
                // One that is not readable was edited: the next renewal writes it again.
                let is_mine = MemberLease::read(&current).is_none_or(|read| read.holder() == lease.holder());
                Ok(is_mine.then_some(current))
            }
            Err(LeaseError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// After a conflict with a renewal: what to renew next, if this incarnation lives.
    async fn look(&self, lease: &MemberLease) -> Option<MemberLease> {
        let asked = Instant::now();
        if let Ok(found) = self.find(lease).await {
            return found.map(|current| adopt(lease.clone(), &current));
        }
        self.tell(Sign::Failed);
        self.pause_after(asked).await;
        Some(lease.clone())
    }

    /// Frees the Lease, so that nobody has to wait for its silence.
    async fn free(&self, mut lease: MemberLease) {
        // From here on anybody may take over at any time.
        self.renewed.send_replace(None);
        let deadline = Instant::now() + self.config.lease_duration;
        while Instant::now() < deadline {
            let begun = Instant::now();
            match self.call(self.renewals.delete(&lease.name, &lease.version)).await {
                Ok(()) | Err(LeaseError::NotFound) => return,
                Err(LeaseError::Conflict) => match self.look(&lease).await {
                    Some(current) => lease = current,
                    None => return,
                },
                Err(error @ LeaseError::Denied { .. }) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "may not free the member Lease; the others take over when it has been silent"
                    );
                    return;
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "failed to free the member Lease");
                    self.pause_after(begun).await;
                }
            }
        }
    }

    fn note_renewal(&self, lease: &MemberLease, issued: Instant) {
        let Some(holder) = lease.holder().cloned() else { return };
        // Peers go by what the Lease says, which is in whole seconds.
        let alive_until = issued + Duration::from_secs(lease.duration.as_secs());
        self.renewed.send_replace(Some(Renewal { holder, issued, alive_until }));
    }

    fn state(&self) -> MemberState {
        let wish = self.wish.borrow();
        MemberState {
            draining: wish.part >= Part::Draining,
            database_lost: wish.database_lost,
            database_silent: self.database.silence(Instant::now()),
        }
    }

    fn leaves(&self) -> bool {
        self.wish.borrow().part == Part::Leaving
    }

    fn tell(&self, sign: Sign) {
        // The replica that listens runs beside this, in the same task.
        let _ = self.signs.send(sign);
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, LeaseError>>) -> Result<T, LeaseError> {
        within(self.config.renew_timeout(), "keep the member Lease", call).await
    }

    /// The pause after a call that began then and failed.
    async fn pause_after(&self, begun: Instant) {
        tokio::time::sleep_until(begun + std::cmp::min(RETRY, self.config.renew_timeout())).await;
    }
}

/// The Lease with what the API server made of it.
fn adopt(lease: MemberLease, written: &Lease) -> MemberLease {
    let created = written.metadata.creation_timestamp.as_ref().map(|time| time.0);
    MemberLease { version: Version::of(written), created: created.or(lease.created), ..lease }
}
