//! Keeps a flapping value still: a new value is taken only when it was there for most of a while.

use std::time::Duration;

use tokio::time::Instant;

/// A value as it is published. The first one is taken at once.
///
/// From when another value than the published one is seen, both are timed. After `hold` at the earliest, a value that is seen
/// then is taken if for three quarters of the time, or for `hold` without a break, the published one was not; if for more than a
/// quarter it was, and it is seen then, nothing has happened. So a source that alternates between two failures is published as
/// failing, one that fails now and then stays what it was, and one that was well for all but its first answer is well.
#[derive(Debug, Clone)]
pub(super) struct Steady<T> {
    published: Option<T>,
    doubt: Option<Doubt>,
    hold: Duration,
}

/// How long the published value was seen, and how long it was not, since it first was not.
#[derive(Debug, Clone)]
struct Doubt {
    since: Instant,
    published_for: Duration,
    differed_for: Duration,
    /// What was seen last, and when; since when it is not the published one, or was not the last time.
    differs: bool,
    at: Instant,
    differs_since: Instant,
}

impl<T: PartialEq + Clone> Steady<T> {
    pub(super) fn new(hold: Duration) -> Self {
        Self { published: None, doubt: None, hold }
    }

    /// Takes the value seen last and returns the one to publish.
    pub(super) fn observe(&mut self, seen: &T, now: Instant) -> T {
        let published = self.published.get_or_insert_with(|| seen.clone());
        let differs = seen != published;
        // It was over while nobody looked.
        self.doubt.take_if(|doubt| !doubt.differs && doubt.ends_at(self.hold) <= now);
        if differs {
            self.doubt.get_or_insert_with(|| Doubt::new(now));
        }
        if let Some(doubt) = &mut self.doubt {
            doubt.look(differs, now);
            if doubt.ends_at(self.hold) <= now {
                self.doubt = None;
                *published = seen.clone();
            }
        }
        published.clone()
    }

    /// When it is decided which value to publish, if the one seen last stays.
    pub(super) fn settles_at(&self) -> Option<Instant> {
        self.doubt.as_ref().map(|doubt| doubt.ends_at(self.hold))
    }
}

impl Doubt {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            published_for: Duration::ZERO,
            differed_for: Duration::ZERO,
            differs: true,
            at: now,
            differs_since: now,
        }
    }

    fn look(&mut self, differs: bool, now: Instant) {
        let time = if self.differs { &mut self.differed_for } else { &mut self.published_for };
        *time += now.duration_since(self.at);
        if differs && !self.differs {
            self.differs_since = now;
        }
        (self.differs, self.at) = (differs, now);
    }

    /// When the value seen last has been there for its part of the time, if it stays: three quarters for another one, or a
    /// quarter for the published one. Not half and half, or a source that is as often well as not would change with its luck.
    fn ends_at(&self, hold: Duration) -> Instant {
        if self.differs {
            (self.since + hold.max(4 * self.published_for)).min(self.differs_since + hold)
        } else {
            self.since + hold.max(self.differed_for + self.differed_for / 3)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(5);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_value_is_published_at_once() {
        assert!(Steady::new(HOLD).observe(&true, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_value_is_published_when_it_held() {
        let mut steady = Steady::new(HOLD);
        let start = Instant::now();
        steady.observe(&1, start);
        assert_eq!(steady.observe(&2, start + seconds(1)), 1);
        assert_eq!(steady.settles_at(), Some(start + seconds(6)));
        assert_eq!(steady.observe(&2, start + seconds(5)), 1);
        assert_eq!(steady.observe(&2, start + seconds(6)), 2);
        assert_eq!(steady.settles_at(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_that_comes_back_was_never_gone() {
        let mut steady = Steady::new(HOLD);
        let start = Instant::now();
        for second in 0..60 {
            assert!(steady.observe(&(second % 3 != 2), start + seconds(second)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn two_new_values_in_turn_do_not_keep_the_old_one_alive() {
        let mut steady = Steady::new(HOLD);
        let start = Instant::now();
        steady.observe(&"fine", start);
        let published: Vec<_> = (1..=6)
            .map(|second| steady.observe(&["timeout", "refused"][(second % 2) as usize], start + seconds(second)))
            .collect();
        assert_eq!(published[..5], ["fine"; 5]);
        assert_eq!(published[5], "timeout");
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_value_that_comes_back_now_and_then_does_not_stay_for_ever() {
        let mut steady = Steady::new(HOLD);
        let start = Instant::now();
        let published: Vec<_> =
            (0..12).map(|second| steady.observe(&(second % 5 != 0), start + seconds(second))).collect();
        assert_eq!(published[..6], [false; 6], "it fails one second of five, and failed in the first");
        assert_eq!(published[6..], [true; 6]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_there_half_of_the_time_changes_nothing() {
        let mut steady = Steady::new(HOLD);
        let start = Instant::now();
        for half in 1..=4 {
            for second in 0..60 {
                assert!(
                    steady.observe(&(second / half % 2 == 0), start + seconds(60 * half + second)),
                    "{half} s each"
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_that_has_gone_is_not_published() {
        let mut steady = Steady::new(HOLD);
        let start = Instant::now();
        let seen = |second| second == 0 || second >= 5;
        for second in 0..30 {
            let published = steady.observe(&seen(second), start + seconds(second));
            assert!(published, "four seconds of another value, and they are over: second {second}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_and_stays_is_published_also_after_much_flapping() {
        let start = Instant::now();
        for last in 600..640 {
            let mut steady = Steady::new(HOLD);
            for second in 0..last {
                steady.observe(&(second % 7 != 3 && second % 11 != 5), start + seconds(second));
            }
            let stays = start + seconds(last);
            steady.observe(&false, stays);
            let settles = steady.settles_at().map_or(Duration::ZERO, |settles| settles - stays);
            assert!(settles <= HOLD, "it stays from second {last} on: {settles:?}");
            assert!(!steady.observe(&false, stays + settles));
        }
    }
}
