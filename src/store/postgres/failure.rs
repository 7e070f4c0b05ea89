//! What an error of the driver means to the caller, without the values that PostgreSQL quotes in its messages.

use std::time::Duration;

use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

use crate::store::StoreError;

/// The cause that is shown. PostgreSQL repeats refused values in messages and details; they stay out.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error("no answer within {0:?}; the connection was dropped")]
    Silent(Duration),
    #[error(
        "not done within {0:?}: another replica is migrating, or a step takes longer; trying again (`headgate migrate` has no limit)"
    )]
    TakesLong(Duration),
    #[error("no connection was made within {within:?}{}", .said.as_ref().map_or_else(String::new, |said| format!(": {said}")))]
    NoConnection { within: Duration, said: Option<String> },
    #[error(
        "all {connections} connections were busy for {waited:?}: the database answers too slowly for what is asked of it, or \
         --database-connections is too low"
    )]
    AllBusy { connections: u32, waited: Duration },
    #[error("the session cannot be used: {0}")]
    Unfit(&'static str),
    #[error("{0}")]
    Said(String),
    #[error("the server ended the statement at its time limit")]
    CutOff,
    #[error("another session holds a lock for too long")]
    Locked,
    #[error(
        "the sessions with the process ids {0:?} kept it waiting for too long (pg_stat_activity tells what they do)"
    )]
    KeptWaiting(Vec<i32>),
    #[error("the server takes no writes: it is a standby, or a primary that was demoted")]
    ReadOnly,
    #[error("a value was refused")]
    ValueRefused,
    #[error("the constraint {0} was violated")]
    Constraint(String),
    #[error("expected {expected} answers and got {got}")]
    AnswersMissing { expected: usize, got: usize },
    #[error("unknown outcome {0:?}")]
    UnknownOutcome(String),
}

/// Sorts an error of the driver by what the caller can do about it.
pub(super) fn store_error(action: &'static str, error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(database) => database_error(action, &*database),
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::Encode(_)
        | sqlx::Error::InvalidArgument(_)
        | sqlx::Error::RowNotFound
        | sqlx::Error::TypeNotFound { .. } => {
            StoreError::Failed { action, sqlstate: NOT_UNDERSTOOD.to_owned(), source: Box::new(error) }
        }
        // Ours: see `session::ping`.
        sqlx::Error::AnyDriverError(source) => StoreError::Unavailable { action, source },
        // Io, Tls, a pool without a connection, and whatever else stands between us and an answer.
        _ => StoreError::Unavailable { action, source: Box::new(error) },
    }
}

/// The answer arrived, but is not the one this version reads: PostgreSQL's own class for that.
const NOT_UNDERSTOOD: &str = "XX000";

pub(super) fn not_understood(action: &'static str, cause: Cause) -> StoreError {
    StoreError::Failed { action, sqlstate: NOT_UNDERSTOOD.to_owned(), source: Box::new(cause) }
}

fn database_error(action: &'static str, error: &dyn DatabaseError) -> StoreError {
    let sqlstate = error.code().map(std::borrow::Cow::into_owned).unwrap_or_default();
    let cause = match sqlstate.get(..2) {
        _ if sqlstate == READ_ONLY => Cause::ReadOnly,
        _ if sqlstate == CUT_OFF => Cause::CutOff,
        _ if sqlstate == LOCKED => Cause::Locked,
        _ if FORGETS.contains(&sqlstate.as_str()) => Cause::Unfit(LOSES_STATEMENTS),
        // pgbouncer says only which of the settings was the first that it did not know.
        _ if error.message().starts_with("unsupported startup parameter") => Cause::Unfit(
            "the pooler refuses Headgate's settings; set ignore_startup_parameters = options in the pooler (docs/pooler.md)",
        ),
        Some("22") => Cause::ValueRefused,
        Some("23") => Cause::Constraint(error.constraint().or(error.table()).unwrap_or("of a table").to_owned()),
        _ if sqlstate == NOT_READY => Cause::Said(with_hint(error)),
        _ => Cause::Said(error.message().to_owned()),
    };
    if passes_by_itself(&sqlstate) {
        StoreError::Unavailable { action, source: Box::new(cause) }
    } else {
        StoreError::Failed { action, sqlstate, source: Box::new(cause) }
    }
}

/// read_only_sql_transaction: a standby that is not promoted yet, or a primary that was just demoted.
const READ_ONLY: &str = "25006";

/// query_canceled: the statement limit of the server, or somebody who cancelled it. It was rolled back for certain.
const CUT_OFF: &str = "57014";

/// lock_not_available.
const LOCKED: &str = "55P03";

/// invalid_sql_statement_name and duplicate_prepared_statement: we prepare a statement once, and never use what we did not.
const FORGETS: [&str; 2] = ["26000", "42P05"];

pub(super) const LOSES_STATEMENTS: &str =
    "the pooler loses prepared statements; it takes pgbouncer 1.21 or newer with max_prepared_statements above 0";

/// Whether a pooler sent a statement where it is not prepared.
pub(super) fn loses_statements(error: &sqlx::Error) -> bool {
    let sqlstate = error.as_database_error().and_then(DatabaseError::code);
    sqlstate.is_some_and(|sqlstate| FORGETS.contains(&&*sqlstate))
}

