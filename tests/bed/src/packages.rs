//! Debian packages of this machine's mirror, unpacked into a directory of ours: nothing is installed, and the lists of the
//! machine's own apt stay as they are. Also those of a newer Debian than the one that runs here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::programs::find;

/// Fetches packages of a release (`trixie`) and unpacks them into `into`.
///
/// # Errors
/// When this machine has no apt, or its mirror does not have the release or a package.
pub fn unpack(release: &str, packages: &[&str], into: &Path) -> Result<()> {
    ensure!(
        find("apt-get").is_some() && find("dpkg").is_some(),
        "fetch packages of Debian: apt-get and dpkg are not here"
    );
    let scratch = tempfile::tempdir()?;
    let apt = Apt::of(release, scratch.path())?;
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
    fn of(release: &str, scratch: &'a Path) -> Result<Self> {
        for below in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(scratch.join(below))?;
        }
        let sources = scratch.join("sources.list");
        fs::write(&sources, format!("deb {} {release} main\n", mirror()?))?;
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

/// Where this machine has its own packages from.
fn mirror() -> Result<String> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI) $(COMPONENT)", "Created-By: Packages"])
        .output()
        .context("ask apt for its mirrors")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let of_main = text.lines().find_map(|line| line.strip_suffix(" main"));
    of_main.map(str::to_owned).context("find a mirror in the sources of apt")
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
