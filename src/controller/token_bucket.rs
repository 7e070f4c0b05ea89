//! How many writes one replica may send to the API server: a token bucket. Pure, the caller passes `now`.

use std::time::Duration;

use tokio::time::Instant;

/// A token bucket that begins full.
#[derive(Debug, Clone)]
pub(super) struct TokenBucket {
    every: Duration,
    burst: u32,
    /// When the bucket would be full if nothing more were taken (the virtual schedule of GCRA): no fraction is ever
    /// rounded, so the rate holds exactly over any time.
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// `per_second` on average, `burst` at once.
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        Self { every: Duration::from_secs(1) / per_second.max(1), burst: burst.max(1), full_at: None }
    }

    /// Takes one token; without one, says when there will be.
    ///
    /// # Errors
    /// The instant of the next token.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + self.every;
        let earliest = full_at.checked_sub(self.every * self.burst).unwrap_or(now);
        if earliest > now {
            return Err(earliest);
        }
        self.full_at = Some(full_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_full_bucket_gives_its_burst_at_once_and_then_its_rate() {
        let mut bucket = TokenBucket::new(20, 100);
        let now = Instant::now();
        assert_eq!((0..150).filter(|_| bucket.take(now).is_ok()).count(), 100);
        assert_eq!(bucket.take(now), Err(now + Duration::from_millis(50)));
        assert!(bucket.take(now + Duration::from_millis(50)).is_ok());
        assert!(bucket.take(now + Duration::from_millis(50)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn no_window_of_any_history_holds_more_than_burst_plus_rate() {
        for seed in 0..300 {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut bucket = TokenBucket::new(20, 100);
            let mut now = Instant::now();
            let mut taken = Vec::new();
            for _ in 0..2_000 {
                now += Duration::from_millis(random.random_range(0..60));
                match bucket.take(now) {
                    Ok(()) => taken.push(now),
                    Err(next) => assert!(next > now, "a refusal names a later instant"),
                }
            }
            for (first, start) in taken.iter().enumerate() {
                let last = (first + 400).min(taken.len() - 1);
                let allowed = 100 + (taken[last] - *start).as_millis() / 50;
                assert!((last - first) as u128 <= allowed, "seed {seed}: {} writes", last - first);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_promised_instant_does_grant() {
        let mut bucket = TokenBucket::new(7, 3);
        let mut now = Instant::now();
        for _ in 0..100 {
            if let Err(next) = bucket.take(now) {
                now = next;
                assert!(bucket.take(now).is_ok());
            }
        }
    }
}
