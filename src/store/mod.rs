//! The ports to the central store: [`Gate`] (who may send, and when) and [`EventStore`] (events and cursor, atomically).
//!
//! Every verb names one source. The adapter runs them as SQL over arrays and may answer many callers with one statement.
//! The safety of Headgate rests on the row behind these verbs, see DESIGN 4; the Lease only says who tries.

pub mod postgres;

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Moment,
    event::{Cursor, Event, EventId, IdKind, SetAside, StreamName},
    permit::Attempt,
};

/// One incarnation of one replica: its pod name and a nonce of the process, so that a restarted container is another
/// holder.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Holder(Arc<str>);

impl Holder {
    #[must_use]
    pub fn new(identity: &str) -> Self {
        Self(identity.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Counts what ends the right of whoever held a row before: every ADOPT, RESET and FORGET, and the death of its holder, raise it.
/// A holder with an older one fails its next RESERVE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fence(pub i64);

/// `spec.epoch`: it may only grow; growing drops the cursor and applies `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub i64);

/// The answer of the row to one verb. Each input row of a statement gets exactly one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// Done.
    Applied(T),
    /// Another transaction holds the row lock. Nothing is known; ask again. Never read it as a refusal.
    Locked,
    /// The row says no, and this is how it stands. `None`: there is no such row.
    Refused(Option<Row>),
}

/// A source's row as it stood when it refused. Durations are what remains from the database's `clock_timestamp()`, and for
/// a [`Reserve`] what would remain if the attempt that it names as [`Ended`] were closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub holder: Option<Holder>,
    pub fence: Fence,
    pub epoch: Epoch,
    pub cursor: Cursor,
    /// The open attempt, if one is in flight or was left open.
    pub attempt: Option<Attempt>,
    /// How long an open attempt still blocks the row; zero when closed or past its deadline.
    pub in_flight_for: Duration,
    /// How long until the next request may start.
    pub starts_in: Duration,
}

/// ADOPT: this replica won the Lease of the source.
#[derive(Debug, Clone)]
pub struct Adopt {
    pub stream: StreamName,
    /// The UID of the EventSource. Epochs compare within one UID; a new UID adopts the row's cursor and writes its own.
    pub uid: String,
    pub holder: Holder,
    pub epoch: Epoch,
    /// Where a stream without a row begins.
    pub start: Cursor,
    /// What the object reads its ids from. The row remembers it with its first cursor, and until the next RESET.
    pub id_path: String,
    /// Whether the Lease may name another replica: refused then, if the row is not the holder's own.
    pub in_doubt: bool,
}

/// What ADOPT and RESET return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    pub fence: Fence,
    pub epoch: Epoch,
    pub cursor: Cursor,
    /// How ids of this stream compare; unknown before the first event.
    pub id_kind: Option<IdKind>,
    /// Off once a page did not ascend, until the next RESET: then the whole page is held until it is complete (DESIGN 4).
    pub progressive: bool,
    /// Events stored over the whole life of the stream.
    pub events_stored: u64,
    pub in_flight_for: Duration,
    pub starts_in: Duration,
    /// A new object found the row of an older one: it goes on from that cursor and its `start` was not applied.
    pub start_ignored: bool,
    /// What the ids up to the cursor were read from. Whoever reads them from elsewhere must not send: the cursor means nothing
    /// to its source.
    pub id_path: String,
}

/// RESET: `spec.epoch` grew. The cursor becomes `start`; open attempts lose their token; the waits stay. What the ids of the epoch
/// before were like is forgotten.
#[derive(Debug, Clone)]
pub struct Reset {
    pub stream: StreamName,
    pub uid: String,
    pub holder: Holder,
    pub fence: Fence,
    pub epoch: Epoch,
    pub start: Cursor,
    pub id_path: String,
}

