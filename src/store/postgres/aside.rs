//! The items that were set aside: deleted when they are older than the retention.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::Row as _;

use super::{
    PostgresStore, column,
    failure::{store_error, too_slow},
    gate::micros,
    session,
};
use crate::store::StoreError;

const DROP_EXPIRED_ASIDE: &str = include_str!("sql/drop_expired_aside.sql");

const PAGES_ASIDE: &str =
    "SELECT pg_relation_size('headgate.set_aside') / current_setting('block_size')::bigint AS pages";

/// Pages that one statement goes through, far below the statement limit where the items are small.
const PAGES_PER_STATEMENT: i64 = 250;

const ACTION: &str = "drop expired items set aside";

/// The pages that are left, and how many of them the next statement goes through.
struct Pages {
    first: i64,
    end: i64,
    at_a_time: i64,
}

impl Pages {
    fn next(&self) -> Option<(i64, i64)> {
        let after = self.end.min(self.first + self.at_a_time);
        (self.first < self.end).then_some((self.first, after))
    }

    /// Fewer at a time from now on; false when these were the fewest.
    fn halve(&mut self) -> bool {
        let fewer = self.end.min(self.first + self.at_a_time) - self.first;
        self.at_a_time = (fewer / 2).max(1);
        fewer > 1
    }
}

impl PostgresStore {
    /// From the first page each time: those that were done are empty, and cost next to nothing. Large items lie outside of the
    /// pages, gigabytes of them behind a few, so what is too slow goes in smaller parts; a page that is too slow alone is passed
    /// over.
    ///
    /// # Errors
    /// [`StoreError::TooSlow`] when one was, and all others were done.
    pub(super) async fn drop_expired_aside(&self, retention: Duration, now: Timestamp) -> Result<(), StoreError> {
        let rows = session::rows(&self.pool, ACTION, sqlx::query(PAGES_ASIDE)).await?;
        let row = rows.first().ok_or_else(|| store_error(ACTION, sqlx::Error::RowNotFound))?;
        let end = row.try_get("pages").map_err(|error| store_error(ACTION, error))?;
        let (mut pages, mut passed_over) = (Pages { first: 0, end, at_a_time: PAGES_PER_STATEMENT }, None);
        while let Some((first, after)) = pages.next() {
            let statement = sqlx::query(DROP_EXPIRED_ASIDE)
                .bind(micros(retention))
                .bind(format!("({first},0)"))
                .bind(format!("({after},0)"))
                .bind(column::Timestamp(now));
            match session::rows(&self.pool, ACTION, statement).await.map_err(too_slow) {
                Ok(_) => pages.first = after,
                Err(StoreError::TooSlow { .. }) if pages.halve() => {}
                Err(error @ StoreError::TooSlow { .. }) => {
                    passed_over.get_or_insert(error);
                    pages.first = after;
                }
                Err(error) => return Err(error),
            }
        }
        passed_over.map_or(Ok(()), Err)
    }
}
