//! Server processes that end when they should: with this process, or when their pidfile is asked to.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
pub use rustix::process::Signal;
use rustix::process::{Pid, getppid, kill_process, kill_process_group, set_parent_process_death_signal, setsid};

use crate::account::Account;
use crate::mark::mark;

/// How often a process of ours is asked whether it still runs: it may not be our child, so there is nothing to wait on.
const POLL: Duration = Duration::from_millis(5);
/// How often a server that starts is asked whether it is ready.
const READY_POLL: Duration = Duration::from_millis(20);

/// Each also in lower case.
const PROXIES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];

/// Takes the proxies of the environment from a command that talks to this machine alone; they are for others.
pub fn without_proxies(command: &mut Command) {
    for variable in PROXIES {
        command.env_remove(variable).env_remove(variable.to_lowercase());
    }
}

/// When a server that was started ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// With the process that started it, however that one ends (a panic and `kill -9` included).
    WithParent,
    /// When somebody stops it, by its pidfile.
    Detached,
}

/// A server to be started: in a session of its own, its output in a log file, its pid in a pidfile, and the mark of its
/// directory in its environment.
pub struct Launch {
    command: Command,
    name: String,
    directory: PathBuf,
    log: PathBuf,
    pidfile: PathBuf,
    lifetime: Lifetime,
    end_signal: Signal,
}

impl Launch {
    /// A program that will log to `<directory>/<name>.log` and be known by `<directory>/<name>.pid`.
    #[must_use]
    pub fn new(name: &str, program: impl AsRef<OsStr>, directory: &Path, lifetime: Lifetime) -> Self {
        let mut command = Command::new(program);
        without_proxies(&mut command);
        Self {
            command,
            name: name.to_owned(),
            directory: directory.to_owned(),
            log: directory.join(format!("{name}.log")),
            pidfile: directory.join(format!("{name}.pid")),
            lifetime,
            end_signal: Signal::KILL,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets one environment variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn in_directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Runs it as another account (for servers that refuse root).
    #[must_use]
    pub fn as_account(mut self, account: Option<&Account>) -> Self {
        if let Some(account) = account {
            self.command.uid(account.uid).gid(account.gid);
        }
        self
    }

    /// The signal that ends it at once, when it is not SIGKILL: for servers whose children would survive that.
    #[must_use]
    pub fn ended_by(mut self, signal: Signal) -> Self {
        self.end_signal = signal;
        self
    }

    /// Starts it.
    pub fn start(self) -> Result<Process> {
        let Self { mut command, name, directory, log, pidfile, lifetime, end_signal } = self;
        mark(&mut command, &directory, end_signal);
        let output = OpenOptions::new().create(true).append(true).open(&log).context("open the log of a server")?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        on_fork(&mut command, lifetime, end_signal);

        // The kernel sends the death signal when the *thread* that forked ends: so a thread that lives as long as the child.
        let exit = Arc::new(OnceLock::new());
        let (tell, told) = mpsc::sync_channel(1);
        let noted = Arc::clone(&exit);
        thread::Builder::new().name(format!("wait {name}")).spawn(move || match command.spawn() {
            Ok(mut child) => {
                // Before wait(), so that the pid cannot have been given to another process yet.
                let id = child.id();
                let _ = tell.send(Ok((id, start_time(id))));
                let _ = noted.set(child.wait().ok());
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        })?;
        let (id, started) =
            told.recv().context("the thread that starts a server ended")?.with_context(|| format!("start {name}"))?;
        let started = started.unwrap_or_default();
        fs::write(&pidfile, format!("{id} {started} {}\n", end_signal.as_raw())).context("write a pidfile")?;
        Ok(Process { name, id, started, end_signal, log, pidfile, lifetime, exit: Some(exit) })
    }
}

/// A session of its own keeps it away from the terminal's signals; the death signal ties it to its parent.
#[expect(unsafe_code, reason = "pre_exec; the closure makes only plain system calls, so it is safe after fork")]
fn on_fork(command: &mut Command, lifetime: Lifetime, end_signal: Signal) {
    let parent = std::process::id();
    // SAFETY: between fork and exec only async-signal-safe calls are made: setsid, prctl, getppid. Nothing allocates.
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            if lifetime == Lifetime::WithParent {
                // After std's setuid, which would clear it.
                set_parent_process_death_signal(Some(end_signal))?;
                if getppid().is_none_or(|pid| pid.as_raw_nonzero().get().cast_unsigned() != parent) {
                    return Err(std::io::ErrorKind::BrokenPipe.into());
                }
            }
            Ok(())
        });
    }
}

/// A server that was started, here or by an earlier run. One that lives with its parent is ended when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    id: u32,
    started: u64,
    end_signal: Signal,
    log: PathBuf,
    pidfile: PathBuf,
    lifetime: Lifetime,
    /// How it ended; nobody here learns that of a process that an earlier run has started.
    exit: Option<Arc<OnceLock<Option<ExitStatus>>>>,
}

