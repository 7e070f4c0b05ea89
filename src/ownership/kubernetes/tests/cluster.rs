//! A cluster of whole replicas over the API server in memory, each with a supervisor that runs what it is told.

use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::future::BoxFuture;
use prometheus_client::registry::Registry;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::super::{
    Config, KubernetesOwnership,
    fake::{Entry, FakeApi, Faults},
};
use super::{
    gate::{FakeGate, PodGate, ask},
    supervisor::{Running, supervise},
};
use crate::{
    api::Source,
    desired::Desired,
    event::StreamName,
    ownership::{
        Ownership,
        lease::{self, MemberLease, Seen, SourceLease},
    },
    store::Holder,
    telemetry::metrics::Metrics,
};

pub(super) struct Cluster {
    pub(super) api: Arc<FakeApi>,
    pub(super) gate: Arc<FakeGate>,
    pub(super) pods: BTreeMap<String, Pod>,
    streams: Vec<StreamName>,
    /// The tasks of each pod that ever was.
    tasks: Arc<Mutex<HashMap<String, Arc<Running>>>>,
    /// Handoffs that were written while the task still ran.
    hasty: Arc<Mutex<Vec<String>>>,
    rng: StdRng,
}

/// One replica.
pub(super) struct Pod {
    pub(super) ownership: Arc<KubernetesOwnership>,
    pub(super) faults: Arc<Faults>,
    pub(super) desired: Desired,
    pub(super) database: Arc<AtomicBool>,
    pub(super) metrics: Arc<Metrics>,
    running: Arc<Running>,
    frozen: Arc<Frozen>,
    process: JoinHandle<()>,
}

