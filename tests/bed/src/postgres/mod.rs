//! A real PostgreSQL server on loopback.

mod binaries;
mod database;
mod standby;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use rustix::process::{Pid, kill_process};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgConnection};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

pub use self::binaries::Binaries;
pub use self::database::{DATABASE_URL, TestDatabase};
use crate::account::Account;
use crate::narrate::{Stopwatch, say};
use crate::place::{Place, write_secret};
use crate::ports::free_port;
use crate::process::{Signal, working_in};
use crate::server::{Recipe, Server};

/// A start takes 0.1 s; recovery after a kill on a busy machine takes longer.
const READY_WITHIN: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(10);

/// The machine may not crash under a test; servers may, and then the kernel still has every write.
pub const IN_MEMORY: [(&str, &str); 2] = [("fsync", "off"), ("full_page_writes", "off")];

/// As a database is that must not lose what it acknowledged.
pub const DURABLE: [(&str, &str); 2] = [("fsync", "on"), ("full_page_writes", "on")];

/// What stays the same over restarts.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Facts {
    port: u16,
    password: String,
}

/// A server of its own data.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    facts: Facts,
    data: PathBuf,
}

impl Postgres {
    /// A server of this process, that ends with it.
    pub async fn temporary() -> Result<Self> {
        Self::up(&Arc::new(Place::temporary("postgres")?)).await
    }

    /// The server of this place: started with the data it had if it does not run, with new data if it has none.
    pub async fn up(place: &Arc<Place>) -> Result<Self> {
        Self::with_settings(place, &[]).await
    }

    /// The same, with further settings (such as [`DURABLE`]) that win over those of the test bed.
    pub async fn with_settings(place: &Arc<Place>, settings: &[(&str, &str)]) -> Result<Self> {
        let watch = Stopwatch::start();
        let binaries = Binaries::locate()?;
        say(format_args!("PostgreSQL: {} ({}), {}", binaries.postgres.display(), binaries.origin, binaries.version));
        let account = Account::for_servers()?;
        let directory = place.directory_of("postgres", account.as_ref())?;
        let running = place.running(NAME).is_some();
        let facts = match place.recall::<Facts>(FACTS) {
            Some(facts) if running || TcpListener::bind((Ipv4Addr::LOCALHOST, facts.port)).is_ok() => facts,
            Some(facts) => Facts { port: free_port()?, ..facts },
            None => Facts { port: free_port()?, password: format!("{:032x}", rand::rng().random::<u128>()) },
        };
        place.remember(FACTS, &facts)?;
        let data = directory.join("data");
        if !data.join("PG_VERSION").exists() {
            initialise(&binaries.initdb, place, &directory, &facts.password, account.as_ref()).await?;
        }
        let server = Server::in_place(place, recipe(&binaries, &directory, &facts, account, settings));
        let mut postgres = Self { server, facts, data };
        if running && postgres.ready().await.is_ok() {
            say(format_args!("PostgreSQL: runs already on 127.0.0.1:{}", postgres.facts.port));
            return Ok(postgres);
        }
        postgres.start().await?;
        say(format_args!(
            "PostgreSQL: pid {} on 127.0.0.1:{}, data in {}, log in {}; ready after {watch}",
            postgres.server.id().unwrap_or_default(),
            postgres.facts.port,
            postgres.data.display(),
            postgres.server.log().display(),
        ));
        Ok(postgres)
    }

