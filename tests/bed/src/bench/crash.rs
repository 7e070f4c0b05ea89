//! What travels twice when a replica is killed: with prefixes committed while a body streams, and without.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::report::{Figure, Row, number};
use super::stream::{Follower, Poll, names};
use super::{start, until};
use crate::access_log::{Access, Delivered};
use crate::checker::{Findings, Nemesis};
use crate::clock;
use crate::narrate::say;
use crate::place::Place;
use crate::proof::Proof;
use crate::source::{Fault, SourceConfig};
use crate::stage::Stage;

const REPLICA: &str = "headgate-a";
const KILLS: usize = 40;
const SOURCES: u64 = 5;
const PAGE: u32 = 1000;
const ENDLESS: u64 = 1 << 40;

/// A slow body takes this long, from the first source to the last.
const SLOW_MS: (u64, u64) = (180, 350);

/// The source's own buffer, so that what it counts as transported has left but for some 50 events.
const SEND_BUFFER: u32 = 8 * 1024;

/// Sources are held this long before the next kill, so that it strikes anywhere in the cycle of a source.
const HELD_MS: std::ops::Range<u64> = 400..1200;

/// The next life begins sooner than by default, so that there are more of them.
const LEASE: [(&str, &str); 2] = [("HEADGATE_LEASE_DURATION", "2s"), ("HEADGATE_LEASE_RENEW_INTERVAL", "500ms")];

/// One of the four runs.
#[derive(Debug, Clone, Copy)]
struct Case {
    slow: bool,
    progressive: bool,
}

impl Case {
    fn name(self) -> String {
        let bodies = if self.slow { "slow" } else { "fast" };
        format!("{bodies}-{}", if self.progressive { "with" } else { "without" })
    }
}

pub(super) async fn measure(binary: &Path, mutated: &Path) -> Result<Figure> {
    let mut rows = Vec::new();
    let mut proof =
        Proof { findings: Findings::default(), takeovers: Vec::new(), handovers: Vec::new(), nemeses: Vec::new() };
    let mut rates = Vec::new();
    for slow in [false, true] {
        let bodies = if slow { "slow bodies" } else { "fast bodies" };
        let without = run(Case { slow, progressive: false }, mutated, &mut proof).await?;
        let with = run(Case { slow, progressive: true }, binary, &mut proof).await?;
        rates.extend([without.kills_per_minute, with.kills_per_minute]);
        rows.push(Row::aside(format!("{bodies}, whole bodies committed: per kill and source"), without.told()));
        rows.push(Row::aside(format!("{bodies}, with progressive commit"), with.told()));
        rows.push(Row::new(
            format!("{bodies}: how many times fewer, of all"),
            format!("{:.1}", without.mean() / with.mean().max(f64::MIN_POSITIVE)),
            "4",
        ));
    }
    let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let fastest = rates.iter().copied().fold(0.0, f64::max);
    let scene = format!(
        "One replica and {SOURCES} sources that always have more, in pages of {PAGE} events of 300 bytes. {KILLS} × kill -9 in each \
         case, {slowest:.0} to {fastest:.0} a minute, each at a random moment and followed at once by a new process that takes the \
         sources over. Slow bodies take {} to {} ms. Without: a build of its own whose replicas commit a body when it has \
         ended. Counted is what the source's network stack had sent beyond the cursor that the next life begins with.",
        SLOW_MS.0, SLOW_MS.1
    );
    Ok(Figure { title: "Transported twice after a kill", scene, rows, proof })
}

/// What one case came to.
#[derive(Debug)]
struct Outcome {
    /// Events transported twice, for each kill and source.
    twice: Vec<u64>,
    delivered: u64,
    kills_per_minute: f64,
}

impl Outcome {
    fn mean(&self) -> f64 {
        let sum: u64 = self.twice.iter().sum();
        number(usize::try_from(sum).unwrap_or(usize::MAX)) / number(self.twice.len())
    }

    fn told(&self) -> String {
        let mut sorted = self.twice.clone();
        sorted.sort_unstable();
        let sum: u64 = sorted.iter().sum();
        let struck = sorted.iter().filter(|twice| **twice > 0).count();
        let largest = sorted.last().copied().unwrap_or_default();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let share = 100.0 * sum as f64 / self.delivered as f64;
        format!(
            "median {median}, largest {largest}, mean {:.1}; {struck} of {} cost any; {share:.2} % of all",
            self.mean(),
            sorted.len()
        )
    }
}