/// RESERVE: asks for the right to send one request.
#[derive(Debug, Clone)]
pub struct Reserve {
    pub stream: StreamName,
    pub holder: Holder,
    pub fence: Fence,
    pub cursor: Cursor,
    /// Chosen by the caller before it asks.
    pub attempt: Attempt,
    /// S: the request starts within this of its slot.
    pub send_within: Duration,
    /// D: how long a started request is assumed to run when nothing is heard of its sender.
    pub in_flight: Duration,
    pub min_interval: Duration,
    /// A slot at most this far ahead is given; a later one is refused.
    pub at_most_ahead: Duration,
    /// The attempt of the caller that is over and that this closes, if the row still carries it and the reservation is
    /// granted.
    pub ended: Option<Ended>,
    pub patience: Patience,
}

/// How long a call may wait for others that share its statement.
#[derive(Debug, Clone, Default)]
pub struct Patience {
    pub longest: Duration,
    /// Nobody waits any more once this is cancelled.
    pub ends: CancellationToken,
}

/// An attempt whose response was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub attempt: Attempt,
    pub close: Close,
}

/// A granted reservation: the slot opens `wait` after the database's clock was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    pub wait: Duration,
    /// When the statement was issued, on a connection that stood: before the database read its clock, and after any
    /// wait for a connection. The send limit counts from here.
    pub issued: Moment,
}

/// EXTEND: the request is still running; it may take `by` from now.
#[derive(Debug, Clone)]
pub struct Extend {
    pub stream: StreamName,
    pub attempt: Attempt,
    pub by: Duration,
}

/// The end of an attempt: the next request may start after `next_start_in`, counted from the statement, which is later
/// than the moment the caller computed it; so the gap can only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close {
    pub next_start_in: Duration,
}

/// ABORT: closes an attempt early. Only for a request that provably never left, or whose response was read to its end.
#[derive(Debug, Clone)]
pub struct Abort {
    pub stream: StreamName,
    pub attempt: Attempt,
    pub close: Close,
}

/// FORGET: the object was deleted with `deletionPolicy: Delete`. Events and cursor go, the gate row and its waits stay.
#[derive(Debug, Clone)]
pub struct Forget {
    pub stream: StreamName,
    /// Only while the row still belongs to this object: a new object of the same name keeps its events.
    pub uid: String,
}

/// COMMIT: events and cursor in one transaction, by compare-and-set on attempt and cursor. It has no fence and no
/// deadline condition: a late answer is kept as long as nobody has reserved since.
#[derive(Debug, Clone)]
pub struct Append {
    pub stream: StreamName,
    pub attempt: Attempt,
    /// 0 for the first append of an attempt, then 1, 2, …: names this append after a lost answer.
    pub part: i32,
    pub cursor_before: Cursor,
    pub cursor_after: Cursor,
    /// How the ids of the stream compare, by what the row knows and by all that came of it; unknown before the first event. The
    /// first append with an event or an item set aside decides it for the row.
    pub id_kind: Option<IdKind>,
    /// In the order in which they are to be stored.
    pub events: Arc<[Event]>,
    pub set_aside: Arc<[SetAside]>,
    /// This stream was seen not to ascend: remember that progressive commit is off, until the next RESET.
    pub not_ascending: bool,
    /// It is known to hold events that are stored: each one is looked up, and none is stored twice.
    pub looks_up: bool,
    pub then: Then,
}

impl Append {
    /// The size of what it stores: payloads, and every other text that a source may make as long as it likes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let events = self.events.iter().map(|event| {
            event.id.as_str().len() + length(&event.event_type) + length(&event.subject) + event.payload.as_str().len()
        });
        let aside = self.set_aside.iter().map(|item| item.id.as_str().len() + item.item.len());
        events.sum::<usize>() + aside.sum::<usize>()
    }
}

/// What becomes of the attempt with an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It was the last of a response that is over.
    Closes(Close),
    /// The response or its appends go on, or the source may still be serving: the row stays shut for at least `in_flight`
    /// from now. The append held the row's lock, so that no EXTEND came through.
    GoesOn { in_flight: Duration },
}

