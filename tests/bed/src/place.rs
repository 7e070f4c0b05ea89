//! The directory in which a set of servers keeps its data, logs, ports and pidfiles, and what is left of it afterwards: nothing.

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::account::{Account, reachable_by_others};
use crate::mark::{end_all, mark};
use crate::narrate::say;
use crate::process::{Launch, Lifetime, Process, Signal};

/// How the names of temporary places begin.
pub(crate) const PLACE: &str = "headgate-place-";
/// How the names of directories begin that another account needs outside of a place.
const ELSEWHERE: &str = "headgate-data-";
/// A place younger than this may not be locked yet by the process that is making it.
const YOUNG: Duration = Duration::from_mins(1);

/// A directory of servers. One process at a time changes it; others that come later find the servers by their pidfiles.
#[derive(Debug)]
pub struct Place {
    root: PathBuf,
    lifetime: Lifetime,
    /// Removed when dropped.
    _temporary: Option<TempDir>,
    /// Locked while this process owns the place; the kernel lets go of it when the process ends, however it ends.
    _lock: File,
}

impl Place {
    /// A place that stays: its servers run until `end` is called on it, by this process or by a later one.
    /// Waits while another process is changing it.
    pub fn kept(root: &Path) -> Result<Self> {
        let parent = root.parent().context("a place for servers needs a parent directory")?;
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        let lock = File::open(parent)?;
        if lock.try_lock().is_err() {
            say(format_args!("waiting for another process that changes {}", parent.display()));
            lock.lock().with_context(|| format!("lock {}", parent.display()))?;
        }
        fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
        let root = root.canonicalize()?;
        Ok(Self { root, lifetime: Lifetime::Detached, _temporary: None, _lock: lock })
    }

    /// A place of this process: its servers end and its files go with it. What a process that was killed left is removed now.
    pub fn temporary(what: &str) -> Result<Self> {
        remove_abandoned(&std::env::temp_dir());
        let directory = tempfile::Builder::new().prefix(&format!("{PLACE}{what}-")).tempdir()?;
        let lock = File::open(directory.path())?;
        lock.try_lock().context("lock a temporary directory")?;
        // Servers that run as another account pass through; files with secrets are closed one by one.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o711))?;
        let root = directory.path().canonicalize()?;
        Ok(Self { root, lifetime: Lifetime::WithParent, _temporary: Some(directory), _lock: lock })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// When the servers of this place end.
    #[must_use]
    pub fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// A server of this place, to be started.
    #[must_use]
    pub fn launch(&self, name: &str, program: &Path) -> Launch {
        Launch::new(name, program, &self.root, self.lifetime)
    }

    /// Marks a program that runs to its end as one of this place, so that it does not outlive a crash of this process.
    pub(crate) fn mark(&self, command: &mut Command) {
        mark(command, &self.root, Signal::TERM);
    }

    /// A server of this place that already runs.
    #[must_use]
    pub fn running(&self, name: &str) -> Option<Process> {
        Process::running(name, &self.root)
    }

    /// A directory of the given account. It lies elsewhere, behind a link, when that account cannot reach this place.
    pub fn directory_of(&self, name: &str, account: Option<&Account>) -> Result<PathBuf> {
        let here = self.root.join(name);
        if let Ok(known) = here.canonicalize() {
            return Ok(known);
        }
        let _ = fs::remove_file(&here);
        let directory = match account {
            Some(_) if !reachable_by_others(&self.root) => {
                let elsewhere = tempfile::Builder::new().prefix(&format!("{ELSEWHERE}{name}-")).tempdir()?.keep();
                symlink(&elsewhere, &here)?;
                elsewhere
            }
            _ => {
                fs::create_dir(&here).with_context(|| format!("create {}", here.display()))?;
                here
            }
        };
        if let Some(account) = account {
            account.own(&directory)?;
        }
        fs::set_permissions(&directory, Permissions::from_mode(0o700))?;
        Ok(directory)
    }

    /// Writes a file that only its owner may read.
    pub fn write_secret(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        write_secret(&path, content)?;
        Ok(path)
    }

    /// What `remember` wrote under this name.
    #[must_use]
    pub fn recall<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_str(&fs::read_to_string(self.root.join(name)).ok()?).ok()
    }

    /// Writes down what a later run needs to know.
    pub fn remember<T: Serialize>(&self, name: &str, facts: &T) -> Result<()> {
        self.write_secret(name, &serde_json::to_string(facts)?).map(drop)
    }

