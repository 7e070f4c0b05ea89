//! Whether the watch of Leases has gone silent without an error.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher::Event;
use tokio::time::Instant;

use crate::backoff::Backoff;

/// A watch may be silent for this long however often it was made anew in vain: the client itself gives a silent connection up before.
const LONGEST: Duration = Duration::from_mins(1);

/// Looks after the watch: while my renewals succeed, it has to show them.
#[derive(Debug)]
pub(super) struct Watchdog {
    patience: Backoff,
    /// When the watch last showed something.
    heard: Instant,
    /// How often in a row the watch was made anew and did not come to what follows its list.
    in_vain: u32,
}

impl Watchdog {
    /// `patience` is for a watch that has shown changes. One that was made anew lists all Leases, and a page of them may take longer:
    /// each time in a row that this comes to nothing, the next has twice as long.
    pub(super) fn new(patience: Duration, now: Instant) -> Self {
        Self { patience: Backoff::new(patience, LONGEST.max(patience)), heard: now, in_vain: 0 }
    }

    pub(super) fn heard(&mut self, event: &Event<Lease>, now: Instant) {
        self.heard = now;
        if matches!(event, Event::Apply(_) | Event::Delete(_)) {
            self.in_vain = 0;
        }
    }

    /// Whether the watch has shown nothing for so long that it is to be made anew.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) > self.patience.after(self.in_vain)
    }

    /// The watch is made anew.
    pub(super) fn made_anew(&mut self, now: Instant) {
        self.heard = now;
        self.in_vain = self.in_vain.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn a_watch_that_comes_to_nothing_has_twice_as_long_each_time_until_one_shows_a_change() {
        let mut now = Instant::now();
        let mut watchdog = Watchdog::new(PATIENCE, now);
        for seconds in [5, 10, 20, 40, 60, 60] {
            now += Duration::from_secs(seconds);
            assert!(!watchdog.is_stale(now), "after {seconds} s");
            now += Duration::from_millis(1);
            assert!(watchdog.is_stale(now), "after {seconds} s");
            watchdog.made_anew(now);
            watchdog.heard(&Event::Init, now);
            watchdog.heard(&Event::InitDone, now);
        }
        watchdog.heard(&Event::Apply(Lease::default()), now);
        assert!(watchdog.is_stale(now + PATIENCE + Duration::from_millis(1)));
    }

    #[test]
    fn a_lease_may_last_for_longer_than_any_patience() {
        let now = Instant::now();
        let watchdog = Watchdog::new(2 * LONGEST, now);
        assert!(!watchdog.is_stale(now + 2 * LONGEST));
    }
}
