//! Keeps a flapping value still: a new value is taken only when the old one has not been seen for a while.

use std::time::Duration;

use tokio::time::Instant;

/// A value as it is published. The first one is taken at once.
///
/// The clock starts when the value first differs from the published one, and stops when that one comes back. So a source
/// that alternates between two failures is published as failing, and one that fails now and then stays what it was.
#[derive(Debug, Clone)]
pub(super) struct Steady<T> {
    published: Option<T>,
    differs_since: Option<Instant>,
    hold: Duration,
}

impl<T: PartialEq + Clone> Steady<T> {
    pub(super) fn new(hold: Duration) -> Self {
        Self { published: None, differs_since: None, hold }
    }

    /// Takes the value seen last and returns the one to publish.
    pub(super) fn observe(&mut self, seen: &T, now: Instant) -> T {
        match &self.published {
            Some(published) if published == seen => {
                self.differs_since = None;
                return published.clone();
            }
            Some(published) => {
                let since = *self.differs_since.get_or_insert(now);
                if now < since + self.hold {
                    return published.clone();
                }
            }
            None => {}
        }
        self.published = Some(seen.clone());
        self.differs_since = None;
        seen.clone()
    }

    /// When a waiting value is taken if the published one does not come back.
    pub(super) fn settles_at(&self) -> Option<Instant> {
        self.differs_since.map(|since| since + self.hold)
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
}
