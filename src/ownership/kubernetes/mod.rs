//! Ownership by Leases of the Kubernetes API (DESIGN 6).
//!
//! | file | what it is |
//! |---|---|
//! | [`client`] | the Lease verbs, and their client |
//! | `write` | one compare-and-set, carried through until its outcome is known |
//! | `member` | the member Lease: incarnations and renewals |
//! | `replica` | one loop that hears the watch, the answers and the supervisor |
//! | `watchdog` | whether the watch has gone silent |
//! | `life` | joining, being declared dead, draining and leaving |
//! | `claims` | taking orphans, handing over, deleting: what is written, and what its answer means |
//! | `balance` | who takes what, now |
//! | `database` | whether the database answers this replica |
//! | `deaths` | declaring a silent member dead, fencing its rows off |
//! | `published` | what the rest of the process is told |
//! | `installation` | the Lease whose UID names the installation |

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{
    client::LeaseApi,
    database::DatabaseClock,
    member::{Member, Wish},
    replica::{Command, Replica},
};
use super::{Directives, Ownership, Peers, Renewal};
use crate::{desired::Desired, event::StreamName, store::Gate, store::Holder, telemetry::metrics::Metrics};

mod balance;
mod claims;
pub mod client;
mod database;
mod deaths;
mod installation;
mod life;
mod member;
mod published;
mod replica;
mod watchdog;
mod write;

pub use client::{KubernetesLeases, LeaseError};
pub use installation::Installation;

/// An API server that needs a second for each call is slow, and not away: where a Lease is short it has this long, and one call
/// may hang.
const SLOW_RENEWAL: Duration = Duration::from_millis(1_200);

/// A Lease that lasts long leaves time for more calls, not for longer ones.
const LONGEST_RENEWAL: Duration = Duration::from_millis(1_500);

/// How one replica takes part.
#[derive(Debug, Clone)]
pub struct Config {
    /// The pod's name: what people see as the holder, and what the member ranks by. Unique among all processes that run: one
    /// that starts declares an incarnation of the same name dead at once, as that of its own container before a restart. A
    /// Deployment never gives a name twice. A StatefulSet does when a pod is deleted by force while its node is cut off: the
    /// old process then stops at its next renewal, but if it reaches neither API server nor database, it may still read a
    /// response when the new one asks.
    pub pod: String,
    /// The pod-template-hash, so that a rolling update moves a source once; empty when there is none.
    pub pod_template: String,
    /// The pause between a renewal of the member Lease that was answered and the next. Each is one API write.
    pub renew_interval: Duration,
    /// A member is suspect after this silence.
    pub lease_duration: Duration,
    /// Writes of source Leases in flight. The API server does about 1,400/s, at some 10 ms each.
    pub writes_in_flight: usize,
    /// Sources that are told to yield at once while this replica drains.
    pub yields_in_flight: usize,
    /// What has not been handed off by then is freed with the member Lease.
    pub drain_limit: Duration,
    /// A source Lease is removed when its object has been gone for this long.
    pub gone_after: Duration,
}

impl Config {
    /// The defaults for a pod of this name.
    #[must_use]
    pub fn of_pod(pod: impl Into<String>, pod_template: impl Into<String>) -> Self {
        Self {
            pod: pod.into(),
            pod_template: pod_template.into(),
            renew_interval: Duration::from_millis(1_500),
            lease_duration: Duration::from_secs(5),
            writes_in_flight: 48,
            yields_in_flight: 128,
            drain_limit: Duration::from_secs(48),
            gone_after: Duration::from_mins(10),
        }
    }

    /// How long a call for the member Lease waits for its answer. Two in a row may hang: then a seventh of what was left of the Lease
    /// when the first one was due is still left for the third, half a second by default. Of a Lease that is much shorter, one.
    fn renew_timeout(&self) -> Duration {
        let left = self.lease_duration.saturating_sub(self.renew_interval);
        (left * 3 / 7).max(SLOW_RENEWAL.min(left * 4 / 5)).min(LONGEST_RENEWAL)
    }

    /// A member that was not heard of for this long is not relied on. Its last sign of life may be an interval old, and my renewal
    /// before it another one; the rest is for calls that are slow.
    fn heard_within(&self) -> Duration {
        self.renew_interval * 4
    }

    /// Two renewals of mine further apart than this are late: silence measured meanwhile was mine.
    fn late_after(&self) -> Duration {
        self.renew_interval * 2
    }
}

/// What this replica knows of all, for `/readyz` and `/v1/sources`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnershipView {
    pub stage: Stage,
    /// My incarnation, while it lives.
    pub holder: Option<Holder>,
    /// Members that live, with me.
    pub members: usize,
    /// Source Leases that name me.
    pub held: usize,
    /// Sources that nobody holds.
    pub orphans: usize,
    /// Whether these are more than all members together claim at once. For 30 s at most.
    pub leases_wait: bool,
    /// My database fails while another replica's works.
    pub database_lost: bool,
    /// The other members.
    pub peers: Peers,
    /// Once I have ended: the sources that I let go and nobody took.
    pub left_to_nobody: Vec<StreamName>,
}

