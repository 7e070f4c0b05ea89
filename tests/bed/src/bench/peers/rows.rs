//! What stands in the store after a run. An event is known by its subject, which names its source, and its id.

use anyhow::{Context, Result};
use sqlx::{AssertSqlSafe, PgConnection};

/// Rows after a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rows {
    pub stored: u64,
    pub distinct: u64,
    /// When the last of them could be read, in microseconds since 1970.
    pub visible: u64,
}

/// Where a candidate has put them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tables {
    /// The operator's table of events.
    Headgate,
    /// Every table with events of the schema that the programs are told to use.
    Peer,
}

impl Rows {
    pub(super) async fn count(session: &mut PgConnection, tables: Tables) -> Result<Self> {
        let all = match tables {
            Tables::Headgate => "SELECT subject, sequence AS id, xmin AS writer FROM headgate.event".to_owned(),
            Tables::Peer => of_every_table(session).await?,
        };
        let counted = format!(
            "WITH event AS MATERIALIZED ({all})
             SELECT (SELECT count(*) FROM event), (SELECT count(*) FROM (SELECT DISTINCT subject, id FROM event) AS one),
                (SELECT (extract(epoch FROM max(pg_xact_commit_timestamp(writer))) * 1000000)::bigint
                 FROM (SELECT DISTINCT writer FROM event) AS writers)"
        );
        // The only foreign words in it are the names of tables, quoted by the server.
        let (stored, distinct, visible): (i64, i64, Option<i64>) =
            sqlx::query_as(AssertSqlSafe(counted)).fetch_one(session).await.context("cannot count the rows")?;
        Ok(Self {
            stored: stored.try_into()?,
            distinct: distinct.try_into()?,
            visible: visible.context("nothing was stored")?.try_into()?,
        })
    }
}

async fn of_every_table(session: &mut PgConnection) -> Result<String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('SELECT subject, id::bigint AS id, xmin AS writer FROM %I.%I', table_schema, table_name)
         FROM information_schema.columns WHERE table_schema = 'peer' AND column_name = 'subject'",
    )
    .fetch_all(session)
    .await
    .context("cannot list the tables")?;
    anyhow::ensure!(!tables.is_empty(), "there is no table with events");
    Ok(tables.join(" UNION ALL "))
}
