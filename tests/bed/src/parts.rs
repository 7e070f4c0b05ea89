//! The servers that tests need, together: PostgreSQL and a control plane.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::control_plane::{self, ControlPlane, Settings};
use crate::narrate::{Stopwatch, say};
use crate::pgbouncer;
use crate::place::Place;
use crate::postgres::{self, DATABASE_URL, Postgres};
use crate::test_api::KUBECONFIG;

/// Both servers of one place.
#[derive(Debug)]
pub struct Parts {
    /// PostgreSQL.
    pub postgres: Postgres,
    /// etcd and kube-apiserver.
    pub control_plane: ControlPlane,
}

impl Parts {
    /// Starts what does not run yet in this place.
    pub async fn up(place: &Arc<Place>) -> Result<Self> {
        let watch = Stopwatch::start();
        let settings = Settings::default();
        let (postgres, control_plane) = tokio::join!(Postgres::up(place), ControlPlane::up(place, &settings));
        let parts = Self { postgres: postgres?, control_plane: control_plane? };
        say(format_args!("the parts are ready after {watch}"));
        Ok(parts)
    }

    /// The variables that tests read.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, String); 2] {
        let kubeconfig = self.control_plane.kubeconfig().display().to_string();
        [(DATABASE_URL, self.postgres.url()), (KUBECONFIG, kubeconfig)]
    }
}

/// Where `make parts` keeps its servers, if nothing else is said.
#[must_use]
pub fn default_place() -> PathBuf {
    crate::repository().join(".headgate/test")
}

/// Starts the parts so that they stay, and returns the lines that a shell needs to use them.
pub async fn up(root: &Path) -> Result<String> {
    let place = Arc::new(Place::kept(root)?);
    let parts = Parts::up(&place).await?;
    let lines = parts.variables().map(|(name, value)| format!("export {name}='{value}'\n")).concat();
    place.write_secret("env", &lines)?;
    say(format_args!("to stop them: make parts-down"));
    Ok(lines)
}

/// Ends the parts and removes all they wrote. Works after a crash too, without the directory, and when there are none.
pub fn down(root: &Path) -> Result<()> {
    let there = root.exists();
    let ended = if there { Place::kept(root)?.end()? } else { Place::end_without_directory(root)? };
    let ended = if ended.is_empty() { "nothing that ran".to_owned() } else { ended.join(", ") };
    let removed = if there { "removed" } else { "there is no" };
    say(format_args!("ended {ended}; {removed} {}", root.display()));
    Ok(())
}

/// Sees to it that every program of the parts is here, PostgreSQL in these major versions too.
pub fn prepare(versions: &[u32]) -> Result<()> {
    postgres::Binaries::prepare(versions)?;
    pgbouncer::Program::locate()?;
    control_plane::Binaries::locate().map(drop)
}

/// Runs a command with the parts up and its variables set, and takes the parts down however it ends.
pub async fn run(command: &[OsString]) -> Result<ExitStatus> {
    let (program, arguments) = command.split_first().context("run a command: none was given")?;
    let place = Arc::new(Place::temporary("test")?);
    let parts = Parts::up(&place).await?;
    // From here on a signal must not end us before the servers.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut child = Command::new(program)
        .args(arguments)
        .envs(parts.variables())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    loop {
        tokio::select! {
            status = child.wait() => return status.context("wait for the command"),
            // The terminal sends it to the command too.
            _ = interrupt.recv() => say("interrupted: waiting for the command to end"),
            _ = terminate.recv() => {
                if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
                    kill_process(pid, Signal::TERM).context("pass a signal on to the command")?;
                }
            }
        }
    }
}
