//! Sources without news: what a start, a rest, a takeover and a join cost.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::objects::Poll;
use super::reading::{Reading, Span};
use super::writes::Writes;
use super::{Chapter, Cost, POLLS_PER_SECOND, REPLICAS, at_most, until};
use crate::bench::cpu::resident_mib;
use crate::bench::report::{Row, number, seconds};
use crate::bench::start;
use crate::bench::stream::{Follower, names};
use crate::clock;
use crate::narrate::say;
use crate::place::Place;
use crate::source::SourceConfig;
use crate::stage::Stage;

/// The kernel counts CPU time in steps of 10 ms.
const WINDOW: Duration = Duration::from_mins(1);
/// After a start the statuses are written at the pace of the replicas. It has calmed down when this passes with no more
/// writes than are allowed at rest.
const CALM: Duration = Duration::from_secs(5);
const WRITES_AT_REST: f64 = 2.0;
const BALANCED: f64 = 1.05;
const BALANCED_WITHIN: Duration = Duration::from_secs(30);

pub(super) async fn measure(place: &Arc<Place>, binary: &Path, size: usize) -> Result<(Chapter, Cost)> {
    let names = names("calm", size);
    let sources = names.iter().map(|name| SourceConfig::new(name, 0)).collect();
    let mut stage = Stage::without_objects(place, binary, sources, 1).await?;
    let poll = Poll {
        least: Duration::from_millis(200),
        idle: Duration::from_secs(1) * u32::try_from(size.div_ceil(POLLS_PER_SECOND).max(1))?,
    };
    let made = Instant::now();
    stage.create(&names, poll).await?;
    say(format_args!("{size} EventSources made after {:.1} s", made.elapsed().as_secs_f64()));

    let mut run = Run { names, follower: Follower::default(), rows: Vec::new() };
    run.begin(&mut stage).await?;
    let cost = run.rest(&stage, poll.idle).await?;
    run.lose_one(&mut stage).await?;
    run.win_one(&mut stage).await?;
    let proof = stage.prove(None).await?;
    let scene = format!(
        "Three replicas, {size} sources without events, `maxIdleInterval` {} s: {POLLS_PER_SECOND} polls/s or a few more. CPU for \
         a poll is all CPU by the number of polls, Leases, watches and statuses included.",
        poll.idle.as_secs()
    );
    Ok((Chapter { title: format!("{size} sources without news"), scene, rows: run.rows, proof }, cost))
}

struct Run {
    names: Vec<String>,
    follower: Follower,
    rows: Vec<Row>,
}

impl Run {
    /// All replicas are started at once, with all objects there.
    async fn begin(&mut self, stage: &mut Stage) -> Result<()> {
        let (before, reading) = (Writes::so_far(&stage.client).await?, Reading::of(stage).await?);
        let (started, starting) = (clock::now_us(), Instant::now());
        start(stage, &REPLICAS).await?;
        let ready = starting.elapsed();
        let (names, follower) = (&self.names, &mut self.follower);
        until("every source is asked", async || {
            follower.read(stage.source.log());
            Ok(follower.asked_since(names, started))
        })
        .await?;
        let last = asked_after(stage, &self.names, started).last().copied().unwrap_or(0);
        let span = reading.until_now(stage).await?;
        say(format_args!("all are asked after {:.1} s; {}", seconds(last), span.load()));
        self.rows.push(at_most("all sources are asked, from the start of the processes", seconds(last), 30.0, " s", 1));
        self.rows.push(Row::aside("the replicas are ready after", format!("{:.1} s", ready.as_secs_f64())));
        let calm = self.calm_down(stage).await?;
        let wrote = Writes::so_far(&stage.client).await?.since(&before);
        self.rows.extend([
            Row::aside("a start: CPU until all are asked", span.cpu()),
            Row::aside("a start: machine until all are asked", span.load()),
            Row::aside("a start: writes to the API server until it has calmed down", wrote.to_string()),
            Row::aside("a start: it has calmed down after another", format!("{:.0} s", calm.as_secs_f64())),
        ]);
        Ok(())
    }

    /// Waits until no more is written than at rest.
    async fn calm_down(&self, stage: &Stage) -> Result<Duration> {
        let from = Instant::now();
        until("the API server is left alone", async || {
            let reading = Reading::of(stage).await?;
            tokio::time::sleep(CALM).await;
            let span = reading.until_now(stage).await?;
            Ok(span.per_second(span.writes.total()) <= WRITES_AT_REST * number(REPLICAS.len()))
        })
        .await?;
        Ok(from.elapsed().saturating_sub(CALM))
    }

