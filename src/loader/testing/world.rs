use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::registry::Registry;
use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{FakeSource, FakeStore, freeze::Frost, source::id};
use crate::{
    api::{
        Source,
        event_source::{EventSourceSpec, Http},
    },
    event::{Event, Payload, StreamName},
    fetch::Transports,
    loader::{
        buffer::Buffer,
        context::{Context, Shared},
        guard::Guard,
        poll::{Pass, Poller, Signals},
        report::Report,
        reporter::Reporter,
        reports::Reports,
        send_limit::SendLimit,
        settings::Settings,
        task::SourceTask,
    },
    ownership::{Holding, Ownership, Renewal},
    store::{Adopt, Answer, Gate, Holder},
    telemetry::metrics::Metrics,
};

/// An event whose payload follows from its id.
pub(in crate::loader) fn event(text: &str) -> Event {
    Event {
        id: id(text),
        event_type: None,
        subject: None,
        occurred_at: None,
        payload: Payload::from_json_text(format!("{{\"of\":\"{text}\"}}")),
    }
}

pub(in crate::loader) fn number(number: u64) -> Event {
    event(&number.to_string())
}

/// Notes what the loader tells ownership, and keeps a member Lease.
#[derive(Debug, Default)]
pub(in crate::loader) struct FakeOwnership {
    told: Arc<Mutex<Told>>,
    renewed: watch::Sender<Option<Renewal>>,
    cut_off: AtomicBool,
    leases_wait: Arc<AtomicBool>,
}

/// As the member Lease is renewed by the adapter.
pub(in crate::loader) const RENEW_EVERY: Duration = Duration::from_millis(1500);
pub(in crate::loader) const LEASE_DURATION: Duration = Duration::from_secs(5);

#[derive(Debug, Default, Clone)]
pub(in crate::loader) struct Told {
    pub(in crate::loader) yielded: Vec<StreamName>,
    pub(in crate::loader) finished: Vec<StreamName>,
    pub(in crate::loader) holding_a_batch: BTreeSet<StreamName>,
    pub(in crate::loader) held_a_batch: bool,
    pub(in crate::loader) answers: usize,
}

impl FakeOwnership {
    fn of_the_same_replica_as(other: &Self) -> Self {
        Self { told: Arc::clone(&other.told), leases_wait: Arc::clone(&other.leases_wait), ..Self::default() }
    }

    /// Cuts this replica off from the API server, or heals it.
    pub(in crate::loader) fn cut_off(&self, cut_off: bool) {
        self.cut_off.store(cut_off, Ordering::Relaxed);
    }

    pub(in crate::loader) fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Relaxed)
    }

    /// Many sources wait for a holder, or no longer.
    pub(in crate::loader) fn leases_wait(&self, wait: bool) {
        self.leases_wait.store(wait, Ordering::Relaxed);
    }

    /// A renewal that was issued at this instant was answered.
    pub(in crate::loader) fn renewed(&self, holder: &Holder, issued: Instant) {
        let renewal = Renewal { holder: holder.clone(), issued, alive_until: issued + LEASE_DURATION };
        self.renewed.send_replace(Some(renewal));
    }

    /// The incarnation was found to have ended.
    pub(in crate::loader) fn ended(&self) {
        self.renewed.send_replace(None);
    }

    /// Renews while the replica can, as long as anybody looks.
    fn keep_renewing(self: &Arc<Self>, holder: Holder) -> impl Future<Output = ()> + Send + 'static {
        self.renewed(&holder, Instant::now());
        let ownership = Arc::downgrade(self);
        async move {
            loop {
                sleep(RENEW_EVERY).await;
                let Some(ownership) = ownership.upgrade() else { return };
                if !ownership.is_cut_off() {
                    ownership.renewed(&holder, Instant::now());
                }
            }
        }
    }

    pub(in crate::loader) fn told(&self) -> Told {
        self.told.lock().expect("no test panics inside").clone()
    }
}

impl Ownership for FakeOwnership {
    fn yielded(&self, stream: &StreamName) {
        self.told.lock().expect("no test panics inside").yielded.push(stream.clone());
    }

    fn finished(&self, stream: &StreamName) {
        self.told.lock().expect("no test panics inside").finished.push(stream.clone());
    }

    fn holds_batch(&self, stream: &StreamName, holds: bool) {
        let mut told = self.told.lock().expect("no test panics inside");
        if holds {
            told.holding_a_batch.insert(stream.clone());
            told.held_a_batch = true;
        } else {
            told.holding_a_batch.remove(stream);
        }
    }

