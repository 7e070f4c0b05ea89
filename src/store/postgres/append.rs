//! COMMIT: events, cursor and the record of the commit in one statement.

use sqlx::{
    Postgres, Row as _,
    postgres::{PgArguments, PgBindIterExt, PgRow},
    query::Query,
};

use super::{
    PostgresStore,
    answer::{NUMBER, OPAQUE, answer, count, each},
    batch::{Batch, text_beside_number},
    column::{Json, Timestamp},
    failure::{lacks_a_partition, refuses_a_value, soon_has_a_partition, store_error, too_slow},
    gate::{micros, over, position, tokens, verb},
    session,
};
use crate::{
    event::{EventId, IdKind, StreamName},
    store::{Answer, Append, Appended, StoreError},
};

const APPEND: &str = verb!("append.sql");
const APPEND_REREAD: &str = verb!("append_reread.sql");
const FIND_COMMIT: &str = include_str!("sql/find_commit.sql");
const FIND_STORED: &str = include_str!("sql/find_stored.sql");

const ACTION: &str = "append events";

/// What the row said to one append.
enum Outcome {
    Answered(Answer<Appended>),
    /// Ids have to be looked up; nothing was changed.
    Reread,
    /// An earlier run of this very append did it; its answer was lost.
    DoneBefore(Appended),
}

impl PostgresStore {
    /// Appends for many streams in one statement; each is judged alone. A value that PostgreSQL refuses fails the statement
    /// for all of them; from an append that is alone it is set aside.
    pub async fn append_all(&self, requests: &[&Append]) -> Result<Vec<Answer<Appended>>, StoreError> {
        let mut batches: Vec<_> = requests.iter().map(|append| Batch::of(append)).collect();
        match self.append_batches(&batches).await {
            Err(error) if refuses_a_value(&error) && batches.len() == 1 => {
                let batch = batches.pop().expect("it was counted");
                let sifted = self.set_refused_aside(batch, error).await?;
                self.append_batches(std::slice::from_ref(&sifted)).await.map_err(too_slow)
            }
            result => result.map_err(too_slow),
        }
    }

    async fn append_batches(&self, batches: &[Batch<'_>]) -> Result<Vec<Answer<Appended>>, StoreError> {
        let outcomes = if batches.iter().any(Batch::looks_back) {
            let mut outcomes = Vec::with_capacity(batches.len());
            for batch in batches {
                let verb = if batch.looks_back() { APPEND_REREAD } else { APPEND };
                outcomes.extend(self.run_append(verb, std::slice::from_ref(batch)).await?);
            }
            outcomes
        } else {
            self.run_append(APPEND, batches).await?
        };
        let mut answers = Vec::with_capacity(batches.len());
        for (batch, outcome) in batches.iter().zip(outcomes) {
            let outcome = match outcome {
                Outcome::Reread => self.append_reread(batch).await?,
                outcome => outcome,
            };
            answers.push(self.after_lost_answer(batch, outcome).await?);
        }
        Ok(answers)
    }

    async fn append_reread(&self, batch: &Batch<'_>) -> Result<Outcome, StoreError> {
        let outcomes = self.run_append(APPEND_REREAD, std::slice::from_ref(batch)).await?;
        Ok(outcomes.into_iter().next().expect("one outcome for each request"))
    }

    /// A compare-and-set that failed may have failed because this append was applied and its answer was lost.
    async fn after_lost_answer(&self, batch: &Batch<'_>, outcome: Outcome) -> Result<Answer<Appended>, StoreError> {
        match outcome {
            Outcome::Answered(refused @ Answer::Refused(Some(_))) if !batch.append.events.is_empty() => {
                Ok(self.find_commit(batch.append).await?.map_or(refused, Answer::Applied))
            }
            Outcome::Answered(answer) => Ok(answer),
            Outcome::DoneBefore(standing) => {
                let found = self.find_commit(batch.append).await?;
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

    pub(super) async fn find_stored(&self, stream: &StreamName, ids: &[&EventId]) -> Result<bool, StoreError> {
        let action = "look for stored events";
        let significant = ids.iter().map(|id| id.as_str().trim_start_matches('0'));
        let statement = sqlx::query(FIND_STORED)
            .bind(stream.as_str())
            .bind(ids.iter().map(|id| id.as_str()).bind_iter())
            .bind(significant.bind_iter());
        let rows = session::rows(&self.pool, action, statement).await?;
        let row = rows.first().ok_or_else(|| store_error(action, sqlx::Error::RowNotFound))?;
        row.try_get("stored").map_err(|error| store_error(action, error))
    }

    /// Runs the statement; a day without partitions gets them.
    async fn run_append(&self, verb: &'static str, batches: &[Batch<'_>]) -> Result<Vec<Outcome>, StoreError> {
        let rows = match session::rows(&self.pool, ACTION, statement(verb, batches)).await {
            Err(error) if lacks_a_partition(&error) => {
                self.make_partitions().await?;
                let again = session::rows(&self.pool, ACTION, statement(verb, batches)).await;
                again.map_err(soon_has_a_partition)?
            }
            result => result?,
        };
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
fn statement<'a>(verb: &'static str, batches: &'a [Batch<'a>]) -> Statement<'a> {
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
        .bind(appends().map(|append| append.close.map(|close| micros(close.next_start_in))).bind_iter());
    bind_aside(bind_events(query, batches), batches)
}

type Statement<'a> = Query<'a, Postgres, PgArguments>;

fn bind_events<'a>(query: Statement<'a>, batches: &'a [Batch<'a>]) -> Statement<'a> {
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

fn bind_aside<'a>(query: Statement<'a>, batches: &'a [Batch<'a>]) -> Statement<'a> {
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
