//! The verbs of the gate, each one statement over any number of streams.
//!
//! They take slices so that one statement can answer many sources; `coalesce` gathers the calls of the port.

use std::{collections::HashSet, time::Duration};

use sqlx::{Row as _, postgres::PgArguments, query::Query};

use super::{
    PostgresStore,
    answer::{Answers, adopted, answer, count, duration, each},
    failure::{Cause, may_be_the_fault_of_one, store_error},
    mutant, session,
};
use crate::{
    event::{Cursor, StreamName},
    permit::Attempt,
    store::{Abort, Adopt, Adopted, Answer, Extend, Holder, Reserve, Reserved, Reset, StoreError},
};

/// One verb: how all of them begin, then its own part.
macro_rules! verb {
    ($($file:literal),+) => {
        concat!(include_str!("sql/lock.sql"), $(include_str!(concat!("sql/", $file))),+)
    };
}
pub(super) use verb;

pub(super) const ADOPT: &str = verb!("adopt.sql");
const RESET: &str = verb!("former_cursor.sql", "reset.sql");
pub(super) const RESERVE: &str = verb!("reserve.sql");
pub(super) const EXTEND: &str = verb!("extend.sql");
const ABORT: &str = verb!("abort.sql");
const FENCE_OFF: &str = include_str!("sql/fence_off.sql");

/// The least gap between two requests (P2), whatever a caller asks for.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(200);

/// Rows that a dead holder's own statements have locked are let go within milliseconds; one that is still locked after
/// these tries is the caller's to ask for again.
const FENCE_OFF_TRIES: u32 = 20;
const FENCE_OFF_PAUSE: Duration = Duration::from_millis(25);

impl PostgresStore {
    pub async fn adopt_all(&self, requests: &[Adopt]) -> Result<Answers<Answer<Adopted>>, StoreError> {
        let action = "adopt the source";
        let statement = over(ADOPT, requests.iter().map(|r| &r.stream))
            .bind(requests.iter().map(|r| r.uid.as_str()).collect::<Vec<_>>())
            .bind(requests.iter().map(|r| r.holder.as_str()).collect::<Vec<_>>())
            .bind(requests.iter().map(|r| r.epoch.0).collect::<Vec<_>>())
            .bind(requests.iter().map(|r| position(&r.start)).collect::<Vec<_>>())
            .bind(requests.iter().map(|r| r.in_doubt).collect::<Vec<_>>())
            .bind(requests.iter().map(|r| r.id_path.as_str()).collect::<Vec<_>>());
        // Making a row waits for whoever is making the same one: then each is asked alone (P6).
        let is_shared = requests.len() > 1;
        let failed = |error| if is_shared { may_be_the_fault_of_one(error) } else { error };
        let rows = session::rows(&self.pool, action, statement).await.map_err(failed)?;
        each(action, requests.len(), &rows, |outcome, row| answer(outcome, row, adopted))
    }

    pub(super) async fn reset_all(&self, requests: &[Reset]) -> Result<Answers<Answer<Adopted>>, StoreError> {
        let action = "reset the source";
        let statement = over(RESET, requests.iter().map(|r| &r.stream))
            .bind(requests.iter().map(|r| r.uid.as_str()).collect::<Vec<_>>())
            .bind(requests.iter().map(|r| r.holder.as_str()).collect::<Vec<_>>())
            .bind(requests.iter().map(|r| r.fence.0).collect::<Vec<_>>())
            .bind(requests.iter().map(|r| r.epoch.0).collect::<Vec<_>>())
            .bind(requests.iter().map(|r| position(&r.start)).collect::<Vec<_>>())
            .bind(requests.iter().map(|r| r.id_path.as_str()).collect::<Vec<_>>());
        let rows = session::rows(&self.pool, action, statement).await?;
        each(action, requests.len(), &rows, |outcome, row| answer(outcome, row, adopted))
    }

    pub async fn reserve_all(&self, requests: &[Reserve]) -> Result<Answers<Answer<Reserved>>, StoreError> {
        let action = "reserve a request";
        let statement = over(RESERVE, requests.iter().map(|r| &r.stream))
            .bind(requests.iter().map(|r| r.holder.as_str()).collect::<Vec<_>>())
            .bind(requests.iter().map(|r| r.fence.0).collect::<Vec<_>>())
            .bind(requests.iter().map(|r| position(&r.cursor)).collect::<Vec<_>>())
            .bind(tokens(requests.iter().map(|r| r.attempt)))
            .bind(requests.iter().map(|r| micros(r.send_within)).collect::<Vec<_>>())
            .bind(requests.iter().map(|r| micros(r.in_flight)).collect::<Vec<_>>())
            .bind(requests.iter().map(|r| micros(r.min_interval.max(SHORTEST_INTERVAL))).collect::<Vec<_>>())
            .bind(requests.iter().map(|r| micros(r.at_most_ahead)).collect::<Vec<_>>())
            .bind(requests.iter().map(|r| r.ended.map(|ended| ended.attempt.to_bytes())).collect::<Vec<_>>())
            .bind(requests.iter().map(|r| r.ended.map(|ended| micros(ended.close.next_start_in))).collect::<Vec<_>>());
        let (issued, rows) = session::rows_issued(&self.pool, action, statement).await?;
        each(action, requests.len(), &rows, |outcome, row| {
            answer(outcome, row, |row| Ok(Reserved { wait: duration(row, "wait")?, issued }))
        })
    }

