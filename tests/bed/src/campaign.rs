//! `make chaos`: replicas, servers and network struck by one seeded plan for as long as one likes, and the report.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::json;

use crate::access_log::Access;
use crate::chaos::Chaos;
use crate::checker::Violation;
use crate::clock;
use crate::leases::LeaseWatch;
use crate::lines::Lines;
use crate::narrate::say;
use crate::nemesis::{Cast, LONGEST_SERVING_MS, Planned, plan, schedule};
use crate::place::Place;
use crate::proof::Proof;
use crate::source::{Fault, SourceConfig};
use crate::stage::{Stage, apply_spec};
use crate::wall_clock::WallClock;

/// Scaled up, there are this many replicas.
const MOST_REPLICAS: usize = 5;

/// From the end of the strikes until everything is loaded again: a server that was the last to come back, a takeover, and
/// the longest back-off.
const RECOVERY: Duration = Duration::from_secs(90);

/// I8: what may be left of a wait when the time of all that explains it is taken off (`checker/still.rs`): strikes come faster
/// than takeovers, and one that was interrupted begins again.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A run shorter than this may hold all it has loaded in memory when it is checked, a longer one loads in smaller pages.
const SHORT: Duration = Duration::from_mins(5);

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// The `headgate` binary.
    pub binary: PathBuf,
    pub length: Duration,
    pub seed: u64,
    /// 3 to 5.
    pub replicas: usize,
    /// At least [`KINDS`].
    pub sources: usize,
    /// Where everything is left when a promise was broken, in a folder named by the seed.
    pub evidence: PathBuf,
    /// The rule that the binary is to leave out.
    pub mutation: Option<&'static str>,
}

/// A stage on which replicas run, and what is to be done to it.
struct Set {
    stage: Stage,
    lines: BTreeMap<String, Lines>,
    clocks: BTreeMap<String, WallClock>,
    plan: Vec<Planned>,
    names: Vec<String>,
    /// Those that run at the beginning, and at the end.
    replicas: Vec<String>,
}

/// Longer than D: such a request is in flight by its EXTEND alone. And shorter than the timeout, with slow lines both ways.
const THINKING_MS: u64 = 3_400;

/// A replica that was killed is replaced within less.
const LONGEST_RETRY_AFTER_S: u32 = 8;

/// One of each kind of trouble that a source makes by itself.
pub const KINDS: usize = 12;

impl Campaign {
    /// Runs it, prints the report, and leaves the evidence when a promise was broken.
    ///
    /// # Errors
    /// When something does not come up, does not end well, or does not load again after the last strike.
    pub async fn run(&self) -> Result<Proof> {
        let place = Arc::new(Place::temporary("chaos")?);
        let outcome = self.run_in(&place).await;
        let what = match &outcome {
            Ok(proof) if proof.findings.clean() => return outcome,
            Ok(proof) => {
                let mut broken: Vec<_> = proof.findings.violations.iter().collect();
                // Those of the store have no lines: what was seen on the way comes first.
                broken.sort_by_key(|violation| violation.seen_at());
                say(format_args!("a promise was broken; the first: {}", broken[0]));
                let mut text = format!("seed {}\n{proof}\n", self.seed);
                for violation in broken {
                    writeln!(text, "{violation}")?;
                }
                text
            }
            Err(error) => format!("seed {}\n{error:#}\n", self.seed),
        };
        crate::evidence::leave(&what, place.path(), &self.evidence.join(self.seed.to_string()))?;
        outcome
    }

    /// Runs it until a rule is broken. Returns when that was seen, since the beginning of the strikes, and what.
    ///
    /// # Errors
    /// When something does not come up, or does not end well.
    pub async fn run_until_broken(&self) -> Result<Option<(Duration, Violation)>> {
        let place = Arc::new(Place::temporary("mutant")?);
        let Set { mut stage, lines, clocks, plan, .. } = self.set(&place).await?;
        let begun = clock::now_us();
        let broken = match Chaos::on(&mut stage, &lines, &clocks).until_broken().strike(&plan, self.length).await? {
            Some(broken) => Some(broken),
            None => stage.prove(None).await?.findings.violations.into_iter().min_by_key(Violation::seen_at),
        };
        let after =
            |broken: &Violation| Duration::from_micros(broken.seen_at().min(clock::now_us()).saturating_sub(begun));
        Ok(broken.map(|broken| (after(&broken), broken)))
    }

