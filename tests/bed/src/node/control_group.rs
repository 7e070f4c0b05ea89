//! The control group under which the containers of a node run. The kernel keeps it when its processes are gone, so it is
//! removed by name.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::place::PLACE;

const MOUNTED: &str = "/sys/fs/cgroup";
/// Killed processes leave their groups within milliseconds; a busy machine takes longer.
const EMPTY_WITHIN: Duration = Duration::from_secs(20);

/// A group in every hierarchy of this machine, removed with this value.
#[derive(Debug)]
pub(super) struct ControlGroup {
    name: String,
}

impl ControlGroup {
    /// The group of the place of this name. Those whose place is gone were left by a process that was killed.
    pub(super) fn create(name: &str) -> Result<Self> {
        let places = std::env::temp_dir();
        for root in hierarchies(Path::new(MOUNTED)) {
            for group in abandoned(&root, PLACE, &places) {
                // Another run may be removing it too.
                let _ = remove_tree(&group);
            }
        }
        let group = Self { name: name.to_owned() };
        for directory in group.directories() {
            fs::create_dir_all(&directory)
                .with_context(|| format!("create the control group {}", directory.display()))?;
        }
        Ok(group)
    }

    fn directories(&self) -> Vec<PathBuf> {
        hierarchies(Path::new(MOUNTED)).into_iter().map(|root| root.join(&self.name)).collect()
    }

    fn remove(&self) -> Result<()> {
        let begun = Instant::now();
        for directory in self.directories() {
            while directory.exists() && remove_tree(&directory).is_err() {
                ensure!(begun.elapsed() < EMPTY_WITHIN, "remove the control group {}", directory.display());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            crate::narrate::say(format_args!("{error:#}"));
        }
    }
}

/// The groups of places that are not there any more.
fn abandoned(root: &Path, prefix: &str, places: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let groups = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|group| {
        let name = group.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(prefix) && !places.join(name).exists())
    });
    groups.collect()
}

/// Version 2 has one hierarchy, version 1 one for each controller.
fn hierarchies(mounted: &Path) -> Vec<PathBuf> {
    if mounted.join("cgroup.controllers").exists() {
        return vec![mounted.to_owned()];
    }
    let Ok(entries) = fs::read_dir(mounted) else { return Vec::new() };
    // Links are second names: cpu -> cpu,cpuacct.
    let roots = entries.filter_map(|entry| Some(entry.ok()?.path()));
    roots.filter(|path| !path.is_symlink() && path.join("cgroup.procs").exists()).collect()
}

/// The innermost first: a group with a group in it cannot be removed. The files in it go with it.
fn remove_tree(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_has_a_hierarchy_for_each_controller_and_links_do_not_count_twice() {
        let mounted = tempfile::tempdir().expect("a directory");
        for name in ["cpu,cpuacct", "memory"] {
            fs::create_dir(mounted.path().join(name)).expect("a hierarchy");
            fs::write(mounted.path().join(name).join("cgroup.procs"), "").expect("its processes");
        }
        std::os::unix::fs::symlink("cpu,cpuacct", mounted.path().join("cpu")).expect("a second name");
        let mut found = hierarchies(mounted.path());
        found.sort();
        assert_eq!(found, [mounted.path().join("cpu,cpuacct"), mounted.path().join("memory")]);
    }

    #[test]
    fn a_group_is_abandoned_when_its_place_is_gone() {
        let (root, places) = (tempfile::tempdir().expect("groups"), tempfile::tempdir().expect("places"));
        for name in ["place-a", "place-b", "other"] {
            fs::create_dir(root.path().join(name)).expect("a group");
        }
        fs::create_dir(places.path().join("place-a")).expect("a place");
        assert_eq!(abandoned(root.path(), "place-", places.path()), [root.path().join("place-b")]);
    }

    #[test]
    fn version_2_has_one_hierarchy() {
        let mounted = tempfile::tempdir().expect("a directory");
        fs::write(mounted.path().join("cgroup.controllers"), "cpu memory").expect("its controllers");
        assert_eq!(hierarchies(mounted.path()), [mounted.path().to_owned()]);
    }
}