    pub async fn extend_all(&self, requests: &[Extend]) -> Result<Answers<Answer<()>>, StoreError> {
        let action = "extend a request in flight";
        let statement = over(EXTEND, requests.iter().map(|r| &r.stream))
            .bind(tokens(requests.iter().map(|r| r.attempt)))
            .bind(requests.iter().map(|r| micros(r.by)).collect::<Vec<_>>());
        let rows = session::rows(&self.urgent, action, statement).await?;
        each(action, requests.len(), &rows, |outcome, row| answer(outcome, row, |_| Ok(())))
    }

    pub async fn abort_all(&self, requests: &[Abort]) -> Result<Answers<Answer<()>>, StoreError> {
        let action = "abort a reservation";
        let statement = over(ABORT, requests.iter().map(|r| &r.stream))
            .bind(tokens(requests.iter().map(|r| r.attempt)))
            .bind(requests.iter().map(|r| micros(r.close.next_start_in)).collect::<Vec<_>>());
        let rows = session::rows(&self.urgent, action, statement).await?;
        each(action, requests.len(), &rows, |outcome, row| answer(outcome, row, |_| Ok(())))
    }

    /// Raises the fence of every row of `dead`. When rows stay locked it fails as unavailable, with all others fenced;
    /// it can be asked again, and raises no fence twice.
    pub(super) async fn fence_off_all(&self, dead: &Holder) -> Result<u64, StoreError> {
        let action = "fence off a dead holder";
        let mut fenced = 0;
        for _ in 0..FENCE_OFF_TRIES {
            let statement = sqlx::query(FENCE_OFF).bind(dead.as_str());
            let rows = session::rows(&self.pool, action, statement).await?;
            let row = rows.first().ok_or_else(|| store_error(action, sqlx::Error::RowNotFound))?;
            fenced += count(row, "fenced").map_err(|error| store_error(action, error))?;
            let left: i64 = row.try_get("left").map_err(|error| store_error(action, error))?;
            if left == 0 {
                return Ok(fenced);
            }
            tokio::time::sleep(FENCE_OFF_PAUSE).await;
        }
        Err(StoreError::Unavailable {
            action,
            source: Box::new(Cause::Said("some of its rows stay locked".to_owned())),
        })
    }
}

/// A verb over these streams.
///
/// # Panics
/// When a stream is named twice: the two requests would be judged by the same standing, and both granted.
pub(super) fn over<'a>(
    verb: &'static str,
    streams: impl Iterator<Item = &'a StreamName>,
) -> Query<'a, sqlx::Postgres, PgArguments> {
    let streams: Vec<_> = streams.map(StreamName::as_str).collect();
    let distinct: HashSet<_> = streams.iter().collect();
    assert_eq!(distinct.len(), streams.len(), "a statement names a stream at most once");
    sqlx::query(mutant::of(verb)).bind(streams)
}

pub(super) fn position(cursor: &Cursor) -> Option<&str> {
    cursor.id().map(crate::event::EventId::as_str)
}

pub(super) fn tokens(attempts: impl Iterator<Item = Attempt>) -> Vec<[u8; 16]> {
    attempts.map(Attempt::to_bytes).collect()
}

/// Whole microseconds, rounded up: a wait may only grow. Longer than a century is a century.
pub(super) fn micros(duration: Duration) -> i64 {
    const CENTURY: i64 = 100 * 365 * 24 * 3600 * 1_000_000;
    i64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(CENTURY).min(CENTURY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_rounded_up_and_never_overflow() {
        assert_eq!(micros(Duration::from_nanos(1)), 1);
        assert_eq!(micros(Duration::from_millis(200)), 200_000);
        assert_eq!(micros(Duration::MAX), 100 * 365 * 24 * 3600 * 1_000_000);
    }

    #[test]
    #[should_panic(expected = "a statement names a stream at most once")]
    fn a_statement_refuses_to_name_a_stream_twice() {
        let stream = StreamName::new("shop", "orders");
        let _ = over(EXTEND, [&stream, &stream].into_iter());
    }
}
