//! S, the time within which a reserved request must start.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// S at rest (DESIGN 4). Ten times a reservation on a healthy database.
const LEAST: Duration = Duration::from_millis(100);

/// S at most: it is also how long a crash keeps the next holder waiting.
const MOST: Duration = Duration::from_secs(1);

/// A slow reservation is half forgotten after about 180 quick ones, so the value stays above the 99th percentile.
const FORGETTING: u64 = 256;

/// S, the time within which a reserved request must start: twice the slow end of the reservations of this process.
///
/// One value for the process: after a start or a failover each of thousands of sources would else have to fail once to
/// learn it.
#[derive(Debug, Default)]
pub(super) struct SendLimit {
    slow_micros: AtomicU64,
}

impl SendLimit {
    pub(super) fn current(&self) -> Duration {
        (Duration::from_micros(self.slow_micros.load(Ordering::Relaxed)) * 2).clamp(LEAST, MOST)
    }

    /// Notes how long a reservation took. Losing one of two racing notes is harmless.
    pub(super) fn observe(&self, took: Duration) {
        // What lies beyond the largest S changes nothing, and would take long to forget.
        let took = u64::try_from(took.min(MOST / 2).as_micros()).unwrap_or(u64::MAX);
        let slow = self.slow_micros.load(Ordering::Relaxed);
        let next = if took >= slow { took } else { slow - (slow - took).div_ceil(FORGETTING) };
        self.slow_micros.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_send_limit_follows_slow_reservations_and_forgets_them() {
        let limit = SendLimit::default();
        limit.observe(Duration::from_millis(5));
        assert_eq!(limit.current(), LEAST);
        limit.observe(Duration::from_millis(210));
        assert_eq!(limit.current(), Duration::from_millis(420));
        for _ in 0..100 {
            limit.observe(Duration::from_millis(5));
        }
        assert!(limit.current() > Duration::from_millis(210), "one slow reservation in a hundred still fits");
        for _ in 0..2000 {
            limit.observe(Duration::from_millis(5));
        }
        assert_eq!(limit.current(), LEAST);
    }

    #[test]
    fn the_send_limit_never_leaves_its_bounds() {
        let limit = SendLimit::default();
        limit.observe(Duration::from_mins(1));
        assert_eq!(limit.current(), MOST);
    }
}