    async fn run_in(&self, place: &Arc<Place>) -> Result<Proof> {
        let Set { mut stage, lines, clocks, plan, names, replicas } = self.set(place).await?;
        Chaos::on(&mut stage, &lines, &clocks).strike(&plan, self.length).await?;
        all_are_loaded(&stage, &names).await?;
        all_are_sound(&stage, &replicas).await?;
        let proof = stage.prove(Some(LONGEST_WAIT)).await?;
        say(format_args!(
            "\nseed {}, {} replicas, {} sources, {:?}",
            self.seed, self.replicas, self.sources, self.length
        ));
        say(&proof);
        Ok(proof)
    }

    async fn set(&self, place: &Arc<Place>) -> Result<Set> {
        let sources = sources(self.sources);
        let names: Vec<String> = sources.iter().map(|source| source.feed.name.clone()).collect();
        let all: Vec<String> = ('a'..).take(MOST_REPLICAS).map(|letter| format!("headgate-{letter}")).collect();
        let (replicas, further) = all.split_at(self.replicas.min(MOST_REPLICAS));
        let plan = plan(self.seed, Cast { replicas, further, sources: &names }, self.length);
        let schedule_file = place.path().join("schedule.txt");
        std::fs::write(&schedule_file, schedule(self.seed, &plan))?;
        say(format_args!("seed {}: {} strikes, in {}", self.seed, plan.len(), schedule_file.display()));

        let mut stage = Stage::without_objects(place, &self.binary, sources, self.seed).await?;
        for name in &names {
            apply_spec(&stage.client, name, &self.spec(name, &stage.source.url(name))).await?;
            stage.min_intervals.insert(name.clone(), min_interval_ms(name) * 1000);
        }
        let (mut lines, mut clocks) = (BTreeMap::new(), BTreeMap::new());
        for replica in &all {
            let own = Lines::of(replica, place, &stage.parts, stage.source.address()).await?;
            let clock = WallClock::of(replica, place)?;
            let mutation = self.mutation.map(|mutation| ("HEADGATE_MUTATION", mutation.into()));
            let environment = own.environment().into_iter().chain(clock.environment()).chain(mutation);
            stage.fleet.furnish(replica, environment.collect());
            lines.insert(replica.clone(), own);
            clocks.insert(replica.clone(), clock);
        }
        stage.leases = Some(LeaseWatch::begin(&stage.client));
        for replica in replicas {
            stage.fleet.start(replica)?;
        }
        for replica in replicas {
            stage.fleet.ready(replica).await?;
        }
        Ok(Set { stage, lines, clocks, plan, names, replicas: replicas.to_vec() })
    }

    /// Sources are asked again soon whatever happens, so that a run sees many requests.
    fn spec(&self, name: &str, url: &str) -> serde_json::Value {
        let batch = if self.length < SHORT { 200 } else { 50 };
        let least = min_interval_ms(name);
        let [least, idle, error] = [least, least.max(500), least.max(1_000)].map(|ms| format!("{ms}ms"));
        json!({
            "http": { "url": url, "timeout": "5s" },
            "poll": {
                "minInterval": least, "maxIdleInterval": idle, "maxErrorInterval": error, "batchSize": batch,
            },
        })
    }
}

