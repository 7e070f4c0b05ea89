//! Waits that grow while something fails.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Between half of a wait and all of it: those who wait for the same thing do not come at the same moment.
pub fn jittered(wait: Duration, rng: &mut impl Rng) -> Duration {
    wait.mul_f64(rng.random_range(0.5..=1.0))
}

/// The waits after failures in a row: each twice as long as the one before it, up to the longest.
///
/// [`jittered`] keeps apart those who wait for the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// The wait after a failure that had this many before it.
    #[must_use]
    pub fn after(self, failures_before: u32) -> Duration {
        // No wait of anybody doubles more often than this.
        self.first.saturating_mul(1 << failures_before.min(20)).min(self.longest)
    }

    #[must_use]
    pub const fn longest(self) -> Duration {
        self.longest
    }

    /// Its waits, one after the other.
    #[must_use]
    pub const fn waits(self) -> Waits {
        Waits { backoff: self, failures: 0 }
    }
}

/// The waits of one [`Backoff`], until what failed succeeds.
#[derive(Debug, Clone)]
pub struct Waits {
    backoff: Backoff,
    failures: u32,
}

impl Waits {
    /// It failed once more. Returns how long to wait now.
    pub fn failed(&mut self) -> Duration {
        let wait = self.backoff.after(self.failures);
        self.failures = self.failures.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_up_to_the_longest_and_stay_there() {
        let backoff = Backoff::new(SECOND, 5 * SECOND);
        let mut waits = backoff.waits();
        let told: Vec<_> = (0..5).map(|_| waits.failed().as_secs()).collect();
        assert_eq!(told, [1, 2, 4, 5, 5]);
        assert_eq!([backoff.after(2), backoff.after(u32::MAX)], [4 * SECOND, backoff.longest()]);
    }

    #[test]
    fn jitter_leaves_at_least_half_of_a_wait_and_never_the_same_one() {
        let mut rng = StdRng::seed_from_u64(7);
        let waits: BTreeSet<_> = (0..100).map(|_| jittered(SECOND, &mut rng)).collect();
        assert!(waits.iter().all(|wait| (SECOND / 2..=SECOND).contains(wait)), "{waits:?}");
        assert!(waits.len() > 90 && waits.last() > waits.first().map(|least| *least + SECOND / 3).as_ref());
    }

    #[test]
    fn a_first_wait_beyond_the_longest_is_the_longest() {
        assert_eq!(Backoff::new(10 * SECOND, SECOND).after(0), SECOND);
        assert_eq!(Backoff::new(Duration::MAX, Duration::MAX).after(9), Duration::MAX);
    }
}
