//! CPU time and memory of processes, as the kernel counts them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

use crate::clock;
use crate::stage::Stage;

/// CPU time of everybody on the stage since their start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cpu {
    at: u64,
    pub replicas: Duration,
    pub postgres: Duration,
    /// The fake source, with the bench itself, which mostly sleeps.
    pub source: Duration,
    /// etcd and kube-apiserver.
    pub control_plane: Duration,
}

impl Cpu {
    /// Reads all counters now.
    pub(super) fn of(stage: &Stage) -> Result<Self> {
        let ticks = Ticks::per_second();
        let mut replicas = 0;
        for (_, id, _) in stage.fleet.addresses() {
            replicas += stat(id)?.own;
        }
        let postmaster = stage.parts.postgres.id().context("find the process of PostgreSQL")?;
        let control_plane = [stage.parts.control_plane.etcd.id(), stage.parts.control_plane.api_server.id()];
        let control_plane = control_plane.into_iter().flatten().map(stat).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            at: clock::now_us(),
            replicas: ticks.duration(replicas),
            postgres: ticks.duration(with_children(postmaster)?),
            source: ticks.duration(stat(std::process::id())?.own),
            control_plane: ticks.duration(control_plane.iter().map(|stat| stat.own).sum()),
        })
    }

    /// What was used between an earlier reading and this one.
    pub(super) fn since(&self, earlier: &Self) -> Used {
        Used {
            elapsed: Duration::from_micros(self.at - earlier.at),
            replicas: self.replicas.saturating_sub(earlier.replicas),
            postgres: self.postgres.saturating_sub(earlier.postgres),
            source: self.source.saturating_sub(earlier.source),
            control_plane: self.control_plane.saturating_sub(earlier.control_plane),
        }
    }
}

/// CPU time used in a span of time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    pub elapsed: Duration,
    pub replicas: Duration,
    pub postgres: Duration,
    pub source: Duration,
    pub control_plane: Duration,
}

impl Used {
    /// Who had which share of the machine.
    pub(super) fn shares(&self, cores: usize) -> String {
        let whole = self.elapsed.as_secs_f64() * u32::try_from(cores).map_or(1.0, f64::from);
        let share = |used: Duration| 100.0 * used.as_secs_f64() / whole;
        let told = [
            ("replicas", self.replicas),
            ("PostgreSQL", self.postgres),
            ("source", self.source),
            ("control plane", self.control_plane),
        ];
        told.map(|(who, used)| format!("{who} {:.0} %", share(used))).join(", ")
    }
}

/// Resident memory of a process, in MiB.
pub(super) fn resident_mib(id: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).with_context(|| format!("read process {id}"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.map(|kib: u32| f64::from(kib) / 1024.0).context("find VmRSS of a process")
}

/// What a server of several processes has used since its start.
pub(super) fn of_server(id: u32) -> Result<Duration> {
    Ok(Ticks::per_second().duration(with_children(id)?))
}

/// What the processes of these sessions have used, those that have ended and were waited for included, and the memory in
/// MiB that they hold now; pages that several of them share are counted for each.
pub(super) fn of_sessions(ids: &[u32]) -> Result<(Duration, f64)> {
    let (mut ticks, mut pages) = (0, 0);
    for process in processes()?.filter(|process| ids.contains(&process.session)) {
        ticks += process.own + process.reaped;
        pages += process.resident_pages;
    }
    let kib = pages * u64::try_from(rustix::param::page_size())? / 1024;
    Ok((Ticks::per_second().duration(ticks), f64::from(u32::try_from(kib)?) / 1024.0))
}

/// What this process has used since its start.
pub(super) fn of_this_process() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}

struct Ticks(u64);

impl Ticks {
    fn per_second() -> Self {
        Self(rustix::param::clock_ticks_per_second())
    }

    fn duration(&self, ticks: u64) -> Duration {
        Duration::from_micros(ticks * 1_000_000 / self.0)
    }
}

/// Counters of one process; times in clock ticks.
struct Stat {
    parent: u32,
    session: u32,
    resident_pages: u64,
    own: u64,
    /// Of children that have ended and were waited for.
    reaped: u64,
}

fn stat(id: u32) -> Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).with_context(|| format!("read process {id}"))?;
    parse(&text).with_context(|| format!("understand the counters of process {id}"))
}

fn parse(stat: &str) -> Option<Stat> {
    // The command name, in parentheses, may hold anything; what follows the last one is plain.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    // utime, stime, cutime, cstime are fields 14 to 17 of proc(5); the state, field 3, is the first one here.
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        resident_pages: number(21)?,
        own: number(11)? + number(12)?,
        reaped: number(13)? + number(14)?,
    })
}

/// A server of several processes: itself, its children that live, and those that have ended.
fn with_children(id: u32) -> Result<u64> {
    let server = stat(id)?;
    let children = processes()?.filter(|child| child.parent == id);
    Ok(server.own + server.reaped + children.map(|child| child.own).sum::<u64>())
}

/// All processes of the machine; one that ends while we look is left out, and its parent has reaped it then.
fn processes() -> Result<impl Iterator<Item = Stat>> {
    Ok(fs::read_dir("/proc")
        .context("list the processes")?
        .filter_map(|entry| stat(entry.ok()?.file_name().to_str()?.parse().ok()?).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_are_found_behind_any_command_name() {
        let line = "42 (a) b (c)) S 7 42 42 0 -1 4194560 100 200 0 0 11 12 13 14 20 0 3 0 1000 0 0";
        let stat = parse(line).unwrap();
        assert_eq!((stat.parent, stat.own, stat.reaped), (7, 23, 27));
    }

    #[test]
    fn shares_are_of_the_whole_machine() {
        let second = Duration::from_secs(1);
        let used = Used {
            elapsed: 10 * second,
            replicas: 5 * second,
            postgres: 10 * second,
            source: second,
            control_plane: Duration::ZERO,
        };
        assert_eq!(used.shares(2), "replicas 25 %, PostgreSQL 50 %, source 5 %, control plane 0 %");
    }
}
