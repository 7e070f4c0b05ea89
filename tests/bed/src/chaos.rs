//! The driver: does to replicas, servers and sources what was planned, in real time.

mod look;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinHandle;

use crate::checker::{NemesisKind, Violation};
use crate::clock;
use crate::forwarder::{Road, Way};
use crate::lines::Lines;
use crate::narrate::say;
use crate::nemesis::{Peer, Planned, Strike};
use crate::postgres::Postgres;
use crate::stage::Stage;
use crate::wall_clock::WallClock;

/// A terminating replica has this long to hand off and end.
const PATIENCE: Duration = Duration::from_mins(1);
/// How soon something that is not possible yet is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Between two looks at a run that is to end when a rule is broken: each reads the whole store.
const LOOK_EVERY: Duration = Duration::from_secs(4);
/// A server whose process was killed takes connections again after this, on a machine that is well.
const RECOVERED_WITHIN: Duration = Duration::from_secs(5);

/// A replica that is well shows its metrics within this.
const TELLS_WITHIN: Duration = Duration::from_millis(300);

/// What a replica loses when it is overtaken.
const OVERTAKEN: [NemesisKind; 2] = [NemesisKind::LostApiServer, NemesisKind::LostDatabase];

/// The two halves of a strike, in the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Half {
    Begin,
    End,
}

/// Everything that can be struck.
pub struct Chaos<'a> {
    stage: &'a mut Stage,
    /// Of each replica that may ever run.
    lines: &'a BTreeMap<String, Lines>,
    clocks: &'a BTreeMap<String, WallClock>,
    /// Looks on the way whether a rule is broken, and ends there.
    ends_when_broken: bool,
    looked: Instant,
    looking: Option<JoinHandle<Option<Violation>>>,
}

impl<'a> Chaos<'a> {
    #[must_use]
    pub fn on(
        stage: &'a mut Stage,
        lines: &'a BTreeMap<String, Lines>,
        clocks: &'a BTreeMap<String, WallClock>,
    ) -> Self {
        Self { stage, lines, clocks, ends_when_broken: false, looked: Instant::now(), looking: None }
    }

    #[must_use]
    pub fn until_broken(self) -> Self {
        Self { ends_when_broken: true, ..self }
    }

    /// Does what was planned, and then waits until `length` is over. Every server and replica runs at the end, but for a run
    /// that has ended with the broken rule that is returned.
    ///
    /// # Errors
    /// When something cannot be started, a replica does not end well after SIGTERM or ends by itself, or says that it has sent a
    /// request too early.
    pub async fn strike(&mut self, plan: &[Planned], length: Duration) -> Result<Option<Violation>> {
        let begun = Instant::now();
        // When it is due, and since when it waits.
        let mut due: BinaryHeap<Reverse<(Duration, usize, Half, Duration)>> =
            plan.iter().enumerate().map(|(place, it)| Reverse((it.at, place, Half::Begin, it.at))).collect();
        while let Some(Reverse((at, place, half, since))) = due.pop() {
            if let Some(broken) = self.wait(begun + at).await {
                return Ok(Some(broken));
            }
            self.stage.fleet.none_has_failed()?;
            let planned = &plan[place];
            let now = begun.elapsed();
            if !self.is_possible(planned, half) {
                ensure!(now < since + PATIENCE, "{planned}: {} is not there after {PATIENCE:?}", planned.whom);
                due.push(Reverse((now + AGAIN_AFTER, place, half, since)));
                continue;
            }
            let told = if half == Half::Begin { planned.strike.to_string() } else { "that is over".to_owned() };
            say(format_args!("{:>8.3} s  {:<14}  {told}", now.as_secs_f64(), planned.whom));
            if half == Half::Begin {
                self.begin(planned).await.with_context(|| format!("cannot do {planned}"))?;
                let over = now + planned.strike.over_after();
                due.push(Reverse((over, place, Half::End, over)));
            } else {
                self.end(planned).await.with_context(|| format!("cannot undo {planned}"))?;
            }
        }
        if let Some(broken) = self.wait(begun + length).await {
            return Ok(Some(broken));
        }
        self.stage.parts.postgres.start().await?;
        self.stage.parts.control_plane.start().await?;
        self.stage.fleet.none_has_failed()?;
        Ok(None)
    }

    async fn wait(&mut self, until: Instant) -> Option<Violation> {
        while self.ends_when_broken && Instant::now() < until {
            let Some(looking) = &mut self.looking else {
                let next = self.looked + LOOK_EVERY;
                tokio::time::sleep_until(until.min(next).into()).await;
                if next < until {
                    self.looking = Some(look::first_broken(self.stage));
                }
                continue;
            };
            if let Ok(seen) = tokio::time::timeout_at(until.into(), looking).await {
                (self.looking, self.looked) = (None, Instant::now());
                if let Ok(Some(broken)) = seen {
                    return Some(broken);
                }
            }
        }
        tokio::time::sleep_until(until.into()).await;
        None
    }

