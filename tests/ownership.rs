//! Ownership against a real API server: what the in-memory one of the unit tests is taken for must be true.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use headgate::{
    api::Source,
    desired::Desired,
    event::StreamName,
    ownership::{
        Directive, Directives, LostReason, Ownership,
        kubernetes::{
            Config, Installation, KubernetesLeases, KubernetesOwnership, LeaseError, Stage, Started, client::LeaseApi,
        },
        lease::{MemberLease, SourceLease, WATCHED},
    },
    store::{Abort, Adopt, Adopted, Answer, Extend, Forget, Gate, Holder, Reserve, Reserved, Reset, StoreError},
    telemetry::metrics::Metrics,
};
use headgate_bed::test_api::{TestApi, config_of};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

/// Long enough for a busy machine; nothing is judged by it.
const PATIENCE: Duration = Duration::from_mins(1);

const DATABASE_ANSWERS_EVERY: Duration = Duration::from_secs(2);

/// A namespace of the API server, and a database that remembers whom it fenced off.
struct Cluster {
    api: TestApi,
    leases: Api<Lease>,
    config: kube::Config,
    fenced: Arc<Fenced>,
    streams: Vec<StreamName>,
}

/// One replica, whose supervisor obeys at once.
struct Replica {
    ownership: Arc<KubernetesOwnership>,
    shutdown: CancellationToken,
    heard: Arc<Mutex<Vec<Directive>>>,
}

impl Cluster {
    async fn with_sources(count: usize) -> Self {
        let api = TestApi::create().await;
        let config = config_of(api.kubeconfig()).await.unwrap();
        Self {
            leases: Api::namespaced(api.client(), api.namespace()),
            api,
            config,
            fenced: Arc::default(),
            streams: (0..count).map(|n| StreamName::new("shop", &format!("source-{n}"))).collect(),
        }
    }

    fn connect(&self) -> KubernetesLeases {
        KubernetesLeases::connect(&self.config, self.api.namespace()).unwrap()
    }

    fn start(&self, pod: &str) -> Replica {
        let desired = Desired::default();
        for stream in &self.streams {
            desired.put(source(stream));
        }
        desired.mark_complete();
        let shutdown = CancellationToken::new();
        let Started { ownership, directives, task: _ } = KubernetesOwnership::start(
            Config::of_pod(pod, "v1"),
            Arc::new(self.connect()),
            Arc::new(self.connect()),
            desired,
            self.fenced.clone(),
            Metrics::register(&mut Registry::default()),
            shutdown.clone(),
        );
        let heard = Arc::default();
        tokio::spawn(obey(directives, ownership.clone(), Arc::clone(&heard)));
        Replica { ownership, shutdown, heard }
    }

    /// The names of the source Leases that a selector shows.
    async fn listed(&self, selector: &str) -> Vec<String> {
        let selector = format!("headgate.dev/kind=EventSource,{selector}");
        let list = self.leases.list(&ListParams::default().labels(&selector)).await.unwrap();
        list.into_iter().filter_map(|lease| lease.metadata.name).collect()
    }

    async fn held_by(&self, pod: &str) -> usize {
        self.listed(&format!("headgate.dev/holder={pod}")).await.len()
    }

    async fn members(&self) -> Vec<MemberLease> {
        let list = self.leases.list(&ListParams::default().labels("headgate.dev/kind=Member")).await.unwrap();
        list.iter().filter_map(MemberLease::read).collect()
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let wait = async {
            while !holds(self).await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "not {what} within {PATIENCE:?}");
    }
}

impl Replica {
    fn held(&self) -> usize {
        self.ownership.view().held
    }

    fn holder(&self) -> Option<Holder> {
        self.ownership.view().holder
    }

    fn heard(&self) -> Vec<Directive> {
        self.heard.lock().unwrap().clone()
    }
}

async fn obey(mut directives: Directives, ownership: Arc<KubernetesOwnership>, heard: Arc<Mutex<Vec<Directive>>>) {
    let mut answers = tokio::time::interval(DATABASE_ANSWERS_EVERY);
    loop {
        let directive = tokio::select! {
            _ = answers.tick() => {
                ownership.database_answered();
                continue;
            }
            directive = directives.recv() => directive,
        };
        let Some(directive) = directive else { return };
        if let Directive::Yield(stream) = &directive {
            ownership.yielded(stream);
        }
        heard.lock().unwrap().push(directive);
    }
}

#[tokio::test]
async fn every_source_has_a_lease_that_names_its_holder_and_can_be_found_by_label() {
    let cluster = Cluster::with_sources(7).await;
    let (a, b) = (cluster.start("a"), cluster.start("b"));
    cluster.until("all held", async |_| a.held() + b.held() == 7).await;
    assert_eq!(cluster.held_by("a").await, a.held());
    assert_eq!(cluster.held_by("b").await, b.held());
    let found = cluster.listed("headgate.dev/namespace=shop,headgate.dev/name=source-3").await;
    assert_eq!(found, ["shop.source-3"]);
    let lease = SourceLease::read(&cluster.leases.get("shop.source-3").await.unwrap()).unwrap();
    assert!([a.holder(), b.holder()].contains(&lease.holder));
}

