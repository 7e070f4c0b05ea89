//! Thousands of sources that have events all the time: what arrives, and how late.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::{PgPool, Row as _};

use super::objects::Poll;
use super::reading::Reading;
use super::{Chapter, REPLICAS, until};
use crate::bench::report::{Row, number};
use crate::bench::start;
use crate::bench::stream::{Follower, names};
use crate::clock;
use crate::narrate::say;
use crate::place::Place;
use crate::source::SourceConfig;
use crate::stage::Stage;

pub(super) const SOURCES: usize = 2_000;
/// New events of one source.
const PER_SECOND: f64 = 5.0;
/// Between two requests to a source; so an event waits 1 s on average, by the pace that was asked for.
const POLL: Poll = Poll { least: Duration::from_secs(2), idle: Duration::from_secs(2) };
const WINDOW: Duration = Duration::from_secs(30);

pub(super) async fn measure(place: &Arc<Place>, binary: &Path) -> Result<Chapter> {
    let names = names("busy", SOURCES);
    let sources = names.iter().map(|name| SourceConfig::new(name, 0).growing_by(PER_SECOND).once_opened()).collect();
    let mut stage = Stage::without_objects(place, binary, sources, 1).await?;
    stage.create(&names, POLL).await?;
    let started = clock::now_us();
    start(&mut stage, &REPLICAS).await?;
    let mut follower = Follower::default();
    until("every source is asked", async || {
        follower.read(stage.source.log());
        Ok(follower.asked_since(&names, started))
    })
    .await?;

    let (opened, wall) = (stage.source.open(), jiff::Timestamp::now());
    tokio::time::sleep(5 * POLL.least).await;
    let reading = Reading::of(&stage).await?;
    let from = clock::now_us() - opened;
    tokio::time::sleep(WINDOW).await;
    let until_us = clock::now_us() - opened;
    let span = reading.until_now(&stage).await?;
    say(format_args!("with events: {}", span.load()));
    // What exists at the end of the window has two more intervals to arrive.
    tokio::time::sleep(3 * POLL.least).await;
    let lag = Lag::of(&stage, wall, from, until_us).await?;

    let asked = number(SOURCES) * PER_SECOND;
    let arrived = number(lag.events) / Duration::from_micros(until_us - from).as_secs_f64();
    let each = |of: Duration| format!("{:.1} µs", of.as_secs_f64() * 1e6 / number(lag.events.max(1)));
    let rows = vec![
        Row::new(
            "events/s stored of those that appeared in the window",
            format!("{arrived:.0}"),
            format!("{asked:.0} appear"),
        ),
        Row::aside("polls/s", format!("{:.0}", span.polls_per_second())),
        Row::aside(
            "from the appearance of an event at the source to its commit: median",
            format!("{:.2} s", lag.median),
        ),
        Row::aside("the same: p99", format!("{:.2} s", lag.p99)),
        Row::aside("the same: longest", format!("{:.2} s", lag.longest)),
        Row::aside("CPU of the replicas for an event", each(span.used.replicas)),
        Row::aside("CPU of PostgreSQL for an event", each(span.used.postgres)),
        Row::aside(
            "writes/s to the API server, of each replica",
            format!("{:.2}", span.per_second(span.writes.total()) / number(REPLICAS.len())),
        ),
        Row::aside(format!("these, in {} s", WINDOW.as_secs()), span.writes.to_string()),
        Row::aside("machine", span.load()),
    ];
    let proof = stage.prove(None).await?;
    let scene = format!(
        "Three replicas, {SOURCES} sources that each get {PER_SECOND} events of 300 bytes a second and are asked every {} s \
         (`minInterval`), over {} s.",
        POLL.least.as_secs(),
        WINDOW.as_secs()
    );
    Ok(Chapter { title: format!("{SOURCES} sources with events"), scene, rows, proof })
}

/// How late events were stored, in seconds.
struct Lag {
    events: usize,
    median: f64,
    p99: f64,
    longest: f64,
}

impl Lag {
    /// Of the events that appeared between two moments after the opening, in microseconds.
    async fn of(stage: &Stage, opened: jiff::Timestamp, from: u64, until: u64) -> Result<Self> {
        let pool = PgPool::connect(&stage.parts.postgres.url()).await.context("cannot reach PostgreSQL")?;
        let seconds = |us: u64| Duration::from_micros(us).as_secs_f64();
        // Event n of a source appears n / PER_SECOND after the opening.
        let row = sqlx::query(
            "WITH lag AS (
                 SELECT extract(epoch FROM stored_at)::float8 - $1 - sequence / $2 AS late FROM headgate.events
                 WHERE sequence / $2 >= $3 AND sequence / $2 < $4)
             SELECT count(*) AS events, coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY late), 0) AS median,
                    coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY late), 0) AS p99, coalesce(max(late), 0) AS longest
             FROM lag",
        )
        .bind(opened.as_duration().as_secs_f64())
        .bind(PER_SECOND)
        .bind(seconds(from))
        .bind(seconds(until))
        .fetch_one(&pool)
        .await
        .context("cannot read how late events were stored")?;
        let events = usize::try_from(row.try_get::<i64, _>("events")?)?;
        Ok(Self { events, median: row.try_get("median")?, p99: row.try_get("p99")?, longest: row.try_get("longest")? })
    }
}