/// How far this replica has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stage {
    /// The Leases have not been listed to their end yet.
    #[default]
    Listing,
    /// It knows all Leases. It is a member while [`OwnershipView::holder`] is set.
    TakingPart,
    Draining,
    /// It has left; nothing follows.
    Ended,
}

/// The parts of ownership that have been started.
pub struct Started {
    pub ownership: Arc<KubernetesOwnership>,
    /// What the supervisor is to do.
    pub directives: Directives,
    /// Ends after [`KubernetesOwnership::drain`], or with the token.
    pub task: JoinHandle<()>,
}

/// The supervisor's side of ownership by Leases.
pub struct KubernetesOwnership {
    commands: mpsc::UnboundedSender<Command>,
    published: watch::Receiver<OwnershipView>,
    renewed: watch::Receiver<Option<Renewal>>,
    database: Arc<DatabaseClock>,
}

impl KubernetesOwnership {
    /// Starts taking part. `leases` and `renewals` are two clients, so that no renewal waits behind claims.
    ///
    /// `shutdown` ends it at once and frees nothing; [`KubernetesOwnership::drain`] is the graceful way.
    pub fn start(
        config: Config,
        leases: Arc<dyn LeaseApi>,
        renewals: Arc<dyn LeaseApi>,
        desired: Desired,
        gate: Arc<dyn Gate>,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> Started {
        let (ownership, directives, run) = Self::assemble(config, leases, renewals, desired, gate, metrics, shutdown);
        Started { ownership, directives, task: tokio::spawn(run) }
    }

    /// All parts as one future, so that a test can freeze a whole replica.
    fn assemble(
        config: Config,
        leases: Arc<dyn LeaseApi>,
        renewals: Arc<dyn LeaseApi>,
        desired: Desired,
        gate: Arc<dyn Gate>,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> (Arc<Self>, Directives, impl Future<Output = ()> + Send + 'static) {
        let config = Arc::new(config);
        let database = Arc::new(DatabaseClock::begin(Instant::now()));
        let (commands, commanded) = mpsc::unbounded_channel();
        let (directives, directed) = mpsc::unbounded_channel();
        let (signs, signed) = mpsc::unbounded_channel();
        let (publish, published) = watch::channel(OwnershipView::default());
        let (wish, wished) = watch::channel(Wish::default());
        let (renew, renewed) = watch::channel(None);
        let nudge = Arc::new(Notify::new());
        let member = Member {
            config: config.clone(),
            renewals,
            wish: wished,
            nudge: nudge.clone(),
            database: database.clone(),
            renewed: renew,
            signs,
        };
        let outlets = replica::Outlets { directives, publish, wish, nudge };
        let replica = Replica::new(config, leases, gate, desired, metrics, database.clone(), outlets);
        let run = async move {
            let keep_member = async {
                member.run().await;
                // The replica hears that it left, and ends.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = replica.run(commanded, signed, shutdown) => {}
                () = keep_member => {}
            }
        };
        (Arc::new(Self { commands, published, renewed, database }), directed, run)
    }

    /// What this replica knows of all.
    #[must_use]
    pub fn view(&self) -> OwnershipView {
        self.published.borrow().clone()
    }

    /// The same, with its changes.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<OwnershipView> {
        self.published.clone()
    }

    /// SIGTERM: takes nothing more, hands every source off, frees the member Lease. Each source is polled until it is
    /// told to yield. Returns when it has left, or when the limit has passed, with the sources that nobody took.
    pub async fn drain(&self) -> Vec<StreamName> {
        self.send(Command::Drain);
        let mut views = self.published.clone();
        let ended = views.wait_for(|view| view.stage == Stage::Ended).await;
        // An error says that the task has ended: nothing is left to wait for.
        ended.map(|view| view.left_to_nobody.clone()).unwrap_or_default()
    }

    fn send(&self, command: Command) {
        // Nobody listens any more after the end; then there is nothing to tell.
        let _ = self.commands.send(command);
    }
}

impl Ownership for KubernetesOwnership {
    fn yielded(&self, stream: &StreamName) {
        self.send(Command::Yielded(stream.clone()));
    }

    fn finished(&self, stream: &StreamName) {
        self.send(Command::Finished(stream.clone()));
    }

    fn holds_batch(&self, stream: &StreamName, holds: bool) {
        self.send(Command::HoldsBatch(stream.clone(), holds));
    }

    fn database_answered(&self) {
        self.database.answered_at(Instant::now());
    }

    fn renewals(&self) -> watch::Receiver<Option<Renewal>> {
        self.renewed.clone()
    }

    fn leases_wait(&self) -> bool {
        self.published.borrow().leases_wait
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
