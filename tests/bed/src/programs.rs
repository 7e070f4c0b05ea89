//! Programs of this machine: found, installed, and run to their end.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::account::is_root;
use crate::cache;
use crate::narrate::{Stopwatch, say};

/// Where Debian puts what only root needs; not on everybody's PATH.
const OF_ROOT: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A program on PATH or among those of root.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(OF_ROOT.map(PathBuf::from));
    directories.map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// Runs a program to its end and gives what it printed. An error carries what it complained about.
pub async fn run(program: impl AsRef<Path>, arguments: &[&str]) -> Result<String> {
    finish(Command::new(program.as_ref()).args(arguments), "").await
}

/// The same for a command with more to it, with this text as its standard input.
pub async fn finish(command: &mut Command, input: &str) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let shown = shown(command);
    let mut child = command.spawn().with_context(|| format!("start {shown}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input closes it, which is no failure.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.with_context(|| format!("wait for {shown}"))?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{shown}: {}\n{told}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(told)
}

fn shown(command: &Command) -> String {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Sees to it that programs (or files) are here, each given with the Debian package that brings it: installs the packages
/// as root, and names them otherwise.
pub async fn require(what_for: &str, needed: &[(&str, &'static str)]) -> Result<()> {
    let mut packages: Vec<&str> =
        needed.iter().filter(|(name, _)| !present(name)).map(|(_, package)| *package).collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    ensure!(is_root() && find("apt-get").is_some(), "{what_for} needs programs that are not here: {install}");
    say(format_args!("{what_for}: {install}"));
    let watch = Stopwatch::start();
    run("apt-get", &["-qq", "update"]).await?;
    let quiet = ["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y", "install", "--no-install-recommends"];
    run("env", &[&quiet[..], &packages].concat()).await?;
    say(format_args!("{what_for}: installed in {watch}"));
    Ok(())
}

fn present(name: &str) -> bool {
    if name.starts_with('/') { Path::new(name).exists() } else { find(name).is_some() }
}

/// A program on PATH, else one of the given version that Go builds into this user's cache.
pub fn by_go(name: &str, package: &str, version: &str) -> Result<PathBuf> {
    if let Some(found) = find(name) {
        say(format_args!("{name}: {} (PATH)", found.display()));
        return Ok(found);
    }
    let directory = cache::get_or_make(&cache::directory(), &format!("{name}-{version}"), |into| {
        let go = find("go").with_context(|| {
            format!("no {name} here, and no Go to build it with: put {name} {version} or newer on PATH, or install Go")
        })?;
        say(format_args!("{name}: building {version} with Go, a few minutes, once for this machine"));
        let watch = Stopwatch::start();
        let status = std::process::Command::new(go)
            .args(["install", "-trimpath", "-ldflags=-s -w", &format!("{package}@{version}")])
            .env("GOBIN", into)
            .status()
            .context("start go")?;
        ensure!(status.success(), "build {name} {version}: go {status}; Go 1.21 or newer is needed");
        say(format_args!("{name}: built in {watch}"));
        Ok(())
    })?;
    Ok(directory.join(name))
}
