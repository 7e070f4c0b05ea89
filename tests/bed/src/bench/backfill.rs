//! A million events that wait at many sources: how fast they come into the store, beside a bare COPY in the same run.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use sqlx::{Connection, Executor, PgConnection};

use super::copy::BareCopy;
use super::cpu::{Cpu, Used};
use super::machine::cores;
use super::report::{Figure, Row, seconds};
use super::stream::{Follower, Poll, names};
use super::{REPLICAS, migrate, start, until};
use crate::clock;
use crate::place::Place;
use crate::source::{Feed, SourceConfig};
use crate::stage::Stage;

/// Enough that the gates together let through more than the machine can take: 50 × 5 pages of 1,000 a second.
const SOURCES: u64 = 50;
const EVENTS: u64 = 1_000_000;
const PAGE: u32 = 1000;
const EACH: u64 = EVENTS / SOURCES;

pub(super) async fn measure(place: &Arc<Place>, binary: &Path) -> Result<Figure> {
    let names = names("backlog", usize::try_from(SOURCES)?);
    let sources = names.iter().map(|name| SourceConfig::new(name, EACH).at_most(EACH).once_opened()).collect();
    let mut stage = Stage::without_objects(place, binary, sources, 1).await?;
    migrate(binary, &stage.parts.postgres.url())?;
    let mut bare = BareCopy::prepare(&stage.parts.postgres.url()).await?;
    let mut feeds = stage.source.feeds();
    feeds.sort_by(|one, other| one.name.cmp(&other.name));
    let (first_half, second_half) = feeds.split_at(feeds.len() / 2);

    // Half of the bare rows before the backfill and half after it: a machine that drifts does so for both.
    copy(&stage, &mut bare, first_half).await?;
    let before = bare.rate();
    start(&mut stage, &REPLICAS).await?;
    let (elapsed, used) = backfill(&stage, &names).await?;
    stage.fleet.end(super::PATIENCE).await?;
    copy(&stage, &mut bare, second_half).await?;
    bare.compare().await?;

    let proof = stage.prove(None).await?;
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let events = EVENTS as f64;
    let rate = events / seconds(elapsed);
    let each = |used: std::time::Duration| format!("{:.1} µs", used.as_secs_f64() * 1e6 / events);
    let rows = vec![
        Row::aside("events/s, end to end", format!("{rate:.0} ({:.1} s)", seconds(elapsed))),
        Row::aside("rows/s of the bare COPY", format!("{:.0} (first half {before:.0})", bare.rate())),
        Row::new("ratio", format!("{:.2}", rate / bare.rate()), "0.50"),
        Row::aside("CPU while it lasted", used.shares(cores())),
        Row::aside(
            "CPU of an event",
            format!(
                "replicas {}, PostgreSQL {}, source {}",
                each(used.replicas),
                each(used.postgres),
                each(used.source)
            ),
        ),
    ];
    let scene = format!(
        "Three replicas; {EVENTS} events of 300 bytes appear at once at {SOURCES} sources that were idle, and come in pages of \
         {PAGE}. Bare: one COPY of each page into a table with the same columns and no index, on one connection, half of it \
         before and half after; the encoding of its rows is not timed."
    );
    Ok(Figure { title: "Backfill", scene, rows, proof })
}

/// Lets the events appear, waits until they are stored, and says how long that took and who worked for it.
async fn backfill(stage: &Stage, names: &[String]) -> Result<(u64, Used)> {
    stage.apply(names, Poll { batch_size: PAGE, idle: "200ms" }).await?;
    let (mut follower, applied) = (Follower::default(), clock::now_us());
    until("every source is asked", async || {
        follower.read(stage.source.log());
        Ok(follower.asked_since(names, applied))
    })
    .await?;
    let mut session = PgConnection::connect(&stage.parts.postgres.url()).await.context("cannot reach PostgreSQL")?;
    session.execute("CHECKPOINT").await?;
    let before = Cpu::of(stage)?;
    let opened = stage.source.open();
    until("a million events are stored", async || {
        let stored: i64 = sqlx::query_scalar("SELECT coalesce(sum(events_stored), 0)::bigint FROM headgate.source")
            .fetch_one(&mut session)
            .await
            .context("cannot count the stored events")?;
        Ok(u64::try_from(stored)? >= EVENTS)
    })
    .await?;
    let elapsed = clock::now_us() - opened;
    Ok((elapsed, Cpu::of(stage)?.since(&before)))
}

async fn copy(stage: &Stage, bare: &mut BareCopy, feeds: &[Feed]) -> Result<()> {
    let mut session = PgConnection::connect(&stage.parts.postgres.url()).await.context("cannot reach PostgreSQL")?;
    session.execute("CHECKPOINT").await?;
    for feed in feeds {
        bare.copy(feed, EACH, PAGE.into()).await?;
    }
    Ok(())
}
