//! COMMIT: events, cursor and the record of the commit in one statement.

use std::collections::HashSet;

use sqlx::{
    Postgres, Row as _,
    postgres::{PgArguments, PgBindIterExt, PgRow},
    query::Query,
};

use super::{
    PostgresStore,
    answer::{Answers, NUMBER, OPAQUE, answer, count, each},
    batch::{Batch, indexed, saying_sequence, text_beside_number},
    clocks,
    column::{Json, Timestamp},
    failure::{lacks_a_partition, refuses_a_value, soon_has_a_partition, store_error, too_slow},
    gate::{micros, over, position, tokens, verb},
    only, session,
};
use crate::{
    event::{EventId, IdKind, StreamName},
    store::{Answer, Append, Appended, StoreError},
};

pub(super) const APPEND: &str = verb!("append_request.sql", "append.sql");
pub(super) const APPEND_REREAD: &str = verb!("append_request.sql", "append_reread.sql");
const FIND_COMMIT: &str = include_str!("sql/find_commit.sql");
const FIND_STORED: &str = include_str!("sql/find_stored.sql");
const HAS_OLDER: &str = include_str!("sql/has_older.sql");

/// A commit with more payload has a statement of its own: others would wait for it, and it gains nothing.
const MOST_SHARED_PAYLOAD: usize = 64 * 1024;

const ACTION: &str = "append events";

/// What the row said to one append.
#[derive(Debug)]
pub(super) enum Outcome {
    Answered(Answer<Appended>),
    /// Ids have to be looked up; nothing was changed.
    Reread,
    /// An earlier run of this very append did it; its answer was lost.
    DoneBefore(Appended),
}

impl PostgresStore {
    /// COMMIT of one stream. It may share its first statement; what it needs beyond that, nobody else waits for, nor fails
    /// with it.
    pub(super) async fn append_one(&self, append: &Append) -> Result<Answer<Appended>, StoreError> {
        let outcome = match self.append_whole(append).await {
            Err(error) if refuses_a_value(&error) => {
                let sifted = self.set_refused_aside(Batch::of(append), error).await?;
                self.append_alone(&sifted).await
            }
            outcome => outcome,
        };
        match outcome {
            // The caller may send it in parts, so an earlier try of the whole must not have been applied.
            Err(error @ StoreError::TooSlow { .. }) => {
                Ok(Answer::Applied(self.find_commit(append).await?.ok_or(error)?))
            }
            outcome => self.after_lost_answer(append, outcome?).await,
        }
    }

    async fn append_whole(&self, append: &Append) -> Result<Outcome, StoreError> {
        let batch = Batch::of(append);
        if batch.looks_back() || append.bytes() > MOST_SHARED_PAYLOAD {
            return self.append_alone(&batch).await;
        }
        match self.lanes.append.ask(self, append.clone()).await? {
            Outcome::Reread => self.run_one(APPEND_REREAD, &batch).await,
            outcome => Ok(outcome),
        }
    }

    async fn append_alone(&self, batch: &Batch<'_>) -> Result<Outcome, StoreError> {
        let verb = if batch.looks_back() { APPEND_REREAD } else { APPEND };
        match self.run_one(verb, batch).await? {
            Outcome::Reread => self.run_one(APPEND_REREAD, batch).await,
            outcome => Ok(outcome),
        }
    }

    async fn run_one(&self, verb: &'static str, batch: &Batch<'_>) -> Result<Outcome, StoreError> {
        self.run_append(verb, std::slice::from_ref(batch)).await.and_then(only)
    }

    /// One statement for many streams; each is judged alone.
    pub(super) async fn append_all(&self, requests: &[Append]) -> Result<Answers<Outcome>, StoreError> {
        self.run_append(APPEND, &requests.iter().map(Batch::of).collect::<Vec<_>>()).await
    }

