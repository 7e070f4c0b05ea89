//! `make bench-scale`: thousands of EventSources on a real API server, held by three replicas.
//!
//! Rates are chosen so that the machine is not the limit: sources without news are asked so seldom that all of them
//! together are [`POLLS_PER_SECOND`] at every size, which also makes the cost of a poll comparable between sizes.

mod busy;
mod calm;
mod limits;
mod objects;
mod reading;
mod writes;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::machine::Machine;
use super::report::{self, Row, table, verdict};
use super::{REPLICAS, Report};
use crate::evidence;
use crate::narrate::{Stopwatch, say};
use crate::place::Place;
use crate::postgres::IN_MEMORY;
use crate::proof::Proof;

/// Of all idle sources together, at every size.
const POLLS_PER_SECOND: usize = 500;
/// For what takes seconds on a machine of its own.
const PATIENCE: Duration = Duration::from_mins(5);

/// One part of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Sources without news: start, rest, takeover, join; at each size.
    Calm,
    /// 2,000 sources with events.
    Busy,
}

/// What is to be measured.
#[derive(Debug)]
pub struct Scale<'a> {
    pub binary: &'a Path,
    /// How many sources.
    pub sizes: &'a [usize],
    /// These parts, or all.
    pub only: &'a [Part],
    /// The report, as Markdown.
    pub out: &'a Path,
}

/// One part as it was measured.
struct Chapter {
    title: String,
    scene: String,
    rows: Vec<Row>,
    proof: Proof,
}

impl Scale<'_> {
    /// Measures, prints the report and writes it. Returns whether every promise held.
    ///
    /// # Errors
    /// When something does not come up, or does not do what is to be measured.
    pub async fn run(&self) -> Result<bool> {
        ensure!(self.binary.is_file(), "there is no binary at {}: run `make bench-scale`", self.binary.display());
        let wanted = |part| self.only.is_empty() || self.only.contains(&part);
        let most = self.sizes.iter().copied().filter(|_| wanted(Part::Calm)).chain([busy::SOURCES]).max();
        limits::open_files_for(most.unwrap_or(busy::SOURCES))?;
        let watch = Stopwatch::start();
        let mut report = Report::begin(self.out, &report::head(&Machine::here(self.binary, &IN_MEMORY)?))?;
        let mut all_held = true;
        let mut costs = Vec::new();
        for size in self.sizes.iter().copied().filter(|_| wanted(Part::Calm)) {
            say(format_args!("\n-- {size} sources without news"));
            let place = Arc::new(Place::temporary("scale")?);
            let measured = calm::measure(&place, self.binary, size).await;
            let (chapter, cost) = self.kept(&place, measured)?;
            costs.push((size, cost));
            all_held &= self.tell(&mut report, &place, &chapter)?;
        }
        if let [(few, cheap), .., (many, dear)] = costs.as_slice() {
            report.tell(&growth(*few, cheap, *many, dear))?;
        }
        if wanted(Part::Busy) {
            say(format_args!("\n-- {} sources with events", busy::SOURCES));
            let place = Arc::new(Place::temporary("scale")?);
            let chapter = self.kept(&place, busy::measure(&place, self.binary).await)?;
            all_held &= self.tell(&mut report, &place, &chapter)?;
        }
        say(format_args!("all of it after {watch}; the same in {}", self.out.display()));
        Ok(all_held)
    }

    /// What was measured; of a run that failed, the logs stay.
    fn kept<T>(&self, place: &Place, measured: Result<T>) -> Result<T> {
        if let Err(error) = &measured {
            evidence::leave(&format!("{error:#}"), place.path(), &self.out.with_file_name("evidence"))?;
        }
        measured
    }

    fn tell(&self, report: &mut Report, place: &Place, chapter: &Chapter) -> Result<bool> {
        let rows: Vec<_> =
            chapter.rows.iter().map(|row| vec![row.what.clone(), row.measured.clone(), row.goal.clone()]).collect();
        let mut text = format!("\n## {}\n\n{}\n\n", chapter.title, chapter.scene);
        table(&mut text, &["", "measured", "goal"], &rows);
        let _ = writeln!(text, "\n{}", verdict(&chapter.proof));
        report.tell(&text)?;
        let held = chapter.proof.findings.clean();
        if !held {
            let what = format!("A PROMISE WAS BROKEN\n\n{}", chapter.proof);
            evidence::leave(&what, place.path(), &self.out.with_file_name("evidence"))?;
        }
        Ok(held)
    }
}

/// What an idle poll cost, in microseconds of CPU.
struct Cost {
    replicas: f64,
    postgres: f64,
}

fn growth(few: usize, cheap: &Cost, many: usize, dear: &Cost) -> String {
    let row = |who: &str, cheap: f64, dear: f64| {
        let row =
            at_most(format!("CPU of {who} for an idle poll, at {many} by that at {few}"), dear / cheap, 1.2, "", 2);
        vec![row.what, row.measured, row.goal]
    };
    let rows = vec![
        row("the replicas", cheap.replicas, dear.replicas),
        row("PostgreSQL", cheap.postgres, dear.postgres),
        row("both", cheap.replicas + cheap.postgres, dear.replicas + dear.postgres),
    ];
    let mut text = format!("\n## {many} sources beside {few}\n\n");
    table(&mut text, &["", "measured", "goal"], &rows);
    text
}

/// A number that is to be no larger than its goal.
fn at_most(what: impl Into<String>, measured: f64, goal: f64, unit: &str, digits: usize) -> Row {
    let met = if measured <= goal { "met" } else { "NOT met" };
    Row::new(what, format!("{measured:.digits$}{unit}"), format!("at most {goal}{unit}: {met}"))
}

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let waiting = async {
        while !is_so().await? {
            tokio::time::sleep(super::TICK).await;
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, waiting).await.with_context(|| format!("waited {PATIENCE:?} in vain: {what}"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_says_whether_it_is_met() {
        let row = at_most("memory", 299.6, 300.0, " MB", 0);
        assert_eq!((row.measured.as_str(), row.goal.as_str()), ("300 MB", "at most 300 MB: met"));
        assert!(at_most("memory", 300.4, 300.0, " MB", 0).goal.ends_with("NOT met"));
    }
}
