//! The days of the store: made ahead, dropped when they are older than the retention.
//!
//! No step stops an append. Making is CREATE then ATTACH, dropping is DETACH CONCURRENTLY then DROP: both hold SHARE UPDATE
//! EXCLUSIVE on the parent, which inserts do not notice. (`CREATE … PARTITION OF` and a plain DETACH take ACCESS EXCLUSIVE,
//! and while they wait behind one long reader every append waits behind them.) Any replica may run it at any time.
//!
//! DETACH CONCURRENTLY waits for all who use the parent, and has no lock meanwhile. If that is interrupted, FINALIZE waits for all
//! older snapshots of the database, whatever they read; meanwhile it has that lock of the parent, and ACCESS EXCLUSIVE on the
//! day, which no plan holds any more. So both may wait for long. What does wait for FINALIZE is the making of a day.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use jiff::{SignedDuration, Timestamp};
use sqlx::{AssertSqlSafe, Row as _};

use super::{
    PostgresStore, clocks, column,
    failure::{is_the_fault_of_one, kept_waiting, store_error},
    gate::micros,
    session::{self, Sessions, Turn},
};
use crate::store::StoreError;

const MAKE: &str = "SELECT coalesce(headgate.make_partitions($1, $2), 0)::bigint AS made";
const TURN: &str = "SELECT pg_try_advisory_xact_lock(hashtextextended('headgate.drop_partitions', 0))";
const BLOCKERS: &str = include_str!("sql/blockers.sql");
const EXPIRED: &str = include_str!("sql/expired_partitions.sql");

/// Days that one round of a replica takes from each table: a clock that jumped ahead by months is to cost days and not everything,
/// and a backlog of a year is gone within two days.
const DAYS_PER_ROUND: u32 = 8;

/// How often it is noted who keeps a detach waiting. It is asked for while it waits; nobody knows it afterwards.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// What a round may still do to the days of one table.
struct Left {
    days: u32,
    /// Until one fails: a day that a long reader keeps stands before the later ones of its table, and before nothing else.
    detaches: bool,
}

/// A weekend without any replica, and some.
const DAYS_AHEAD: i32 = 7;

/// What one round of upkeep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Upkeep {
    pub partitions_made: u64,
    pub partitions_dropped: u64,
}

/// Why a round of upkeep ended early. The next one goes on where it ended.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// One of the two clocks is wrong, so nobody knows which days have expired.
    #[error(
        "the database's clock is {} this machine's: set right the one that is wrong; until then this replica drops no day",
        apart(*.database_ahead)
    )]
    ClocksDisagree { database_ahead: SignedDuration },
}

/// In whole minutes, or in days where it is that much.
fn apart(ahead: SignedDuration) -> String {
    let side = if ahead.is_negative() { "behind" } else { "ahead of" };
    let minutes = (ahead.unsigned_abs().as_secs() + 30) / 60;
    let days = minutes / (24 * 60);
    if days > 1 { format!("{days} days {side}") } else { format!("{minutes} minutes {side}") }
}

impl PostgresStore {
    /// Makes the partitions of the next days, and drops those that ended longer than `retention` ago (none: keeps all).
    /// What is interrupted is finished by the next round. The cursor lives in the source row, so nothing that is
    /// dropped is fetched again.
    ///
    /// # Errors
    /// The first one. Whatever it was, days were made and dropped as far as they could be; none is dropped with
    /// [`UpkeepError::ClocksDisagree`].
    pub async fn upkeep(&self, retention: Option<Duration>) -> Result<Upkeep, UpkeepError> {
        let made = self.make_partitions().await;
        // Also where none can be made: on a disk that is full, what is dropped makes the room for it.
        let dropped = match retention {
            Some(retention) => self.drop_expired(retention).await,
            None => Ok(0),
        };
        Ok(Upkeep { partitions_made: made?, partitions_dropped: dropped? })
    }

    pub(super) async fn make_partitions(&self) -> Result<u64, StoreError> {
        let action = "make the partitions of the next days";
        let rows =
            session::rows(&self.pool, action, sqlx::query(MAKE).bind(DAYS_AHEAD).bind(clocks::earliest())).await?;
        let row = rows.first().ok_or_else(|| store_error(action, sqlx::Error::RowNotFound))?;
        super::answer::count(row, "made").map_err(|error| store_error(action, error))
    }

