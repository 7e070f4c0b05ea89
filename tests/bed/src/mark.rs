//! The mark in the environment of everything that was started for a place, and the end of whatever carries it.
//!
//! A pidfile is written after its process was started; a crash in between leaves a process that no file names. The kernel
//! keeps the environment that a process began with, and children inherit it, so the mark finds those too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::{parent, start_time};

/// Holds the path of the place, and nothing else does: a shell of the playground knows the same servers by other variables.
const PLACE: &str = "HEADGATE_BED_PLACE";
/// Holds the number of the signal that ends the process at once, as the pidfile does.
const END_SIGNAL: &str = "HEADGATE_BED_END_SIGNAL";

/// Every look reads the environment of every process.
const POLL: Duration = Duration::from_millis(20);
/// What has not ended by its own signal is killed.
const PATIENCE: Duration = Duration::from_secs(5);
/// A killed process ends as soon as the kernel lets it.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// Marks what this command starts as a process of the place at `root`.
pub(crate) fn mark(command: &mut Command, root: &Path, end_signal: Signal) {
    command.env(PLACE, root).env(END_SIGNAL, end_signal.as_raw().to_string());
}

/// Ends everything that carries the mark of the place at `root`, with its descendants, which may have written over their
/// environment (sessions of PostgreSQL do). Returns the names of the programs. It never ends this process nor those that
/// it runs in. An account sees the environments of its own processes; root sees all, so those of servers that refuse root too.
///
/// # Errors
/// When one of them does not end.
pub(crate) fn end_all(root: &Path) -> Result<Vec<String>> {
    let asked = Instant::now();
    let mut found = BTreeSet::new();
    let mut names = Vec::new();
    let mut looked = false;
    loop {
        for (id, started, signal) in carriers(root) {
            if found.insert((id, started)) {
                let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
                names.push(name.trim().to_owned());
                // A frozen process takes no other signal.
                send(id, Signal::CONT);
                send(id, signal);
            }
        }
        found.retain(|&(id, started)| start_time(id) == Some(started));
        // A process that is just becoming another program shows no environment. The next look sees it.
        if found.is_empty() && std::mem::replace(&mut looked, true) {
            return Ok(names);
        }
        if asked.elapsed() > PATIENCE {
            for &(id, _) in &found {
                send(id, Signal::KILL);
            }
        }
        ensure!(asked.elapsed() < GONE_WITHIN, "end what is left of {}: {found:?} do not end", root.display());
        thread::sleep(POLL);
    }
}

/// The processes that carry the mark and their descendants: id, start time, and the signal that ends it.
fn carriers(root: &Path) -> Vec<(u32, u64, Signal)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let all: Vec<u32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    let parents: BTreeMap<u32, u32> = all.iter().filter_map(|&id| Some((id, parent(id)?))).collect();
    let up_from = |id| std::iter::successors(Some(id), |id| parents.get(id).copied());
    let marked: BTreeMap<u32, Signal> = all.iter().filter_map(|&id| Some((id, marked_with(id, root)?))).collect();
    let ours: BTreeSet<u32> = up_from(std::process::id()).collect();
    let carries = |id| up_from(id).find_map(|id| marked.get(&id).copied());
    let carriers =
        all.iter().filter(|id| !ours.contains(id)).filter_map(|&id| Some((id, start_time(id)?, carries(id)?)));
    carriers.collect()
}

/// The signal that ends a process, if it carries the mark.
fn marked_with(id: u32, root: &Path) -> Option<Signal> {
    let environment = fs::read(format!("/proc/{id}/environ")).ok()?;
    let value = |name: &str| {
        let mut variables = environment.split(|byte| *byte == 0);
        variables.find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    };
    if value(PLACE)? != root.as_os_str().as_bytes() {
        return None;
    }
    let signal = value(END_SIGNAL).and_then(|raw| str::from_utf8(raw).ok()?.parse().ok());
    Some(signal.and_then(Signal::from_named_raw).unwrap_or(Signal::KILL))
}

fn send(id: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // It may have ended since.
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Stdio};

    use super::*;

    /// A shell that waits, and a child of it that waits too.
    fn shell(root: Option<&Path>, script: &str) -> Child {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(root) = root {
            mark(&mut shell, root, Signal::KILL);
        }
        shell.spawn().expect("it starts")
    }

    fn runs(id: u32) -> bool {
        start_time(id).is_some()
    }

    /// The process whose number a shell prints.
    fn printed_by(shell: &mut Child) -> u32 {
        use std::io::{BufRead, BufReader};
        let mut line = String::new();
        BufReader::new(shell.stdout.as_mut().expect("piped")).read_line(&mut line).expect("it prints");
        line.trim().parse().expect("a number")
    }

    #[test]
    fn what_carries_the_mark_ends_with_its_children_and_nothing_else_does() {
        let place = tempfile::tempdir().expect("a directory");
        let longer = place.path().join("longer");
        let waits = "sleep 600 & echo $!; wait";
        let mut marked = shell(Some(place.path()), waits);
        // As sessions of PostgreSQL: below a process of the place, and without its environment.
        let mut cleared = shell(Some(place.path()), "env -i sleep 600 & echo $!; wait");
        let mut of_another = shell(Some(&longer), waits);
        let mut knows_it_otherwise = Command::new("sleep");
        knows_it_otherwise.arg("600").env("KUBECONFIG", place.path()).env(END_SIGNAL, "9");
        let mut knows_it_otherwise = knows_it_otherwise.spawn().expect("it starts");
        let children = [printed_by(&mut marked), printed_by(&mut cleared)];
        let of_another_child = printed_by(&mut of_another);

        end_all(place.path()).expect("all end");
        assert!(!runs(marked.id()) && !runs(cleared.id()) && !children.into_iter().any(runs));
        assert!(runs(of_another.id()) && runs(of_another_child) && runs(knows_it_otherwise.id()));

        end_all(&longer).expect("all end");
        assert!(!runs(of_another.id()) && !runs(of_another_child));
        knows_it_otherwise.kill().expect("it runs");
        for mut child in [marked, cleared, of_another, knows_it_otherwise] {
            child.wait().expect("it ended");
        }
    }

    #[test]
    fn an_orphan_that_inherited_the_mark_ends_too() {
        let place = tempfile::tempdir().expect("a directory");
        let mut shell = shell(Some(place.path()), "sleep 600 & echo $!");
        let orphan = printed_by(&mut shell);
        shell.wait().expect("it ended");
        assert!(runs(orphan));
        end_all(place.path()).expect("all end");
        assert!(!runs(orphan));
    }
}
