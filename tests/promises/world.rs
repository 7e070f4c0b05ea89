//! A stage for one test, and the sentences that the tests are made of.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use headgate_bed::{
    access_log::Access,
    clock, evidence,
    forwarder::Forwarder,
    narrate::say,
    place::Place,
    proof::Proof,
    source::SourceConfig,
    stage::{Stage, apply_spec},
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::sync::{Mutex, MutexGuard};

/// The promises are about times: two stages at once on two cores would measure each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// How long anything that must come about may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct World {
    pub(crate) stage: Stage,
    name: &'static str,
    place: Arc<Place>,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    /// Real servers, these sources with this `spec.poll`, and replicas of these names.
    pub(crate) async fn with(name: &'static str, sources: Vec<SourceConfig>, poll: Value, replicas: &[&str]) -> Self {
        let turn = ONE_AT_A_TIME.lock().await;
        let place = Arc::new(Place::temporary(name).expect("a temporary directory"));
        let binary = Path::new(env!("CARGO_BIN_EXE_headgate"));
        let names: Vec<String> = sources.iter().map(|source| source.feed.name.clone()).collect();
        let mut stage = Stage::without_objects(&place, binary, sources, 1).await.expect("the servers come up");
        for source in names {
            let spec = json!({ "http": { "url": stage.source.url(&source), "timeout": "5s" }, "poll": poll });
            apply_spec(&stage.client, &source, &spec).await.expect("the EventSource is accepted");
        }
        for replica in replicas {
            stage.fleet.start(replica).expect("the replica starts");
        }
        for replica in replicas {
            stage.fleet.ready(replica).await.expect("the replica becomes ready");
        }
        Self { stage, name, place, _turn: turn }
    }

    pub(crate) fn accesses(&self) -> Vec<Access> {
        self.stage.source.log().entries()
    }

    /// The requests to one source that started after this moment of the log's clock.
    pub(crate) fn asked_since(&self, source: &str, moment: u64) -> Vec<Access> {
        self.accesses().into_iter().filter(|access| access.source == source && access.started > moment).collect()
    }

    /// Waits until every one of these sources was asked, and answered with events or nothing, after this moment.
    pub(crate) async fn all_are_loaded_since(&self, sources: &[&str], moment: u64) {
        let served = |source: &&str| self.asked_since(source, moment).iter().any(|access| access.status == 200);
        self.until("every source is loaded", async || sources.iter().all(&served)).await;
    }

    pub(crate) async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let begun = Instant::now();
        while !condition().await {
            assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Lets the replicas load.
    pub(crate) async fn load_for(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Starts one more replica, which reaches the API server over a piece of network that can be cut.
    pub(crate) async fn start_on_a_line_of_its_own(&mut self, replica: &str) -> Forwarder {
        let kubeconfig = self.stage.parts.control_plane.kubeconfig();
        let (line, kubeconfig) = Forwarder::to_api_server(kubeconfig, &self.place, &format!("{replica}.kubeconfig"))
            .await
            .expect("a port on loopback");
        let environment = [("KUBECONFIG", kubeconfig.as_os_str())];
        self.stage.fleet.start_with(replica, &environment).expect("the replica starts");
        self.stage.fleet.ready(replica).await.expect("the replica becomes ready");
        line
    }

    /// Holder and fence of each row.
    pub(crate) async fn rows(&self) -> BTreeMap<String, (String, i64)> {
        let url = self.stage.parts.postgres.url();
        let mut database = PgConnection::connect(&url).await.expect("PostgreSQL answers");
        let rows: Vec<(String, String, i64)> = sqlx::query_as("SELECT stream, holder, fence FROM headgate.source")
            .fetch_all(&mut database)
            .await
            .expect("the table is there");
        rows.into_iter().map(|(stream, holder, fence)| (stream, (holder, fence))).collect()
    }

    /// How many of the sources each replica holds.
    pub(crate) async fn shares(&self) -> Vec<(String, usize)> {
        let held = self.stage.fleet.held().await;
        let count = |replica: &str| held.iter().filter(|(holder, _)| holder == replica).count();
        self.stage.fleet.running().into_iter().map(|name| (name.clone(), count(&name))).collect()
    }

    /// Waits until the sources are spread: every replica holds some, and together they hold all.
    pub(crate) async fn all_hold_their_share_of(&self, sources: usize) {
        self.until("every replica holds its share", async || {
            let shares = self.shares().await;
            shares.iter().all(|(_, count)| *count > 0)
                && shares.iter().map(|(_, count)| count).sum::<usize>() == sources
        })
        .await;
    }

    /// Ends the replicas and checks the log and the store; a broken rule fails the test and leaves the evidence.
    pub(crate) async fn prove(self) -> Proof {
        self.prove_within(None).await
    }

    /// As [`World::prove`]; and no source may have stood still for longer than this (I8).
    pub(crate) async fn prove_within(self, longest_wait: Option<Duration>) -> Proof {
        let proof = self.stage.prove(longest_wait).await.expect("the replicas end well and the store can be read");
        say(&proof);
        if !proof.findings.clean() {
            let what: Vec<String> = proof.findings.violations.iter().map(ToString::to_string).collect();
            let what = what.join("\n");
            let folder = headgate_bed::repository().join(".headgate/evidence").join(self.name);
            evidence::leave(&what, self.place.path(), &folder).expect("the evidence can be written");
            panic!("a promise was broken; the first: {}", proof.findings.violations[0]);
        }
        proof
    }
}

/// A moment of the log's clock.
pub(crate) fn now() -> u64 {
    clock::now_us()
}

/// `spec.poll` of sources that are asked again soon whatever happens, so that a short test sees many requests.
pub(crate) fn eager() -> Value {
    json!({ "maxIdleInterval": "500ms", "maxErrorInterval": "1s", "batchSize": 200 })
}

/// Sources that always have more, by these names.
pub(crate) fn saturated(names: &[&str]) -> Vec<SourceConfig> {
    names.iter().map(|name| SourceConfig::new(name, 10_000_000)).collect()
}

/// The longest time without a start of a request, in microseconds, among requests that are given in any order.
pub(crate) fn longest_gap(mut accesses: Vec<Access>) -> u64 {
    accesses.sort_by_key(|access| access.started);
    accesses.windows(2).map(|pair| pair[1].started - pair[0].started).max().unwrap_or(u64::MAX)
}
