//! The machine that was measured, and the programs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::postgres::Binaries;

/// What the figures depend on.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    memory_gib: f64,
    cpu: String,
    kernel: String,
    postgres: String,
    binary: String,
}

impl Machine {
    /// Asks the kernel and the programs; `postgres` is what its servers are started with.
    pub(super) fn here(binary: &Path, postgres: &[(&str, &str)]) -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
        let meminfo = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
        let settings: Vec<_> = postgres.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let memory_kib: Option<u32> =
            after(&meminfo, "MemTotal").and_then(|text| text.trim_end_matches(" kB").parse().ok());
        Ok(Self {
            memory_gib: f64::from(memory_kib.unwrap_or(0)) / (1024.0 * 1024.0),
            cpu: after(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            kernel: format!("Linux {}", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim()),
            postgres: format!("{}, {}", Binaries::locate()?.version, settings.join(", ")),
            binary: describe(binary)?,
        })
    }

    /// Name and value of each fact.
    pub(super) fn facts(&self) -> [(&'static str, String); 6] {
        [
            ("cores", format!("{}, shared by source, replicas, PostgreSQL and control plane", cores())),
            ("memory", format!("{:.1} GiB", self.memory_gib)),
            ("CPU", self.cpu.clone()),
            ("kernel", self.kernel.clone()),
            ("PostgreSQL", self.postgres.clone()),
            ("binary", self.binary.clone()),
        ]
    }
}

/// How many cores this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Cargo names the directory of a binary after its profile.
fn describe(binary: &Path) -> Result<String> {
    let output = Command::new(binary).arg("--version").output().with_context(|| format!("run {}", binary.display()))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let profile = binary.parent().and_then(|parent| parent.file_name()?.to_str()).unwrap_or("unknown");
    let source = if cfg!(debug_assertions) { "; the fake source is a debug build and slow" } else { "" };
    Ok(format!("{version}, profile {profile}{source}"))
}

/// The value of `key : value` in a file of the kernel.
fn after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':')).map(str::trim)
}
