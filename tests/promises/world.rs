//! A stage for one test, and the sentences that the tests are made of.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use headgate_bed::{
    access_log::Access,
    checker::Reset,
    clock, evidence,
    forwarder::Forwarder,
    narrate::say,
    place::Place,
    proof::Proof,
    source::{Fault, SourceConfig},
    stage::{SOURCES, SYSTEM, Stage, apply_spec, event_sources},
};
use k8s_openapi::{
    api::{coordination::v1::Lease, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, PgPool, Row};
use tokio::sync::{Mutex, MutexGuard};

/// The promises are about times: two stages at once on two cores would measure each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// How long anything that must come about may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct World {
    pub(crate) stage: Stage,
    name: &'static str,
    place: Arc<Place>,
    resets: std::sync::Mutex<Vec<Reset>>,
    min_intervals: std::sync::Mutex<BTreeMap<String, u64>>,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    /// Real servers, these sources with this `spec.poll`, and replicas of these names.
    pub(crate) async fn with(name: &'static str, sources: Vec<SourceConfig>, poll: Value, replicas: &[&str]) -> Self {
        let names: Vec<String> = sources.iter().map(|source| source.feed.name.clone()).collect();
        let mut world = Self::served(name, sources).await;
        for source in names {
            world.apply(&source, world.spec(&source, &poll)).await;
        }
        world.start(replicas).await;
        world
    }

    /// As [`World::with`], but no EventSource names the sources yet.
    pub(crate) async fn without_objects(name: &'static str, sources: Vec<SourceConfig>, replicas: &[&str]) -> Self {
        let mut world = Self::served(name, sources).await;
        world.start(replicas).await;
        world
    }

    /// For a test that brings up a stage of its own.
    pub(crate) async fn alone() -> MutexGuard<'static, ()> {
        ONE_AT_A_TIME.lock().await
    }

    async fn served(name: &'static str, sources: Vec<SourceConfig>) -> Self {
        let turn = Self::alone().await;
        let place = Arc::new(Place::temporary(name).expect("a temporary directory"));
        let binary = Path::new(env!("CARGO_BIN_EXE_headgate"));
        let stage = Stage::without_objects(&place, binary, sources, 1).await.expect("the servers come up");
        let (resets, min_intervals) = (std::sync::Mutex::default(), std::sync::Mutex::default());
        Self { stage, name, place, resets, min_intervals, _turn: turn }
    }

    async fn start(&mut self, replicas: &[&str]) {
        for replica in replicas {
            self.stage.fleet.start(replica).expect("the replica starts");
        }
        for replica in replicas {
            self.stage.fleet.ready(replica).await.expect("the replica becomes ready");
        }
    }

    /// The spec of a source of this world.
    pub(crate) fn spec(&self, source: &str, poll: &Value) -> Value {
        json!({ "http": { "url": self.stage.source.url(source), "timeout": "5s" }, "poll": poll })
    }

    /// `kubectl apply`.
    pub(crate) async fn apply(&self, source: &str, spec: Value) {
        let interval: headgate::api::Duration =
            spec["poll"]["minInterval"].as_str().unwrap_or("200ms").parse().expect("a duration");
        let interval: u64 = Duration::from(interval).as_micros().try_into().expect("not for ever");
        {
            // The smallest it ever has: the checker knows nothing of changes.
            let mut known = self.min_intervals.lock().expect("no holder panics");
            known.entry(source.to_owned()).and_modify(|known| *known = interval.min(*known)).or_insert(interval);
        }
        apply_spec(&self.stage.client, source, &spec).await.expect("the EventSource is accepted");
    }

    /// `kubectl patch`: the members of `spec` that are given get another value.
    pub(crate) async fn change(&self, source: &str, spec: Value) {
        self.patch(source, json!({ "spec": spec })).await;
    }

    /// `kubectl annotate headgate.dev/poll-requested-at=…`.
    pub(crate) async fn request_poll(&self, source: &str, value: &str) {
        self.patch(source, json!({ "metadata": { "annotations": { "headgate.dev/poll-requested-at": value } } })).await;
    }

    async fn patch(&self, source: &str, patch: Value) {
        let objects = event_sources(&self.stage.client);
        objects.patch(source, &PatchParams::default(), &Patch::Merge(&patch)).await.expect("the change is accepted");
    }

    /// `kubectl delete --wait=false`.
    pub(crate) async fn delete(&self, source: &str) {
        event_sources(&self.stage.client).delete(source, &DeleteParams::default()).await.expect("it can be deleted");
    }

    /// Tells the checker that the cursor is now set back to the event with this index.
    pub(crate) fn note_reset(&self, source: &str, to: u64) {
        let reset = Reset { source: source.to_owned(), to, at: now() };
        self.resets.lock().expect("no holder panics").push(reset);
    }

    /// The object as it stands in the API server, if it does.
    pub(crate) async fn object(&self, source: &str) -> Option<Value> {
        let object = event_sources(&self.stage.client).get_opt(source).await.expect("the API server answers");
        object.map(|object| serde_json::to_value(object).expect("an object is JSON"))
    }

    /// Whether anybody's Lease for the source is there.
    pub(crate) async fn has_lease(&self, source: &str) -> bool {
        let leases: Api<Lease> = Api::namespaced(self.stage.client.clone(), SYSTEM);
        leases.get_opt(&format!("{SOURCES}.{source}")).await.expect("the API server answers").is_some()
    }

    /// The conditions that are about the spec as it stands now.
    pub(crate) async fn conditions(&self, source: &str) -> Vec<Condition> {
        let Some(mut object) = self.object(source).await else { return Vec::new() };
        let generation = object["metadata"]["generation"].as_i64();
        let conditions = object["status"]["conditions"].take();
        let conditions: Option<Vec<Condition>> = serde_json::from_value(conditions).expect("conditions");
        conditions.unwrap_or_default().into_iter().filter(|it| it.observed_generation == generation).collect()
    }

    /// Waits until a condition, about the spec as it stands now, has this reason.
    pub(crate) async fn says(&self, source: &str, kind: &str, reason: &str) -> Condition {
        self.says_in_words(source, kind, reason, "").await
    }

    /// Waits until a condition, about the spec as it stands now, has this reason, and these words in its message.
    pub(crate) async fn says_in_words(&self, source: &str, kind: &str, reason: &str, words: &str) -> Condition {
        let begun = Instant::now();
        loop {
            let conditions = self.conditions(source).await;
            let fits = |it: &&Condition| it.type_ == kind && it.reason == reason && it.message.contains(words);
            if let Some(found) = conditions.iter().find(fits) {
                return found.clone();
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{source}: {kind} does not say {reason}: …{words}…, but {conditions:#?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The Kubernetes Events of all sources: name of the source, reason, note.
    pub(crate) async fn events(&self) -> Vec<(String, String, String)> {
        let events: Api<Event> = Api::namespaced(self.stage.client.clone(), SOURCES);
        let events = events.list(&ListParams::default()).await.expect("the API server answers");
        let told = |event: Event| {
            let source = event.regarding.and_then(|regarding| regarding.name).unwrap_or_default();
            (source, event.reason.unwrap_or_default(), event.note.unwrap_or_default())
        };
        events.into_iter().map(told).collect()
    }

    /// Waits until a Kubernetes Event of the source has each of these reasons.
    pub(crate) async fn tells(&self, source: &str, reasons: &[&str]) {
        let told = async || {
            let events = self.events().await;
            reasons.iter().all(|reason| events.iter().any(|(about, given, _)| about == source && given == reason))
        };
        self.until(&format!("the Events of {source} tell {reasons:?}"), told).await;
    }

    pub(crate) async fn database(&self) -> PgPool {
        PgPool::connect(&self.stage.parts.postgres.url()).await.expect("PostgreSQL answers")
    }

    /// Cursor and number of the stored events of a source.
    pub(crate) async fn stored(&self, source: &str) -> (Option<String>, i64) {
        let row = sqlx::query(
            "SELECT cursor, (SELECT count(*) FROM headgate.events AS e WHERE e.stream = s.stream)
             FROM headgate.source AS s WHERE stream = $1",
        )
        .bind(format!("{SOURCES}/{source}"))
        .fetch_one(&self.database().await)
        .await
        .expect("the source has a row");
        (row.get(0), row.get(1))
    }

    /// The first and the last of the events that an attempt has stored.
    pub(crate) async fn stored_by(&self, source: &str, attempt: &str) -> Option<(u64, u64)> {
        let (first, last): (Option<i64>, Option<i64>) = sqlx::query_as(
            "SELECT min(first_sequence), max(last_sequence) FROM headgate.commits
             WHERE stream = $1 AND encode(attempt, 'hex') = $2",
        )
        .bind(format!("{SOURCES}/{source}"))
        .bind(attempt)
        .fetch_one(&self.database().await)
        .await
        .expect("the table is there");
        Some((first?.cast_unsigned(), last?.cast_unsigned()))
    }

    /// Lets the next answer take so long that things can be done to the source meanwhile, and waits until it is under way.
    pub(crate) async fn in_the_middle_of_an_answer(&self, source: &str) {
        self.stage.source.script(source, [Some(Fault::SlowBody { ms: 1_500 })]);
        self.until("a slow answer is under way", async || self.stage.source.is_serving_what_was_scripted(source)).await;
    }

    /// The newest request to a source that has ended.
    pub(crate) fn last_request(&self, source: &str) -> Access {
        let newest = self.asked_since(source, 0).into_iter().max_by_key(|access| access.started);
        newest.expect("the source was asked")
    }

    /// Waits for a request to a source that started after this moment, and has ended. The first one of them.
    pub(crate) async fn next_request(&self, source: &str, moment: u64) -> Access {
        self.until("the source is asked", async || !self.asked_since(source, moment).is_empty()).await;
        let first = self.asked_since(source, moment).into_iter().min_by_key(|access| access.started);
        first.expect("the source was asked")
    }

    /// What a replica of this name has logged.
    pub(crate) fn log_of(&self, replica: &str) -> String {
        std::fs::read_to_string(self.place.path().join(format!("{replica}.log"))).expect("a replica has a log")
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

    /// Holder and fence of each row; no holder's name is empty, but between being fenced off and being adopted.
    pub(crate) async fn rows(&self) -> BTreeMap<String, (String, i64)> {
        let url = self.stage.parts.postgres.url();
        let mut database = PgConnection::connect(&url).await.expect("PostgreSQL answers");
        let rows: Vec<(String, String, i64)> =
            sqlx::query_as("SELECT stream, coalesce(holder, ''), fence FROM headgate.source")
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
    pub(crate) async fn prove(mut self) -> Proof {
        self.stage.resets = self.resets.into_inner().expect("no holder panics");
        self.stage.min_intervals = self.min_intervals.into_inner().expect("no holder panics");
        let leave = |what: &str| {
            let folder = headgate_bed::repository().join(".headgate/evidence").join(self.name);
            evidence::leave(what, self.place.path(), &folder).expect("the evidence can be written");
        };
        let proof = self.stage.prove(None).await.unwrap_or_else(|error| {
            leave(&format!("nothing could be proved: {error:#}\n"));
            panic!("the replicas did not end well, or the store cannot be read: {error:#}");
        });
        say(&proof);
        if !proof.findings.clean() {
            let what: Vec<String> = proof.findings.violations.iter().map(ToString::to_string).collect();
            leave(&what.join("\n"));
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

/// How many requests a second started.
#[allow(clippy::cast_precision_loss, reason = "a rate needs no more")]
pub(crate) fn rate(accesses: &[Access], time: Duration) -> f64 {
    accesses.len() as f64 / time.as_secs_f64()
}

/// The longest time without a start of a request between two moments, in microseconds, both ends included: a source that
/// was never asked again stood still until the end.
pub(crate) fn longest_gap(accesses: &[Access], from: u64, until: u64) -> u64 {
    let mut moments: Vec<u64> = accesses.iter().map(|access| access.started.clamp(from, until)).collect();
    moments.extend([from, until]);
    moments.sort_unstable();
    moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}
