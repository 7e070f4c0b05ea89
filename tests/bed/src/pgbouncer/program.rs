//! Where pgbouncer comes from: PATH when it is new enough, else the packages of Debian 13 in the cache, which run with
//! libraries of their own on an older Debian too.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::narrate::{Stopwatch, say};
use crate::packages::{unpack, unpacked};
use crate::{cache, programs};

/// The first that keeps prepared statements in transaction mode.
const OLDEST: (u32, u32) = (1, 21);

/// The Debian whose pgbouncer is fetched (1.24).
const RELEASE: &str = "trixie";
/// pgbouncer, and every library that it is linked with.
const PACKAGES: [&str; 12] = [
    "pgbouncer",
    "libaudit1",
    "libc6",
    "libcap-ng0",
    "libcap2",
    "libcares2",
    "libevent-2.1-7t64",
    "libpam0g",
    "libssl3t64",
    "libsystemd0",
    "libzstd1",
    "zlib1g",
];

/// How pgbouncer is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub(super) file: PathBuf,
    pub(super) arguments: Vec<String>,
}

impl Program {
    /// Finds it, and fetches it when there is none that is new enough.
    ///
    /// # Errors
    /// When there is none and it cannot be fetched.
    pub fn locate() -> Result<Self> {
        let installed = programs::find("pgbouncer").map(|file| Self { file, arguments: Vec::new() });
        if let Some(installed) = installed {
            let version = installed.version()?;
            if number(&version).is_some_and(|number| number >= OLDEST) {
                say(format_args!("pgbouncer: {} (PATH), {version}", installed.file.display()));
                return Ok(installed);
            }
        }
        let fetched = fetch().with_context(|| {
            let (major, minor) = OLDEST;
            format!("pgbouncer {major}.{minor} or newer is not here, and Debian's ({RELEASE}) not to be had: put one on PATH")
        })?;
        say(format_args!("pgbouncer: {} (Debian {RELEASE}), {}", fetched.file.display(), fetched.version()?));
        Ok(fetched)
    }

    fn version(&self) -> Result<String> {
        let output = Command::new(&self.file).args(&self.arguments).arg("--version").output();
        let output = output.with_context(|| format!("ask {} for its version", self.file.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "pgbouncer --version: {}", String::from_utf8_lossy(&output.stderr).trim());
        text.lines().next().map(str::to_owned).context("pgbouncer --version prints nothing")
    }
}

/// `PgBouncer 1.24.1`.
fn number(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split_whitespace().nth(1)?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn fetch() -> Result<Program> {
    let root = cache::get_or_make(&cache::for_servers(), &format!("pgbouncer-{RELEASE}"), |into| {
        say(format_args!("pgbouncer: fetching that of Debian ({RELEASE}), 7 MB, once for this machine"));
        let watch = Stopwatch::start();
        unpack(RELEASE, &PACKAGES, into)?;
        say(format_args!("pgbouncer: fetched in {watch}"));
        Ok(())
    })?;
    // The linker of the same libc starts it.
    let libc = unpacked(&root, |name| name == "libc.so.6").context("find libc in the packages of Debian")?;
    let libraries = libc.parent().context("find the directory of libc")?;
    let file = unpacked(libraries, |name| name.starts_with("ld-linux")).context("find the linker beside libc")?;
    let program =
        unpacked(&root.join("usr/sbin"), |name| name == "pgbouncer").context("find pgbouncer in its package")?;
    let arguments = vec!["--library-path".to_owned(), libraries.display().to_string(), program.display().to_string()];
    Ok(Program { file, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_it_prints() {
        assert_eq!(number("PgBouncer 1.24.1"), Some((1, 24)));
        assert!(number("PgBouncer 1.18.0").is_some_and(|number| number < OLDEST));
        assert_eq!(number("PgBouncer"), None);
    }
}