impl Process {
    /// The process that `<directory>/<name>.pid` names, if it still runs. A stale pidfile is removed.
    #[must_use]
    pub fn running(name: &str, directory: &Path) -> Option<Self> {
        let pidfile = directory.join(format!("{name}.pid"));
        let text = fs::read_to_string(&pidfile).ok()?;
        let mut words = text.split_whitespace();
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (id, started, signal) = (number(), number(), number());
        let process = Self {
            name: name.to_owned(),
            id: id.and_then(|id| id.try_into().ok())?,
            started: started?,
            end_signal: signal.and_then(|raw| Signal::from_named_raw(raw.try_into().ok()?)).unwrap_or(Signal::KILL),
            log: directory.join(format!("{name}.log")),
            pidfile,
            lifetime: Lifetime::Detached,
            exit: None,
        };
        if process.is_running() {
            return Some(process);
        }
        let _ = fs::remove_file(&process.pidfile);
        None
    }

    /// The name it was started under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Its log file.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether it still runs. One that was started here does until it is known how it ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        match &self.exit {
            Some(exit) => exit.get().is_none(),
            None => start_time(self.id) == Some(self.started),
        }
    }

    /// How it ended, when it was started by this process and has ended.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.as_ref()?.get()?
    }

    /// Sends a signal to it alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if !self.is_running() {
            bail!("signal {}: it does not run", self.name);
        }
        kill_process(self.pid()?, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Freezes it (SIGSTOP).
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen one go on (SIGCONT).
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Waits until `is_ready`, for this long at the most.
    ///
    /// # Errors
    /// With the end of its log, when it ends or takes too long.
    pub async fn ready(&self, within: Duration, mut is_ready: impl AsyncFnMut() -> bool) -> Result<()> {
        let asked = Instant::now();
        while !is_ready().await {
            if !self.is_running() || asked.elapsed() > within {
                return Err(self.failure());
            }
            tokio::time::sleep(READY_POLL).await;
        }
        Ok(())
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        while self.is_running() {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Asks it to end with a signal, and ends it at once when it has not done so in time.
    pub async fn stop(&self, signal: Signal, patience: Duration) -> Result<()> {
        if self.is_running() {
            self.signal(signal)?;
            let asked = Instant::now();
            while self.is_running() && asked.elapsed() < patience {
                tokio::time::sleep(POLL).await;
            }
        }
        self.end();
        Ok(())
    }

    /// Ends it at once (`kill -9`), with everything in its process group.
    pub async fn kill(&self) -> Result<()> {
        if self.is_running() {
            match kill_process_group(self.pid()?, Signal::KILL) {
                // It has ended, and is about to be noted.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("kill {}", self.name)),
            }
        }
        self.ended().await;
        let _ = fs::remove_file(&self.pidfile);
        Ok(())
    }

    /// Ends it at once by the signal meant for that and waits; for use where nothing can be awaited.
    pub fn end(&self) {
        if self.is_running()
            && let Ok(pid) = self.pid()
        {
            let _ = kill_process(pid, Signal::CONT);
            let _ = kill_process_group(pid, self.end_signal);
            let asked = Instant::now();
            while self.is_running() {
                thread::sleep(POLL);
                if asked.elapsed() > Duration::from_secs(5) {
                    let _ = kill_process_group(pid, Signal::KILL);
                }
            }
        }
        let _ = fs::remove_file(&self.pidfile);
    }

    /// The last lines of its log, for an error message.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// An error that says how a server ended before it was ready.
    #[must_use]
    pub fn failure(&self) -> anyhow::Error {
        let how = match self.exit_status() {
            Some(status) if status.signal().is_some() => format!("was ended by a signal ({status})"),
            Some(status) => format!("ended ({status})"),
            None if self.is_running() => "is not ready".to_owned(),
            None => "ended".to_owned(),
        };
        anyhow::anyhow!("{} {how}; the end of {}:\n{}", self.name, self.log.display(), self.log_tail())
    }

    fn pid(&self) -> Result<Pid> {
        i32::try_from(self.id).ok().and_then(Pid::from_raw).context("a process id out of range")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::WithParent {
            self.end();
        }
    }
}

/// When a process started, in clock ticks since boot: with the pid it names a process for good. None: it has ended.
pub(crate) fn start_time(id: u32) -> Option<u64> {
    stat(id, 19)
}

/// The process that started it, or that took it over when that one ended. None: it has ended.
pub(crate) fn parent(id: u32) -> Option<u32> {
    stat(id, 1).and_then(|parent| parent.try_into().ok())
}

/// A field of `/proc/<id>/stat`, counted from the state, which is 0.
fn stat(id: u32, field: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The command name, in parentheses, may hold anything; what follows the last one is plain.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().peekable();
    if matches!(*fields.peek()?, "Z" | "X") {
        return None;
    }
    fields.nth(field)?.parse().ok()
}

/// The processes whose working directory is this one: what a server of several processes has left.
#[must_use]
pub fn working_in(directory: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|id| fs::read_link(format!("/proc/{id}/cwd")).is_ok_and(|cwd| cwd == directory))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_inherits_no_proxy_and_can_still_be_given_one() {
        let place = tempfile::tempdir().expect("a directory");
        let launch =
            Launch::new("replica", "true", place.path(), Lifetime::WithParent).env("HTTPS_PROXY", "http://mine");
        let variables: Vec<_> = launch.command.get_envs().collect();
        for removed in ["HTTP_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"] {
            assert!(variables.contains(&(OsStr::new(removed), None)), "{removed} is inherited");
        }
        assert!(variables.contains(&(OsStr::new("HTTPS_PROXY"), Some(OsStr::new("http://mine")))));
    }
}