    /// A replica that hands off late is struck again when it has ended and was started again: its end must be a good one.
    fn is_possible(&self, Planned { whom, strike, .. }: &Planned, half: Half) -> bool {
        match (strike, half) {
            (
                Strike::Kill { .. }
                | Strike::KillWhileDraining { .. }
                | Strike::Freeze { .. }
                | Strike::Terminate { .. },
                Half::Begin,
            ) => self.stage.fleet.is_running(whom) && !self.stage.fleet.is_ending(whom),
            (Strike::Join { .. }, Half::Begin) | (Strike::Terminate { .. }, Half::End) => {
                !self.stage.fleet.is_running(whom)
            }
            _ => true,
        }
    }

    async fn begin(&mut self, Planned { whom, strike, .. }: &Planned) -> Result<()> {
        if strike.ends_a_process() {
            self.keeps_the_gate(whom).await?;
        }
        let Stage { fleet, parts, source, api_away, .. } = &mut *self.stage;
        match strike {
            Strike::Kill { .. } => fleet.kill(whom).await,
            Strike::KillWhileDraining { drained_for, .. } => {
                fleet.ask_to_end(whom)?;
                tokio::time::sleep(*drained_for).await;
                if fleet.is_running(whom) { fleet.kill(whom).await } else { fleet.ended(whom, PATIENCE).await }
            }
            Strike::Freeze { .. } => fleet.pause(whom),
            Strike::Terminate { .. } => fleet.ask_to_end(whom),
            Strike::Join { .. } => fleet.start(whom),
            Strike::Lines { to, road, .. } => {
                losses(to, *road).for_each(|kind| fleet.begins(whom, kind));
                self.lines[whom].become_like(*road, to);
                Ok(())
            }
            Strike::Overtaken { late, .. } => {
                for kind in OVERTAKEN {
                    fleet.begins(whom, kind);
                }
                self.lines[whom].become_like(Road::Cut, &[Peer::ApiServer]);
                self.lines[whom].become_like(Road::Slow { up: *late, down: Duration::ZERO }, &[Peer::Database]);
                Ok(())
            }
            Strike::ClockJump { seconds, .. } => {
                fleet.begins(whom, NemesisKind::WrongClock);
                self.clocks[whom].be_off_by(*seconds)
            }
            Strike::StopApiServer { .. } => {
                api_away.push((clock::now_us(), u64::MAX));
                parts.control_plane.api_server.kill().await
            }
            Strike::StopEtcd { .. } => {
                api_away.push((clock::now_us(), u64::MAX));
                parts.control_plane.etcd.kill().await
            }
            Strike::StopPostgres { .. } => {
                self.all_lose_the_database();
                self.stage.parts.postgres.stop().await
            }
            Strike::CrashPostgres { .. } => {
                self.all_lose_the_database();
                self.stage.parts.postgres.kill().await
            }
            Strike::EndSession { nth } => self.strike_session(*nth, false).await,
            Strike::KillSession { nth } => self.strike_session(*nth, true).await,
            Strike::Storm { on, fault, .. } => {
                for name in on {
                    source.weather(name, Some(fault.clone()));
                }
                Ok(())
            }
        }
    }

    async fn end(&mut self, Planned { whom, strike, .. }: &Planned) -> Result<()> {
        let Stage { fleet, parts, source, api_away, .. } = &mut *self.stage;
        match strike {
            Strike::Kill { .. } | Strike::KillWhileDraining { .. } => fleet.start(whom),
            Strike::Freeze { .. } => fleet.resume(whom),
            Strike::Terminate { .. } => {
                fleet.ended(whom, PATIENCE).await?;
                fleet.start(whom)
            }
            Strike::Join { .. } => {
                self.keeps_the_gate(whom).await?;
                self.stage.fleet.ask_to_end(whom)
            }
            Strike::Lines { to, road, .. } => {
                self.lines[whom].become_like(Road::Open, to);
                losses(to, *road).for_each(|kind| fleet.is_over(whom, kind));
                Ok(())
            }
            Strike::Overtaken { .. } => {
                self.lines[whom].become_like(Road::Open, &[Peer::ApiServer, Peer::Database]);
                for kind in OVERTAKEN {
                    fleet.is_over(whom, kind);
                }
                Ok(())
            }
            Strike::ClockJump { .. } => {
                self.clocks[whom].be_off_by(0)?;
                fleet.is_over(whom, NemesisKind::WrongClock);
                Ok(())
            }
            Strike::StopApiServer { .. } => {
                is_back(api_away);
                parts.control_plane.api_server.start()
            }
            Strike::StopEtcd { .. } => {
                is_back(api_away);
                parts.control_plane.etcd.start()
            }
            Strike::StopPostgres { .. } | Strike::CrashPostgres { .. } => {
                parts.postgres.start().await?;
                self.all_have_the_database();
                Ok(())
            }
            // Noted when it was done.
            Strike::EndSession { .. } | Strike::KillSession { .. } => Ok(()),
            Strike::Storm { on, .. } => {
                for name in on {
                    source.weather(name, None);
                }
                Ok(())
            }
        }
    }

