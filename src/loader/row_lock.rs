//! A row that another session keeps locked. For moments that is another statement of Headgate; what lasts is somebody's open
//! transaction, of which only that row's source knows.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    context::{LOCKED_RETRY, LOCKED_TRIES},
    reporter::Reporter,
};

/// No statement of Headgate runs longer than this.
const LASTS: Duration = Duration::from_secs(5);

/// The longest wait until the row is asked again.
const LAST_RETRY: Duration = Duration::from_secs(1);

/// How long the row of one source was found locked, without any other answer.
#[derive(Debug, Default)]
pub(super) struct RowLock {
    since: Option<Instant>,
}

impl RowLock {
    /// The row was found locked; says so once that lasts.
    pub(super) fn met(&mut self, reporter: &Reporter) {
        self.since.get_or_insert_with(Instant::now);
        if self.lasts() {
            reporter.row_stays_locked();
        }
    }

    /// The row gave another answer.
    pub(super) fn opened(&mut self) {
        self.since = None;
    }

    fn lasts(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= LASTS)
    }

    /// When it is to be asked again: ever later, the longer it lasts.
    pub(super) fn retry_in(&self) -> Duration {
        let lasts_for = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        (lasts_for / 16).clamp(LOCKED_RETRY, LAST_RETRY)
    }

    /// How often it is asked in a row for something that can wait.
    pub(super) fn tries(&self) -> u32 {
        if self.lasts() { 1 } else { LOCKED_TRIES }
    }
}