    /// The superuser's URL of the database `postgres`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{}/postgres?sslmode=disable", self.facts.password, self.facts.port)
    }

    /// The port it listens on; the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.facts.port
    }

    /// A database of its own on this server, dropped with the returned value.
    pub async fn database(&self) -> Result<TestDatabase> {
        TestDatabase::on(&self.url()).await
    }

    /// Starts it and waits until it answers.
    pub async fn start(&mut self) -> Result<()> {
        if !self.server.is_running() {
            // After a kill, its children take a moment to notice; a new server refuses to start beside them.
            self.wait_until_gone().await?;
            // It also refuses beside a killed one that nobody has reaped yet, because of this file.
            let _ = fs::remove_file(self.data.join("postmaster.pid"));
        }
        self.server.start()?;
        self.ready().await
    }

    /// Stops it as an administrator would: sessions are ended, everything is written.
    pub async fn stop(&mut self) -> Result<()> {
        self.server.stop().await
    }

    /// Stops and starts it.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.start().await
    }

    /// Kills the server (`kill -9`): its sessions die with it, and it recovers from its log when it starts again.
    pub async fn kill(&mut self) -> Result<()> {
        self.server.kill().await?;
        self.wait_until_gone().await
    }

    /// Kills the process of one session (`pg_backend_pid()`): the server ends all sessions and recovers.
    pub fn kill_backend(&self, id: u32) -> Result<()> {
        ensure!(working_in(&self.data).contains(&id), "kill a backend: process {id} is not one of this server");
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw).context("a process id out of range")?;
        kill_process(pid, Signal::KILL).context("kill a backend")
    }

    /// Freezes the server and all of its sessions.
    pub fn pause(&self) -> Result<()> {
        self.signal_all(Signal::STOP)
    }

    /// Lets a frozen server go on.
    pub fn resume(&self) -> Result<()> {
        self.signal_all(Signal::CONT)
    }

    /// Whether its main process runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.server.is_running()
    }

    /// The process id of its main process, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.server.id()
    }

    /// Waits until a session can be opened.
    pub async fn ready(&self) -> Result<()> {
        let asked = Instant::now();
        loop {
            let url = self.url();
            if let Ok(Ok(session)) = timeout(Duration::from_secs(2), PgConnection::connect(&url)).await {
                return session.close().await.context("close a session");
            }
            let process = self.server.process()?;
            if !process.is_running() || asked.elapsed() > READY_WITHIN {
                return Err(process.failure());
            }
            sleep(POLL).await;
        }
    }

    async fn wait_until_gone(&self) -> Result<()> {
        let asked = Instant::now();
        while !working_in(&self.data).is_empty() {
            ensure!(asked.elapsed() < READY_WITHIN, "wait for PostgreSQL: processes of a server that ended do not end");
            sleep(POLL).await;
        }
        Ok(())
    }

    fn signal_all(&self, signal: Signal) -> Result<()> {
        ensure!(self.is_running(), "signal PostgreSQL: it does not run");
        for pid in working_in(&self.data).into_iter().filter_map(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            // A session may have ended since.
            let _ = kill_process(pid, signal);
        }
        Ok(())
    }
}

const NAME: &str = "postgres";
const FACTS: &str = "postgres.json";

fn recipe(
    binaries: &Binaries,
    directory: &Path,
    facts: &Facts,
    account: Option<Account>,
    settings: &[(&str, &str)],
) -> Recipe {
    let port = facts.port.to_string();
    let own = [
        ("listen_addresses", "127.0.0.1"),
        ("port", port.as_str()),
        // A socket's path is at most 107 bytes long, and nobody needs one.
        ("unix_socket_directories", ""),
        ("max_connections", "400"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
    ];
    let mut arguments = vec!["-D".to_owned(), directory.join("data").display().to_string()];
    for (name, value) in own.iter().chain(&IN_MEMORY).chain(settings) {
        arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
    }
    Recipe {
        name: NAME,
        program: binaries.postgres.clone(),
        arguments,
        directory: directory.to_owned(),
        account,
        // "Fast" and "immediate" shutdown; SIGKILL would leave its children to find out.
        stop: Signal::INT,
        end: Signal::QUIT,
    }
}

async fn initialise(
    initdb: &Path,
    place: &Place,
    directory: &Path,
    password: &str,
    account: Option<&Account>,
) -> Result<()> {
    let password_file = directory.join("password");
    write_secret(&password_file, password)?;
    let mut command = Command::new(initdb);
    place.mark(command.as_std_mut());
    if let Some(account) = account {
        account.own(&password_file)?;
        command.uid(account.uid).gid(account.gid);
    }
    let data = directory.join("data");
    // An attempt that was cut short left a directory that initdb would refuse.
    let _ = fs::remove_dir_all(&data);
    command.arg("-D").arg(&data).args(["-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]);
    // Plain text over loopback: a scram handshake of an unoptimised client costs every test tens of milliseconds.
    command.arg("--auth=password").arg(format!("--pwfile={}", password_file.display()));
    let output = command.current_dir(directory).stdin(Stdio::null()).output().await.context("start initdb")?;
    ensure!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr));
    fs::remove_file(&password_file).context("remove the password file")
}