async fn run(case: Case, binary: &Path, proof: &mut Proof) -> Result<Outcome> {
    let place = Arc::new(Place::temporary("bench")?);
    let names = names(&case.name(), usize::try_from(SOURCES)?);
    let sources = names.iter().map(|name| SourceConfig::new(name, ENDLESS).sending_no_more_ahead_than(SEND_BUFFER));
    let mut stage = Stage::without_objects(&place, binary, sources.collect(), 1).await?;
    if case.slow {
        for (name, number) in names.iter().zip(0..) {
            let ms = SLOW_MS.0 + (SLOW_MS.1 - SLOW_MS.0) * number / (SOURCES - 1);
            stage.source.weather(name, Some(Fault::SlowBody { ms }));
        }
    }
    let mut environment: Vec<_> = LEASE.into_iter().map(|(name, value)| (name, value.into())).collect();
    if !case.progressive {
        environment.push(("HEADGATE_MUTATION", "whole-bodies".into()));
    }
    stage.fleet.furnish(REPLICA, environment);
    start(&mut stage, &[REPLICA]).await?;
    let begun = clock::now_us();
    stage.apply(&names, Poll { batch_size: PAGE, idle: "5s" }).await?;
    let (mut follower, mut asked_since) = (Follower::default(), begun);
    let mut dice = StdRng::seed_from_u64(4);
    for _ in 0..KILLS {
        until("every source is asked", async || {
            follower.read(stage.source.log());
            Ok(follower.asked_since(&names, asked_since))
        })
        .await?;
        tokio::time::sleep(Duration::from_millis(dice.random_range(HELD_MS))).await;
        stage.fleet.kill(REPLICA).await?;
        asked_since = clock::now_us();
        stage.fleet.start(REPLICA)?;
    }
    until("every source is asked after the last kill", async || {
        follower.read(stage.source.log());
        Ok(follower.asked_since(&names, asked_since))
    })
    .await?;
    let minutes = number(usize::try_from(clock::now_us() - begun)?) / 60e6;
    let accesses = stage.source.log().entries();
    let twice = transported_twice(&accesses, stage.fleet.nemeses());
    let delivered = accesses.iter().flat_map(|access| &access.delivered).map(Delivered::count).sum();
    let proved = stage.prove(None).await.with_context(|| format!("cannot prove {}", case.name()))?;
    proof.findings.sources.extend(proved.findings.sources);
    proof.findings.violations.extend(proved.findings.violations);
    let outcome = Outcome { twice, delivered, kills_per_minute: number(KILLS) / minutes };
    say(format_args!("{}: {}", case.name(), outcome.told()));
    Ok(outcome)
}

/// For each kill and each source: how many of the events that had been sent before it were asked for again.
fn transported_twice(accesses: &[Access], kills: &[Nemesis]) -> Vec<u64> {
    let mut by_source: BTreeMap<&str, Vec<&Access>> = BTreeMap::new();
    for access in accesses {
        by_source.entry(&access.source).or_default().push(access);
    }
    let mut twice = Vec::new();
    for of_source in by_source.values() {
        for kill in kills {
            let before = of_source.iter().filter(|access| access.started <= kill.until);
            let sent = before.flat_map(|access| &access.delivered).map(|run| run.last).max();
            let after = of_source.iter().filter(|access| access.started > kill.until);
            if let (Some(sent), Some(next)) = (sent, after.min_by_key(|access| access.started)) {
                twice.push(sent.saturating_sub(next.after));
            }
        }
    }
    twice
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::{access, killed};

    #[test]
    fn a_kill_costs_each_source_what_was_sent_beyond_the_cursor_of_its_next_life() {
        let accesses = [
            access("orders").by("a_1").at_ms(0).after(0).delivering(1, 1000).build(),
            access("orders").by("a_1").at_ms(200).after(1000).delivering(1001, 1700).build(),
            access("orders").by("a_2").at_ms(5_000).after(1250).delivering(1251, 2250).build(),
            access("orders").by("a_3").at_ms(9_000).after(2250).delivering(2251, 3250).build(),
            access("bills").by("a_1").at_ms(10).after(0).delivering(1, 1000).build(),
            access("bills").by("a_2").at_ms(5_000).after(1000).delivering(1001, 2000).build(),
        ];
        assert_eq!(transported_twice(&accesses, &[killed("a", 300), killed("a", 8_000)]), [0, 450, 0]);
    }
}
