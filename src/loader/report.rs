//! What one source was last seen to do, and what that comes to: Ready, and how far it is behind.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use crate::{
    api::{
        AcceptedReason, AssignedReason, ReachableReason, StoredReason,
        conditions::{CAUGHT_UP, Facts},
    },
    clock::Moment,
    event::Cursor,
    ownership::Holding,
    store::Epoch,
};

/// The facts of one source that this replica holds.
#[derive(Debug, Clone)]
pub struct Report {
    pub holding: Holding,
    /// Of the object that runs; 0 as long as it is not known here.
    pub generation: i64,
    /// Of the same; empty as long as it is not known here. There is nothing to be written then.
    pub uid: String,
    pub epoch: Option<Epoch>,
    pub cursor: Option<Cursor>,
    pub events_stored: u64,
    pub last_poll: Option<Timestamp>,
    pub last_success: Option<Timestamp>,
    /// When the last event was stored.
    pub last_event: Option<Timestamp>,
    pub next_poll: Option<Timestamp>,
    pub consecutive_failures: u32,
    /// `None`: not known yet.
    pub accepted: Option<Verdict<AcceptedReason>>,
    pub assigned: Verdict<AssignedReason>,
    pub reachable: Option<Verdict<ReachableReason>>,
    pub stored: Option<Verdict<StoredReason>>,
    /// `None` before the first poll; `Some(true)` when the last answer brought nothing more.
    pub caught_up: Option<bool>,
    /// When an answer last brought everything there was.
    pub last_caught_up: Option<LastCaughtUp>,
    pub suspended: bool,
    pub blocked_by: Option<BlockedBy>,
    /// Between the starts of the last two requests of this process to the source.
    pub last_interval: Option<Duration>,
    /// Requests of this holder, by what came of them.
    pub requests: BTreeMap<&'static str, u64>,
    /// Events that this holder stored.
    pub events_appended: u64,
    /// Events that travelled twice, as far as this process can tell; by cause in `headgate_retransported_events_total`.
    pub retransported: u64,
    /// Why no progressive commit happens, repeats dropped and the like: evidence for condition messages.
    pub note: Option<String>,
    /// Why its Secrets and ConfigMaps could not be read again; it goes on with what it has.
    pub unread: Option<Unread>,
    /// How often its Secrets and ConfigMaps were found changed and taken up.
    pub credentials_reloads: u32,
    /// The last value of `headgate.dev/poll-requested-at` that was served.
    pub handled_poll_request: Option<String>,
    /// Events and cursor of a deleted object with `deletionPolicy: Delete` are gone: the finalizer may be removed.
    pub forgotten: bool,
}

impl Report {
    /// The report of a source whose Lease this replica has just won.
    #[must_use]
    pub fn of(holding: Holding, generation: i64, uid: String) -> Self {
        let message = format!("held by {} since {}", holding.holder, holding.acquired_at);
        Self {
            holding,
            generation,
            uid,
            epoch: None,
            cursor: None,
            events_stored: 0,
            last_poll: None,
            last_success: None,
            last_event: None,
            next_poll: None,
            consecutive_failures: 0,
            accepted: None,
            assigned: Verdict { reason: AssignedReason::LeaseHeld, message },
            reachable: None,
            stored: None,
            caught_up: None,
            last_caught_up: None,
            suspended: false,
            blocked_by: None,
            last_interval: None,
            requests: BTreeMap::new(),
            events_appended: 0,
            retransported: 0,
            note: None,
            unread: None,
            credentials_reloads: 0,
            handled_poll_request: None,
            forgotten: false,
        }
    }

    /// This generation of this object is to run: what was seen of another spec says nothing about it, and of another object
    /// nothing stays but what is counted.
    pub(super) fn turns_to(&mut self, uid: &str, generation: i64) {
        if self.uid != uid {
            let of_the_name = self.clone();
            *self = Self {
                assigned: of_the_name.assigned,
                last_interval: of_the_name.last_interval,
                requests: of_the_name.requests,
                events_appended: of_the_name.events_appended,
                retransported: of_the_name.retransported,
                credentials_reloads: of_the_name.credentials_reloads,
                ..Self::of(of_the_name.holding, generation, uid.to_owned())
            };
        } else if self.generation != generation {
            self.accepted = None;
            self.reachable = None;
            self.stored = None;
            self.caught_up = None;
            self.note = None;
            self.unread = None;
            self.next_poll = None;
            self.generation = generation;
        }
    }