impl Cluster {
    pub(super) fn of(sources: usize, seed: u64) -> Self {
        let tasks = Arc::<Mutex<HashMap<String, Arc<Running>>>>::default();
        let hasty = Arc::<Mutex<Vec<String>>>::default();
        let api = FakeApi::new();
        api.is_witnessed_by({
            let (tasks, hasty) = (tasks.clone(), hasty.clone());
            move |entry| {
                let read = |lease: &Option<_>| lease.as_ref().and_then(SourceLease::read);
                let (Some(before), Some(after)) = (read(&entry.before), read(&entry.after)) else { return };
                // A new incarnation may take over from its own last one, whose tasks nobody waits for.
                let own = |holder: &Holder| holder.as_str().starts_with(&format!("{}_", entry.writer));
                let given_away = !after.holder.as_ref().is_some_and(own);
                let tasks = tasks.lock().unwrap().get(&entry.writer).cloned();
                if given_away && tasks.is_some_and(|tasks| tasks.runs(&after.stream, before.holder.as_ref())) {
                    hasty.lock().unwrap().push(format!("{} gave {} away while it ran", entry.writer, after.stream));
                }
            }
        });
        Self {
            api,
            gate: Arc::default(),
            tasks,
            hasty,
            pods: BTreeMap::new(),
            streams: (0..sources).map(|n| StreamName::new("shop", &format!("source-{n}"))).collect(),
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Starts a replica whose controller has listed all objects.
    pub(super) fn start(&mut self, name: &str) -> &Pod {
        self.start_from(name, "v1")
    }

    pub(super) fn start_from(&mut self, name: &str, template: &str) -> &Pod {
        self.launch(Config::of_pod(name, template), false)
    }

    pub(super) fn start_with(&mut self, config: Config) -> &Pod {
        self.launch(config, false)
    }

    /// Starts a replica whose database does not answer.
    pub(super) fn start_without_database(&mut self, name: &str) -> &Pod {
        self.launch(Config::of_pod(name, "v2"), true)
    }

    fn launch(&mut self, config: Config, database_down: bool) -> &Pod {
        let name = &*config.pod.clone();
        let database = Arc::new(AtomicBool::new(database_down));
        let (faults, desired) = (Arc::new(Faults::default()), Desired::default());
        for stream in &self.streams {
            desired.put(source(stream));
        }
        desired.mark_complete();
        let metrics = Metrics::register(&mut Registry::default());
        let leases = self.api.connect(name, &faults, self.rng.random());
        let renewals = self.api.connect(name, &faults, self.rng.random());
        let gate = Arc::new(PodGate { shared: self.gate.clone(), down: Arc::clone(&database) });
        let (ownership, directives, run) = KubernetesOwnership::assemble(
            config,
            leases,
            renewals,
            desired.clone(),
            gate.clone(),
            metrics.clone(),
            CancellationToken::new(),
        );
        let (running, frozen) = (Arc::<Running>::default(), Arc::<Frozen>::default());
        self.tasks.lock().unwrap().insert(name.to_owned(), running.clone());
        let supervise = supervise(directives, ownership.clone(), running.clone(), self.rng.random());
        let asked = ownership.clone();
        let process = async move {
            tokio::select! {
                () = run => {}
                () = supervise => {}
                () = ask(gate, &*asked) => {}
            }
        };
        let process = tokio::spawn(Freezable { inner: Box::pin(process), frozen: frozen.clone() });
        let pod = Pod { ownership, faults, desired, database, metrics, running, frozen, process };
        self.pods.insert(name.to_owned(), pod);
        &self.pods[name]
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self, name: &str) {
        self.pods.remove(name).unwrap().process.abort();
    }

    /// SIGTERM, and the wait for the end.
    pub(super) async fn drain(&mut self, name: &str) {
        let pod = self.pods.remove(name).unwrap();
        pod.ownership.drain().await;
        pod.process.await.unwrap();
    }

    /// Every controller sees a new object.
    pub(super) fn add_source(&mut self, name: &str) -> StreamName {
        let stream = StreamName::new("shop", name);
        self.streams.push(stream.clone());
        self.pods.values().for_each(|pod| pod.desired.put(source(&stream)));
        stream
    }

    /// Every controller sees an object go; the holder's supervisor ends its task.
    pub(super) fn remove_source(&mut self, stream: &StreamName) {
        self.streams.retain(|known| known != stream);
        for pod in self.pods.values() {
            pod.desired.remove(stream);
            if pod.running.tasks.lock().unwrap().remove(stream).is_some() {
                pod.ownership.finished(stream);
            }
        }
    }

    /// One controller cannot read the object, as it stands now.
    pub(super) fn cannot_read(&self, pod: &str, stream: &StreamName) {
        let pod = &self.pods[pod];
        pod.desired.mark_unreadable(stream);
        if pod.running.tasks.lock().unwrap().remove(stream).is_some() {
            pod.ownership.finished(stream);
        }
    }

    pub(super) fn sources(&self) -> &[StreamName] {
        &self.streams
    }

    pub(super) fn lease(&self, stream: &StreamName) -> Option<SourceLease> {
        let name = SourceLease::name_of(stream);
        self.api.leases().iter().filter(|lease| lease.metadata.name.as_ref() == Some(&name)).find_map(SourceLease::read)
    }

    pub(super) fn members(&self) -> Vec<MemberLease> {
        self.api.leases().iter().filter_map(MemberLease::read).collect()
    }

    pub(super) fn member_of(&self, pod: &str) -> Option<MemberLease> {
        self.members().into_iter().find(|lease| *lease.pod == *pod && lease.holder().is_some())
    }

    /// The incarnation of a pod that lives.
    pub(super) fn holder_of(&self, pod: &str) -> Holder {
        self.member_of(pod).and_then(|lease| lease.holder().cloned()).unwrap()
    }

    /// How many sources each pod runs.
    pub(super) fn running(&self) -> BTreeMap<&str, usize> {
        self.pods.iter().map(|(name, pod)| (name.as_str(), pod.running.tasks.lock().unwrap().len())).collect()
    }

    pub(super) fn runs(&self, pod: &str, stream: &StreamName) -> bool {
        self.pods[pod].running.tasks.lock().unwrap().contains_key(stream)
    }

    /// The sources that a pod runs in doubt.
    pub(super) fn doubted(&self, pod: &str) -> Vec<StreamName> {
        self.pods[pod].running.doubted.lock().unwrap().iter().cloned().collect()
    }

    /// The sources that ran on a pod again after they had stopped there.
    pub(super) fn resumed(&self, pod: &str) -> Vec<StreamName> {
        let running = &self.pods[pod].running;
        let (stopped, began) = (running.stopped.lock().unwrap(), running.began.lock().unwrap());
        stopped.iter().filter(|(stream, at)| began[*stream] > **at).map(|(stream, _)| stream.clone()).collect()
    }

    pub(super) fn any_source_of(&self, pod: &str) -> StreamName {
        self.pods[pod].running.tasks.lock().unwrap().keys().min().unwrap().clone()
    }

    /// How many sources run on behalf of one incarnation.
    pub(super) fn tasks_as(&self, holder: &Holder) -> usize {
        let count =
            |pod: &Pod| pod.running.tasks.lock().unwrap().values().filter(|task| task.holder == *holder).count();
        self.pods.values().map(count).sum()
    }

    /// Every source runs, once, where its Lease says, by an incarnation that lives.
    pub(super) fn is_settled(&self) -> bool {
        let live: HashMap<Holder, String> = self
            .members()
            .into_iter()
            .filter_map(|lease| Some((lease.holder()?.clone(), lease.pod.to_string())))
            .collect();
        let holders: HashMap<StreamName, Holder> = self
            .api
            .leases()
            .iter()
            .filter_map(SourceLease::read)
            .filter_map(|lease| Some((lease.stream, lease.holder?)))
            .collect();
        let runs_right = |stream: &StreamName| {
            let Some(holder) = holders.get(stream) else { return false };
            let Some(pod) = live.get(holder) else { return false };
            self.pods.contains_key(pod)
                && self.pods.iter().all(|(name, other)| {
                    let running = other.running.tasks.lock().unwrap().get(stream).map(|task| task.holder.clone());
                    if name == pod { running.as_ref() == Some(holder) } else { running.is_none() }
                })
        };
        self.streams.iter().all(runs_right)
    }

    pub(super) fn is_even(&self) -> bool {
        let running = self.running();
        let most = running.values().max().copied().unwrap_or(0);
        // max/avg <= 1.10, or as even as whole numbers can be.
        let average = self.streams.len().div_ceil(running.len());
        most <= std::cmp::max(average, self.streams.len() * 110 / (100 * running.len()))
    }

    /// How long the sources that stopped on one pod, one by one, waited to run on another.
    pub(super) fn gaps_after(&self, pod: &str) -> Vec<Duration> {
        let stopped = self.tasks.lock().unwrap()[pod].stopped.lock().unwrap().clone();
        let began = |stream| {
            let began = self.pods.values().map(|pod| pod.running.began.lock().unwrap().get(stream).copied());
            began.flatten().max().unwrap()
        };
        stopped.iter().map(|(stream, at)| began(stream) - *at).collect()
    }

    /// Waits until it holds; returns how long that took.
    pub(super) async fn until(&self, limit: Duration, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < limit, "not {what} within {limit:?}; running: {:?}", self.running());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        start.elapsed()
    }

    pub(super) async fn settled(&self) -> Duration {
        self.until(Duration::from_secs(20), "settled", Self::is_settled).await
    }

    /// Writes of source Leases that named another holder than before, by `writer`.
    pub(super) fn changes_of_holder(&self, since: Instant) -> Vec<(Entry, SourceLease)> {
        self.api
            .log()
            .into_iter()
            .filter(|entry| entry.at >= since)
            .filter_map(|entry| {
                let after = SourceLease::read(entry.after.as_ref()?)?;
                let before = entry.before.as_ref().and_then(SourceLease::read).and_then(|lease| lease.holder);
                (before != after.holder).then_some((entry, after))
            })
            .collect()
    }

    /// The promise of the Leases: while its incarnation lives, nobody but the holder itself gives its source away, and
    /// only after its task has stopped.
    pub(super) fn assert_no_living_holder_was_robbed(&self) {
        assert_eq!(*self.hasty.lock().unwrap(), [] as [String; 0]);
        let mut live: HashMap<Holder, String> = HashMap::new();
        for entry in self.api.log() {
            let read = |lease: &Option<_>| lease.as_ref().map(lease::read);
            if let Some(Seen::Member(before)) = read(&entry.before) {
                before.holder().map(|holder| live.remove(holder));
            }
            match (read(&entry.before), read(&entry.after)) {
                (_, Some(Seen::Member(after))) => {
                    after.holder().map(|holder| live.insert(holder.clone(), after.pod.to_string()));
                }
                (Some(Seen::Source(before)), Some(Seen::Source(after))) if before.holder != after.holder => {
                    let owner = before.holder.as_ref().and_then(|holder| live.get(holder));
                    assert!(
                        owner.is_none_or(|owner| *owner == entry.writer),
                        "{} took {} from {owner:?}, who lives",
                        entry.writer,
                        after.stream
                    );
                }
                _ => {}
            }
        }
    }
}

impl Pod {
    /// SIGSTOP, SIGCONT.
    pub(super) fn freeze(&self, frozen: bool) {
        self.frozen.is.store(frozen, Ordering::Relaxed);
        if let Some(waker) = self.frozen.waker.lock().unwrap().take() {
            waker.wake();
        }
    }

    pub(super) fn polls_for(&self, stream: &StreamName, time: Duration) {
        self.running.polls.lock().unwrap().insert(stream.clone(), time);
    }

    pub(super) fn is_settled_with(&self, held: usize) -> bool {
        self.ownership.view().held == held
    }
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

/// A process that can be stopped in the middle of anything.
struct Freezable {
    inner: BoxFuture<'static, ()>,
    frozen: Arc<Frozen>,
}

#[derive(Default)]
struct Frozen {
    is: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Future for Freezable {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.frozen.is.load(Ordering::Relaxed) {
            *self.frozen.waker.lock().unwrap() = Some(context.waker().clone());
            return Poll::Pending;
        }
        self.inner.as_mut().poll(context)
    }
}