    /// A compare-and-set that failed may have failed because this append was applied and its answer was lost.
    async fn after_lost_answer(&self, append: &Append, outcome: Outcome) -> Result<Answer<Appended>, StoreError> {
        match outcome {
            Outcome::Answered(refused @ Answer::Refused(Some(_))) if !append.events.is_empty() => {
                Ok(self.find_commit(append).await?.map_or(refused, Answer::Applied))
            }
            Outcome::Answered(answer) => Ok(answer),
            Outcome::DoneBefore(standing) => {
                let found = self.find_commit(append).await?;
                Ok(Answer::Applied(Appended { events_stored: standing.events_stored, ..found.unwrap_or(standing) }))
            }
            Outcome::Reread => unreachable!("append_reread.sql looks ids up and never asks for it"),
        }
    }

    /// The record of this append, if it was applied and carried events.
    async fn find_commit(&self, append: &Append) -> Result<Option<Appended>, StoreError> {
        let action = "look up a commit";
        let attempt = append.attempt.to_bytes();
        let statement =
            sqlx::query(FIND_COMMIT).bind(append.stream.as_str()).bind(attempt.as_slice()).bind(append.part);
        let rows = session::rows(&self.pool, action, statement).await?;
        rows.first().map(appended).transpose().map_err(|error| store_error(action, error))
    }

    pub(super) async fn find_stored_ids(
        &self,
        stream: &StreamName,
        ids: &[&EventId],
    ) -> Result<HashSet<EventId>, StoreError> {
        let action = "look for stored events";
        let statement = sqlx::query(FIND_STORED)
            .bind(stream.as_str())
            .bind(ids.iter().map(|id| id.as_str()).bind_iter())
            .bind(ids.iter().map(|id| indexed(id)).bind_iter())
            .bind(ids.iter().filter_map(|id| saying_sequence(id)).bind_iter());
        let rows = session::rows(&self.pool, action, statement).await.map_err(too_slow)?;
        let stored: HashSet<&str> = rows
            .iter()
            .map(|row| row.try_get("id"))
            .collect::<Result<_, _>>()
            .map_err(|error| store_error(action, error))?;
        Ok(ids.iter().filter(|id| stored.contains(id.as_str())).map(|id| (*id).clone()).collect())
    }

    pub(super) async fn has_older_event(&self, stream: &StreamName, id: &EventId) -> Result<bool, StoreError> {
        let action = "look for what is older than an event";
        let statement =
            sqlx::query(HAS_OLDER).bind(stream.as_str()).bind(id.as_str()).bind(indexed(id)).bind(saying_sequence(id));
        let rows = session::rows(&self.pool, action, statement).await?;
        let has_older = rows.first().map(|row| row.try_get("has_older")).transpose();
        Ok(has_older.map_err(|error| store_error(action, error))?.unwrap_or_default())
    }

    /// Runs the statement; a day without partitions gets them.
    async fn run_append(&self, verb: &'static str, batches: &[Batch<'_>]) -> Result<Answers<Outcome>, StoreError> {
        self.note_rows("append", batches.len());
        let rows = match session::rows(&self.pool, ACTION, statement(verb, batches)).await {
            Err(error) if lacks_a_partition(&error) => {
                self.make_partitions().await?;
                let again = session::rows(&self.pool, ACTION, statement(verb, batches)).await;
                again.map_err(soon_has_a_partition)
            }
            result => result,
        };
        // Here and nowhere else: what is cut off beside it says nothing of the size of an append.
        let rows = rows.map_err(too_slow)?;
        each(ACTION, batches.len(), &rows, |outcome, row| match outcome {
            "reread" => Ok(Outcome::Reread),
            "done_before" => {
                Ok(Outcome::DoneBefore(Appended { events_stored: count(row, "events_stored")?, ..Appended::default() }))
            }
            other => answer(other, row, appended).map(Outcome::Answered),
        })
    }
}

fn appended(row: &PgRow) -> Result<Appended, sqlx::Error> {
    Ok(Appended {
        stored: count(row, "stored")?,
        repeated: count(row, "repeated")?,
        conflicting: count(row, "conflicting")?,
        events_stored: count(row, "events_stored")?,
    })
}

