//! Everything that counts, read at the two ends of a span of time.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::writes::Writes;
use crate::bench::cpu::{Cpu, Used};
use crate::bench::machine::cores;
use crate::bench::report::number;
use crate::stage::Stage;

/// All counters at one moment.
pub(super) struct Reading {
    cpu: Cpu,
    machine: Machine,
    writes: Writes,
    polls: usize,
}

impl Reading {
    pub(super) async fn of(stage: &Stage) -> Result<Self> {
        let writes = Writes::so_far(&stage.client).await?;
        Ok(Self { cpu: Cpu::of(stage)?, machine: Machine::now()?, writes, polls: stage.source.log().len() })
    }

    /// What happened since.
    pub(super) async fn until_now(self, stage: &Stage) -> Result<Span> {
        let polls = stage.source.log().len() - self.polls;
        let (used, busy) = (Cpu::of(stage)?.since(&self.cpu), Machine::now()?.busy_since(&self.machine));
        Ok(Span { used, busy, polls, writes: Writes::so_far(&stage.client).await?.since(&self.writes) })
    }
}

/// What was used, asked and written in a span of time.
pub(super) struct Span {
    pub(super) used: Used,
    /// The share of the whole machine that was busy, with all that others run on it.
    busy: f64,
    pub(super) polls: usize,
    pub(super) writes: Writes,
}

impl Span {
    /// What one poll cost, in microseconds.
    pub(super) fn per_poll_us(&self, of: fn(&Used) -> Duration) -> f64 {
        of(&self.used).as_secs_f64() * 1e6 / number(self.polls.max(1))
    }

    pub(super) fn polls_per_second(&self) -> f64 {
        number(self.polls) / self.used.elapsed.as_secs_f64()
    }

    pub(super) fn per_second(&self, count: f64) -> f64 {
        count / self.used.elapsed.as_secs_f64()
    }

    /// `busy 41 % (replicas 10 %, …)`, and whether that leaves the figures worth something.
    pub(super) fn load(&self) -> String {
        let shares = self.used.shares(cores());
        let beyond = if self.busy > 0.9 {
            "; SATURATED: rates and times are the machine's, CPU per poll still counts"
        } else {
            ""
        };
        format!("busy {:.0} % ({shares}; the rest is not ours){beyond}", 100.0 * self.busy)
    }

    /// `replicas 1.2 s, PostgreSQL 0.8 s, …`.
    pub(super) fn cpu(&self) -> String {
        let Used { replicas, postgres, control_plane, .. } = self.used;
        let [replicas, postgres, control_plane] = [replicas, postgres, control_plane].map(|used| used.as_secs_f64());
        format!("replicas {replicas:.1} s, PostgreSQL {postgres:.1} s, control plane {control_plane:.1} s")
    }
}

/// The time of all cores, in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Machine {
    busy: u64,
    all: u64,
}

impl Machine {
    fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        Self::read(&stat).context("understand /proc/stat")
    }

    fn read(stat: &str) -> Option<Self> {
        let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        let ticks: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
        // user nice system idle iowait irq softirq steal; guest time is part of user time.
        let all: u64 = ticks.iter().take(8).sum();
        Some(Self { busy: all - ticks.get(3)? - ticks.get(4)?, all })
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn busy_since(&self, earlier: &Self) -> f64 {
        (self.busy - earlier.busy) as f64 / (self.all - earlier.all).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_busy_when_it_neither_idles_nor_waits_for_disks() {
        let before = Machine::read("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3").unwrap();
        let after = Machine::read("cpu  130 0 60 850 60 0 0 0 30 0\n").unwrap();
        assert!((after.busy_since(&before) - 0.4).abs() < 1e-9);
    }
}
