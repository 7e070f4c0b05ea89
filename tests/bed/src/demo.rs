//! The demonstration: three replicas, three flaky sources, one kill and one termination on screen, and the proof.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::access_log::Access;
use crate::fleet::SourceRow;
use crate::narrate::say;
use crate::place::Place;
use crate::proof::Proof;
use crate::source::{Fault, SourceConfig};
use crate::stage::Stage;

const REPLICAS: [&str; 3] = ["headgate-a", "headgate-b", "headgate-c"];
const SOURCES: [&str; 3] = ["flaky", "slow", "backlog"];
const TICK: Duration = Duration::from_secs(1);

/// I8: a takeover of 8 s after the kill, and the longest idle and error waits before it. No source is to stand still longer.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// What happens when, in seconds of loading.
const KILL_AT: u64 = 14;
const BACK_AFTER_KILL_AT: u64 = 26;
const TERMINATE_AT: u64 = 36;
const BACK_AFTER_TERMINATION_AT: u64 = 46;
const END_AT: u64 = 60;

/// Runs the demonstration and prints the proof. Returns whether P1 to P4 held; if not, what happened is left in `evidence`.
///
/// # Errors
/// When something does not come up, or does not end well.
pub async fn run(binary: &Path, evidence: &Path) -> Result<bool> {
    let place = Arc::new(Place::temporary("demo")?);
    let shown = show(&place, binary).await;
    if let Err(error) = &shown {
        crate::evidence::leave(&format!("the demonstration failed: {error:#}\n"), place.path(), evidence)?;
    }
    tell(&shown?, evidence, place.path())
}

async fn show(place: &Arc<Place>, binary: &Path) -> Result<Proof> {
    let mut stage = Stage::set(place, binary, sources(), 1).await?;
    for name in REPLICAS {
        stage.fleet.start(name)?;
    }
    for name in REPLICAS {
        stage.fleet.ready(name).await?;
    }
    say(format_args!("three replicas run; loading for {END_AT} s\n"));

    let mut screen = Screen::new();
    let begun = Instant::now();
    let (mut killed, mut terminated) = (None, None);
    for second in 1..=END_AT {
        tokio::time::sleep((TICK * u32::try_from(second)?).saturating_sub(begun.elapsed())).await;
        let held = stage.fleet.held().await;
        match second {
            KILL_AT => {
                let victim = holder_of(&held, "backlog", None);
                stage.fleet.kill(&victim).await?;
                screen.announce(&format!("kill -9 {victim}"));
                killed = Some(victim);
            }
            TERMINATE_AT => {
                let victim = holder_of(&held, "slow", killed.as_deref());
                stage.fleet.ask_to_end(&victim)?;
                screen.announce(&format!("SIGTERM {victim}"));
                terminated = Some(victim);
            }
            BACK_AFTER_KILL_AT | BACK_AFTER_TERMINATION_AT => {
                let name = if second == BACK_AFTER_KILL_AT { &killed } else { &terminated };
                let name = name.as_deref().context("nobody was struck")?;
                if second == BACK_AFTER_TERMINATION_AT {
                    stage.fleet.ended(name, TICK * 30).await?;
                }
                stage.fleet.start(name)?;
                screen.announce(&format!("{name} is back"));
            }
            _ => {}
        }
        screen.show(second, &held, &stage.source.log().entries());
    }
    say("\nthe end of loading: the replicas are terminated, the log and the store are checked\n");
    stage.prove(Some(LONGEST_WAIT)).await
}

fn sources() -> Vec<SourceConfig> {
    vec![
        SourceConfig::new("flaky", 2_000).growing_by(150.0).sometimes(0.2, Fault::Status(500)),
        SourceConfig::new("slow", 2_000).growing_by(60.0).sometimes(1.0, Fault::SlowBody { ms: 350 }),
        SourceConfig::new("backlog", 10_000_000),
    ]
}

/// The replica that holds a source, but never the one that was struck before: then one that holds another source, or any.
fn holder_of(held: &[(String, SourceRow)], source: &str, but: Option<&str>) -> String {
    let others = || held.iter().filter(|(replica, _)| Some(replica.as_str()) != but);
    let holder = others().find(|(_, row)| row.name == source).or_else(|| others().next());
    let holder = holder.map(|(replica, _)| replica.as_str());
    holder.or_else(|| REPLICAS.into_iter().find(|name| Some(*name) != but)).unwrap_or(REPLICAS[0]).to_owned()
}

#[expect(clippy::print_stdout, reason = "the proof is what this command is for")]
fn tell(proof: &Proof, evidence: &Path, place: &Path) -> Result<bool> {
    println!("{proof}");
    if proof.findings.clean() {
        return Ok(true);
    }
    let mut text = String::new();
    for violation in &proof.findings.violations {
        writeln!(text, "{violation}")?;
    }
    crate::evidence::leave(&text, place, evidence)?;
    Ok(proof.holds())
}

/// A table that is rewritten on a terminal, and plain lines elsewhere.
struct Screen {
    terminal: bool,
    drawn: usize,
    events: HashMap<String, u64>,
}

impl Screen {
    fn new() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), drawn: 0, events: HashMap::new() }
    }

    /// A line that stays.
    fn announce(&mut self, what: &str) {
        self.drawn = 0;
        say(format_args!("-- {what}"));
    }

    fn show(&mut self, second: u64, held: &[(String, SourceRow)], accesses: &[Access]) {
        let mut text = String::new();
        if self.terminal && self.drawn > 0 {
            // Up to the first line of the table, and clear from there.
            let _ = write!(text, "\x1b[{}A\x1b[J", self.drawn);
        }
        if self.terminal || second % 10 == 1 {
            let _ = writeln!(
                text,
                "{:>4}  {:<10} {:<12} {:>10} {:>9} {:>10}  STATE",
                "TIME", "SOURCE", "HOLDER", "CURSOR", "EVENTS/S", "LAST GAP"
            );
        }
        for source in SOURCES {
            let row = held.iter().find(|(_, row)| row.name == source);
            let _ = writeln!(text, "{second:>3}s  {}", self.row(source, row, accesses));
        }
        self.drawn = SOURCES.len() + 1;
        let mut out = std::io::stdout();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    fn row(&mut self, source: &str, held: Option<&(String, SourceRow)>, accesses: &[Access]) -> String {
        let gap = last_gap_ms(source, accesses).map_or("-".to_owned(), |gap| format!("{gap} ms"));
        let Some((replica, row)) = held else {
            return format!("{source:<10} {:<12} {:>10} {:>9} {gap:>10}  waits for a replica", "-", "-", "-");
        };
        let stored = row.events_loaded.unwrap_or(0);
        let per_second = stored.saturating_sub(self.events.insert(source.to_owned(), stored).unwrap_or(stored));
        let state = match (&row.problem, row.caught_up) {
            (Some(problem), _) => problem.reason.as_str(),
            (None, Some(true)) => "CaughtUp",
            (None, Some(false)) => "Backfilling",
            (None, None) => "Starting",
        };
        let cursor = row.cursor.as_deref().unwrap_or("-");
        format!("{source:<10} {replica:<12} {cursor:>10} {per_second:>9} {gap:>10}  {state}")
    }
}

/// Between the starts of the last two requests, as the source saw them.
fn last_gap_ms(source: &str, accesses: &[Access]) -> Option<u64> {
    let mut last = accesses.iter().rev().filter(|access| access.source == source).map(|access| access.started);
    let (last, before) = (last.next()?, last.next()?);
    Some(last.saturating_sub(before) / 1000)
}
