//! A run of the operator: replicas that are started beside EventSources that exist, and end when everything is stored.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, Executor, PgConnection};

use super::EndedFirst;
use super::requests::Requests;
use super::rows::{Rows, Tables};
use super::run::{Ground, Moment, PAGE, Run, TICK, Watch};
use super::tool::has_been_asked_for;
use crate::bench::cpu::Cpu;
use crate::bench::stream::Poll;
use crate::bench::{PATIENCE, REPLICAS};
use crate::place::Place;
use crate::stage::Stage;

/// A killed replica's sources wait for their takeover, and the machine may be slow.
const LONGEST: Duration = Duration::from_mins(5);

/// Runs it until everything is stored. With `kill_after`, one replica is killed so long after the first request, and
/// started again.
pub(super) async fn run(replicas: usize, ground: &Ground, kill_after: Option<Duration>) -> Result<Run> {
    let place = Arc::new(Place::temporary("peers")?);
    let mut stage = Stage::without_objects(&place, &ground.binary, ground.sources(), 1).await?;
    let url = stage.parts.postgres.url();
    let mut session = PgConnection::connect(&url).await.context("cannot reach PostgreSQL")?;
    session.execute("ALTER SYSTEM SET track_commit_timestamp = on").await?;
    stage.parts.postgres.restart().await?;
    stage.apply(&Ground::names(), Poll { batch_size: PAGE, idle: "5s" }).await?;
    let mut session = PgConnection::connect(&url).await.context("cannot reach PostgreSQL")?;
    session.execute("CHECKPOINT").await?;

    let before = Cpu::of(&stage)?;
    let mut watch = Watch::default();
    let (begun, asked) = (Moment::now()?, Instant::now());
    for name in &REPLICAS[..replicas] {
        stage.fleet.start(name)?;
    }
    let mut to_kill = kill_after;
    while stored(&mut session).await? < ground.events {
        ensure!(asked.elapsed() < LONGEST, "waited {LONGEST:?} in vain: every event is stored");
        if to_kill.take_if(|after| has_been_asked_for(&stage.source, *after)).is_some() {
            stage.fleet.kill(REPLICAS[0]).await?;
            stage.fleet.start(REPLICAS[0])?;
        }
        watch.look(&ids(&stage))?;
        tokio::time::sleep(TICK).await;
    }
    ensure!(to_kill.is_none(), EndedFirst);
    watch.look(&ids(&stage))?;
    let used = Cpu::of(&stage)?.since(&before);
    stage.fleet.end(PATIENCE).await?;
    let requests = Requests::of(&stage.source.log().entries()).context("no source was asked")?;
    let rows = Rows::count(&mut session, Tables::Headgate).await?;
    let proof = stage.prove(None).await?;
    ensure!(proof.findings.clean(), "A PROMISE WAS BROKEN\n{proof}");
    let (wall, loading) = begun.until_visible(&rows, &requests);
    Ok(Run {
        wall,
        loading,
        cpu: watch.cpu,
        postgres: used.postgres,
        source: used.source,
        control_plane: used.control_plane,
        peak_mib: watch.peak_mib,
        requests: Some(requests),
        stored: rows.stored,
        distinct: rows.distinct,
    })
}

/// How many events the operator says are stored; none before it has made its tables.
async fn stored(session: &mut PgConnection) -> Result<u64> {
    let there: bool = sqlx::query_scalar("SELECT to_regclass('headgate.source') IS NOT NULL")
        .fetch_one(&mut *session)
        .await
        .context("cannot look for the tables")?;
    if !there {
        return Ok(0);
    }
    let stored: i64 = sqlx::query_scalar("SELECT coalesce(sum(events_stored), 0)::bigint FROM headgate.source")
        .fetch_one(session)
        .await
        .context("cannot count the stored events")?;
    Ok(stored.try_into()?)
}

fn ids(stage: &Stage) -> Vec<u32> {
    stage.fleet.addresses().into_iter().map(|(_, id, _)| id).collect()
}
