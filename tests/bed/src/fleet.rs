//! Replicas of the operator as processes, and everything that can be done to them. What was done is noted, because the
//! checker needs it.

mod soundness;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::checker::{Nemesis, NemesisKind, Presence};
use crate::clock;
use crate::place::Place;
use crate::ports::free_port;
use crate::process::{Process, Signal};

/// How long a replica may take to be ready; alone it takes a second or two.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// What every replica of a fleet is started with.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The `headgate` binary.
    pub binary: PathBuf,
    pub kubeconfig: PathBuf,
    pub database_url: String,
    /// The namespace of the Leases.
    pub namespace: String,
    /// Further variables (`HEADGATE_…`).
    pub environment: Vec<(String, String)>,
}

/// Replicas by name.
#[derive(Debug)]
pub struct Fleet {
    setting: Setting,
    replicas: BTreeMap<String, Replica>,
    /// Further variables of each replica, for every life of it.
    own: BTreeMap<String, Vec<(&'static str, OsString)>>,
    nemeses: Vec<Nemesis>,
    terminations: Vec<(String, u64)>,
    presences: Vec<Presence>,
    http: reqwest::Client,
    // After the replicas, so that they have ended when the place is removed.
    place: Arc<Place>,
}

#[derive(Debug)]
struct Replica {
    process: Process,
    admin_port: u16,
    is_ending: bool,
    is_killed: bool,
}

/// One line of `/v1/sources`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceRow {
    pub namespace: String,
    pub name: String,
    pub holder: Option<String>,
    pub held: bool,
    pub cursor: Option<String>,
    pub events_loaded: Option<u64>,
    pub caught_up: Option<bool>,
    pub blocked_by: Option<String>,
    pub last_interval_ms: Option<u64>,
    pub problem: Option<Problem>,
}

/// What is wrong with a source.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Problem {
    pub reason: String,
    pub message: String,
}

#[derive(Deserialize)]
struct SourceRows {
    sources: Vec<SourceRow>,
}

#[derive(Deserialize)]
struct Readiness {
    pending: BTreeMap<String, String>,
}

impl Fleet {
    /// A fleet without replicas. Those that an earlier run left in this place are found by [`Fleet::adopt`].
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(place: &Arc<Place>, setting: Setting) -> Result<Self> {
        // Replicas die under our requests on purpose: a kept connection would only bring errors.
        let http =
            reqwest::Client::builder().pool_max_idle_per_host(0).timeout(Duration::from_secs(2)).no_proxy().build()?;
        Ok(Self {
            setting,
            replicas: BTreeMap::new(),
            own: BTreeMap::new(),
            nemeses: Vec::new(),
            terminations: Vec::new(),
            presences: Vec::new(),
            http,
            place: Arc::clone(place),
        })
    }

    /// Takes over a replica that an earlier run started, if it still runs.
    pub fn adopt(&mut self, name: &str) -> bool {
        let port = self.place.recall(&Self::port_file(name));
        match (self.place.running(name), port) {
            (Some(process), Some(admin_port)) => {
                self.replicas
                    .insert(name.to_owned(), Replica { process, admin_port, is_ending: false, is_killed: false });
                true
            }
            _ => false,
        }
    }

    /// A replica of this name is started with these variables too, every time.
    pub fn furnish(&mut self, name: &str, environment: Vec<(&'static str, OsString)>) {
        self.own.insert(name.to_owned(), environment);
    }

    /// Starts a replica.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn start(&mut self, name: &str) -> Result<()> {
        self.start_with(name, &[])
    }

