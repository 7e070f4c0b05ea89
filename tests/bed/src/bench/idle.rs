//! What a hundred sources without news cost.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::cpu::{Cpu, Used, resident_mib};
use super::report::{Figure, Row, number};
use super::stream::{Follower, Poll, names};
use super::{start, until};
use crate::clock;
use crate::place::Place;
use crate::source::SourceConfig;
use crate::stage::Stage;

const SOURCES: usize = 100;
const REPLICA: &str = "headgate-a";
/// The kernel counts CPU time in steps of 10 ms; half a minute of a process that uses 1 % is thirty of them.
const WINDOW: Duration = Duration::from_secs(30);
const EMPTY_WINDOW: Duration = Duration::from_secs(15);
/// From the first poll to the longest interval: 200 ms × 1.5 each time is 5 s after eight polls and ten seconds.
const CALM: Duration = Duration::from_secs(15);

pub(super) async fn measure(place: &Arc<Place>, binary: &Path) -> Result<Figure> {
    let names = names("idle", SOURCES);
    let sources = names.iter().map(|name| SourceConfig::new(name, 0)).collect();
    let mut stage = Stage::without_objects(place, binary, sources, 1).await?;
    start(&mut stage, &[REPLICA]).await?;

    let (empty, _) = watch(&stage, EMPTY_WINDOW).await?;
    let empty_mib = resident(&stage)?;
    let (mut follower, applied) = (Follower::default(), clock::now_us());
    stage.apply(&names, Poll { batch_size: 1000, idle: "5s" }).await?;
    until("every source is asked", async || {
        follower.read(stage.source.log());
        Ok(follower.asked_since(&names, applied))
    })
    .await?;
    tokio::time::sleep(CALM).await;
    let (idle, polls) = watch(&stage, WINDOW).await?;
    let idle_mib = resident(&stage)?;

    let proof = stage.prove(None).await?;
    let share = |used: Duration, window: &Used| 100.0 * used.as_secs_f64() / window.elapsed.as_secs_f64();
    let both = |of: fn(&Used) -> Duration| {
        format!("{:.2} % ({:.2} % without sources)", share(of(&idle), &idle), share(of(&empty), &empty))
    };
    let each = |of: fn(&Used) -> Duration| format!("{:.0} µs", of(&idle).as_secs_f64() * 1e6 / number(polls.max(1)));
    let rows = vec![
        Row::aside("polls/s", format!("{:.1}", number(polls) / idle.elapsed.as_secs_f64())),
        Row::aside("CPU of the replica, of one core", both(|used| used.replicas)),
        Row::aside("CPU of PostgreSQL, of one core", both(|used| used.postgres)),
        Row::aside("CPU of the replica for an idle poll", each(|used| used.replicas)),
        Row::aside("CPU of PostgreSQL for an idle poll", each(|used| used.postgres)),
        Row::aside("memory of the replica", format!("{idle_mib:.1} MiB ({empty_mib:.1} MiB without sources)")),
    ];
    let scene = format!(
        "One replica, {SOURCES} sources without events at the default `maxIdleInterval` of 5 s, over {} s. CPU for a poll is all \
         CPU in that time by the number of polls, Leases and status included.",
        WINDOW.as_secs()
    );
    Ok(Figure { title: "Idle sources", scene, rows, proof })
}

/// CPU time and the number of requests in the next so many seconds.
async fn watch(stage: &Stage, window: Duration) -> Result<(Used, usize)> {
    let (before, asked) = (Cpu::of(stage)?, stage.source.log().len());
    tokio::time::sleep(window).await;
    Ok((Cpu::of(stage)?.since(&before), stage.source.log().len() - asked))
}

fn resident(stage: &Stage) -> Result<f64> {
    let addresses = stage.fleet.addresses();
    let (_, id, _) = addresses.first().context("the replica has ended")?;
    resident_mib(*id)
}
