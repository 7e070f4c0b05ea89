//! A row that another session keeps locked. For moments that is another statement of Headgate; what lasts is somebody's open
//! transaction, of which only that row's source knows.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    context::{LOCKED_RETRY, LOCKED_TRIES},
    reporter::Reporter,
};
use crate::backoff::Backoff;

/// No statement of Headgate runs longer than this.
const LASTS: Duration = Duration::from_secs(5);

/// The longest wait until the row is asked again.
const LAST_RETRY: Duration = Duration::from_secs(1);

/// Two locks that were met farther apart than this are two: nobody has asked in between.
const ONE_LOCK: Duration = Duration::from_secs(10);

/// Between two tries of what cannot be given up. An append sends its batch with each; an extension most often meets an append of the
/// same attempt, and a large one takes a while.
pub(super) const WHILE_LOCKED: Backoff = Backoff::new(LOCKED_RETRY, Duration::from_millis(500));

/// How long the row of one source was found locked, without any other answer.
#[derive(Debug, Default)]
pub(super) struct RowLock {
    met: Option<Met>,
}

#[derive(Debug, Clone, Copy)]
struct Met {
    first: Instant,
    last: Instant,
}

impl RowLock {
    /// The row was found locked; says so once that lasts.
    pub(super) fn met(&mut self, reporter: &Reporter) {
        let now = Instant::now();
        let first = self.met.filter(|met| now - met.last < ONE_LOCK).map_or(now, |met| met.first);
        self.met = Some(Met { first, last: now });
        if self.lasts() {
            reporter.row_stays_locked();
        }
    }

    /// The row gave another answer.
    pub(super) fn opened(&mut self) {
        self.met = None;
    }

    /// Whether the lock has lasted for [`LASTS`], so that it is reported.
    pub(super) fn lasts(&self) -> bool {
        self.lasts_for() >= LASTS
    }

    fn lasts_for(&self) -> Duration {
        self.met.map_or(Duration::ZERO, |met| met.last - met.first)
    }

    /// When it is to be asked again: ever later, the longer it lasts.
    pub(super) fn retry_in(&self) -> Duration {
        (self.lasts_for() / 16).clamp(LOCKED_RETRY, LAST_RETRY)
    }

    /// How often it is asked in a row for something that can wait.
    pub(super) fn tries(&self) -> u32 {
        if self.lasts() { 1 } else { LOCKED_TRIES }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;
    use crate::loader::{report::Report, reports::Reports, testing::World};

    #[tokio::test(start_paused = true)]
    async fn two_short_locks_with_an_outage_between_them_are_not_a_long_one() {
        let world = World::new();
        let report = Report::of(world.holding("a"), 1, "uid".to_owned());
        let reporter = Reporter::new(world.stream.clone(), Reports::default().open(&world.stream, report));
        let mut lock = RowLock::default();
        lock.met(&reporter);
        sleep(ONE_LOCK).await;
        lock.met(&reporter);
        assert!(!lock.lasts() && reporter.report().problem().is_none());
        for _ in 0..=LASTS.as_secs() {
            sleep(Duration::from_secs(1)).await;
            lock.met(&reporter);
        }
        assert!(lock.lasts() && reporter.report().problem().is_some());
    }
}