    fn database_answered(&self) {
        self.told.lock().expect("no test panics inside").answers += 1;
    }

    fn renewals(&self) -> watch::Receiver<Option<Renewal>> {
        self.renewed.subscribe()
    }

    fn leases_wait(&self) -> bool {
        self.leases_wait.load(Ordering::Relaxed)
    }
}

/// One stream, its source, the store, and what a replica needs to load it.
pub(in crate::loader) struct World {
    pub(in crate::loader) stream: StreamName,
    pub(in crate::loader) store: FakeStore,
    pub(in crate::loader) source: FakeSource,
    pub(in crate::loader) ownership: Arc<FakeOwnership>,
    pub(in crate::loader) reports: Reports,
    pub(in crate::loader) metrics: Arc<Metrics>,
    pub(in crate::loader) registry: Arc<Registry>,
    pub(in crate::loader) buffer: Buffer,
    /// The object.
    pub(in crate::loader) object: Source,
    /// Of every holder so far.
    reporters: Mutex<Vec<Reporter>>,
}

impl World {
    pub(in crate::loader) fn new() -> Self {
        Self::seeded(7)
    }

    pub(in crate::loader) fn seeded(seed: u64) -> Self {
        let stream = StreamName::new("shop", "orders");
        let mut registry = Registry::default();
        Self {
            store: FakeStore::new(seed),
            source: FakeSource::new(seed),
            ownership: Arc::default(),
            reports: Reports::default(),
            metrics: Metrics::register(&mut registry),
            registry: Arc::new(registry),
            buffer: Buffer::new(128 * 1024 * 1024),
            object: object(stream.clone()),
            reporters: Mutex::default(),
            stream,
        }
    }

    /// A source that holds the events 1 to `last`.
    pub(in crate::loader) fn with_events(last: u64) -> Self {
        let world = Self::new();
        world.source.add((1..=last).map(number));
        world
    }

    pub(in crate::loader) fn asking_for(mut self, batch_size: i32) -> Self {
        self.object.spec.poll.batch_size = batch_size;
        self
    }

