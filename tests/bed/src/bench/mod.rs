//! `make bench`: the figures of the README, measured in one run on one machine and printed beside their goals.
//!
//! Figures are printed, promises decide: after each figure the checker reads the access log and the store, and a broken
//! promise is told loudly and ends in a failure.

mod backfill;
mod copy;
mod cpu;
mod crash;
mod idle;
mod machine;
pub mod peers;
mod report;
mod saturated;
mod scale;
mod stream;
mod takeover;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use self::machine::Machine;
pub use self::scale::{Part, Scale};
use crate::evidence;
use crate::narrate::{Stopwatch, say};
use crate::place::Place;
use crate::postgres::{DURABLE, IN_MEMORY, Postgres};
use crate::stage::Stage;

const REPLICAS: [&str; 3] = ["headgate-a", "headgate-b", "headgate-c"];
const TICK: Duration = Duration::from_millis(50);
/// For anything that should happen within seconds: longer means that there is nothing to measure.
const PATIENCE: Duration = Duration::from_mins(1);

/// One figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// Requests per second of saturated sources, as a share of what the gate allows.
    Saturated,
    /// Events per second of a backfill, beside a bare COPY.
    Backfill,
    /// Takeover after a kill, handover at a termination.
    Takeover,
    /// What idle sources cost.
    Idle,
    /// Events transported twice after a kill, with progressive commit and without.
    Crash,
}

/// Measures the named figures, or all; prints the report and writes it to `out`. `mutated` is the build that can leave rules
/// out, where a figure compares with that. A `durable` PostgreSQL writes through to the disk. Returns whether every promise held.
///
/// # Errors
/// When something does not come up, or does not do what is to be measured.
pub async fn run(binary: &Path, mutated: &Path, only: &[Name], durable: bool, out: &Path) -> Result<bool> {
    ensure!(binary.is_file(), "there is no binary at {}: run `make bench`, which builds it", binary.display());
    let wants_mutated = only.is_empty() || only.contains(&Name::Crash);
    ensure!(!wants_mutated || mutated.is_file(), "there is no binary at {}: run `make bench`", mutated.display());
    ensure!(
        !(durable && wants_mutated),
        "`crash` counts events and no time: leave it out with --only where the database is durable"
    );
    let watch = Stopwatch::start();
    let names = if only.is_empty() { Name::value_variants() } else { only };
    let postgres = if durable { &DURABLE } else { &IN_MEMORY };
    let mut report = Report::begin(out, &report::head(&Machine::here(binary, postgres)?))?;
    let mut all_held = true;
    for name in names {
        say(format_args!("\n-- {name:?}"));
        let place = Arc::new(Place::temporary("bench")?);
        // The stage finds this server running.
        let _server = if durable { Some(Postgres::with_settings(&place, postgres).await?) } else { None };
        let measured = match name {
            Name::Saturated => saturated::measure(&place, binary).await,
            Name::Backfill => backfill::measure(&place, binary).await,
            Name::Takeover => takeover::measure(&place, binary).await,
            Name::Idle => idle::measure(&place, binary).await,
            Name::Crash => crash::measure(binary, mutated).await,
        };
        let broken = match &measured {
            Ok(figure) if figure.promises_held() => None,
            Ok(figure) => Some(format!("A PROMISE WAS BROKEN\n\n{}\n{}", figure.proof, figure.violations())),
            Err(error) => Some(format!("{name:?} could not be measured: {error:#}\n")),
        };
        if let Some(broken) = broken {
            say(&broken);
            evidence::leave(&broken, place.path(), &out.with_file_name("evidence"))?;
        }
        let figure = measured?;
        all_held &= figure.promises_held();
        report.tell(&figure.chapter())?;
    }
    say(format_args!("all of it after {watch}; the same in {}", out.display()));
    Ok(all_held)
}

/// Printed and written piece by piece, so that what was measured is there when a later figure fails.
struct Report(File);

impl Report {
    fn begin(path: &Path, head: &str) -> Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        let mut report = Self(File::create(path).with_context(|| format!("cannot write {}", path.display()))?);
        report.tell(head)?;
        Ok(report)
    }

    #[expect(clippy::print_stdout, reason = "the report is what this command is for")]
    fn tell(&mut self, piece: &str) -> Result<()> {
        println!("{piece}");
        self.0.write_all(piece.as_bytes()).context("cannot write the report")
    }
}

/// Makes the schema, which the bare table takes its columns from.
fn migrate(binary: &Path, database_url: &str) -> Result<()> {
    let output = Command::new(binary).arg("migrate").env("DATABASE_URL", database_url).output()?;
    ensure!(output.status.success(), "headgate migrate failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Starts these replicas and waits until each is ready.
async fn start(stage: &mut Stage, replicas: &[&str]) -> Result<()> {
    for name in replicas {
        stage.fleet.start(name)?;
    }
    for name in replicas {
        stage.fleet.ready(name).await?;
    }
    Ok(())
}

/// Waits until something is so, and says what it waited for when it never is.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let asked = Instant::now();
    while !is_so().await? {
        ensure!(asked.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        tokio::time::sleep(TICK).await;
    }
    Ok(())
}