#[tokio::test]
async fn every_write_is_a_compare_and_set() {
    let cluster = Cluster::with_sources(0).await;
    let leases = cluster.connect();
    let stream = StreamName::new("shop", "orders");
    let give = |previous: Option<&SourceLease>, pod: &str| {
        SourceLease::give(&stream, previous, &Holder::new(&format!("{pod}_1")), pod, Timestamp::now())
    };
    let first = leases.create(&give(None, "a")).await.unwrap();
    assert!(matches!(leases.create(&give(None, "b")).await, Err(LeaseError::Conflict)));
    let known = SourceLease::read(&first).unwrap();
    let second = leases.replace(&give(Some(&known), "b")).await.unwrap();
    assert!(matches!(leases.replace(&give(Some(&known), "c")).await, Err(LeaseError::Conflict)));
    assert!(matches!(leases.delete("shop.orders", &known.version).await, Err(LeaseError::Conflict)));
    let current = SourceLease::read(&second).unwrap();
    assert_eq!((current.holder.clone(), current.transitions), (Some(Holder::new("b_1")), 1));
    assert!(known.version.is_older_than(&current.version), "versions compare as numbers");
    leases.delete("shop.orders", &current.version).await.unwrap();
    assert!(matches!(leases.delete("shop.orders", &current.version).await, Err(LeaseError::NotFound)));
    let revived = leases.replace(&give(Some(&current), "c")).await;
    assert!(matches!(revived, Err(LeaseError::Conflict)), "a PUT does not bring a deleted Lease back");
}

#[tokio::test]
async fn a_replica_that_falls_silent_is_declared_dead_and_its_sources_go_on() {
    let cluster = Cluster::with_sources(12).await;
    let (a, b, c) = (cluster.start("a"), cluster.start("b"), cluster.start("c"));
    cluster.until("shared", async |_| a.held() + b.held() + c.held() == 12).await;
    let dead = a.holder().unwrap();
    a.shutdown.cancel();
    cluster.until("taken over", async |_| b.held() + c.held() == 12).await;
    cluster.until("fenced off", async |cluster| cluster.fenced.0.lock().unwrap().contains(&dead)).await;
    cluster.until("rid of the certificate", async |cluster| cluster.members().await.len() == 2).await;
    let taken = |replica: &Replica| replica.heard().iter().filter(|it| matches!(it, Directive::Lost(..))).count();
    assert_eq!(taken(&b) + taken(&c), 0, "no living holder lost anything");
}

#[tokio::test]
async fn a_deleted_member_lease_ends_the_incarnation() {
    let cluster = Cluster::with_sources(5).await;
    let a = cluster.start("a");
    cluster.until("all held", async |_| a.held() == 5).await;
    let before = a.holder();
    let lease = cluster.members().await.remove(0);
    cluster.leases.delete(&lease.name, &DeleteParams::default()).await.unwrap();
    cluster.until("joined again", async |_| a.holder().is_some() && a.holder() != before && a.held() == 5).await;
    let lost: BTreeSet<_> = a
        .heard()
        .into_iter()
        .filter_map(|directive| match directive {
            Directive::Lost(stream, LostReason::IncarnationEnded) => Some(stream),
            _ => None,
        })
        .collect();
    assert_eq!(lost.len(), 5, "every source was lost with its incarnation");
}

#[tokio::test]
async fn a_lease_that_lost_one_of_its_labels_is_claimed_anew() {
    let cluster = Cluster::with_sources(3).await;
    let (a, b) = (cluster.start("a"), cluster.start("b"));
    cluster.until("all held", async |_| a.held() + b.held() == 3).await;
    for (nth, label) in ["headgate.dev/kind", "headgate.dev/namespace", "headgate.dev/name"].iter().enumerate() {
        let name = format!("shop.source-{nth}");
        let without = serde_json::json!({"metadata": {"labels": {*label: null}}});
        let edited = cluster.leases.patch(&name, &PatchParams::default(), &Patch::Merge(without)).await.unwrap();
        let anew = async |cluster: &Cluster| {
            let lease = cluster.leases.get(&name).await.unwrap();
            SourceLease::read(&lease).is_some() && lease.metadata.resource_version != edited.metadata.resource_version
        };
        cluster.until("labelled anew", anew).await;
        cluster.until("all held", async |_| a.held() + b.held() == 3).await;
    }
}

