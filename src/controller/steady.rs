//! Keeps a flapping value still: a new value is taken only when it was there for most of a while.

use std::time::Duration;

use tokio::time::Instant;

/// A value as it is published. The first one is taken at once.
///
/// When another value than the published one is seen, it is watched for `hold`: whatever was there for two thirds of that
/// time or more is the published one from then on. So a source that alternates between two failures is published as
/// failing, one that fails now and then stays what it was, and one that is well but for its first answer is well.
#[derive(Debug, Clone)]
pub(super) struct Steady<T> {
    published: Option<T>,
    doubt: Option<Doubt<T>>,
    hold: Duration,
}

/// What was seen since a value first differed from the published one.
#[derive(Debug, Clone)]
struct Doubt<T> {
    since: Instant,
    /// The value seen last that is not the published one.
    other: T,
    /// For how long the value was not the published one, up to `at`.
    differed_for: Duration,
    at: Instant,
    differs: bool,
}

impl<T: PartialEq + Clone> Steady<T> {
    pub(super) fn new(hold: Duration) -> Self {
        Self { published: None, doubt: None, hold }
    }

    /// Takes the value seen last and returns the one to publish.
    pub(super) fn observe(&mut self, seen: &T, now: Instant) -> T {
        let mut published = self.published.take().unwrap_or_else(|| seen.clone());
        if let Some(doubt) = &mut self.doubt {
            doubt.look(seen, *seen != published, now);
        }
        if let Some(over) = self.doubt.take_if(|doubt| now >= doubt.since + self.hold)
            && over.is_right()
        {
            published = over.other;
        }
        if *seen != published {
            self.doubt.get_or_insert_with(|| Doubt::new(seen.clone(), now));
        }
        self.published = Some(published.clone());
        published
    }

    /// When it is decided whether a value that was seen is taken.
    pub(super) fn settles_at(&self) -> Option<Instant> {
        self.doubt.as_ref().map(|doubt| doubt.since + self.hold)
    }
}

impl<T: Clone> Doubt<T> {
    fn new(other: T, now: Instant) -> Self {
        Self { since: now, other, differed_for: Duration::ZERO, at: now, differs: true }
    }

    fn look(&mut self, seen: &T, differs: bool, now: Instant) {
        if self.differs {
            self.differed_for += now.duration_since(self.at);
        }
        (self.at, self.differs) = (now, differs);
        if differs {
            self.other = seen.clone();
        }
    }

    /// Two thirds, not half: a source that is as often well as not is not written with each change of its luck.
    fn is_right(&self) -> bool {
        3 * self.differed_for >= 2 * self.at.duration_since(self.since)
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
        for second in 0..60 {
            assert!(steady.observe(&(second % 2 == 0), start + seconds(second)));
        }
    }
}