    /// Starts a replica with variables of its own, which go before those of all.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub fn start_with(&mut self, name: &str, environment: &[(&str, &OsStr)]) -> Result<()> {
        ensure!(!self.is_running(name), "{name} runs already");
        let admin_port = free_port()?;
        self.place.remember(&Self::port_file(name), &admin_port)?;
        let mut launch = self
            .place
            .launch(name, &self.setting.binary)
            .arg("run")
            .env("KUBECONFIG", &self.setting.kubeconfig)
            .env("DATABASE_URL", &self.setting.database_url)
            .env("POD_NAME", name)
            .env("POD_NAMESPACE", &self.setting.namespace)
            .env("HEADGATE_ADMIN_LISTEN", format!("127.0.0.1:{admin_port}"))
            .env("HEADGATE_LOG_FORMAT", "text");
        for (key, value) in &self.setting.environment {
            launch = launch.env(key, value);
        }
        for (key, value) in self.own.get(name).into_iter().flatten() {
            launch = launch.env(key, value);
        }
        for (key, value) in environment {
            launch = launch.env(key, value);
        }
        self.replicas.insert(
            name.to_owned(),
            Replica { process: launch.start()?, admin_port, is_ending: false, is_killed: false },
        );
        self.presences.push(Presence { replica: name.to_owned(), from: clock::now_us(), until: u64::MAX });
        Ok(())
    }

    /// Whether this replica was asked to end and has not ended yet.
    #[must_use]
    pub fn is_ending(&self, name: &str) -> bool {
        self.replicas.get(name).is_some_and(|replica| replica.is_ending && replica.process.is_running())
    }

    /// Whether the process of this name is there (a frozen one is).
    #[must_use]
    pub fn is_running(&self, name: &str) -> bool {
        self.replicas.get(name).is_some_and(|replica| replica.process.is_running())
    }

    /// The names of the replicas that run.
    #[must_use]
    pub fn running(&self) -> Vec<String> {
        self.replicas.keys().filter(|name| self.is_running(name)).cloned().collect()
    }

    /// Name, process id and admin URL of the replicas that run.
    #[must_use]
    pub fn addresses(&self) -> Vec<(String, u32, String)> {
        let running = self.replicas.iter().filter(|(_, replica)| replica.process.is_running());
        running.map(|(name, replica)| (name.clone(), replica.process.id(), replica.url(""))).collect()
    }

    /// Waits until a replica says that it is ready.
    ///
    /// # Errors
    /// With the end of its log, when it ends or takes too long.
    pub async fn ready(&self, name: &str) -> Result<()> {
        let replica = self.replica(name)?;
        let says_so = async || {
            let answer = self.http.get(replica.url("/readyz")).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        };
        replica.process.ready(READY_WITHIN, says_so).await
    }

    /// What a replica says it waits for, by part; empty when it is ready.
    ///
    /// # Errors
    /// When it does not answer yet, or says something else than its status.
    pub async fn pending(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let answer = self.http.get(self.replica(name)?.url("/readyz")).send().await?;
        let ready = answer.status().is_success();
        let readiness: Readiness = answer.json().await?;
        ensure!(ready == readiness.pending.is_empty(), "/readyz of {name} does not say what its status says");
        Ok(readiness.pending)
    }

    /// Whether a replica says that it lives.
    pub async fn lives(&self, name: &str) -> bool {
        let Ok(replica) = self.replica(name) else { return false };
        self.http.get(replica.url("/livez")).send().await.is_ok_and(|answer| answer.status().is_success())
    }

    /// What a replica shows at this path of its admin address.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn shown(&self, name: &str, path: &str) -> Result<String> {
        Ok(self.http.get(self.replica(name)?.url(path)).send().await?.error_for_status()?.text().await?)
    }

    /// SIGKILL. What a replica had not handed off by then is no handover any more.
    ///
    /// # Errors
    /// When there is no such replica.
    pub async fn kill(&mut self, name: &str) -> Result<()> {
        if self.is_ending(name)
            && let Some(place) = self.terminations.iter().rposition(|(whom, _)| whom == name)
        {
            self.terminations.remove(place);
        }
        let from = clock::now_us();
        self.goes(name, from);
        let replica = self.replicas.get_mut(name).with_context(|| format!("there is no replica {name}"))?;
        replica.process.kill().await?;
        replica.is_killed = true;
        self.note(name, NemesisKind::Killed, from, clock::now_us());
        Ok(())
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&mut self, name: &str) -> Result<()> {
        self.begins(name, NemesisKind::Paused);
        self.replica(name)?.process.pause()
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&mut self, name: &str) -> Result<()> {
        self.replica(name)?.process.resume()?;
        self.is_over(name, NemesisKind::Paused);
        Ok(())
    }

    /// Notes that something begins now that is done to a replica from outside.
    pub fn begins(&mut self, name: &str, kind: NemesisKind) {
        self.note(name, kind, clock::now_us(), u64::MAX);
    }

    /// Notes that it is over.
    pub fn is_over(&mut self, name: &str, kind: NemesisKind) {
        let begun = |it: &&mut Nemesis| it.replica == name && it.kind == kind && it.until == u64::MAX;
        if let Some(nemesis) = self.nemeses.iter_mut().find(begun) {
            nemesis.until = clock::now_us();
        }
    }

    /// The names of all replicas that were ever started.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.replicas.keys().cloned().collect()
    }

    /// SIGTERM; the replica goes on until it has handed its sources off.
    ///
    /// # Errors
    /// When it does not run.
    pub fn ask_to_end(&mut self, name: &str) -> Result<()> {
        let now = clock::now_us();
        self.terminations.push((name.to_owned(), now));
        self.goes(name, now);
        let replica = self.replicas.get_mut(name).with_context(|| format!("there is no replica {name}"))?;
        replica.is_ending = true;
        replica.process.signal(Signal::TERM)
    }

    /// Waits for the end of a replica that was asked to end, which must be a good one.
    ///
    /// # Errors
    /// When it does not end in time, or with another exit code than 0.
    pub async fn ended(&self, name: &str, patience: Duration) -> Result<()> {
        let process = &self.replica(name)?.process;
        if tokio::time::timeout(patience, process.ended()).await.is_err() {
            return Err(process.failure().context(format!("{name} did not end within {patience:?} of SIGTERM")));
        }
        match process.exit_status() {
            Some(status) if !status.success() => {
                bail!("{name} ended with {status} after SIGTERM; the end of its log:\n{}", process.log_tail())
            }
            _ => Ok(()),
        }
    }

    /// Asks all replicas to end, and waits for them.
    ///
    /// # Errors
    /// The first one that did not end well.
    pub async fn end(&mut self, patience: Duration) -> Result<()> {
        let running = self.running();
        for name in &running {
            self.ask_to_end(name)?;
        }
        for name in &running {
            self.ended(name, patience).await?;
        }
        Ok(())
    }

    /// What the replicas that answer say of the sources they hold, with the name of the replica.
    pub async fn held(&self) -> Vec<(String, SourceRow)> {
        let asked =
            self.replicas.iter().filter(|(_, replica)| replica.process.is_running()).map(|(name, replica)| async {
                let answer = self.http.get(replica.url("/v1/sources?held=true")).send().await.ok()?;
                let rows: SourceRows = answer.json().await.ok()?;
                Some(rows.sources.into_iter().map(|row| (name.clone(), row)).collect::<Vec<_>>())
            });
        futures::future::join_all(asked).await.into_iter().flatten().flatten().collect()
    }

    /// What was done to the replicas so far.
    #[must_use]
    pub fn nemeses(&self) -> &[Nemesis] {
        &self.nemeses
    }

    /// Which replicas were asked to end, and when (microseconds of the log's clock).
    #[must_use]
    pub fn terminations(&self) -> &[(String, u64)] {
        &self.terminations
    }

    /// When which replica was there to hold a source: from its start until it was killed or asked to end.
    #[must_use]
    pub fn presences(&self) -> &[Presence] {
        &self.presences
    }

    fn goes(&mut self, name: &str, now: u64) {
        if let Some(presence) = self.presences.iter_mut().rfind(|presence| presence.replica == name) {
            presence.until = presence.until.min(now);
        }
    }

    fn note(&mut self, name: &str, kind: NemesisKind, from: u64, until: u64) {
        self.nemeses.push(Nemesis { replica: name.to_owned(), kind, from, until });
    }

    fn replica(&self, name: &str) -> Result<&Replica> {
        self.replicas.get(name).with_context(|| format!("there is no replica {name}"))
    }

    fn port_file(name: &str) -> String {
        format!("{name}.port.json")
    }
}

impl Replica {
    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.admin_port)
    }
}