    pub(in crate::loader) fn holding(&self, holder: &str) -> Holding {
        Holding {
            stream: self.stream.clone(),
            holder: Holder::new(holder),
            lease_name: "shop.orders".to_owned(),
            acquired_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn shared(&self, holder: &str, transports: Arc<dyn Transports>, ownership: Arc<dyn Ownership>) -> Arc<Shared> {
        Arc::new(Shared {
            store: Arc::new(self.store.asked_by(holder)),
            transports,
            ownership,
            metrics: Arc::clone(&self.metrics),
            buffer: self.buffer.clone(),
            send_limit: SendLimit::default(),
        })
    }

    fn context(&self, holder: &str, frost: &Frost, ownership: Arc<dyn Ownership>) -> Context {
        let transports = Arc::new(self.source.transports(holder, frost));
        let report = Report::of(self.holding(holder), self.object.generation, self.object.uid.clone());
        let reporter = Reporter::new(self.stream.clone(), self.reports.open(&self.stream, report));
        self.reporters.lock().expect("no test panics inside").push(reporter.clone());
        let guard = Arc::new(Mutex::new(Guard::default()));
        // Known to be ours throughout: the supervisor has tests of the rest.
        let (_, lease) = watch::channel(true);
        Context::new(
            self.shared(holder, transports, ownership),
            self.stream.clone(),
            Holder::new(holder),
            reporter,
            lease,
            guard,
        )
    }

    /// Adopts the row as `holder` and stands ready to poll, step by step.
    pub(in crate::loader) async fn adopted_by(&self, holder: &str) -> Polling {
        let settings = Settings::of(&self.object).expect("a valid object");
        let adopt = Adopt {
            stream: self.stream.clone(),
            uid: self.object.uid.clone(),
            holder: Holder::new(holder),
            epoch: settings.epoch,
            start: settings.start.clone(),
            id_path: settings.id_path.clone(),
            in_doubt: false,
        };
        let adopted = loop {
            match self.store.adopt(adopt.clone()).await {
                Ok(Answer::Applied(adopted)) => break adopted,
                Ok(Answer::Locked) => {}
                other => panic!("ADOPT is never refused: {other:?}"),
            }
        };
        let frost = Frost::default();
        let fetcher = Box::new(self.source.fetcher(holder, &frost));
        let rng = StdRng::seed_from_u64(7);
        let poller = Poller::new(
            self.context(holder, &frost, self.alive(holder, &frost)),
            fetcher,
            settings,
            &adopted,
            None,
            rng,
        );
        Polling { poller, stop: CancellationToken::new(), due: Instant::now() }
    }

    /// The whole life of the source on one replica.
    pub(in crate::loader) fn task(&self, holder: &str, frost: &Frost, seed: u64) -> (SourceTask, Steering) {
        self.task_of(holder, frost, seed, self.alive(holder, frost))
    }

    /// The same, on a replica whose member Lease is kept by the test.
    pub(in crate::loader) fn task_of(
        &self,
        holder: &str,
        frost: &Frost,
        seed: u64,
        ownership: Arc<FakeOwnership>,
    ) -> (SourceTask, Steering) {
        let (sender, sources) = watch::channel(Arc::new(self.object.clone()));
        let stop = CancellationToken::new();
        let context = self.context(holder, frost, ownership);
        let task = SourceTask::new(context, sources, stop.clone(), None, StdRng::seed_from_u64(seed));
        (task, Steering { source: sender, stop })
    }

    /// A member Lease that is renewed while the replica is not frozen.
    pub(in crate::loader) fn alive(&self, holder: &str, frost: &Frost) -> Arc<FakeOwnership> {
        let ownership = Arc::new(FakeOwnership::of_the_same_replica_as(&self.ownership));
        tokio::spawn(frost.freezable(ownership.keep_renewing(Holder::new(holder))));
        ownership
    }

    pub(in crate::loader) fn report(&self) -> Arc<Report> {
        self.reports.get(&self.stream).expect("a replica holds the source")
    }

    /// Requests of all holders that came to this.
    pub(in crate::loader) fn requests(&self, outcome: &str) -> u64 {
        let reporters = self.reporters.lock().expect("no test panics inside");
        reporters.iter().filter_map(|reporter| reporter.report().requests.get(outcome).copied()).sum()
    }

    pub(in crate::loader) fn stored_ids(&self) -> Vec<String> {
        self.store.row(&self.stream, |row| row.ids().into_iter().map(str::to_owned).collect())
    }

    pub(in crate::loader) fn cursor(&self) -> String {
        self.store.row(&self.stream, |row| row.cursor.to_string())
    }
}

/// What a supervisor would hold of a task.
pub(in crate::loader) struct Steering {
    pub(in crate::loader) source: watch::Sender<Arc<Source>>,
    pub(in crate::loader) stop: CancellationToken,
}

/// More than any test needs to reach what it waits for.
const MANY_POLLS: usize = 200;

/// A poller that a test drives step by step.
pub(in crate::loader) struct Polling {
    pub(in crate::loader) poller: Poller,
    pub(in crate::loader) stop: CancellationToken,
    pub(in crate::loader) due: Instant,
}

impl Polling {
    /// Waits until the next pass is due, and does it.
    pub(in crate::loader) async fn pass(&mut self) -> Pass {
        sleep_until(self.due).await;
        let pass = self.poller.run_once(&Signals::below(&self.stop)).await;
        if let Pass::Again(due) | Pass::Refused(due) = pass {
            self.due = due;
        }
        pass
    }

    /// Passes until the source was asked or the passes end.
    pub(in crate::loader) async fn poll(&mut self) -> Pass {
        let before = self.poller.polls();
        loop {
            let pass = self.pass().await;
            if self.poller.polls() > before || !matches!(pass, Pass::Again(_)) {
                return pass;
            }
        }
    }

    /// Polls until `reached`.
    pub(in crate::loader) async fn poll_until(&mut self, reached: impl Fn() -> bool) {
        for _ in 0..MANY_POLLS {
            if reached() {
                return;
            }
            self.poll().await;
        }
        panic!("not reached in {MANY_POLLS} polls");
    }

    /// As a task that ends does, told to stop or not.
    pub(in crate::loader) async fn leave(&mut self) {
        self.poller.leave(&self.stop).await;
    }

    /// How long until the next pass.
    pub(in crate::loader) fn due_in(&self) -> Duration {
        self.due.saturating_duration_since(Instant::now())
    }
}

fn object(stream: StreamName) -> Source {
    let spec = EventSourceSpec::over_http(Http::at("http://orders.example/events"));
    Source {
        stream,
        uid: "uid-1".to_owned(),
        generation: 1,
        spec,
        deleting: false,
        has_finalizer: false,
        was_polled: false,
        poll_requested_at: None,
        shares_endpoint_with: None,
    }
}
