//! Reads back what the operator stored, for the checker.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use sqlx::{PgPool, Row};

use crate::checker::{StoredEvent, StoredStream};
use crate::source::Feed;

/// Reads the stream `<namespace>/<name of the feed>`, in the order of its sequence, as a reader would.
///
/// # Errors
/// When the database does not answer.
pub async fn read(pool: &PgPool, namespace: &str, feed: Feed) -> Result<StoredStream> {
    let stream = format!("{namespace}/{}", feed.name);
    let rows = sqlx::query(
        "SELECT e.sequence, e.id, encode(sha256(convert_to(e.payload::text, 'UTF8')), 'hex') AS fingerprint,
                encode(c.attempt, 'hex') AS attempt
         FROM headgate.events AS e
         LEFT JOIN headgate.commits AS c
           ON c.stream = e.stream AND c.stored_at = e.stored_at
           AND e.sequence BETWEEN c.first_sequence AND c.last_sequence
         WHERE e.stream = $1 ORDER BY e.sequence",
    )
    .bind(&stream)
    .fetch_all(pool)
    .await
    .with_context(|| format!("cannot read the events of {stream}"))?;
    let events = rows
        .iter()
        .map(|row| {
            Ok(StoredEvent {
                sequence: row.try_get("sequence")?,
                id: row.try_get("id")?,
                fingerprint: row.try_get("fingerprint")?,
                attempt: row.try_get("attempt")?,
            })
        })
        .collect::<Result<_, sqlx::Error>>()
        .context("headgate.events or headgate.commits has other columns")?;
    let cursor = sqlx::query_scalar("SELECT cursor FROM headgate.source WHERE stream = $1")
        .bind(&stream)
        .fetch_optional(pool)
        .await
        .with_context(|| format!("cannot read the cursor of {stream}"))?
        .flatten();
    Ok(StoredStream { source: feed.name.clone(), feed, cursor, events, begins_after: 0 })
}

/// Keeps the rows of the gate, and what is known of every commit, in a file: one JSON object a line.
///
/// # Errors
/// When the database does not answer, or the file cannot be written.
pub async fn keep(pool: &PgPool, file: &Path) -> Result<()> {
    let lines: Vec<String> = sqlx::query_scalar(
        "SELECT row_to_json(s)::text FROM headgate.source AS s
         UNION ALL SELECT row_to_json(c)::text FROM headgate.commits AS c",
    )
    .fetch_all(pool)
    .await
    .context("cannot read the rows")?;
    fs::write(file, lines.join("\n")).with_context(|| format!("cannot write {}", file.display()))
}
