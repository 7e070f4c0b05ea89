//! One replica's controller against the API server under test. What the loader would report, the test reports.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use headgate::{
    api::{AcceptedReason, EventSource, ReachableReason, StoredReason},
    controller::{self, ControllerConfig, ControllerError, Inputs, WatchState},
    desired::Desired,
    event::{Cursor, EventId, StreamName},
    loader::{
        report::{Report, Verdict},
        reports::Reports,
    },
    ownership::{Holding, Peers},
    store::{Epoch, Holder},
    telemetry::metrics::{Metrics, StatusWriteLabels},
};
use jiff::Timestamp;
use kube::{Client, ResourceExt};
use prometheus_client::registry::Registry;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// Far beyond what anything here takes, on a machine that compiles beside it.
const AT_LAST: Duration = Duration::from_mins(1);

pub(crate) struct Replica {
    pub(crate) name: &'static str,
    pub(crate) desired: Desired,
    pub(crate) reports: Reports,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) state: watch::Receiver<WatchState>,
    pub(crate) leases_wait: watch::Sender<bool>,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), ControllerError>>,
}

impl Replica {
    pub(crate) fn start(name: &'static str, client: Client) -> Self {
        let (desired, reports, shutdown) = (Desired::default(), Reports::default(), CancellationToken::new());
        let metrics = Metrics::register(&mut Registry::default());
        let (state_sender, state) = watch::channel(WatchState::Listing);
        let (leases_wait, waiting) = watch::channel(false);
        let holders = Some(BTreeSet::new());
        let (_, peers) = watch::channel(Peers { holders, of_another_template: false });
        let config =
            ControllerConfig { pod_name: name.to_owned(), status_interval: Duration::from_secs(30), namespace: None };
        let running = tokio::spawn(controller::run(
            config,
            client,
            Inputs { desired: desired.clone(), reports: reports.clone(), leases_wait: waiting, peers },
            metrics.clone(),
            state_sender,
            shutdown.clone(),
        ));
        Self { name, desired, reports, metrics, state, leases_wait, shutdown, running }
    }

    /// The process ends, after its drain.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.expect("no panic").expect("a clean end");
    }

    /// How the controller ends by itself.
    pub(crate) async fn end(self) -> Result<(), ControllerError> {
        tokio::time::timeout(AT_LAST, self.running).await.expect("an end").expect("no panic")
    }

    pub(crate) async fn watches(&mut self) {
        self.reaches(WatchState::Watching).await;
    }

    pub(crate) async fn reaches(&mut self, state: WatchState) {
        let reached = tokio::time::timeout(AT_LAST, self.state.wait_for(|current| *current == state)).await;
        reached.unwrap_or_else(|_| panic!("the watch did not come to: {state}")).expect("the controller runs");
    }

    /// What the loader of this replica would report of an object whose Lease it just won.
    pub(crate) fn held(&self, object: &EventSource) -> Report {
        let stream = stream_of(object);
        let holder = format!("{}#1", self.name);
        let holding = Holding {
            holder: Holder::new(&holder),
            lease_name: format!("{}.{}", stream.namespace(), stream.name()),
            stream,
            acquired_at: Timestamp::now(),
        };
        let generation = object.metadata.generation.expect("a stored object");
        Report {
            epoch: Some(Epoch(object.spec.epoch)),
            cursor: Some(Cursor::Start),
            accepted: Some(verdict(AcceptedReason::Valid)),
            suspended: object.spec.suspend,
            ..Report::of(holding, generation, object.uid().expect("a stored object"))
        }
    }

    pub(crate) fn report(&self, report: Report) {
        self.reports.put(&report.holding.stream.clone(), report);
    }

    pub(crate) fn writes(&self, trigger: &'static str, result: &'static str) -> u64 {
        self.metrics.status_writes.get_or_create(&StatusWriteLabels { trigger, result }).get()
    }
}

/// A healthy source that has `id` events and nothing more.
pub(crate) fn healthy(mut report: Report, id: u64) -> Report {
    report.cursor = Some(Cursor::After(EventId::new(&id.to_string()).expect("an id")));
    report.events_stored = id;
    report.last_poll = Some(Timestamp::now());
    report.last_success = report.last_poll;
    report.last_event = report.last_poll;
    report.reachable = Some(verdict(ReachableReason::PollSucceeded));
    report.stored = Some(verdict(StoredReason::AppendSucceeded));
    report.caught_up = Some(true);
    report
}

pub(crate) fn verdict<R: std::fmt::Debug>(reason: R) -> Verdict<R> {
    Verdict { message: format!("about {reason:?}"), reason }
}

pub(crate) fn stream_of(object: &EventSource) -> StreamName {
    StreamName::new(&object.namespace().expect("a namespaced object"), &object.name_any())
}

/// Waits until `condition` gives something.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + AT_LAST;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(Instant::now() < deadline, "it did not come about that {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