/// One row per append, then one per event and one per item set aside; these name their append by its place, from 1.
fn statement<'a>(verb: &'static str, batches: &'a [Batch<'a>]) -> Bound<'a> {
    let appends = || batches.iter().map(|batch| batch.append);
    let query = over(verb, appends().map(|append| &append.stream))
        .bind(tokens(appends().map(|append| append.attempt)))
        .bind(appends().map(|append| append.part).bind_iter())
        .bind(appends().map(|append| position(&append.cursor_before)).bind_iter())
        .bind(appends().map(|append| position(&append.cursor_after)).bind_iter())
        .bind(batches.iter().map(|batch| batch.id_kind().map(kind_name)).bind_iter())
        .bind(batches.iter().map(Batch::ids_fit).bind_iter())
        .bind(batches.iter().map(|batch| batch.numbers.iter().copied().flatten().min()).bind_iter())
        .bind(batches.iter().map(|batch| batch.numbers.iter().copied().flatten().max()).bind_iter())
        .bind(batches.iter().map(|batch| length(batch.events.len())).bind_iter())
        .bind(batches.iter().map(|batch| length(batch.aside.len())).bind_iter())
        .bind(batches.iter().map(|batch| batch.repeated).bind_iter())
        .bind(batches.iter().map(|batch| batch.conflicting).bind_iter())
        .bind(appends().map(|append| append.not_ascending).bind_iter())
        .bind(appends().map(|append| append.then.close().map(|close| micros(close.next_start_in))).bind_iter())
        .bind(appends().map(|append| append.then.in_flight().map(micros)).bind_iter())
        .bind(batches.iter().map(Batch::has_opaque_digits).bind_iter());
    bind_aside(bind_events(query, batches), batches).bind(clocks::earliest())
}

type Bound<'a> = Query<'a, Postgres, PgArguments>;

fn bind_events<'a>(query: Bound<'a>, batches: &'a [Batch<'a>]) -> Bound<'a> {
    let events = || {
        numbered(batches).flat_map(|(request, batch)| {
            let events = batch.events.iter().zip(&batch.numbers).enumerate();
            events.map(move |(place, (event, number))| (request, length(place + 1), *event, *number))
        })
    };
    query
        .bind(events().map(|(request, ..)| request).bind_iter())
        .bind(events().map(|(_, place, ..)| place).bind_iter())
        .bind(events().map(|(.., number)| number).bind_iter())
        .bind(events().map(|(.., event, number)| text_beside_number(event, number)).bind_iter())
        .bind(events().map(|(.., event, _)| event.event_type.as_deref()).bind_iter())
        .bind(events().map(|(.., event, _)| event.subject.as_deref()).bind_iter())
        .bind(events().map(|(.., event, _)| event.occurred_at.map(Timestamp)).bind_iter())
        .bind(events().map(|(.., event, _)| Json(event.payload.as_str())).bind_iter())
}

fn bind_aside<'a>(query: Bound<'a>, batches: &'a [Batch<'a>]) -> Bound<'a> {
    let items = || numbered(batches).flat_map(|(request, batch)| batch.aside.iter().map(move |item| (request, item)));
    query
        .bind(items().map(|(request, _)| request).bind_iter())
        .bind(items().map(|(_, item)| item.id.as_str()).bind_iter())
        .bind(items().map(|(_, item)| item.reason.as_str()).bind_iter())
        .bind(items().map(|(_, item)| item.item).bind_iter())
}

fn numbered<'a>(batches: &'a [Batch<'a>]) -> impl Iterator<Item = (i64, &'a Batch<'a>)> {
    (1..).zip(batches)
}

fn kind_name(kind: IdKind) -> &'static str {
    match kind {
        IdKind::Number => NUMBER,
        IdKind::Opaque => OPAQUE,
    }
}

/// A page has at most some ten thousand items; the buffer budget ends long before this type.
fn length(items: usize) -> i32 {
    i32::try_from(items).unwrap_or(i32::MAX)
}