    /// Whether events and cursor of this object are gone. Those of an object before it say nothing.
    #[must_use]
    pub fn is_forgotten(&self, uid: &str) -> bool {
        self.forgotten && self.uid == uid
    }

    pub(super) fn next_poll_in(&mut self, wait: Duration) {
        let wait = jiff::SignedDuration::try_from(wait).ok();
        self.next_poll = wait.and_then(|wait| Timestamp::now().checked_add(wait).ok());
    }

    /// What this replica knows of the source, as its conditions are made of it.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        fn of<R: Copy>(verdict: &Verdict<R>) -> (R, &str) {
            (verdict.reason, &verdict.message)
        }
        Facts {
            suspended: self.suspended,
            accepted: self.accepted.as_ref().map(of),
            assigned: Some(of(&self.assigned)),
            stored: self.stored.as_ref().map(of),
            reachable: self.reachable.as_ref().map(of),
            caught_up: self.caught_up,
            note: self.note.as_deref(),
            unread: self.unread(),
            ..Facts::unknown(self.generation)
        }
    }

    /// An API server that does not answer is no news of a source that is well: after an outage the statuses of thousands would
    /// be written for it. One that fails may fail for what could not be read.
    fn unread(&self) -> Option<&str> {
        let worth_telling = |unread: &&Unread| unread.is_denied || self.consecutive_failures > 0;
        self.unread.as_ref().filter(worth_telling).map(|unread| unread.message.as_str())
    }

    /// The reason and the words of the first thing that is wrong, in the order of the Ready condition.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, &str)> {
        self.facts().problem()
    }

    /// The time since everything was known to be stored: zero while it is caught up and well, `None` while it is suspended, and
    /// when nobody knows that it ever was; `before` tells what was known before this replica. What a source that fails has
    /// meanwhile, nobody knows.
    pub fn lag(&self, is_caught_up: bool, now: Moment, before: impl FnOnce() -> Option<Duration>) -> Option<Duration> {
        if self.suspended {
            None
        } else if is_caught_up {
            Some(Duration::ZERO)
        } else {
            self.last_caught_up.map(|last| last.elapsed(now)).or_else(before)
        }
    }

    /// [`Report::lag`] in seconds, as this replica tells of it. None where another one may tell: replicas that the API server
    /// does not reach go on holding what others have taken over, and of all that tell the one that is behind would be heard.
    /// The status, which is one for all, goes on: the next holder counts on from it.
    #[must_use]
    pub fn lag_seconds(&self, now: Moment) -> Option<i64> {
        let may_be_with_another = self.assigned.reason == AssignedReason::LeaseLost
            || self.stored.as_ref().is_some_and(|verdict| verdict.reason == StoredReason::FencedOff);
        let lag = self.lag(self.facts().status() == CAUGHT_UP, now, || None).filter(|_| !may_be_with_another)?;
        lag.as_secs().try_into().ok()
    }
}

/// When everything of a source was last known to be stored. By a clock that nobody sets: the lag that counts from here pages
/// people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastCaughtUp {
    noted: Moment,
    /// How long before `noted` that was.
    ago: Duration,
}

impl LastCaughtUp {
    /// It was `ago` before this moment.
    #[must_use]
    pub fn before(noted: Moment, ago: Duration) -> Self {
        Self { noted, ago }
    }

    #[must_use]
    pub fn elapsed(self, now: Moment) -> Duration {
        self.ago + now.since(self.noted)
    }
}

/// Why the Secrets and ConfigMaps of a source that runs could not be read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    pub message: String,
    /// The API server answered, and said no: waiting does not help.
    pub is_denied: bool,
}

/// The outcome behind one condition: its reason and the message that says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict<R> {
    pub reason: R,
    pub message: String,
}

/// Why a source does not send right now (`/v1/sources`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockedBy {
    Gate,
    Backoff,
    Database,
    Memory,
    Lease,
    Suspended,
    /// The object has no finalizer yet that keeps it until its events are gone.
    Finalizer,
}

impl BlockedBy {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Backoff => "backoff",
            Self::Database => "database",
            Self::Memory => "memory",
            Self::Lease => "lease",
            Self::Suspended => "suspended",
            Self::Finalizer => "finalizer",
        }
    }
}
