//! FORGET: events and cursor go, the gate row and its waits stay.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use sqlx::{Row as _, postgres::PgRow};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    PostgresStore,
    answer::{answer, each},
    failure::{Cause, not_understood, store_error, too_slow},
    gate::{over, verb},
    only, session,
};
use crate::store::{Answer, Forget, StoreError};

const FORGET: &str = verb!("former_cursor.sql", "forget.sql");
const FORGET_EVENTS: &str = include_str!("sql/forget_events.sql");

const ACTION: &str = "forget the stream";

/// Events deleted by one statement, if they are small: far below the statement limit also on slow disks.
const MOST_PER_STATEMENT: i64 = 5000;

/// A statement that took no longer than this may delete twice as many the next time.
const QUICK: Duration = Duration::from_secs(1);

/// A namespace may go with thousands of streams, and each is deleted by one long statement after the other: these take one of so many
/// connections, and the polls of the others have the rest.
const CONNECTIONS_PER_DELETION: usize = 4;

/// What all deletions of this process share.
pub(super) struct Deletions {
    turns: Semaphore,
    /// How many events the first statement of a deletion deletes.
    first_step: AtomicI64,
}

impl Deletions {
    pub(super) fn over(connections: u32) -> Self {
        let turns = (connections as usize / CONNECTIONS_PER_DELETION).max(1);
        Self { turns: Semaphore::new(turns), first_step: AtomicI64::new(MOST_PER_STATEMENT) }
    }
}

/// How many events the next statement of one deletion deletes: half as many after one that was cut off, since large events go
/// slowly. The next deletion begins where this one came to, because its first statement may have to be asked for again and again.
struct Step<'a> {
    deletions: &'a Deletions,
    events: i64,
}

impl<'a> Step<'a> {
    fn first(deletions: &'a Deletions) -> Self {
        Self { deletions, events: deletions.first_step.load(Ordering::Relaxed) }
    }

    /// Half as many. False when there are no fewer.
    fn was_cut_off(&mut self) -> bool {
        let fewer = self.events > 1;
        self.comes_to((self.events / 2).max(1));
        fewer
    }

    /// A statement with more behind it took so long. The last one says nothing: it had less to delete.
    fn took(&mut self, time: Duration) {
        if time <= QUICK {
            self.comes_to((self.events * 2).min(MOST_PER_STATEMENT));
        }
    }

    fn comes_to(&mut self, events: i64) {
        self.events = events;
        self.deletions.first_step.store(events, Ordering::Relaxed);
    }
}

enum Outcome {
    Answered(Answer<()>),
    /// The row is at its start under this fence; its events are to be deleted.
    Begun {
        fence: i64,
    },
}

impl PostgresStore {
    /// Every step may be the last one that is reached; asking again goes on where it ended.
    pub(super) async fn forget_one(&self, request: &Forget) -> Result<Answer<()>, StoreError> {
        let statement = over(FORGET, std::iter::once(&request.stream)).bind(vec![request.uid.as_str()]);
        let rows = session::rows(&self.pool, ACTION, statement).await?;
        let outcomes = each(ACTION, 1, &rows, |outcome, row| match outcome {
            "begun" => Ok(Outcome::Begun { fence: row.try_get("fence")? }),
            other => answer(other, row, |_| Ok(())).map(Outcome::Answered),
        })?;
        match only(outcomes)? {
            Outcome::Answered(answer) => Ok(answer),
            Outcome::Begun { fence } => self.delete_events(request, fence).await,
        }
    }

    async fn delete_events(&self, request: &Forget, fence: i64) -> Result<Answer<()>, StoreError> {
        let mut step = Step::first(&self.deletions);
        loop {
            // It is never closed.
            let turn = self.deletions.turns.acquire().await;
            let began = Instant::now();
            let deleted = self.delete_next(request, fence, step.events).await;
            drop(turn);
            let row = match deleted {
                Err(error @ StoreError::TooSlow { .. }) => {
                    if step.was_cut_off() {
                        continue;
                    }
                    return Err(error);
                }
                deleted => deleted?,
            };
            match row.try_get("outcome").map_err(|error| store_error(ACTION, error))? {
                "more" => step.took(began.elapsed()),
                "applied" => return Ok(Answer::Applied(())),
                // Locked, perhaps by a statement of ours that was cut off and is not rolled back yet; or adopted in the middle.
                // Asked again, it begins again under the new fence.
                "locked" | "moved" => return Ok(Answer::Locked),
                other => return Err(not_understood(ACTION, Cause::UnknownOutcome(other.to_owned()))),
            }
        }
    }

    async fn delete_next(&self, request: &Forget, fence: i64, step: i64) -> Result<PgRow, StoreError> {
        let statement = sqlx::query(FORGET_EVENTS).bind(request.stream.as_str()).bind(fence).bind(step);
        let rows = session::rows(&self.pool, ACTION, statement).await.map_err(too_slow)?;
        rows.into_iter().next().ok_or_else(|| store_error(ACTION, sqlx::Error::RowNotFound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_off_goes_on_with_half_as_many_and_grows_again_only_while_that_is_quick() {
        let deletions = Deletions::over(8);
        let mut step = Step::first(&deletions);
        while step.was_cut_off() {
            assert!(step.events >= 1);
        }
        assert_eq!(step.events, 1);
        for _ in 0..20 {
            step.took(QUICK);
        }
        assert_eq!(step.events, MOST_PER_STATEMENT);
        step.was_cut_off();
        step.took(QUICK * 2);
        assert_eq!(step.events, MOST_PER_STATEMENT / 2);
    }

    #[test]
    fn a_stream_of_large_events_keeps_its_step_whatever_others_come_to() {
        let deletions = Deletions::over(8);
        let mut large = Step::first(&deletions);
        large.was_cut_off();
        assert_eq!(Step::first(&deletions).events, large.events, "the next one begins there");
        Step::first(&deletions).took(QUICK);
        assert_eq!(large.events, MOST_PER_STATEMENT / 2);
    }
}
