//! The conditions of an EventSource, computed from what its holder knows. Pure: the caller passes `now` and the conditions
//! that stand in the object.
//!
//! They follow the API conventions and kstatus: `Ready` sums up, every type is written from the first visit on (`Unknown`
//! until it is known), and `Reconciling` and `Stalled` are there only while True.

mod ready;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use self::ready::Ready;
use super::{
    AcceptedReason, AssignedReason, CaughtUpReason, ReachableReason, StoredReason,
    event_source::{LONGEST_MESSAGE, Poll},
};
use crate::event::StreamName;

/// The sum of the others: events of this source reach the store, or it is suspended on purpose.
pub const READY: &str = "Ready";
/// The object itself can be worked with.
pub const ACCEPTED: &str = "Accepted";
/// A replica runs the source.
pub const ASSIGNED: &str = "Assigned";
/// Events reach the store.
pub const STORED: &str = "Stored";
/// The source answers usefully.
pub const REACHABLE: &str = "Reachable";
/// The source had nothing more when it was last asked. Not part of `Ready`: a source that backfills is healthy.
pub const CAUGHT_UP: &str = "CaughtUp";
/// Headgate works on becoming ready (kstatus: in progress).
pub const RECONCILING: &str = "Reconciling";
/// Waiting does not help, somebody has to change something (kstatus: failed).
pub const STALLED: &str = "Stalled";

/// The reason of a condition that is not known yet.
pub const PENDING: &str = "Pending";
/// The reason of `Ready` while `suspend` is true, and of what is not looked at meanwhile.
pub const SUSPENDED: &str = "Suspended";

/// A reason and the message that says what to do.
pub type Verdict<'a, R> = (R, &'a str);

/// What is known of a source. `None` is "not known by this replica yet".
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The `metadata.generation` that all of this is about.
    pub generation: i64,
    pub suspended: bool,
    /// `spec.poll`, for the message of `Ready`.
    pub poll: Option<&'a Poll>,
    pub accepted: Option<Verdict<'a, AcceptedReason>>,
    /// `None`: no replica holds the source.
    pub assigned: Option<Verdict<'a, AssignedReason>>,
    pub stored: Option<Verdict<'a, StoredReason>>,
    pub reachable: Option<Verdict<'a, ReachableReason>>,
    /// Whether the last answer brought nothing more.
    pub caught_up: Option<bool>,
    /// An older EventSource of the namespace with the same URL.
    pub shares_endpoint_with: Option<&'a StreamName>,
    /// What a source that answers does beside the rules: repeats dropped and the like.
    pub note: Option<&'a str>,
    /// Why its credentials could not be read again, while it goes on with those it has.
    pub unread: Option<&'a str>,
}

/// A verdict as its condition says it.
#[derive(Debug, Clone, Copy)]
struct Said<'a> {
    status: Status,
    reason: &'static str,
    message: &'a str,
}

impl<'a> Facts<'a> {
    /// A source of which nothing is known.
    #[must_use]
    pub fn unknown(generation: i64) -> Self {
        Self {
            generation,
            suspended: false,
            poll: None,
            accepted: None,
            assigned: None,
            stored: None,
            reachable: None,
            caught_up: None,
            shares_endpoint_with: None,
            note: None,
            unread: None,
        }
    }

    fn accepted(&self) -> Option<Said<'a>> {
        let (reason, message) = self.accepted?;
        let status = match reason {
            AcceptedReason::Valid => Status::True,
            AcceptedReason::FinalizerPending => Status::Unknown,
            AcceptedReason::InvalidSpec
            | AcceptedReason::SecretNotFound
            | AcceptedReason::SecretKeyMissing
            | AcceptedReason::CANotFound
            | AcceptedReason::CredentialsForbidden => Status::False,
        };
        Some(Said { status, reason: reason.as_str(), message })
    }

    fn assigned(&self) -> Said<'a> {
        let (reason, message) =
            self.assigned.unwrap_or((AssignedReason::AwaitingReplica, "no replica holds the source yet"));
        let status = match reason {
            AssignedReason::LeaseHeld => Status::True,
            AssignedReason::AwaitingReplica => Status::Unknown,
            AssignedReason::LeaseLost => Status::False,
        };
        Said { status, reason: reason.as_str(), message }
    }

    fn stored(&self) -> Option<Said<'a>> {
        let (reason, message) = self.stored?;
        Some(Said { status: Status::good(reason == StoredReason::AppendSucceeded), reason: reason.as_str(), message })
    }

    fn reachable(&self) -> Option<Said<'a>> {
        let (reason, message) = self.reachable?;
        Some(Said { status: Status::good(reason == ReachableReason::PollSucceeded), reason: reason.as_str(), message })
    }
}

