//! `make bench-peers`: the same backfill by Headgate, by what a user would pick instead, and by a bare COPY.

mod bare;
mod candidate;
mod operator;
mod report;
mod requests;
mod rows;
mod run;
mod tool;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

pub use self::candidate::Candidate;
use self::report::{Measured, middle};
use self::run::{Ground, Run, SOURCES};
use super::Report;
use super::machine::Machine;
use crate::narrate::{Stopwatch, say};
use crate::postgres::IN_MEMORY;

/// A run may end before the moment at which it was to be killed; then it is killed earlier.
const KILLS: u32 = 3;

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Peers {
    /// The `headgate` binary.
    pub binary: PathBuf,
    /// Where the peers are installed.
    pub tools: PathBuf,
    pub rounds: usize,
    pub events: u64,
    /// These alone, if there are any.
    pub only: Vec<Candidate>,
    /// The report, as Markdown.
    pub out: PathBuf,
}

impl Peers {
    /// Measures in rounds, each candidate once in a round, then kills each one once; prints the report and writes it.
    ///
    /// # Errors
    /// When a candidate does not load everything.
    pub async fn run(&self) -> Result<()> {
        ensure!(self.events > 0 && self.events.is_multiple_of(SOURCES), "EVENTS must be a multiple of {SOURCES}");
        ensure!(self.rounds > 0, "ROUNDS must be at least 1");
        let watch = Stopwatch::start();
        let ground = Ground { binary: self.binary.clone(), tools: self.tools.clone(), events: self.events };
        let candidates = if self.only.is_empty() { Candidate::value_variants() } else { &self.only };
        let mut report = Report::begin(&self.out, &super::report::head(&Machine::here(&self.binary, &IN_MEMORY)?))?;
        let mut measured: BTreeMap<Candidate, Measured> = BTreeMap::new();
        for round in 0..self.rounds {
            for place in 0..candidates.len() {
                // Nobody is always the first one, or always comes after the same one.
                let candidate = candidates[(place + round) % candidates.len()];
                say(format_args!("\n-- round {} of {}: {}", round + 1, self.rounds, candidate.title()));
                let run = load(candidate, &ground, None).await?;
                ensure!(
                    (run.stored, run.distinct) == (ground.events, ground.events),
                    "{} stored {} rows of {} events, of {}",
                    candidate.title(),
                    run.stored,
                    run.distinct,
                    ground.events
                );
                say(report::line(&ground, &run));
                measured.entry(candidate).or_default().runs.push(run);
            }
        }
        for (candidate, measured) in measured.iter_mut().filter(|(candidate, _)| **candidate != Candidate::Copy) {
            say(format_args!("\n-- killed in the middle: {}", candidate.title()));
            let killed = kill(*candidate, &ground, middle(&measured.runs, |run| run.loading)).await;
            measured.killed = Some(killed.with_context(|| format!("{} after a kill", candidate.title()))?);
        }
        report.tell(&report::chapter(&ground, self.rounds, &measured))?;
        say(format_args!("all of it after {watch}; the same in {}", self.out.display()));
        Ok(())
    }
}

async fn load(candidate: Candidate, ground: &Ground, kill_after: Option<Duration>) -> Result<Run> {
    match candidate {
        Candidate::Copy => bare::run(ground).await,
        Candidate::Headgate | Candidate::Fleet => operator::run(candidate.replicas(), ground, kill_after).await,
        _ => tool::run(candidate, ground, kill_after).await,
    }
}

/// The run was over before it could be killed.
#[derive(Debug, thiserror::Error)]
#[error("it ended before it could be killed")]
struct EndedFirst;

/// A run that is killed halfway between its first request and its last row.
async fn kill(candidate: Candidate, ground: &Ground, loading: Duration) -> Result<Run> {
    let mut after = loading / 2;
    for _ in 1..KILLS {
        match load(candidate, ground, Some(after)).await {
            Ok(run) => return Ok(run),
            Err(error) if error.is::<EndedFirst>() => say(format_args!("{error}; killing it earlier")),
            Err(error) => return Err(error),
        }
        after /= 2;
    }
    load(candidate, ground, Some(after)).await
}