    async fn rest(&mut self, stage: &Stage, idle: Duration) -> Result<Cost> {
        // From 200 ms to the longest interval: sources that were asked last are the last to be there.
        tokio::time::sleep(2 * idle).await;
        let reading = Reading::of(stage).await?;
        tokio::time::sleep(WINDOW).await;
        let span = reading.until_now(stage).await?;
        say(format_args!("at rest: {}", span.load()));
        let cost =
            Cost { replicas: span.per_poll_us(|used| used.replicas), postgres: span.per_poll_us(|used| used.postgres) };
        let replicas = number(REPLICAS.len());
        let writes = span.per_second(span.writes.total()) / replicas;
        let mut resident = Vec::new();
        for (_, id, _) in stage.fleet.addresses() {
            resident.push(resident_mib(id)? * 1.048_576);
        }
        let most = resident.iter().copied().fold(0.0, f64::max);
        self.rows.extend([
            Row::aside("polls/s", format!("{:.0}", span.polls_per_second())),
            at_most("CPU of PostgreSQL for an idle poll", cost.postgres, 25.0, " µs", 1),
            Row::aside("CPU of the replicas for an idle poll", format!("{:.1} µs", cost.replicas)),
            Row::aside("CPU of the fake source for a poll", format!("{:.1} µs", span.per_poll_us(|used| used.source))),
            Row::aside("CPU of the control plane, of one core", core_share(&span)),
            at_most("memory of the largest replica", most, 300.0, " MB", 0),
            at_most("writes/s to the API server, of each replica", writes, WRITES_AT_REST, "", 2),
            Row::aside(format!("these, in {} s", WINDOW.as_secs()), span.writes.to_string()),
            Row::aside("machine at rest", span.load()),
        ]);
        Ok(cost)
    }

    /// One replica is killed.
    async fn lose_one(&mut self, stage: &mut Stage) -> Result<()> {
        self.follower.read(stage.source.log());
        let victim = REPLICAS[REPLICAS.len() - 1];
        let orphans: Vec<String> =
            self.follower.askers().filter(|(_, asker)| is(asker, victim)).map(|(name, _)| name.to_owned()).collect();
        let killed = clock::now_us();
        stage.fleet.kill(victim).await?;
        let reading = Reading::of(stage).await?;
        let follower = &mut self.follower;
        until("the sources of a killed replica are asked again", async || {
            follower.read(stage.source.log());
            Ok(follower.asked_since(&orphans, killed))
        })
        .await?;
        let span = reading.until_now(stage).await?;
        let after = asked_after(stage, &orphans, killed);
        let at = |percent: usize| seconds(after[(after.len() * percent / 100).min(after.len() - 1)]);
        say(format_args!("{} sources taken over after {:.1} s", orphans.len(), at(100)));
        self.rows.extend([
            at_most(format!("{} sources are asked again after kill -9 (p99)", orphans.len()), at(99), 8.0, " s", 2),
            Row::aside("the same: median and longest", format!("{:.2} s, {:.2} s", at(50), at(100))),
            Row::aside("a takeover: writes to the API server until then", span.writes.to_string()),
            Row::aside("a takeover: CPU until then", span.cpu()),
        ]);
        Ok(())
    }

    /// It comes back, and gets its share.
    async fn win_one(&mut self, stage: &mut Stage) -> Result<()> {
        self.calm_down(stage).await?;
        self.follower.read(stage.source.log());
        let before: HashMap<String, String> =
            self.follower.askers().map(|(name, asker)| (name.to_owned(), asker.to_owned())).collect();
        let reading = Writes::so_far(&stage.client).await?;
        start(stage, &REPLICAS[REPLICAS.len() - 1..]).await?;
        let joined = Instant::now();
        let (mut balanced, mut share) = (None, f64::INFINITY);
        while joined.elapsed() < BALANCED_WITHIN {
            tokio::time::sleep(Duration::from_millis(250)).await;
            self.follower.read(stage.source.log());
            share = self.balance();
            if share <= BALANCED {
                balanced.get_or_insert(joined.elapsed());
            }
        }
        let moved =
            self.follower.askers().filter(|(name, asker)| before.get(*name).is_none_or(|old| old != asker)).count();
        let percent = |count: f64| format!("{:.1} %", 100.0 * count / number(self.names.len()));
        let ideal = number(self.names.len()) / number(REPLICAS.len());
        let balanced = balanced.map_or("not in that time".to_owned(), |after| format!("{:.1} s", after.as_secs_f64()));
        self.rows.extend([
            at_most("most/average sources of a replica, 30 s after a third one joined", share, BALANCED, "", 3),
            Row::aside(format!("at {BALANCED} after"), balanced),
            Row::aside("sources that moved (ideal)", format!("{} ({})", percent(number(moved)), percent(ideal))),
            Row::aside(
                "a join: writes to the API server until then",
                Writes::so_far(&stage.client).await?.since(&reading).to_string(),
            ),
        ]);
        Ok(())
    }

    /// The largest share of a replica by the average, as the sources see it.
    fn balance(&self) -> f64 {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, asker) in self.follower.askers() {
            *counts.entry(asker.rsplit_once('_').map_or(asker, |(pod, _)| pod)).or_default() += 1;
        }
        let most = counts.values().copied().max().unwrap_or(0);
        number(most) * number(REPLICAS.len()) / number(self.names.len())
    }
}

/// How long after a moment each of these sources was asked first, in microseconds, the longest last.
fn asked_after(stage: &Stage, names: &[String], moment: u64) -> Vec<u64> {
    let mut first: HashMap<&str, u64> = HashMap::with_capacity(names.len());
    let accesses = stage.source.log().entries();
    for access in accesses.iter().filter(|access| access.started > moment) {
        let at = first.entry(&access.source).or_insert(access.started);
        *at = (*at).min(access.started);
    }
    let mut after: Vec<u64> = names.iter().filter_map(|name| first.get(name.as_str())).map(|at| at - moment).collect();
    after.sort_unstable();
    after
}

fn is(asker: &str, pod: &str) -> bool {
    asker.rsplit_once('_').is_some_and(|(name, _)| name == pod)
}

fn core_share(span: &Span) -> String {
    format!("{:.0} %", 100.0 * span.used.control_plane.as_secs_f64() / span.used.elapsed.as_secs_f64())
}
