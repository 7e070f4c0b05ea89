//! The wall clock of one replica, which can be set: libfaketime stands before its C library. What is monotonic goes on, as it
//! does when an administrator or NTP sets a real clock.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache;
use crate::narrate::say;
use crate::packages::{unpack, unpacked};
use crate::place::Place;

/// The one for programs with threads.
const LIBRARY: &str = "libfaketimeMT.so.1";
/// It runs with the C library of this Debian and of later ones.
const RELEASE: &str = "bookworm";

/// A clock that is right until it is told otherwise.
#[derive(Debug)]
pub struct WallClock {
    library: PathBuf,
    /// How far off it is; read again each time somebody looks at the clock.
    offset: PathBuf,
}

impl WallClock {
    /// The clock of the replica of this name.
    ///
    /// # Errors
    /// When libfaketime is not here and cannot be fetched.
    pub fn of(replica: &str, place: &Place) -> Result<Self> {
        let clock = Self { library: library()?, offset: place.path().join(format!("{replica}.clock")) };
        clock.be_off_by(0)?;
        Ok(clock)
    }

    /// The variables that give it to a program.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.offset.clone().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("NO_FAKE_STAT", "1".into()),
        ]
    }

    /// From now on it shows so many seconds more, or less, than it is; the programs that have it see it at once.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn be_off_by(&self, seconds: i64) -> Result<()> {
        let new = self.offset.with_extension("clock.new");
        fs::write(&new, format!("{seconds:+}\n")).context("set the clock of a replica")?;
        // At once: a program that looks meanwhile finds the old or the new one whole.
        fs::rename(&new, &self.offset).context("set the clock of a replica")
    }
}

fn library() -> Result<PathBuf> {
    if let Some(installed) = unpacked_below(Path::new("/usr/lib")) {
        return Ok(installed);
    }
    let root = cache::get_or_make(&cache::directory(), &format!("libfaketime-{RELEASE}"), |into| {
        say(format_args!("libfaketime: fetching that of Debian ({RELEASE}), once for this machine"));
        unpack(RELEASE, &["libfaketime"], into)
    })
    .context("libfaketime is not here, and Debian's not to be had: install libfaketime")?;
    unpacked(&root, |name| name == LIBRARY).context("find libfaketime in its package")
}

/// `/usr/lib/<machine>/faketime`.
fn unpacked_below(root: &Path) -> Option<PathBuf> {
    let machines = fs::read_dir(root).ok()?;
    machines.filter_map(|entry| Some(entry.ok()?.path().join("faketime").join(LIBRARY))).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// How far the clock that a program sees is from ours, in seconds.
    fn seen(clock: &WallClock) -> i64 {
        let now = || jiff::Timestamp::now().as_second();
        let output = Command::new("date").arg("+%s").envs(clock.environment()).output().expect("date runs");
        let shown: i64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("seconds");
        shown - now()
    }

    #[test]
    fn a_program_sees_the_clock_as_it_was_set_last() {
        let place = Place::temporary("clock").expect("a place");
        let clock = WallClock::of("replica", &place).expect("libfaketime");
        for off in [0, 86_400, -86_400, 0] {
            clock.be_off_by(off).expect("a file");
            assert!((seen(&clock) - off).abs() < 60, "{off}");
        }
    }
}
