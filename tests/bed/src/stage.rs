//! A whole stage: the real servers, sources that misbehave, and a fleet of replicas that loads from them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::access_log::AccessLog;
use crate::checker::{self, Evidence, Reset};
use crate::clock;
use crate::fleet::{Fleet, Setting};
use crate::leases::LeaseWatch;
use crate::parts::Parts;
use crate::place::Place;
use crate::proof::Proof;
use crate::source::{FakeSource, SourceConfig};
use crate::stored;
use crate::test_api::apply_crds;

/// The namespace of the operator's Leases.
pub const SYSTEM: &str = "headgate-system";
/// The namespace of the EventSources.
pub const SOURCES: &str = "demo";

/// A terminating replica has this long to hand off and end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Servers, sources and replicas.
pub struct Stage {
    // Replicas end before the servers they use.
    pub fleet: Fleet,
    pub source: FakeSource,
    pub parts: Parts,
    pub client: Client,
    /// The cursors that were set back, for the checker.
    pub resets: Vec<Reset>,
    /// The history of the Leases, where the checker is to have it.
    pub leases: Option<LeaseWatch>,
    /// The minInterval of each source that has one of its own, in microseconds, for the checker.
    pub min_intervals: BTreeMap<String, u64>,
    /// When the API server or etcd was away, for the checker.
    pub api_away: Vec<(u64, u64)>,
    place: Arc<Place>,
}

impl Stage {
    /// Brings up the servers, serves these sources and applies an EventSource for each. No replica runs yet.
    ///
    /// # Errors
    /// When a server does not come up.
    pub async fn set(place: &Arc<Place>, binary: &Path, sources: Vec<SourceConfig>, seed: u64) -> Result<Self> {
        let names: Vec<String> = sources.iter().map(|source| source.feed.name.clone()).collect();
        let stage = Self::without_objects(place, binary, sources, seed).await?;
        for name in names {
            apply_source(&stage.client, &name, &stage.source.url(&name)).await?;
        }
        Ok(stage)
    }

    /// Brings up the servers and serves these sources. No EventSource names them yet.
    ///
    /// # Errors
    /// When a server does not come up.
    pub async fn without_objects(
        place: &Arc<Place>,
        binary: &Path,
        sources: Vec<SourceConfig>,
        seed: u64,
    ) -> Result<Self> {
        let parts = Parts::up(place).await?;
        let client = prepare(&parts).await?;
        let log = AccessLog::to_file(&place.path().join("access.jsonl"))?;
        let source = FakeSource::start("127.0.0.1:0", sources, seed, log).await?;
        let fleet = Fleet::new(place, setting(&parts, binary))?;
        let (resets, min_intervals) = (Vec::new(), BTreeMap::new());
        let place = Arc::clone(place);
        Ok(Self { fleet, source, parts, client, resets, min_intervals, leases: None, api_away: Vec::new(), place })
    }