    /// What a process has counted ends with it. One that starts, or is cut off, may tell nothing.
    async fn keeps_the_gate(&self, whom: &str) -> Result<()> {
        let told = tokio::time::timeout(TELLS_WITHIN, self.stage.fleet.gate_violations(whom)).await;
        let violations = told.ok().and_then(Result::ok).unwrap_or(0);
        ensure!(violations == 0, "{whom} counts {violations} gate violations");
        Ok(())
    }

    /// One session of a replica, if there is one. Nobody has lost anything when there was none.
    async fn strike_session(&mut self, nth: u32, kill: bool) -> Result<()> {
        let postgres = &self.stage.parts.postgres;
        // A server that has stopped, or recovers for long, has no session, and one that begins to recover ends ours.
        let ended = tokio::time::timeout(RECOVERED_WITHIN, end_session(postgres, nth, kill)).await;
        if !matches!(ended, Ok(Ok(()))) {
            say("          there was no session to end");
            return Ok(());
        }
        self.all_lose_the_database();
        if kill {
            // All sessions end, and none begins before the server has recovered. Another strike may stop it meanwhile.
            let _ = tokio::time::timeout(RECOVERED_WITHIN, self.stage.parts.postgres.ready()).await;
        }
        self.all_have_the_database();
        Ok(())
    }

    fn all_lose_the_database(&mut self) {
        for name in self.stage.fleet.names() {
            self.stage.fleet.begins(&name, NemesisKind::LostDatabase);
        }
    }

    fn all_have_the_database(&mut self) {
        for name in self.stage.fleet.names() {
            self.stage.fleet.is_over(&name, NemesisKind::LostDatabase);
        }
    }
}

/// What went last, and may need a while to answer: what follows a strike is allowed for by the checker.
fn is_back(away: &mut [(u64, u64)]) {
    if let Some((_, until)) = away.last_mut() {
        *until = clock::now_us();
    }
}

/// What a replica loses when lines to these peers are like this. Request bytes and answers that are only late cost
/// nothing; a slow way to the API server or the database may be too slow for a deadline. Sources that hear nothing of a
/// replica lose no answer.
fn losses(to: &[Peer], road: Road) -> impl Iterator<Item = NemesisKind> {
    to.iter().filter_map(move |peer| match (peer, road) {
        (Peer::ApiServer, _) => Some(NemesisKind::LostApiServer),
        (Peer::Database, _) => Some(NemesisKind::LostDatabase),
        (Peer::Sources, Road::Cut | Road::Swallows(Way::Down)) => Some(NemesisKind::LostSources),
        (Peer::Sources, Road::Swallows(Way::Up)) => Some(NemesisKind::UnheardBySources),
        (Peer::Sources, Road::Slow { .. } | Road::Open) => None,
    })
}

/// Ends a session of a replica, by the order in which they began, or kills its process.
async fn end_session(postgres: &Postgres, nth: u32, kill: bool) -> Result<()> {
    postgres.ready().await?;
    let mut session = PgConnection::connect(&postgres.url()).await?;
    let sessions: Vec<i32> = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY backend_start, pid",
    )
    .fetch_all(&mut session)
    .await?;
    let count = u32::try_from(sessions.len())?.checked_sub(1).context("no replica has a session")?;
    let chosen = sessions[usize::try_from(nth % (count + 1))?];
    if kill {
        return postgres.kill_backend(u32::try_from(chosen)?);
    }
    sqlx::query("SELECT pg_terminate_backend($1)").bind(chosen).execute(&mut session).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_that_hear_nothing_of_a_replica_lose_no_answer() {
        let of = |road| losses(&[Peer::Sources], road).collect::<Vec<_>>();
        assert_eq!(of(Road::Cut), [NemesisKind::LostSources]);
        assert_eq!(of(Road::Swallows(Way::Down)), [NemesisKind::LostSources]);
        assert_eq!(of(Road::Swallows(Way::Up)), [NemesisKind::UnheardBySources]);
        let slow = Road::Slow { up: Duration::from_millis(800), down: Duration::from_millis(500) };
        assert_eq!(of(slow), []);
    }
}
