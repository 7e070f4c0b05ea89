//! A run of a peer: a program that ends when it has read every source to its end.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, Executor, PgConnection};

use super::EndedFirst;
use super::candidate::Candidate;
use super::requests::Requests;
use super::rows::{Rows, Tables};
use super::run::{Ground, Moment, Run, TICK, Watch};
use crate::access_log::AccessLog;
use crate::bench::cpu;
use crate::clock;
use crate::place::Place;
use crate::postgres::Postgres;
use crate::process::Process;
use crate::source::FakeSource;

/// The slowest one needs two minutes for a million events on two cores of its own.
const PATIENCE: Duration = Duration::from_mins(20);

/// PostgreSQL, the sources, and the folder of a program.
struct World {
    // Before the place, which must outlive it.
    source: FakeSource,
    postgres: Postgres,
    place: Arc<Place>,
    candidate: Candidate,
    tools: PathBuf,
}

impl World {
    async fn set(candidate: Candidate, ground: &Ground) -> Result<Self> {
        let place = Arc::new(Place::temporary("peers")?);
        fs::create_dir(place.path().join("state")).context("make a folder for the state of a program")?;
        let postgres = Postgres::with_settings(&place, &[("track_commit_timestamp", "on")]).await?;
        let source = FakeSource::start("127.0.0.1:0", ground.sources(), 1, AccessLog::in_memory()).await?;
        Ok(Self { source, postgres, place, candidate, tools: ground.tools.clone() })
    }

    fn start(&self) -> Result<Process> {
        let (folder, argument) = self.candidate.program().context("this candidate is no program of benches/peers")?;
        let program = crate::repository().join("benches/peers").join(folder).join("run");
        self.place
            .launch(folder, &program)
            .arg(argument)
            .env("PEER_TOOLS", &self.tools)
            .env("PEER_STATE", self.place.path().join("state"))
            .env("PEER_SOURCE_URL", format!("http://{}", self.source.address()))
            .env("PEER_SOURCES", Ground::names().join(","))
            .env("PEER_DATABASE_URL", self.postgres.url())
            .start()
    }
}

/// Runs it to its end. With `kill_after` it is killed with all it has started, so long after its first request, and started
/// again as it was.
pub(super) async fn run(candidate: Candidate, ground: &Ground, kill_after: Option<Duration>) -> Result<Run> {
    let world = World::set(candidate, ground).await?;
    let mut session = PgConnection::connect(&world.postgres.url()).await.context("cannot reach PostgreSQL")?;
    session.execute("CHECKPOINT").await?;
    let server = world.postgres.id().context("find the process of PostgreSQL")?;
    let (postgres, source) = (cpu::of_server(server)?, cpu::of_this_process());
    let mut watch = Watch::default();
    let begun = Moment::now()?;
    let mut process = world.start()?;
    if let Some(after) = kill_after {
        let alive = follow(&process, &mut watch, || has_been_asked_for(&world.source, after)).await?;
        ensure!(alive, EndedFirst);
        process.kill().await?;
        process = world.start()?;
    }
    follow(&process, &mut watch, || false).await?;
    ensure!(process.exit_status().is_some_and(|status| status.success()), process.failure());
    let (postgres, source) =
        (cpu::of_server(server)?.saturating_sub(postgres), cpu::of_this_process().saturating_sub(source));
    let requests = Requests::of(&world.source.log().entries()).context("no source was asked")?;
    let rows = Rows::count(&mut session, Tables::Peer).await?;
    let (wall, loading) = begun.until_visible(&rows, &requests);
    Ok(Run {
        wall,
        loading,
        cpu: watch.cpu,
        postgres,
        source,
        control_plane: Duration::ZERO,
        peak_mib: watch.peak_mib,
        requests: Some(requests),
        stored: rows.stored,
        distinct: rows.distinct,
    })
}

/// Looks at a program until it has ended, or until it is so. Returns whether it still runs.
async fn follow(process: &Process, watch: &mut Watch, mut is_so: impl FnMut() -> bool) -> Result<bool> {
    let begun = Instant::now();
    while process.is_running() {
        ensure!(begun.elapsed() < PATIENCE, process.failure());
        watch.look(&[process.id()])?;
        if is_so() {
            return Ok(true);
        }
        tokio::time::sleep(TICK).await;
    }
    Ok(false)
}

/// Whether the first request is that long ago.
pub(super) fn has_been_asked_for(source: &FakeSource, time: Duration) -> bool {
    let first = source.log().entries_from(0).first().map(|access| access.started);
    first.is_some_and(|first| u128::from(clock::now_us().saturating_sub(first)) >= time.as_micros())
}