/// Whether there is no such schema, table or column, or none that this role may read.
pub(super) fn is_of_another_schema(error: &sqlx::Error) -> bool {
    let sqlstate = error.as_database_error().and_then(DatabaseError::code);
    sqlstate.is_some_and(|sqlstate| matches!(&*sqlstate, "3F000" | "42P01" | "42703" | "42501"))
}

/// Whether the connection was lost with its answer: cut, or ended by the server (class 57P: shutdown, crash, start).
pub(super) fn is_broken(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => database.code().is_some_and(|sqlstate| sqlstate.starts_with("57P")),
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_) => true,
        _ => false,
    }
}

/// Whether the server of this connection takes no writes: the name of the host may lead to another one by now.
pub(super) fn takes_no_writes(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => database.code().is_some_and(|sqlstate| sqlstate == READ_ONLY),
        sqlx::Error::AnyDriverError(cause) => matches!(cause.downcast_ref(), Some(Cause::ReadOnly)),
        _ => false,
    }
}

/// object_not_in_prerequisite_state: a detach that was begun stands before all others of its table. The hint says how to finish it.
const NOT_READY: &str = "55000";

fn with_hint(error: &dyn DatabaseError) -> String {
    let hint = error.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::hint);
    hint.map_or_else(|| error.message().to_owned(), |hint| format!("{}: {hint}", error.message()))
}

/// Whether something else may go through: the server refused this, or somebody kept it waiting.
pub(super) fn is_the_fault_of_one(error: &StoreError) -> bool {
    match error {
        StoreError::Failed { .. } => true,
        StoreError::Unavailable { source, .. } => {
            matches!(source.downcast_ref(), Some(Cause::Locked | Cause::CutOff | Cause::KeptWaiting(_)))
        }
        _ => false,
    }
}

/// The same, with those who were waited for, where that was it and they are known.
pub(super) fn kept_waiting(error: StoreError, by: Vec<i32>) -> StoreError {
    match error {
        StoreError::Unavailable { action, source }
            if !by.is_empty() && matches!(source.downcast_ref(), Some(Cause::Locked | Cause::CutOff)) =>
        {
            StoreError::Unavailable { action, source: Box::new(Cause::KeptWaiting(by)) }
        }
        error => error,
    }
}

/// A lock that did not come in time, or the time limit of the server, may be the fault of one row among many.
pub(super) fn may_be_the_fault_of_one(error: StoreError) -> StoreError {
    match too_slow(error) {
        StoreError::Unavailable { action, source } if is_lock(&*source) => StoreError::TooSlow { action, source },
        error => error,
    }
}

/// Whether a lock did not come in time.
pub(super) fn waits_for_a_lock(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable { source, .. } if is_lock(&**source))
}

fn is_lock(cause: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(Cause::Locked))
}

/// A statement that was cut off is worth less at a time, and not the same again.
pub(super) fn too_slow(error: StoreError) -> StoreError {
    match error {
        StoreError::Unavailable { action, source } if matches!(source.downcast_ref(), Some(Cause::CutOff)) => {
            StoreError::TooSlow { action, source }
        }
        error => error,
    }
}

fn passes_by_itself(sqlstate: &str) -> bool {
    match sqlstate {
        // Lock not available, deadlock, serialization: another moment, another outcome.
        LOCKED | "40P01" | "40001" | READ_ONLY => true,
        // Connection exceptions, insufficient resources (disk full, too many connections), operator intervention
        // (shutdown, cancelled by a timeout), system errors.
        _ => matches!(sqlstate.get(..2), Some("08" | "53" | "57" | "58")),
    }
}

/// Whether the server lets nobody in: invalid authorization (a password that was changed), or no such database.
pub(super) fn refuses_sessions(sqlstate: &str) -> bool {
    matches!(sqlstate.get(..2), Some("28" | "3D"))
}

/// Whether the statement failed because of a value in it: data exceptions, and what exceeds a limit of the program.
pub(super) fn refuses_a_value(error: &StoreError) -> bool {
    matches!(error, StoreError::Failed { sqlstate, .. } if sqlstate.starts_with("22") || sqlstate.starts_with("54"))
}

/// Whether a row found no partition (23514, check_violation): no table of ours that an append writes has another check.
pub(super) fn lacks_a_partition(error: &StoreError) -> bool {
    matches!(error, StoreError::Failed { sqlstate, .. } if sqlstate == "23514")
}

/// Another session is making the partitions at this moment: the append is to be asked again.
pub(super) fn soon_has_a_partition(error: StoreError) -> StoreError {
    match error {
        StoreError::Failed { action, source, .. } if lacks_a_partition(&error) => {
            StoreError::Unavailable { action, source }
        }
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waiting_mends_is_told_from_what_it_does_not() {
        for passing in ["57P01", "57P03", "57014", "53300", "08006", "55P03", "40P01", "25006"] {
            assert!(passes_by_itself(passing), "{passing}");
        }
        for lasting in ["42P01", "28P01", "3D000", "22P02", "23514", "42501", ""] {
            assert!(!passes_by_itself(lasting), "{lasting}");
        }
    }
}