    /// Ends the replicas, reads the store and the log, and checks them. With `longest_wait`, every source is to be asked
    /// until now, and never to stand still for longer (I8).
    ///
    /// # Errors
    /// When a replica does not end well, or the store cannot be read.
    pub async fn prove(mut self, longest_wait: Option<Duration>) -> Result<Proof> {
        let now = clock::now_us();
        let asked_until = self.source.feeds().into_iter().map(|feed| (feed.name, now)).collect();
        // Not those of the end, when nobody is left to take anything over.
        let terminations = self.fleet.terminations().to_vec();
        let presences = self.fleet.presences().to_vec();
        self.fleet.end(PATIENCE).await?;
        self.fleet.none_has_panicked()?;
        self.source.rests(PATIENCE).await?;
        let pool = PgPool::connect(&self.parts.postgres.url()).await.context("cannot reach PostgreSQL")?;
        let mut stored = Vec::new();
        for feed in self.source.feeds() {
            stored.push(stored::read(&pool, SOURCES, feed).await?);
        }
        let longest_wait = longest_wait.map(|wait| u64::try_from(wait.as_micros())).transpose()?;
        let leases = self.leases.map(LeaseWatch::end);
        let accesses = self.source.log().entries();
        let nemeses = self.fleet.nemeses().to_vec();
        let Self { resets, min_intervals, api_away, .. } = self;
        let evidence = Evidence {
            accesses,
            nemeses,
            resets,
            stored,
            min_intervals,
            longest_wait,
            leases,
            asked_until,
            api_away,
            presences,
        };
        let findings = checker::check(&evidence);
        if !findings.clean() {
            stored::keep(&pool, &self.place.path().join("rows.jsonl")).await?;
            if let Some(leases) = &evidence.leases {
                std::fs::write(self.place.path().join("leases.txt"), leases.to_string())?;
            }
        }
        Ok(Proof {
            findings,
            takeovers: checker::takeovers(&evidence),
            handovers: checker::handovers(&evidence.accesses, &terminations),
            nemeses: evidence.nemeses,
        })
    }
}

impl Stage {
    /// A condition of an EventSource as it stands now: its status and its reason.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn condition(&self, source: &str, kind: &str) -> Result<Option<(String, String)>> {
        let object = event_sources(&self.client).get_status(source).await.context("cannot read an EventSource")?;
        let conditions = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|condition| condition["type"] == kind);
        let text = |condition: &Value, key: &str| condition[key].as_str().unwrap_or_default().to_owned();
        Ok(found.map(|condition| (text(condition, "status"), text(condition, "reason"))))
    }
}

/// Where the sources of the test bed are.
pub const LOOPBACK: &str = "127.0.0.1,::1";

/// What a replica needs to know of these servers.
#[must_use]
pub fn setting(parts: &Parts, binary: &Path) -> Setting {
    Setting {
        binary: binary.to_owned(),
        kubeconfig: parts.control_plane.kubeconfig().to_owned(),
        database_url: parts.postgres.url(),
        namespace: SYSTEM.to_owned(),
        environment: vec![("HEADGATE_ALLOW_ADDRESSES".to_owned(), LOOPBACK.to_owned())],
    }
}

/// Makes the namespaces and applies the CustomResourceDefinition.
///
/// # Errors
/// When the API server refuses.
pub async fn prepare(parts: &Parts) -> Result<Client> {
    let client = parts.control_plane.client().await?;
    for name in [SYSTEM, SOURCES] {
        let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
        match Api::all(client.clone()).create(&PostParams::default(), &namespace).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            made => drop(made.with_context(|| format!("cannot make the namespace {name}"))?),
        }
    }
    apply_crds(&client, parts.control_plane.kubeconfig()).await?;
    Ok(client)
}

/// Applies an EventSource as a user would, with nothing but its URL.
///
/// # Errors
/// When the API server refuses it.
pub async fn apply_source(client: &Client, name: &str, url: &str) -> Result<()> {
    apply_spec(client, name, &json!({ "http": { "url": url } })).await
}

/// Applies an EventSource as a user would.
///
/// # Errors
/// When the API server refuses it.
pub async fn apply_spec(client: &Client, name: &str, spec: &Value) -> Result<()> {
    let object = json!({
        "apiVersion": "headgate.dev/v1alpha1",
        "kind": "EventSource",
        "metadata": { "name": name },
        "spec": spec,
    });
    let user = PatchParams::apply("headgate-bed").force();
    event_sources(client)
        .patch(name, &user, &Patch::Apply(&object))
        .await
        .with_context(|| format!("cannot apply EventSource {name}"))?;
    Ok(())
}

/// The EventSources of the sources' namespace, untyped: the test bed must not know more of them than a user.
#[must_use]
pub fn event_sources(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("headgate.dev", "v1alpha1", "EventSource");
    Api::namespaced_with(client.clone(), SOURCES, &ApiResource::from_gvk(&kind))
}