    /// The servers of this place that run, by name.
    pub fn all_running(&self) -> Result<Vec<Process>> {
        let mut running = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".pid"));
            running.extend(name.and_then(|name| self.running(name)));
        }
        running.sort_by(|a, b| a.name().cmp(b.name()));
        Ok(running)
    }

    /// Ends what still runs of a place whose directory was removed by somebody. Returns the names of the programs.
    pub(crate) fn end_without_directory(root: &Path) -> Result<Vec<String>> {
        let root = std::path::absolute(root)?;
        let there = root.ancestors().find(|path| path.exists()).context("a place without a directory above it")?;
        // As `kept` wrote it into the mark.
        end_all(&there.canonicalize()?.join(root.strip_prefix(there)?))
    }

    /// Ends every server of this place and whatever else was started for it, and removes all files. Returns the names of
    /// those that ran.
    pub fn end(self) -> Result<Vec<String>> {
        let running = self.all_running()?;
        running.iter().for_each(Process::end);
        // A child that was forked and not executed yet carries no mark; it holds the lock until then, and we have that.
        let without_pidfile = end_all(&self.root)?;
        remove_with_links(&self.root)?;
        Ok(running.iter().map(|process| process.name().to_owned()).chain(without_pidfile).collect())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::WithParent {
            // What its servers started and left.
            let _ = end_all(&self.root);
            // Directories elsewhere; the place itself goes with its TempDir.
            let _ = remove_linked(&self.root);
        }
    }
}

/// Writes a file that only its owner may read.
pub fn write_secret(path: &Path, content: &str) -> Result<()> {
    use std::io::Write;
    let written = path.with_extension("new");
    let _ = fs::remove_file(&written);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&written)?;
    file.write_all(content.as_bytes())?;
    fs::rename(&written, path).with_context(|| format!("write {}", path.display()))
}

/// Removes temporary places whose process is gone: it held a lock on its directory as long as it lived.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| has_prefix(path, PLACE)) {
        let old = fs::metadata(&path)
            .and_then(|meta| meta.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > YOUNG));
        if old && File::open(&path).is_ok_and(|directory| directory.try_lock().is_ok()) {
            let _ = path.canonicalize().map(|root| end_all(&root));
            let _ = remove_with_links(&path);
        }
    }
}

fn has_prefix(path: &Path, prefix: &str) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
}

fn remove_linked(root: &Path) -> Result<()> {
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        if path.is_symlink()
            && let Ok(elsewhere) = fs::read_link(&path)
            && has_prefix(&elsewhere, ELSEWHERE)
        {
            ignore_missing(fs::remove_dir_all(&elsewhere))?;
        }
    }
    Ok(())
}

fn remove_with_links(root: &Path) -> Result<()> {
    remove_linked(root)?;
    ignore_missing(fs::remove_dir_all(root)).with_context(|| format!("remove {}", root.display()))
}

fn ignore_missing(result: std::io::Result<()>) -> std::io::Result<()> {
    result.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn a_place(parent: &Path, name: &str, age: Duration) -> File {
        let root = parent.join(name);
        fs::create_dir(&root).expect("a directory");
        let directory = File::open(&root).expect("it opens");
        directory.set_modified(SystemTime::now() - age).expect("it ages");
        directory
    }

    #[test]
    fn only_places_whose_process_is_gone_are_swept() {
        let parent = tempfile::tempdir().expect("a directory");
        let (old, young) = (Duration::from_hours(1), Duration::ZERO);
        drop(a_place(parent.path(), "headgate-place-abandoned", old));
        drop(a_place(parent.path(), "headgate-place-being-made", young));
        drop(a_place(parent.path(), "somebody-elses", old));
        let held = a_place(parent.path(), "headgate-place-held", old);
        held.try_lock().expect("its process lives");

        remove_abandoned(parent.path());
        let left = |name: &str| parent.path().join(name).exists();
        assert!(!left("headgate-place-abandoned"));
        assert!(left("headgate-place-being-made") && left("headgate-place-held") && left("somebody-elses"));
    }

    #[test]
    fn a_swept_place_takes_its_directories_elsewhere_along_but_follows_no_other_link() {
        let parent = tempfile::tempdir().expect("a directory");
        let (ours, foreign) = (parent.path().join("headgate-data-1"), parent.path().join("foreign"));
        fs::create_dir(&ours).expect("a directory");
        fs::create_dir(&foreign).expect("a directory");
        drop(a_place(parent.path(), "headgate-place-1", Duration::ZERO));
        let root = parent.path().join("headgate-place-1");
        symlink(&ours, root.join("postgres")).expect("a link");
        symlink(&foreign, root.join("link")).expect("a link");

        remove_with_links(&root).expect("removed");
        assert!(!root.exists() && !ours.exists() && foreign.exists());
    }

    #[test]
    fn a_file_with_a_secret_is_closed_to_others_from_the_start() {
        let place = Place::temporary("test").expect("a place");
        let file = place.write_secret("kubeconfig", "token").expect("written");
        let mode = fs::metadata(&file).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }

    #[test]
    fn two_processes_do_not_change_a_kept_place_at_once() {
        let parent = tempfile::tempdir().expect("a directory");
        let root = parent.path().join("test");
        let first = Place::kept(&root).expect("a place");
        let second = File::open(parent.path()).expect("it opens");
        assert!(second.try_lock().is_err(), "the second must wait");
        drop(first);
        second.try_lock().expect("now it may");
    }
}
