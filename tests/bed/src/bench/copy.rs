//! The measure of a backfill: a bare COPY of the same rows, page by page, into a table with the same columns and no index,
//! on one connection.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, Executor, PgConnection};

use super::cpu::of_this_process;
use crate::source::Feed;
use crate::stage::SOURCES;

/// The seconds from 1970 to 2000, where PostgreSQL counts from.
const POSTGRES_EPOCH_S: i64 = 946_684_800;

/// The table and the connection.
pub(super) struct BareCopy {
    session: PgConnection,
    taken: Duration,
    /// Of this process, while a page was sent.
    cpu: Duration,
    rows: u64,
}

impl BareCopy {
    /// Makes the table. The schema of Headgate must be there.
    pub(super) async fn prepare(url: &str) -> Result<Self> {
        let mut session = PgConnection::connect(url).await.context("cannot reach PostgreSQL")?;
        session.execute("CREATE TABLE public.bare (LIKE headgate.event)").await.context("cannot make a bare table")?;
        Ok(Self { session, taken: Duration::ZERO, cpu: Duration::ZERO, rows: 0 })
    }

    /// Copies the events of a feed, one statement for each page. The encoding of a page is not timed.
    pub(super) async fn copy(&mut self, feed: &Feed, events: u64, page: u64) -> Result<()> {
        let mut next = 1;
        while next <= events {
            let last = events.min(next + page - 1);
            let encoded = encode(feed, next..=last)?;
            let (begun, cpu) = (Instant::now(), of_this_process());
            let mut copy = self
                .session
                .copy_in_raw(
                    "COPY public.bare (stream, sequence, id, type, subject, occurred_at, stored_at, payload)
                     FROM STDIN (FORMAT binary)",
                )
                .await
                .context("cannot begin a COPY")?;
            copy.send(encoded).await.context("cannot send a page")?;
            let rows = copy.finish().await.context("cannot end a COPY")?;
            self.taken += begun.elapsed();
            self.cpu += of_this_process().saturating_sub(cpu);
            self.rows += rows;
            next = last + 1;
        }
        Ok(())
    }

    /// Rows per second so far.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub(super) fn rate(&self) -> f64 {
        self.rows as f64 / self.taken.as_secs_f64()
    }

    /// How long the pages took, and the CPU time of this side of the connection.
    pub(super) fn cost(&self) -> (Duration, Duration) {
        (self.taken, self.cpu)
    }

    /// That the store holds the same rows, by every hundredth: without this the ratio would compare two things.
    pub(super) async fn compare(&mut self) -> Result<()> {
        let other: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM public.bare AS b WHERE sequence % 100 = 1 AND NOT EXISTS (
                SELECT FROM headgate.event AS e
                WHERE e.stream = b.stream AND e.sequence = b.sequence
                    AND (e.id, e.type, e.subject, e.occurred_at, e.payload::text)
                        IS NOT DISTINCT FROM (b.id, b.type, b.subject, b.occurred_at, b.payload::text)
            )",
        )
        .fetch_one(&mut self.session)
        .await
        .context("cannot compare the rows")?;
        ensure!(other == 0, "{other} rows of the bare COPY are not those that Headgate stored");
        Ok(())
    }
}

/// The rows of these events, as the mapping of the figure fills the columns.
fn encode(feed: &Feed, indexes: std::ops::RangeInclusive<u64>) -> Result<Vec<u8>> {
    let stream = format!("{SOURCES}/{}", feed.name);
    let mut page = b"PGCOPY\n\xff\r\n\0".to_vec();
    // Flags, and the length of a header extension.
    page.extend_from_slice(&[0; 8]);
    for index in indexes {
        let event = feed.event(index);
        let item: Item = serde_json::from_str(&event).context("understand an event of the fake source")?;
        page.extend_from_slice(&8_i16.to_be_bytes());
        field(&mut page, stream.as_bytes())?;
        field(&mut page, &i64::try_from(index)?.to_be_bytes())?;
        // NULL: the id is the text of the sequence.
        page.extend_from_slice(&(-1_i32).to_be_bytes());
        field(&mut page, item.kind.as_bytes())?;
        field(&mut page, item.subject.as_bytes())?;
        field(&mut page, &microseconds(item.occurred_at).to_be_bytes())?;
        field(&mut page, &microseconds(jiff::Timestamp::now()).to_be_bytes())?;
        field(&mut page, event.as_bytes())?;
    }
    page.extend_from_slice(&(-1_i16).to_be_bytes());
    Ok(page)
}

fn field(page: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    page.extend_from_slice(&i32::try_from(bytes.len())?.to_be_bytes());
    page.extend_from_slice(bytes);
    Ok(())
}

fn microseconds(at: jiff::Timestamp) -> i64 {
    at.as_microsecond() - POSTGRES_EPOCH_S * 1_000_000
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    subject: &'a str,
    occurred_at: jiff::Timestamp,
}
