//! Namespaces of their own for a run of this program: network, mounts and processes. They end with it.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::ExitStatus;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use super::control_group::ControlGroup;
use crate::account::is_root;
use crate::narrate::say;
use crate::place::Place;
use crate::process::without_proxies;
use crate::programs::run;

/// What kubelet would set for the whole machine, because the kernel has no namespace for it: it finds these values and is content.
const KERNEL: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Where Kubernetes and containerd write at paths that nobody can choose.
const WRITTEN: [&str; 2] = ["/var/lib", "/var/log"];

/// Where in the place of the outer process the inner one has its own.
const INSIDE: &str = "inside/node";

/// The place of the process that runs inside; the outer one removes it with its own.
pub fn place_inside(outer: &Path) -> Result<Place> {
    Place::kept(&outer.join(INSIDE))
}

/// The control group of the node in this place, called after the place of the outer process.
pub(super) fn control_group(inner: &Path) -> Result<&str> {
    let outer = inner.ancestors().nth(Path::new(INSIDE).iter().count());
    outer.and_then(Path::file_name).and_then(OsStr::to_str).context("name a control group: the place has no name")
}

/// Runs this program once more, with these arguments, in namespaces of its own, until it ends. All that it started ends
/// with it, also when this process is killed.
pub async fn isolated(place: &Place, arguments: &[&OsStr]) -> Result<ExitStatus> {
    ensure!(is_root(), "a node of its own needs root (or, for kind, a Docker daemon that answers)");
    let _group = ControlGroup::create(control_group(&place.path().join(INSIDE))?)?;
    // From here on a signal must not end us before what runs inside.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut command = Command::new("setpriv");
    // No proxy is within reach in there.
    without_proxies(command.as_std_mut());
    let mut child = command
        .args(["--pdeathsig", "KILL"])
        .args(["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"])
        .arg(env::current_exe()?)
        .args(arguments)
        .kill_on_drop(true)
        .spawn()
        .context("start a process in namespaces of its own")?;
    tokio::select! {
        status = child.wait() => return status.context("wait for a process in namespaces of its own"),
        _ = interrupt.recv() => say("interrupted: everything inside ends"),
        _ = terminate.recv() => say("terminated: everything inside ends"),
    }
    // The first process in there takes all others with it.
    child.start_kill()?;
    child.wait().await.context("wait for a process in namespaces of its own")
}

/// Makes the inside fit for a node. What is written from here on to the usual places of Kubernetes never reaches the disk.
pub async fn settle() -> Result<()> {
    ensure!(std::process::id() == 1, "settle in namespaces of its own: this process is not the first one in there");
    mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"]).await?;
    for directory in WRITTEN {
        let layers = format!("/run/layers{directory}");
        fs::create_dir_all(format!("{layers}/upper"))?;
        fs::create_dir_all(format!("{layers}/work"))?;
        let options = format!("lowerdir={directory},upperdir={layers}/upper,workdir={layers}/work");
        mount(&["-t", "overlay", "-o", &options, "overlay", directory]).await?;
    }
    for (name, value) in KERNEL {
        let (shown, real) = (format!("/run/kernel/{name}"), format!("/proc/sys/{name}"));
        if Path::new(&real).exists() {
            fs::create_dir_all(Path::new(&shown).parent().context("find the directory of a kernel setting")?)?;
            fs::write(&shown, format!("{value}\n"))?;
            mount(&["--bind", &shown, &real]).await?;
        }
    }
    Ok(())
}

async fn mount(arguments: &[&str]) -> Result<()> {
    run("mount", arguments).await.map(drop)
}