/// What one condition is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    status: Status,
    reason: String,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    True,
    False,
    Unknown,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }

    /// A verdict is either the one good reason or a failure.
    fn good(good: bool) -> Self {
        if good { Self::True } else { Self::False }
    }
}

impl Finding {
    fn new(status: Status, reason: &str, message: impl Into<String>) -> Self {
        Self { status, reason: reason.to_owned(), message: message.into() }
    }

    /// What is said, and something beside it.
    fn and(said: Said<'_>, beside: Option<&str>) -> Self {
        let message = match beside {
            Some(beside) => format!("{}; {beside}", said.message),
            None => said.message.to_owned(),
        };
        Self::new(said.status, said.reason, message)
    }

    fn of(condition: &Condition) -> Self {
        let status = match condition.status.as_str() {
            "True" => Status::True,
            "False" => Status::False,
            _ => Status::Unknown,
        };
        Self::new(status, &condition.reason, &condition.message)
    }
}

/// All conditions of a source.
///
/// What a replica does not know yet keeps the value that stands in the object, as long as that is about the same
/// generation: a source that moved to another replica did not become unknown. `lastTransitionTime` moves only with
/// `status`.
#[must_use]
pub fn conditions(facts: &Facts<'_>, old: &[Condition], now: Timestamp) -> Vec<Condition> {
    let kept = |kind: &str| {
        old.iter()
            .find(|condition| condition.type_ == kind && condition.observed_generation == Some(facts.generation))
            .map(Finding::of)
            // A wait that is over says so by being unknown.
            .filter(|finding| finding.reason != AcceptedReason::FinalizerPending.as_str())
    };
    let or_kept = |found: Option<Finding>, kind: &str, pending: &str| {
        found.or_else(|| kept(kind)).unwrap_or_else(|| not_known(facts, pending))
    };
    let accepted = or_kept(accepted(facts), ACCEPTED, "no replica has read the spec yet");
    let assigned = Finding::and(facts.assigned(), None);
    let stored = facts.stored().map(|said| Finding::and(said, None));
    let stored = or_kept(stored, STORED, "nothing was written to the store yet");
    let reachable = or_kept(reachable(facts), REACHABLE, "the source was not asked yet");
    let caught_up = or_kept(caught_up(facts), CAUGHT_UP, "the source was not asked yet");

    let ready = ready(facts, [&accepted, &assigned, &stored, &reachable], &caught_up);
    let stalled = stalled(facts, &accepted, &stored);
    let reconciling = if stalled.is_none() { reconciling(&ready) } else { None };

    [
        (READY, Some(ready)),
        (ACCEPTED, Some(accepted)),
        (ASSIGNED, Some(assigned)),
        (REACHABLE, Some(reachable)),
        (STORED, Some(stored)),
        (CAUGHT_UP, Some(caught_up)),
        (RECONCILING, reconciling),
        (STALLED, stalled),
    ]
    .into_iter()
    .filter_map(|(kind, finding)| Some(condition(kind, finding?, facts.generation, old, now)))
    .collect()
}

fn not_known(facts: &Facts<'_>, pending: &str) -> Finding {
    if facts.suspended {
        return Finding::new(Status::Unknown, SUSPENDED, "not looked at while `suspend` is true");
    }
    Finding::new(Status::Unknown, PENDING, pending)
}

