//! The port that says which sources this replica holds, and when that ends.
//!
//! Leases give liveness, balance and visibility; safety rests on the row (DESIGN 3, 6). [`kubernetes`] is the adapter; all
//! that it decides is decided here, without IO and without a clock:
//!
//! | module | decides |
//! |---|---|
//! | [`rendezvous`] | which member a source would rather live on |
//! | [`assignment`], [`roster`] | who holds what: orphans, surplus, handoffs |
//! | [`pacing`] | when surplus moves |
//! | [`stuck`] | who is passed over because it does not claim |
//! | [`declined`] | who cannot run what |
//! | [`membership`] | who is suspect |
//! | [`database`] | whose database is lost |
//! | [`holdings`] | what each held source is at, and the directives that follow |
//! | [`view`], [`lease`] | what the Leases say |
//! | [`gone`] | which Leases belong to nothing any more |

use std::collections::BTreeSet;

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

pub mod assignment;
pub mod database;
pub mod declined;
pub mod gone;
pub mod holdings;
pub mod kubernetes;
pub mod lease;
pub mod membership;
pub mod pacing;
pub mod rendezvous;
pub mod roster;
pub mod stuck;
pub mod view;

use crate::{event::StreamName, store::Holder};

/// A source whose Lease names this replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    pub stream: StreamName,
    /// The incarnation of this replica that holds it; the `holder` of the row.
    pub holder: Holder,
    pub lease_name: String,
    pub acquired_at: Timestamp,
}

/// What ownership tells the supervisor. For one stream they come in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directive {
    /// The Lease is mine: adopt the row and poll. After a `Lost` of the same stream the old task may still finish its
    /// poll; the new one waits for it.
    Run(Holding),
    /// As `Run`, of a source whose Lease a write would have given away that was not answered: it goes on, because an API server
    /// that is away stops nothing (P5). Until `Confirmed` the Lease does not keep others away for certain, so it runs only for as
    /// long as no other replica has adopted the row; if one has the Lease, `Lost` follows.
    RunInDoubt(Holding),
    /// The Lease of a source in doubt names this replica, and the unanswered write can land no more.
    Confirmed(StreamName),
    /// The Lease is to move to another replica: finish the poll, stop, then call [`Ownership::yielded`].
    Yield(StreamName),
    /// The Lease is no longer mine: finish the poll in flight and stop. Nobody waits for it. The reason is for the log
    /// and the Assigned condition.
    Lost(StreamName, LostReason),
}

/// Why a held source is no longer held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostReason {
    /// This incarnation was declared dead, or its member Lease was deleted.
    IncarnationEnded,
    /// Another replica's name stands in the Lease.
    TakenOver,
    /// The Lease was deleted by somebody else.
    LeaseDeleted,
}

/// A renewal of this replica's member Lease that succeeded, on the local monotonic clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// The incarnation that it keeps alive.
    pub holder: Holder,
    /// When the write was issued: the incarnation had not been declared dead then.
    pub issued: Instant,
    /// Until then nobody can have declared the incarnation dead: a peer measures silence from when it saw this write or a
    /// later one, which is not before it was issued. Not covered are a Lease that somebody deletes by hand, and a second
    /// process under the name of a pod that runs: it takes the first one for its own predecessor, whose container has ended,
    /// and declares it dead at once.
    pub alive_until: Instant,
}

/// The other members that live, as far as this replica knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers {
    /// Their incarnations; none as long as the Leases have not been listed.
    pub holders: Option<BTreeSet<Holder>>,
    /// Whether one of them has another pod template than this replica: an update is under way, perhaps to another release.
    pub of_another_template: bool,
}

impl Peers {
    /// Whether this may be the name of another incarnation that lives. Before the Leases were listed, any name may.
    #[must_use]
    pub fn may_include(&self, identity: &str) -> bool {
        self.holders.as_ref().is_none_or(|holders| holders.contains(&Holder::new(identity)))
    }

    /// Whether a replica of another release may live.
    #[must_use]
    pub fn may_differ(&self) -> bool {
        self.holders.is_none() || self.of_another_template
    }
}

/// The supervisor's side of ownership. The directives come on a channel that the adapter hands out once.
pub trait Ownership: Send + Sync {
    /// The task of a source that was told to yield has ended; its Lease may be written now.
    fn yielded(&self, stream: &StreamName);

    /// The object of a held source is gone and its task has ended for good: its Lease may be deleted.
    fn finished(&self, stream: &StreamName);

    /// Whether a source holds a batch that it could not commit yet. Such a source is not handed off for a lost database.
    fn holds_batch(&self, stream: &StreamName, holds: bool);

    /// The database has just answered this replica. Its member Lease says how long ago that was; without a first answer in 2 s it
    /// becomes a member that says that it had none.
    fn database_answered(&self);

    /// The last renewal of the member Lease; none while no incarnation of this replica is known to live. An outage of the
    /// API server leaves the last one standing and ages it.
    fn renewals(&self) -> watch::Receiver<Option<Renewal>>;

    /// Whether so many sources wait for a holder that not even all members together have their Leases in flight at once. Not for
    /// long: sources that nobody can take are no reason to make room for ever.
    fn leases_wait(&self) -> bool;
}

/// The channel of directives.
pub type Directives = mpsc::UnboundedReceiver<Directive>;
