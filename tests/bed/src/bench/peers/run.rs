//! One run of one candidate, and what it cost.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::requests::Requests;
use super::rows::Rows;
use crate::bench::cpu;
use crate::bench::stream::names;
use crate::clock;
use crate::source::SourceConfig;

/// Enough that a gate of 200 ms lets through more than any candidate takes: 50 × 5 pages of 1,000 a second.
pub(super) const SOURCES: u64 = 50;
pub(super) const PAGE: u32 = 1000;
/// How often processes are looked at.
pub(super) const TICK: Duration = Duration::from_millis(50);

/// What all runs have in common.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    /// The `headgate` binary.
    pub binary: PathBuf,
    /// Where the peers are installed.
    pub tools: PathBuf,
    pub events: u64,
}

impl Ground {
    pub(super) fn names() -> Vec<String> {
        names("backlog", usize::try_from(SOURCES).unwrap_or_default())
    }

    pub(super) fn each(&self) -> u64 {
        self.events / SOURCES
    }

    /// Every event is there from the beginning.
    pub(super) fn sources(&self) -> Vec<SourceConfig> {
        Self::names().iter().map(|name| SourceConfig::new(name, self.each()).at_most(self.each())).collect()
    }
}

/// What was seen of one run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// From the start of the first process until the last row could be read.
    pub wall: Duration,
    /// The same from the first request on.
    pub loading: Duration,
    /// Of all processes of the candidate.
    pub cpu: Duration,
    pub postgres: Duration,
    pub source: Duration,
    /// Of etcd and kube-apiserver, which the operator needs.
    pub control_plane: Duration,
    /// The most memory that its processes held together.
    pub peak_mib: f64,
    /// None for the candidate that asks no source.
    pub requests: Option<Requests>,
    pub stored: u64,
    pub distinct: u64,
}

/// A moment on both clocks: that of the access log and that of PostgreSQL.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub monotonic: u64,
    wall: u64,
}

impl Moment {
    pub(super) fn now() -> Result<Self> {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("read the clock")?;
        Ok(Self { monotonic: clock::now_us(), wall: wall.as_micros().try_into()? })
    }

    /// How long after this moment, and after the first request, the last row could be read.
    pub(super) fn until_visible(self, rows: &Rows, requests: &Requests) -> (Duration, Duration) {
        let wall = rows.visible.saturating_sub(self.wall);
        let idle = requests.first.saturating_sub(self.monotonic);
        (Duration::from_micros(wall), Duration::from_micros(wall.saturating_sub(idle)))
    }
}

/// Looks at the processes of a candidate as long as they live.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub cpu: Duration,
    pub peak_mib: f64,
}

impl Watch {
    /// Sessions outlive no candidate: each of its programs is started as the leader of one.
    pub(super) fn look(&mut self, sessions: &[u32]) -> Result<()> {
        let (cpu, resident_mib) = cpu::of_sessions(sessions)?;
        self.cpu = self.cpu.max(cpu);
        self.peak_mib = self.peak_mib.max(resident_mib);
        Ok(())
    }
}
