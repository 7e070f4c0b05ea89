//! The days that are to be kept and that no reader sees.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::{Row as _, postgres::PgRow};

use super::{PostgresStore, column, failure::store_error, gate::micros, session};
use crate::store::StoreError;

const HIDDEN_DAYS: &str = include_str!("sql/hidden_days.sql");

/// The table of a day that has not expired and is not in the view: its detach was begun under a shorter retention, or by somebody
/// else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiddenDay {
    /// In the schema headgate.
    pub table: String,
    /// The SQL that shows it to readers again.
    pub bring_back: String,
}

impl HiddenDay {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self { table: row.try_get("name")?, bring_back: row.try_get("bring_back")? })
    }
}

impl PostgresStore {
    /// Those within `retention` (none: all). Upkeep lets them be: whoever detached one may be at work with it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn hidden_days(&self, retention: Option<Duration>) -> Result<Vec<HiddenDay>, StoreError> {
        let action = "find days that no reader sees";
        let hidden = sqlx::query(HIDDEN_DAYS).bind(retention.map(micros)).bind(column::Timestamp(Timestamp::now()));
        let rows = session::rows(&self.pool, action, hidden).await?;
        rows.iter().map(HiddenDay::read).collect::<Result<_, _>>().map_err(|error| store_error(action, error))
    }
}
