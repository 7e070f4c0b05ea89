//! What the fake source really did: one line per request, written when the request ended.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::Path,
    sync::Mutex,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::source::FaultKind;

/// One request as the source saw it. Times are microseconds of `CLOCK_MONOTONIC` ([`crate::clock`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    pub source: String,
    /// The path of its URL.
    pub path: String,
    /// `Headgate-Replica`: who asked.
    pub replica: String,
    /// `Headgate-Attempt`: the reservation it was sent under.
    pub attempt: String,
    /// The connection, counted by the source.
    pub connection: u64,
    /// The index of the event that the request wants to follow; 0 at the start of the feed.
    pub after: u64,
    pub limit: u64,
    /// When the connection was accepted.
    pub accepted: u64,
    /// When the first bytes of the request were read: the start of the request, as the source sees it.
    pub started: u64,
    /// When the request head was complete.
    pub parsed: u64,
    /// When the first byte of the response was about to be written; none if none was.
    pub first_byte: Option<u64>,
    /// When the source was done with it: the last byte written, or the failure seen.
    pub ended: u64,
    pub status: u16,
    pub fault: FaultKind,
    /// The indexes of the events whose last byte was taken by the network stack, in the order they were written.
    pub delivered: Vec<Delivered>,
    /// The whole intended response was written.
    pub complete: bool,
    /// What the answer asked for, if its head was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<RetryAfter>,
}

/// `Retry-After`, as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryAfter {
    pub seconds: u32,
    /// As the date that many seconds ahead.
    pub as_date: bool,
}

impl RetryAfter {
    /// The shortest wait that it can be read as, in microseconds. A date names a whole second: the part of it that had passed
    /// when it was written is lost.
    #[must_use]
    pub fn least_us(self) -> u64 {
        u64::from(self.seconds.saturating_sub(u32::from(self.as_date))) * 1_000_000
    }
}

/// A run of consecutive events, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    pub first: u64,
    pub last: u64,
}

impl Delivered {
    /// Packs indexes in written order into runs.
    #[must_use]
    pub fn runs(indexes: &[u64]) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for &index in indexes {
            match runs.last_mut() {
                Some(run) if run.last + 1 == index => run.last = index,
                _ => runs.push(Self { first: index, last: index }),
            }
        }
        runs
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.last - self.first + 1
    }
}

impl fmt::Display for RetryAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Retry-After: {} s{}", self.seconds, if self.as_date { ", as a date" } else { "" })
    }
}

/// Appends lines to a file and keeps them in memory.
#[derive(Debug)]
pub struct AccessLog {
    file: Option<Mutex<File>>,
    entries: Mutex<Vec<Access>>,
}

impl AccessLog {
    /// A log that lives in memory alone.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { file: None, entries: Mutex::default() }
    }

    /// A log that is also appended to `path`.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn to_file(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot open the access log {}", path.display()))?;
        Ok(Self { file: Some(Mutex::new(file)), entries: Mutex::default() })
    }

    /// Notes a request that has ended.
    pub fn note(&self, access: Access) {
        if let Some(file) = &self.file {
            let mut line = serde_json::to_vec(&access).expect("an access is plain data");
            line.push(b'\n');
            file.lock().expect("no writer panics").write_all(&line).expect("the access log can be written");
        }
        self.entries.lock().expect("no writer panics").push(access);
    }

    /// All entries so far, in the order in which the requests ended.
    #[must_use]
    pub fn entries(&self) -> Vec<Access> {
        self.entries_from(0)
    }

    /// How many requests have ended so far.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "nobody asks whether a log is empty")]
    pub fn len(&self) -> usize {
        self.entries.lock().expect("no writer panics").len()
    }

    /// All entries so far but the first `count`: for a reader that follows the log.
    #[must_use]
    pub fn entries_from(&self, count: usize) -> Vec<Access> {
        self.entries.lock().expect("no writer panics").get(count..).unwrap_or_default().to_vec()
    }
}

/// Reads a log from its file. A last line that was cut by a kill of the source is left out.
///
/// # Errors
/// When the file cannot be read, or a line before the last one is not an access.
pub fn read(path: &Path) -> Result<Vec<Access>> {
    let file = File::open(path).with_context(|| format!("cannot open the access log {}", path.display()))?;
    let lines: Vec<String> =
        BufReader::new(file).lines().collect::<Result<_, _>>().context("cannot read the access log")?;
    let mut entries = Vec::with_capacity(lines.len());
    for (number, line) in lines.iter().enumerate() {
        match serde_json::from_str(line) {
            Ok(access) => entries.push(access),
            Err(_) if number + 1 == lines.len() => break,
            Err(error) => return Err(error).with_context(|| format!("line {} is not an access", number + 1)),
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_packed_into_runs_in_the_order_they_were_written() {
        let runs = Delivered::runs(&[1, 2, 3, 7, 6, 7]);
        let plain: Vec<(u64, u64)> = runs.iter().map(|run| (run.first, run.last)).collect();
        assert_eq!(plain, [(1, 3), (7, 7), (6, 7)]);
    }

    #[test]
    fn a_line_cut_by_a_kill_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.jsonl");
        let log = AccessLog::to_file(&path).unwrap();
        log.note(crate::checker::testing::access("orders").by("a").after(0).delivering(1, 5).build());
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"source\":\"ord").unwrap();
        assert_eq!(read(&path).unwrap(), log.entries());
    }
}