    /// One session at a time drops: two that detach the same day wait for each other. The turn is a lock of an otherwise
    /// empty transaction, because DETACH CONCURRENTLY may not be inside one; it ends with it, however this ends.
    async fn drop_expired(&self, retention: Duration) -> Result<u64, UpkeepError> {
        let clocks = self.read_clocks().await?;
        if !clocks.agree() {
            return Err(UpkeepError::ClocksDisagree { database_ahead: clocks.ahead });
        }
        let action = "take the turn to drop partitions";
        let Some(turn) = Turn::take(&self.upkeep, action, TURN).await? else { return Ok(0) };
        let dropped = self.drop_in_turn(retention, clocks.here).await;
        let ended = turn.end("end the turn to drop partitions").await;
        let dropped = dropped?;
        ended?;
        Ok(dropped)
    }

    async fn drop_in_turn(&self, retention: Duration, now: Timestamp) -> Result<u64, StoreError> {
        let dropped = self.drop_days(retention, now).await;
        self.drop_expired_aside(retention, now).await?;
        dropped
    }

    async fn drop_days(&self, retention: Duration, now: Timestamp) -> Result<u64, StoreError> {
        let action = "find expired partitions";
        let expired = sqlx::query(EXPIRED).bind(micros(retention)).bind(column::Timestamp(now));
        let rows = session::rows(&self.pool, action, expired).await?;
        let (mut dropped, mut first_error, mut left) = (0, None, HashMap::<String, Left>::new());
        for row in rows {
            let read = |column| row.try_get::<String, _>(column).map_err(|error| store_error(action, error));
            let (parent, name, state) = (read("parent")?, read("name")?, read("state")?);
            let left = left.entry(parent.clone()).or_insert(Left { days: DAYS_PER_ROUND, detaches: true });
            match self.drop_partition(&parent, &name, &state, left).await {
                Ok(tables) => dropped += tables,
                Err(error) => {
                    let concerns_others = !is_the_fault_of_one(&error);
                    first_error.get_or_insert(error);
                    if concerns_others {
                        break;
                    }
                }
            }
        }
        first_error.map_or(Ok(dropped), Err)
    }

    /// How many tables it dropped. DETACH CONCURRENTLY waits for the statements that read the table now; when the statement limit
    /// ends that wait, the partition is out of sight already and the next round finishes the detach.
    async fn drop_partition(&self, parent: &str, name: &str, state: &str, left: &mut Left) -> Result<u64, StoreError> {
        let detach = match state {
            "attached" => Some("CONCURRENTLY"),
            "pending" => Some("FINALIZE"),
            _ => None,
        };
        if left.days == 0 || (detach.is_some() && !left.detaches) {
            return Ok(0);
        }
        if let Some(how) = detach {
            let sql = format!("ALTER TABLE headgate.{parent} DETACH PARTITION headgate.{name} {how}");
            let detached = self.detach(sql).await;
            left.detaches = detached.is_ok();
            detached?;
        }
        // One that is detached is gone, whether or not its table can go.
        left.days -= u32::from(detach.is_some());
        let sql = format!("DROP TABLE IF EXISTS headgate.{name}");
        change(&self.pool, "drop an expired partition", sql).await?;
        left.days -= u32::from(detach.is_none());
        Ok(1)
    }

    /// Waits for readers, and tells in the end who they are.
    async fn detach(&self, sql: String) -> Result<(), StoreError> {
        let mut blockers = Vec::new();
        let detached = tokio::select! {
            detached = change(&self.upkeep, "detach an expired partition", sql.clone()) => detached,
            never = self.note_blockers(&sql, &mut blockers) => match never {},
        };
        detached.map_err(|error| kept_waiting(error, blockers))
    }

    async fn note_blockers(&self, sql: &str, blockers: &mut Vec<i32>) -> Infallible {
        loop {
            tokio::time::sleep(NOTE_EVERY).await;
            let action = "find who keeps a detach waiting";
            let rows = session::rows(&self.pool, action, sqlx::query(BLOCKERS).bind(sql)).await.unwrap_or_default();
            let found: Vec<i32> = rows.iter().filter_map(|row| row.try_get("pid").ok()).collect();
            if !found.is_empty() {
                *blockers = found;
            }
        }
    }
}

/// Runs DDL that may not be inside a transaction. The names come from headgate.partition, which lists only tables that
/// are called `event_` or `commits_` and eight digits.
async fn change(pool: &Sessions, action: &'static str, sql: String) -> Result<(), StoreError> {
    session::on_connection(pool, action, async move |connection| {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
    })
    .await
}
