//! Debian packages of this machine's mirror, unpacked into a directory of ours: nothing is installed, and the lists of the
//! machine's own apt stay as they are. Also those of a newer Debian than the one that runs here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::programs::find;

/// Fetches packages of a release (`trixie`) and unpacks them into `into`.
///
/// # Errors
/// When this machine has no apt, or none of its mirrors has the release and the packages.
pub fn unpack(release: &str, packages: &[&str], into: &Path) -> Result<()> {
    ensure!(
        find("apt-get").is_some() && find("dpkg").is_some(),
        "fetch packages of Debian: apt-get and dpkg are not here"
    );
    let mut said = Vec::new();
    for mirror in mirrors()? {
        // One of security fixes, say, knows other releases than one of everything.
        match unpack_from(&mirror, release, packages, into) {
            Ok(()) => return Ok(()),
            Err(error) => said.push(format!("{error:#}")),
        }
    }
    bail!("no mirror of this machine has {} of {release}: {}", packages.join(", "), said.join("; "))
}

fn unpack_from(mirror: &str, release: &str, packages: &[&str], into: &Path) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let apt = Apt::of(mirror, release, scratch.path())?;
    apt.run(&["update"])?;
    apt.run(&[&["download"], packages].concat())?;
    for file in files(scratch.path())?.iter().filter(|file| file.extension().is_some_and(|it| it == "deb")) {
        run(Command::new("dpkg").arg("-x").arg(file).arg(into))?;
    }
    // For servers, which have an account of their own.
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(into))
}

/// apt with lists of its own.
struct Apt<'a> {
    scratch: &'a Path,
    options: Vec<String>,
}

impl<'a> Apt<'a> {
    fn of(mirror: &str, release: &str, scratch: &'a Path) -> Result<Self> {
        for below in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(scratch.join(below))?;
        }
        let sources = scratch.join("sources.list");
        fs::write(&sources, format!("deb {mirror} {release} main\n"))?;
        let set = |name: &str, path: PathBuf| format!("{name}={}", path.display());
        let options = vec![
            set("Dir::Etc::SourceList", sources),
            set("Dir::Etc::SourceParts", scratch.join("no-more")),
            set("Dir::State::Lists", scratch.join("lists")),
            set("Dir::Cache", scratch.join("cache")),
            // The account that apt downloads as may not write here.
            "APT::Sandbox::User=root".to_owned(),
            // Only what is asked for: no translations, no contents.
            "Acquire::Languages=none".to_owned(),
        ];
        Ok(Self { scratch, options })
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let options = self.options.iter().flat_map(|option| ["-o", option]);
        run(Command::new("apt-get").current_dir(self.scratch).arg("-qq").args(options).args(arguments))
    }
}

/// Where this machine has its own packages from: what `update` would ask, also where it never ran.
fn mirrors() -> Result<Vec<String>> {
    let output =
        Command::new("apt-get").args(["--print-uris", "update"]).output().context("ask apt for its mirrors")?;
    let mirrors = mirrors_in(&String::from_utf8_lossy(&output.stdout));
    ensure!(!mirrors.is_empty(), "find a mirror in the sources of apt");
    Ok(mirrors)
}

/// What stands before `/dists/` in the quoted addresses; each once, in their order.
fn mirrors_in(printed: &str) -> Vec<String> {
    let mut mirrors: Vec<String> = Vec::new();
    for address in printed.lines().filter_map(|line| line.strip_prefix('\'')) {
        if let Some((mirror, _)) = address.split_once("/dists/")
            && !mirrors.iter().any(|known| known == mirror)
        {
            mirrors.push(mirror.to_owned());
        }
    }
    mirrors
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    Ok(fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {program}"))?;
    ensure!(
        output.status.success(),
        "{program} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The first file of this name below a directory.
#[must_use]
pub fn unpacked(below: &Path, wanted: impl Fn(&str) -> bool + Copy) -> Option<PathBuf> {
    let mut entries = files(below).ok()?;
    entries.sort();
    let named = |path: &&PathBuf| path.is_file() && path.file_name().and_then(|name| name.to_str()).is_some_and(wanted);
    let here = entries.iter().find(named).cloned();
    here.or_else(|| {
        let directories = entries.iter().filter(|path| path.is_dir() && !path.is_symlink());
        directories.into_iter().find_map(|directory| unpacked(directory, wanted))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirrors_are_those_that_an_update_would_ask_each_once() {
        let printed = "'http://mirror.example/debian/dists/stable/InRelease' mirror.example_stable_InRelease 0 \n\
                       'http://mirror.example/security/dists/stable-security/InRelease' mirror.example_security 0 \n\
                       'http://mirror.example/debian/dists/stable/main/binary-amd64/Packages.xz' mirror.example_Packages 0 \n\
                       and a line that is none\n";
        assert_eq!(mirrors_in(printed), ["http://mirror.example/debian", "http://mirror.example/security"]);
    }
}