/// Waits until every source has sent a whole page, of events or of nothing, to a request since now.
async fn all_are_loaded(stage: &Stage, names: &[String]) -> Result<()> {
    let (since, begun) = (clock::now_us(), Instant::now());
    loop {
        let accesses = stage.source.log().entries();
        let waiting: Vec<&String> = names.iter().filter(|name| !is_loaded(name, since, &accesses)).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > RECOVERY {
            bail!("{RECOVERY:?} after the last strike these sources are not loaded: {waiting:?}");
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// An answer that never came, or was cut, stands in the log with its status.
fn is_loaded(source: &str, since: u64, accesses: &[Access]) -> bool {
    let is_page = |access: &Access| access.status == 200 && access.complete;
    accesses.iter().any(|access| access.source == source && access.started > since && is_page(access))
}

/// Every replica runs, and by its own count none has sent a request too early.
async fn all_are_sound(stage: &Stage, replicas: &[String]) -> Result<()> {
    for name in replicas {
        ensure!(stage.fleet.is_running(name) && !stage.fleet.is_ending(name), "{name} does not run at the end");
        let violations = stage.fleet.gate_violations(name).await?;
        ensure!(violations == 0, "{name} counts {violations} gate violations");
    }
    stage.fleet.none_has_failed()
}

/// One of each kind of trouble that a source can make while its holder is struck, and then ordinary ones.
fn sources(count: usize) -> Vec<SourceConfig> {
    let growing = |name: &str| SourceConfig::new(name, 500).growing_by(50.0);
    let mut sources = vec![
        SourceConfig::new("backlog", 10_000_000),
        SourceConfig::new("backlog-slow", 10_000_000).sometimes(1.0, Fault::SlowBody { ms: 300 }),
        SourceConfig::new("backlog-far", 10_000_000).answering_after(Duration::from_millis(80)),
        growing("steady").sometimes(0.2, Fault::Thinks { ms: THINKING_MS }),
        growing("opaque").with_opaque_ids(),
        growing("flaky").sometimes(0.2, Fault::Status(500)).sometimes(0.2, Fault::Thinks { ms: THINKING_MS }),
        growing("cut").sometimes(0.1, Fault::CutBody { share: 0.6 }),
        growing("limited")
            .sometimes(0.1, Fault::RateLimited { seconds: 1, as_date: false })
            .sometimes(0.1, Fault::RateLimited { seconds: 2, as_date: true })
            // Longer than others need to take the source over: who took the answer may be gone by then.
            .sometimes(0.05, Fault::RateLimited { seconds: LONGEST_RETRY_AFTER_S, as_date: false }),
        growing("hanging")
            .sometimes(0.03, Fault::NeverAnswers)
            .sometimes(0.1, Fault::NoticesLate { ms: LONGEST_SERVING_MS }),
        growing("untidy")
            .sometimes(0.1, Fault::Repeats)
            .sometimes(0.1, Fault::MoreThanAsked)
            .sometimes(0.1, Fault::Thinks { ms: THINKING_MS }),
        growing("backwards").sometimes(0.1, Fault::Unsorted),
        growing("redirecting").sometimes(0.1, Fault::Redirect),
    ];
    sources.extend((KINDS..count).map(|number| SourceConfig::new(&format!("more-{number}"), 100).growing_by(5.0)));
    sources
}

/// Some have a `minInterval` of their own: shorter than a source may serve somebody who is gone, as the way of a request is
/// allowed for (docs/guarantees.md).
fn min_interval_ms(name: &str) -> u64 {
    match name {
        "untidy" => 250,
        "flaky" => 300,
        "opaque" => 450,
        "redirecting" => 1_200,
        _ if name.starts_with("more-") && name.ends_with(['1', '3', '5', '7', '9']) => 700,
        _ => 200,
    }
}

/// Where the evidence of a campaign is left, if nothing else is said.
#[must_use]
pub fn default_evidence() -> PathBuf {
    Path::new(&crate::repository()).join(".headgate/evidence/chaos")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::access;

    #[test]
    fn a_source_is_loaded_when_it_has_sent_a_whole_page_since() {
        let log = |page: Access| [access("orders").at_ms(0).build(), page];
        assert!(!is_loaded("orders", 100_000, &log(access("orders").at_ms(200).incomplete().build())));
        assert!(!is_loaded("orders", 100_000, &log(access("orders").at_ms(200).limited(1).build())));
        assert!(!is_loaded("orders", 100_000, &log(access("bills").at_ms(200).build())));
        assert!(is_loaded("orders", 100_000, &log(access("orders").at_ms(200).build())));
    }
}
