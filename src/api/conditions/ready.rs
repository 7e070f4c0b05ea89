//! What `Ready` comes to: the one place that says so, for the condition, for `/v1/sources` and for the metrics.

use super::{CAUGHT_UP, Facts, PENDING, SUSPENDED, Said, Status};
use crate::api::CaughtUpReason;

/// What `Ready` comes to.
pub(super) enum Ready<T> {
    /// True: nothing is asked, on purpose.
    Suspended,
    /// The first of its dependents that is False; without one, the first that is Unknown.
    Because(T),
    /// True, and the source had nothing more.
    CaughtUp,
    /// True, and it had, or was not asked yet.
    Backfilling,
}

impl<T: Copy> Ready<T> {
    /// `dependents` are Accepted, Assigned, Stored and Reachable, in this order.
    pub(super) fn of(suspended: bool, dependents: [(Status, T); 4], caught_up: bool) -> Self {
        if suspended {
            return Self::Suspended;
        }
        match first(Status::False, dependents).or_else(|| first(Status::Unknown, dependents)) {
            Some(cause) => Self::Because(cause),
            None if caught_up => Self::CaughtUp,
            None => Self::Backfilling,
        }
    }
}

fn first<T: Copy>(status: Status, dependents: [(Status, T); 4]) -> Option<T> {
    dependents.into_iter().find(|dependent| dependent.0 == status).map(|dependent| dependent.1)
}

impl<'a> Facts<'a> {
    /// The reason of `Ready`, which is the STATUS of `kubectl get evsrc`, as far as these facts go.
    #[must_use]
    pub fn status(&self) -> &'static str {
        match Ready::of(self.suspended, self.dependents(), self.caught_up == Some(true)) {
            Ready::Suspended => SUSPENDED,
            Ready::Because(cause) => cause.map_or(PENDING, |said| said.reason),
            Ready::CaughtUp => CAUGHT_UP,
            Ready::Backfilling => CaughtUpReason::Backfilling.as_str(),
        }
    }

    /// What is wrong, suspended or not: the reason and the message of the first condition that is False, in the order of
    /// `Ready`.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, &'a str)> {
        first(Status::False, self.dependents()).flatten().map(|said| (said.reason, said.message))
    }

    fn dependents(&self) -> [(Status, Option<Said<'a>>); 4] {
        [self.accepted(), Some(self.assigned()), self.stored(), self.reachable()]
            .map(|said| (said.map_or(Status::Unknown, |said| said.status), said))
    }
}
