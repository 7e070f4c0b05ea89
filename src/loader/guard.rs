//! What this process itself knows of its requests to one source.

use std::time::Duration;

use tokio::time::Instant;

use crate::{permit::Attempt, store::Close};

/// What this process itself knows about its requests to one source, on its own monotonic clock.
///
/// The row decides who may send. This is the second lock on the same door: a database clock that jumps forward, or a
/// failover to a row that went back, harms nobody as long as the holder stays the same (DESIGN 4). It outlives the
/// tasks of a source for as long as its Lease is held without a break; whoever wins a Lease anew knows only the row.
#[derive(Debug, Default)]
pub(super) struct Guard {
    last_start: Option<Instant>,
    not_before: Option<Instant>,
    /// A request of ours may be served until then.
    busy_until: Option<Instant>,
    /// An attempt that is to be closed before the next reservation.
    owed: Option<Owed>,
    /// The ids of the source were seen not to ascend; the row may not have heard of it.
    out_of_order: bool,
}

/// An attempt that provably is not in flight, but may stand open in the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owed {
    pub(super) attempt: Attempt,
    /// Closing must not let anybody start before this.
    pub(super) next_start: Instant,
}

impl Owed {
    /// As a statement that is issued now says it.
    pub(super) fn close(self) -> Close {
        Close { next_start_in: self.next_start.saturating_duration_since(Instant::now()) }
    }
}

impl Guard {
    /// The first instant at which this process may start a request.
    pub(super) fn opens(&self, now: Instant) -> Instant {
        let latest = self.not_before.max(self.busy_until);
        latest.map_or(now, |latest| latest.max(now))
    }

    /// A request starts. Returns the time since the one before.
    pub(super) fn start(&mut self, now: Instant, min_interval: Duration, busy_until: Instant) -> Option<Duration> {
        let interval = self.last_start.map(|last| now.saturating_duration_since(last));
        self.last_start = Some(now);
        self.not_before(now + min_interval);
        self.busy_until = Some(busy_until);
        interval
    }

    /// The request that was about to start never left.
    pub(super) fn never_left(&mut self, before: Option<Instant>) {
        self.last_start = before;
        self.busy_until = None;
    }

    pub(super) fn last_start(&self) -> Option<Instant> {
        self.last_start
    }

    /// The response was read to its end.
    pub(super) fn end(&mut self, first_byte: Instant, min_interval: Duration) {
        self.not_before(first_byte + min_interval);
        self.busy_until = None;
    }

    /// The source may be serving until `until`.
    pub(super) fn busy_until(&mut self, until: Instant) {
        self.busy_until = self.busy_until.max(Some(until));
    }

    pub(super) fn not_before(&mut self, at: Instant) {
        self.not_before = self.not_before.max(Some(at));
    }

    /// Notes an attempt that is over and must be closed, with the wait that goes with it.
    pub(super) fn owe(&mut self, owed: Owed) {
        self.owed = Some(owed);
    }

    pub(super) fn owed(&self) -> Option<Owed> {
        self.owed
    }

    pub(super) fn settled(&mut self) {
        self.owed = None;
    }

    pub(super) fn saw_disorder(&mut self) {
        self.out_of_order = true;
    }

    /// The ids are to be read anew, perhaps from elsewhere.
    pub(super) fn forget_disorder(&mut self) {
        self.out_of_order = false;
    }

    pub(super) fn is_out_of_order(&self) -> bool {
        self.out_of_order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN_INTERVAL: Duration = Duration::from_millis(200);

    #[tokio::test(start_paused = true)]
    async fn the_gap_counts_from_the_first_byte_and_an_unfinished_request_keeps_the_door_shut() {
        let now = Instant::now();
        let mut guard = Guard::default();
        assert_eq!(guard.opens(now), now);
        assert_eq!(guard.start(now, MIN_INTERVAL, now + Duration::from_secs(3)), None);
        assert_eq!(guard.opens(now), now + Duration::from_secs(3));
        let first_byte = now + Duration::from_millis(70);
        guard.end(first_byte, MIN_INTERVAL);
        assert_eq!(guard.opens(now), first_byte + MIN_INTERVAL);
        let next = first_byte + MIN_INTERVAL;
        assert_eq!(guard.start(next, MIN_INTERVAL, next), Some(Duration::from_millis(270)));
    }
}