#[tokio::test]
async fn a_member_that_joins_is_handed_its_share_by_those_that_hold_more() {
    let cluster = Cluster::with_sources(8).await;
    let a = cluster.start("a");
    cluster.until("all held", async |_| a.held() == 8).await;
    let b = cluster.start("b");
    cluster.until("even", async |_| a.held() == 4 && b.held() == 4).await;
    let yielded = a.heard().iter().filter(|directive| matches!(directive, Directive::Yield(_))).count();
    assert_eq!(yielded, 4, "each moves once, by its holder");
    let transitions = cluster.leases.list(&ListParams::default().labels("headgate.dev/holder=b")).await.unwrap();
    assert!(transitions.iter().filter_map(SourceLease::read).all(|lease| lease.transitions == 1));
    let written_over = cluster.leases.list(&ListParams::default().labels(WATCHED)).await.unwrap().items;
    let written_over: Vec<_> = written_over
        .iter()
        .filter(|lease| {
            MemberLease::read(lease).is_some() || {
                SourceLease::read(lease).is_some_and(|lease| lease.transitions > 0)
            }
        })
        .collect();
    assert_eq!(written_over.len(), 2 + 4);
    let record = |lease: &&Lease| lease.metadata.managed_fields.iter().flatten().count();
    assert!(
        written_over.iter().all(|lease| record(lease) == 0),
        "the API server keeps no record of the fields of these"
    );
}

#[tokio::test]
async fn a_drained_replica_hands_everything_over_and_frees_its_member_lease() {
    let cluster = Cluster::with_sources(20).await;
    let (a, b) = (cluster.start("a"), cluster.start("b"));
    cluster.until("shared", async |_| a.held() + b.held() == 20).await;
    let held = a.held();
    a.ownership.drain().await;
    assert_eq!(a.ownership.view().stage, Stage::Ended);
    assert!(cluster.members().await.iter().all(|member| &*member.pod == "b"));
    cluster.until("taken over", async |_| b.held() == 20).await;
    let runs = b.heard().iter().filter(|directive| matches!(directive, Directive::Run(_))).count();
    assert_eq!(runs, 20, "each runs once there");
    let yields = a.heard().iter().filter(|directive| matches!(directive, Directive::Yield(_))).count();
    assert_eq!(yields, held);

    b.ownership.drain().await;
    assert_eq!(cluster.members().await, [], "the last one just leaves");
    let c = cluster.start("c");
    cluster.until("found again", async |_| c.held() == 20).await;
}

#[tokio::test]
async fn all_replicas_of_a_namespace_see_one_installation() {
    let cluster = Cluster::with_sources(0).await;
    let found = || Installation::of_namespace(cluster.api.client(), cluster.api.namespace());
    let (first, second, third) = tokio::join!(found(), found(), found());
    let (first, second, third) = (first.unwrap(), second.unwrap(), third.unwrap());
    assert!(!first.uid().is_empty());
    assert_eq!((second.uid(), third.uid()), (first.uid(), first.uid()));
}

#[tokio::test]
async fn the_leases_of_a_namespace_are_bound_to_the_first_database_that_is_claimed_with_them() {
    let cluster = Cluster::with_sources(0).await;
    let found = async || Installation::of_namespace(cluster.api.client(), cluster.api.namespace()).await.unwrap();
    let (mine, theirs) = (found().await, found().await);
    assert_eq!(mine.database(), None);
    mine.bind(cluster.api.client(), "database-a").await.unwrap();
    let error = theirs.bind(cluster.api.client(), "database-b").await.unwrap_err();
    assert!(matches!(&error, kube::Error::Api(status) if status.is_conflict()), "{error:?}");

    let bound = found().await;
    assert_eq!((bound.database(), bound.uid()), (Some("database-a"), mine.uid()));
    bound.bind(cluster.api.client(), "database-a").await.unwrap();
    bound.bind(cluster.api.client(), "database-b").await.unwrap();
    assert_eq!(found().await.database(), Some("database-b"), "whoever takes over has read it");
}

fn source(stream: &StreamName) -> Arc<Source> {
    let spec = serde_json::json!({"http": {"url": "http://127.0.0.1/events"}});
    Arc::new(Source {
        stream: stream.clone(),
        uid: stream.to_string(),
        generation: 1,
        spec: serde_json::from_value(spec).unwrap(),
        deleting: false,
        has_finalizer: false,
        was_polled: false,
        poll_requested_at: None,
        shares_endpoint_with: None,
    })
}

/// A database that is there, and remembers whom it fenced off.
#[derive(Default)]
struct Fenced(Mutex<Vec<Holder>>);

#[async_trait]
impl Gate for Fenced {
    async fn adopt(&self, _: Adopt) -> Result<Answer<Adopted>, StoreError> {
        unreachable!("the loader adopts")
    }

    async fn reset(&self, _: Reset) -> Result<Answer<Adopted>, StoreError> {
        unreachable!("the loader resets")
    }

    async fn reserve(&self, _: Reserve) -> Result<Answer<Reserved>, StoreError> {
        unreachable!("the loader reserves")
    }

    async fn extend(&self, _: Extend) -> Result<Answer<()>, StoreError> {
        unreachable!("the loader extends")
    }

    async fn abort(&self, _: Abort) -> Result<Answer<()>, StoreError> {
        unreachable!("the loader aborts")
    }

    async fn forget(&self, _: Forget) -> Result<Answer<()>, StoreError> {
        unreachable!("the loader forgets")
    }

    async fn fence_off(&self, dead: &Holder) -> Result<u64, StoreError> {
        self.0.lock().unwrap().push(dead.clone());
        Ok(1)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        unreachable!("the supervisor asks")
    }
}
