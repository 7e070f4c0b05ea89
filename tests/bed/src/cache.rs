//! A directory per user for what is expensive to build or fetch, shared by all clones on a machine.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::account::is_root;
use crate::narrate::say;

/// `$XDG_CACHE_HOME/headgate` or `~/.cache/headgate`; without a home, a directory of this clone.
#[must_use]
pub fn directory() -> PathBuf {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .map_or_else(|| crate::repository().join(".headgate/cache"), |caches| caches.join("headgate"))
}

/// The same for programs that do not run as root: root's home is closed to others.
#[must_use]
pub fn for_servers() -> PathBuf {
    if is_root() { PathBuf::from("/var/cache/headgate") } else { directory() }
}

/// The name of what is made from these contents: other contents, another name.
pub fn key(contents: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
    let mut hash = Sha256::new();
    contents.into_iter().for_each(|content| hash.update(content));
    let half = hash.finalize().iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    format!("{half:016x}")
}

/// Gives `<cache>/<name>`, made by `make` if it is not there yet. `make` fills a directory of its own, so a broken attempt
/// leaves nothing behind; of two processes at the same time, the second waits for the first.
pub fn get_or_make(cache: &Path, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let finished = cache.join(name);
    if finished.exists() {
        return Ok(finished);
    }
    fs::create_dir_all(cache).with_context(|| format!("create {}", cache.display()))?;
    let lock = File::create(cache.join(format!("{name}.lock")))?;
    if lock.try_lock().is_err() {
        say(format_args!("waiting for another process that makes {}", finished.display()));
        lock.lock()?;
    }
    if !finished.exists() {
        let unfinished = tempfile::Builder::new().prefix("unfinished-").tempdir_in(cache)?;
        make(unfinished.path())?;
        fs::rename(unfinished.keep(), &finished).with_context(|| format!("keep {}", finished.display()))?;
    }
    Ok(finished)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_made_again() {
        let cache = tempfile::tempdir().expect("a cache");
        let first = get_or_make(cache.path(), "tool", |into| Ok(fs::write(into.join("tool"), "1")?)).expect("made");
        let again = get_or_make(cache.path(), "tool", |_| panic!("made twice")).expect("found");
        assert_eq!(first, again);
        assert_eq!(fs::read_to_string(again.join("tool")).expect("it is whole"), "1");
    }

    #[test]
    fn a_broken_attempt_leaves_nothing_that_looks_finished() {
        let cache = tempfile::tempdir().expect("a cache");
        get_or_make(cache.path(), "tool", |into| {
            fs::write(into.join("half"), "")?;
            anyhow::bail!("no compiler")
        })
        .expect_err("the attempt fails");
        assert!(!cache.path().join("tool").exists());
        let made = get_or_make(cache.path(), "tool", |_| Ok(())).expect("the next attempt makes it");
        assert!(!made.join("half").exists());
    }
}