impl Then {
    #[must_use]
    pub fn close(self) -> Option<Close> {
        match self {
            Self::Closes(close) => Some(close),
            Self::GoesOn { .. } => None,
        }
    }

    #[must_use]
    pub fn in_flight(self) -> Option<Duration> {
        match self {
            Self::Closes(_) => None,
            Self::GoesOn { in_flight } => Some(in_flight),
        }
    }
}

/// What COMMIT did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Appended {
    /// Events stored by this append.
    pub stored: u64,
    /// Events that were stored before (after a reset) with the same content, and dropped.
    pub repeated: u64,
    /// Events whose id was stored before with other content; the stored ones stay, these were set aside.
    pub conflicting: u64,
    /// Events stored over the whole life of the stream, with this append.
    pub events_stored: u64,
}

/// Why the store could not answer. If nothing else is said, nothing is known of the statement; the caller asks again.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection, a broken connection, a timeout, a server that starts or stops.
    #[error("the database is not reachable while trying to {action}")]
    Unavailable {
        action: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Every statement that may run was under way. What was asked is in none, and never will be.
    #[error("the database answers too slowly for what is asked of it: no statement was free within {waited:?}")]
    NotBegun { waited: Duration },
    /// The database ended a statement at its time limit. Nothing of it was done; fewer events at a time may fit.
    #[error("the database gave up within its time limit to {action}")]
    TooSlow {
        action: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database answered with an error that waiting does not mend by itself.
    #[error("the database refused to {action} (SQLSTATE {sqlstate})")]
    Failed {
        action: &'static str,
        sqlstate: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Who may send, and when (DESIGN 4).
#[async_trait]
pub trait Gate: Send + Sync {
    /// Takes the row over: fence + 1, holder = me. Creates it when there is none. Refused only if
    /// `in_doubt` and the row is not the holder's.
    async fn adopt(&self, adopt: Adopt) -> Result<Answer<Adopted>, StoreError>;
    /// Begins again at `start`. Refused unless holder and fence are the row's and the epoch grew.
    async fn reset(&self, reset: Reset) -> Result<Answer<Adopted>, StoreError>;
    async fn reserve(&self, reserve: Reserve) -> Result<Answer<Reserved>, StoreError>;
    /// Refused when the attempt is no longer the row's.
    async fn extend(&self, extend: Extend) -> Result<Answer<()>, StoreError>;
    /// Refused when the attempt is no longer the row's.
    async fn abort(&self, abort: Abort) -> Result<Answer<()>, StoreError>;
    /// Deletes events and cursor. Refused when the row belongs to another object; applied when there is none.
    async fn forget(&self, forget: Forget) -> Result<Answer<()>, StoreError>;
    /// Raises the fence of every row of a holder that was declared dead, whether its object still exists or not.
    /// Returns how many.
    async fn fence_off(&self, dead: &Holder) -> Result<u64, StoreError>;
    /// Tells whether the database answers.
    async fn ping(&self) -> Result<(), StoreError>;
}

/// Events and cursor, in one transaction.
#[async_trait]
pub trait EventStore: Send + Sync {
    /// Refused when attempt or cursor are no longer the row's. Repeating an append whose answer was lost is safe: it is
    /// answered `Applied` when it was applied.
    async fn append(&self, append: &Append) -> Result<Answer<Appended>, StoreError>;
    /// Which of these ids are those of stored events, or of items that were set aside; none while a reset has asked for events
    /// again, when each append looks its ids up anyway. Opaque ids have no order that would show it.
    async fn find_stored(&self, stream: &StreamName, ids: &[&EventId]) -> Result<HashSet<EventId>, StoreError>;
    /// Whether an event is stored that came before this one of an opaque id, or this was the first of all. If not, retention has
    /// dropped what came before it, or the item itself.
    async fn has_older(&self, stream: &StreamName, id: &EventId) -> Result<bool, StoreError>;
}

/// Both ports, as the loader holds them.
pub trait Store: Gate + EventStore {}

impl<T: Gate + EventStore> Store for T {}
