//! From the rows of a verb to its answers: one row per request, in the order of the requests.

use std::time::Duration;

use sqlx::{
    Row as _,
    postgres::{PgRow, types::PgInterval},
};

use super::failure::{Cause, not_understood, store_error};
use crate::{
    event::{Cursor, EventId, IdKind},
    permit::Attempt,
    store::{Adopted, Answer, Epoch, Fence, Holder, Row, StoreError},
};

/// One for each request of a statement, in their order. A row that cannot be read is the trouble of its own request.
pub type Answers<T> = Vec<Result<T, StoreError>>;

/// Reads every row with `read`, and makes sure that there is one for each request.
pub(super) fn each<T>(
    action: &'static str,
    requests: usize,
    rows: &[PgRow],
    read: impl Fn(&str, &PgRow) -> Result<T, sqlx::Error>,
) -> Result<Answers<T>, StoreError> {
    if rows.len() != requests {
        return Err(not_understood(action, Cause::AnswersMissing { expected: requests, got: rows.len() }));
    }
    let answer = |row: &PgRow| read(row.try_get("outcome")?, row);
    Ok(rows.iter().map(|row| answer(row).map_err(|error| store_error(action, error))).collect())
}

/// The three outcomes that all verbs have.
pub(super) fn answer<T>(
    outcome: &str,
    row: &PgRow,
    applied: impl Fn(&PgRow) -> Result<T, sqlx::Error>,
) -> Result<Answer<T>, sqlx::Error> {
    match outcome {
        "applied" => applied(row).map(Answer::Applied),
        "locked" => Ok(Answer::Locked),
        "refused" => standing(row).map(|row| Answer::Refused(Some(row))),
        "missing" => Ok(Answer::Refused(None)),
        other => Err(sqlx::Error::Decode(Cause::UnknownOutcome(other.to_owned()).into())),
    }
}

pub(super) fn adopted(row: &PgRow) -> Result<Adopted, sqlx::Error> {
    Ok(Adopted {
        fence: Fence(row.try_get("fence")?),
        epoch: Epoch(row.try_get("epoch")?),
        cursor: cursor(row)?,
        id_kind: id_kind(row)?,
        progressive: row.try_get("progressive")?,
        events_stored: count(row, "events_stored")?,
        in_flight_for: duration(row, "in_flight_for")?,
        starts_in: duration(row, "starts_in")?,
        start_ignored: row.try_get("start_ignored")?,
        id_path: row.try_get("id_path")?,
    })
}

fn standing(row: &PgRow) -> Result<Row, sqlx::Error> {
    let holder: Option<&str> = row.try_get("holder")?;
    let attempt: Option<&[u8]> = row.try_get("attempt")?;
    Ok(Row {
        holder: holder.map(Holder::new),
        fence: Fence(row.try_get("fence")?),
        epoch: Epoch(row.try_get("epoch")?),
        cursor: cursor(row)?,
        attempt: attempt
            .map(|bytes| {
                bytes.try_into().map(Attempt::from_bytes).map_err(|error| sqlx::Error::Decode(Box::new(error)))
            })
            .transpose()?,
        in_flight_for: duration(row, "in_flight_for")?,
        starts_in: duration(row, "starts_in")?,
    })
}

fn cursor(row: &PgRow) -> Result<Cursor, sqlx::Error> {
    let id: Option<&str> = row.try_get("cursor")?;
    id.map_or(Ok(Cursor::Start), |id| {
        EventId::new(id).map(Cursor::After).map_err(|error| sqlx::Error::Decode(Box::new(error)))
    })
}

pub(super) const NUMBER: &str = "number";
pub(super) const OPAQUE: &str = "opaque";

fn id_kind(row: &PgRow) -> Result<Option<IdKind>, sqlx::Error> {
    let kind: Option<&str> = row.try_get("id_kind")?;
    Ok(kind.map(|kind| if kind == NUMBER { IdKind::Number } else { IdKind::Opaque }))
}

pub(super) fn count(row: &PgRow, column: &str) -> Result<u64, sqlx::Error> {
    let count: i64 = row.try_get(column)?;
    u64::try_from(count).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// What is left of a wait: the difference of two timestamps, which has days and microseconds and no months.
pub(super) fn duration(row: &PgRow, column: &str) -> Result<Duration, sqlx::Error> {
    const DAY: Duration = Duration::from_hours(24);
    let PgInterval { months: _, days, microseconds } = row.try_get(column)?;
    let positive = |number: i64| u64::try_from(number).map_err(|error| sqlx::Error::Decode(Box::new(error)));
    let days = u32::try_from(positive(days.into())?).unwrap_or(u32::MAX);
    Ok(DAY.saturating_mul(days) + Duration::from_micros(positive(microseconds)?))
}
