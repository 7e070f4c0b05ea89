//! Two clocks say what day it is: the database's and this machine's. By it events are filed, and dropped for good: so neither is
//! believed alone (docs/adr/0006). The gate goes by the database's clock, and by no other.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sqlx::Row as _;

use super::{PostgresStore, column, failure::store_error, session};
use crate::store::StoreError;

/// How far two clocks that are right may differ: far more than time services let pass, and little beside a day.
const AGREE_WITHIN: Duration = Duration::from_hours(1);

/// By how much the database's clock is ahead of $1, in microseconds.
const AHEAD: &str = "SELECT (extract(epoch FROM clock_timestamp() - $1) * 1000000)::bigint AS ahead";

/// Before this nothing is filed, whatever the database's clock shows.
pub(super) fn earliest() -> column::Timestamp {
    column::Timestamp(Timestamp::now() - AGREE_WITHIN)
}

/// How the two clocks stand to each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clocks {
    /// What this machine's showed when the other one was read.
    pub(super) here: Timestamp,
    /// By how much the database's is ahead of it.
    pub(super) ahead: SignedDuration,
}

impl Clocks {
    pub(super) fn agree(self) -> bool {
        self.ahead.unsigned_abs() <= AGREE_WITHIN
    }
}

impl PostgresStore {
    pub(super) async fn read_clocks(&self) -> Result<Clocks, StoreError> {
        let action = "read the database's clock";
        let here = Timestamp::now();
        let rows = session::rows(&self.pool, action, sqlx::query(AHEAD).bind(column::Timestamp(here))).await?;
        let row = rows.first().ok_or_else(|| store_error(action, sqlx::Error::RowNotFound))?;
        let ahead = row.try_get("ahead").map_err(|error| store_error(action, error))?;
        Ok(Clocks { here, ahead: SignedDuration::from_micros(ahead) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_agree_that_differ_by_no_more_than_an_hour_either_way() {
        let apart = |seconds| Clocks { here: Timestamp::UNIX_EPOCH, ahead: SignedDuration::from_secs(seconds) };
        assert!([-3600, -1, 0, 3600].into_iter().all(|seconds| apart(seconds).agree()));
        assert!([i64::MIN, -3601, 3601, i64::MAX].into_iter().all(|seconds| !apart(seconds).agree()));
    }
}