fn accepted(facts: &Facts<'_>) -> Option<Finding> {
    let said = facts.accepted()?;
    // A warning and not a refusal: two objects with one URL are two sources to the gate.
    let shared = facts.shares_endpoint_with.map(|elder| {
        format!(
            "SharedEndpoint: the older EventSource {elder} has the same `url`, and each of the two is asked at its own pace"
        )
    });
    Some(Finding::and(said, shared.as_deref()))
}

/// Also while it is well: a right that is missing ends no polling, but the next rotation will.
fn reachable(facts: &Facts<'_>) -> Option<Finding> {
    let said = facts.reachable()?;
    let beside: Vec<_> = [facts.note, facts.unread].into_iter().flatten().collect();
    Some(Finding::and(said, (!beside.is_empty()).then(|| beside.join("; ")).as_deref()))
}

fn caught_up(facts: &Facts<'_>) -> Option<Finding> {
    Some(if facts.caught_up? {
        Finding::new(Status::True, CaughtUpReason::NoMoreEvents.as_str(), "the last answer brought nothing more")
    } else {
        Finding::new(Status::False, CaughtUpReason::Backfilling.as_str(), "the source has more events")
    })
}

fn ready(facts: &Facts<'_>, dependents: [&Finding; 4], caught_up: &Finding) -> Finding {
    let pace = || match facts.poll {
        Some(poll) => format!(
            "polling every {} to {}",
            super::Duration::from(poll.min_interval()),
            super::Duration::from(poll.max_idle_interval())
        ),
        None => "polling".to_owned(),
    };
    let dependents = dependents.map(|dependent| (dependent.status, dependent));
    match Ready::of(facts.suspended, dependents, caught_up.status == Status::True) {
        // True, so that nobody's `helm install --wait` hangs on what they asked for.
        Ready::Suspended => {
            Finding::new(Status::True, SUSPENDED, "polling is suspended; the cursor and the stored events stay")
        }
        Ready::Because(cause) => cause.clone(),
        Ready::CaughtUp => Finding::new(Status::True, CAUGHT_UP, pace()),
        Ready::Backfilling => {
            let message = format!("{}; the source has more events", pace());
            Finding::new(Status::True, CaughtUpReason::Backfilling.as_str(), message)
        }
    }
}

/// Set when only a change of the object or of the source's data helps, so that waiting tools fail at once instead of at their
/// timeout. A Secret that is missing may be on its way, and is looked for again.
fn stalled(facts: &Facts<'_>, accepted: &Finding, stored: &Finding) -> Option<Finding> {
    let is = |finding: &Finding, reason: &str| finding.status == Status::False && finding.reason == reason;
    let cause = if is(accepted, AcceptedReason::InvalidSpec.as_str()) {
        accepted
    } else if is(stored, StoredReason::ConflictingEvent.as_str()) {
        stored
    } else {
        return None;
    };
    (!facts.suspended).then(|| Finding { status: Status::True, ..cause.clone() })
}

fn reconciling(ready: &Finding) -> Option<Finding> {
    let reason = match ready.status {
        Status::True => return None,
        Status::Unknown => "Progressing",
        Status::False => "ProgressingWithRetry",
    };
    Some(Finding::new(Status::True, reason, &ready.message))
}

fn condition(kind: &str, finding: Finding, generation: i64, old: &[Condition], now: Timestamp) -> Condition {
    let status = finding.status.as_str();
    let last_transition_time = old
        .iter()
        .find(|condition| condition.type_ == kind && condition.status == status)
        .map_or_else(|| to_second(now), |condition| condition.last_transition_time.clone());
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        observed_generation: Some(generation),
        last_transition_time,
        reason: finding.reason,
        message: cut(finding.message),
    }
}

/// Kubernetes keeps whole seconds; what we compute must equal what we read back.
#[must_use]
pub fn to_second(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// A message that is too long for the schema would cost the whole status.
fn cut(message: String) -> String {
    if message.chars().count() <= LONGEST_MESSAGE {
        return message;
    }
    message.chars().take(LONGEST_MESSAGE - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests;
