//! FORGET: events and cursor go, the gate row and its waits stay.

use sqlx::Row as _;

use super::{
    PostgresStore,
    answer::{answer, each},
    failure::{Cause, not_understood, store_error},
    gate::{over, verb},
    only, session,
};
use crate::store::{Answer, Forget, StoreError};

const FORGET: &str = verb!("former_cursor.sql", "forget.sql");
const FORGET_EVENTS: &str = include_str!("sql/forget_events.sql");

const ACTION: &str = "forget the stream";

/// Events deleted by one statement: far below the statement limit also on slow disks.
const EVENTS_PER_STATEMENT: i64 = 5000;

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
        loop {
            let statement =
                sqlx::query(FORGET_EVENTS).bind(request.stream.as_str()).bind(fence).bind(EVENTS_PER_STATEMENT);
            let rows = session::rows(&self.pool, ACTION, statement).await?;
            let row = rows.first().ok_or_else(|| store_error(ACTION, sqlx::Error::RowNotFound))?;
            match row.try_get("outcome").map_err(|error| store_error(ACTION, error))? {
                "more" => {}
                "applied" => return Ok(Answer::Applied(())),
                // Locked, or adopted in the middle: asked again, it begins again under the new fence.
                "locked" | "moved" => return Ok(Answer::Locked),
                other => return Err(not_understood(ACTION, Cause::UnknownOutcome(other.to_owned()))),
            }
        }
    }
}
