//! One task per held source: what ownership directs, as the desired set describes it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    select,
    sync::watch,
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    buffer::Buffer,
    context::{Context, Shared},
    forget::{forget_stream, must_forget},
    guard::Guard,
    held::{After, Held, Job, Next, Work},
    report::{BlockedBy, Report, Verdict},
    reporter::Reporter,
    reports::Reports,
    send_limit::SendLimit,
    task::SourceTask,
};
use crate::{
    api::{AssignedReason, Source},
    desired::Desired,
    event::StreamName,
    fetch::Transports,
    ownership::{Directive, Directives, Holding, LostReason, Ownership},
    store::{Forget, Store},
    telemetry::{
        health::{Health, Part},
        metrics::Metrics,
    },
};

/// How often the database is asked whether it answers: twice within the 4 s for which the other replicas take it to work
/// after an answer.
const PING_EVERY: Duration = Duration::from_secs(2);

/// What the loader needs from the rest of the process.
pub struct Ports {
    pub store: Arc<dyn Store>,
    pub transports: Arc<dyn Transports>,
    pub ownership: Arc<dyn Ownership>,
    pub desired: Desired,
    pub reports: Reports,
    pub metrics: Arc<Metrics>,
    /// `--buffer-bytes`.
    pub buffer: Buffer,
    pub health: Health,
}

/// Runs one task per held source: what ownership directs, as the desired set describes it.
pub struct Supervisor {
    shared: Arc<Shared>,
    desired: Desired,
    reports: Reports,
    held: HashMap<StreamName, Held>,
    health: Health,
    jobs: JoinSet<()>,
    streams: HashMap<Id, StreamName>,
    stopping: bool,
}

impl Supervisor {
    #[must_use]
    pub fn new(ports: Ports) -> Self {
        let Ports { store, transports, ownership, desired, reports, metrics, buffer, health } = ports;
        let send_limit = SendLimit::default();
        let shared = Arc::new(Shared { store, transports, ownership, metrics, buffer, send_limit });
        Self {
            shared,
            desired,
            reports,
            held: HashMap::new(),
            health,
            jobs: JoinSet::new(),
            streams: HashMap::new(),
            stopping: false,
        }
    }

    /// Runs until the channel of directives closes (ownership has handed everything off) or `shutdown` is cancelled, then
    /// ends every task between two polls and returns. A batch that waits for the database is held even then: whoever
    /// must end sooner drops this future, which ends the tasks where they stand.
    pub async fn run(mut self, directives: Directives, shutdown: CancellationToken) {
        let (shared, health) = (Arc::clone(&self.shared), self.health.clone());
        select! {
            () = self.supervise(directives, shutdown) => {}
            () = watch_database(&shared, &health) => {}
        }
    }

    async fn supervise(&mut self, mut directives: Directives, shutdown: CancellationToken) {
        let mut changes = self.desired.changes();
        let mut completion = self.desired.completion();
        let mut directed = true;
        while !(self.stopping && self.jobs.is_empty()) {
            select! {
                () = shutdown.cancelled(), if !self.stopping => self.stop_all(),
                directive = directives.recv(), if directed => {
                    directed = directive.is_some();
                    match directive {
                        Some(directive) => self.follow(directive),
                        None => self.stop_all(),
                    }
                }
                Some(ended) = self.jobs.join_next_with_id() => self.ended(&ended),
                Ok(()) = changes.changed() => {
                    let touched = self.desired.take_touched();
                    self.reconcile(touched);
                }
                Ok(()) = completion.changed() => {
                    // What the first list does not name is gone, and nothing was said of it.
                    let all: Vec<_> = self.held.keys().cloned().collect();
                    self.reconcile(all);
                }
            }
        }
    }

    fn stop_all(&mut self) {
        self.stopping = true;
        info!(sources = self.held.len(), "stops its sources between polls");
        self.held.values().filter_map(|held| held.job.as_ref()).for_each(|job| job.stop.cancel());
    }

    fn follow(&mut self, directive: Directive) {
        match directive {
            Directive::Run(holding) => self.hold(holding, true),
            Directive::RunInDoubt(holding) => self.hold(holding, false),
            Directive::Confirmed(stream) => {
                if let Some(held) = self.held.get_mut(&stream) {
                    held.know_the_lease(true);
                }
            }
            Directive::Yield(stream) => {
                if !self.end(&stream, After::Yield) {
                    self.shared.ownership.yielded(&stream);
                }
            }
            Directive::Lost(stream, reason) => {
                if let Some(held) = self.held.get_mut(&stream) {
                    warn!(%stream, ?reason, "lost its Lease");
                    let message = lost(reason).to_owned();
                    held.report.write(|report| {
                        report.assigned = Verdict { reason: AssignedReason::LeaseLost, message };
                        report.blocked_by = Some(BlockedBy::Lease);
                        true
                    });
                    held.lease.send_replace(false);
                }
                self.end(&stream, After::Drop);
            }
        }
    }

    /// The Lease of a source names this replica, for certain or not.
    fn hold(&mut self, holding: Holding, is_ours: bool) {
        let stream = holding.stream.clone();
        let won = (is_ours && !self.reports.has_yielded(&holding)).then(Instant::now);
        let next = Next { holding, is_ours, won };
        if let Some(held) = self.held.get_mut(&stream).filter(|_| !is_ours) {
            held.know_the_lease(false);
        }
        match self.held.get_mut(&stream) {
            // A task is still ending, or ran for an earlier incarnation: the new one begins where it ends.
            Some(held) if held.ending.is_some() || held.holding.holder != next.holding.holder => {
                if held.holding.holder != next.holding.holder {
                    held.lease.send_replace(false);
                }
                held.end(After::RunAgain(next));
            }
            Some(held) => held.holding = next.holding,
            None => {
                let held = self.held_for(next, Arc::default());
                self.held.insert(stream.clone(), held);
            }
        }
        self.start_next(&stream);
    }

    fn held_for(&self, next: Next, guard: Arc<Mutex<Guard>>) -> Held {
        let stream = next.holding.stream.clone();
        let (generation, uid) =
            self.desired.get(&stream).map(|source| (source.generation, source.uid.clone())).unwrap_or_default();
        let report = self.reports.open(&stream, Report::of(next.holding.clone(), generation, uid));
        Held::new(next, report, guard)
    }

    /// Ends what runs for a source; then this follows. Returns whether it was held.
    fn end(&mut self, stream: &StreamName, after: After) -> bool {
        let Some(held) = self.held.get_mut(stream) else { return false };
        held.end(after);
        self.start_next(stream);
        true
    }

    /// The desired set has changed in these.
    fn reconcile(&mut self, streams: impl IntoIterator<Item = StreamName>) {
        for stream in streams {
            let source = self.desired.get(&stream);
            if source.is_none() {
                self.reports.forget_yielded(&stream);
            }
            if let Some(Job { stop, work }) = self.held.get(&stream).and_then(|held| held.job.as_ref()) {
                match (work, source) {
                    (Work::Polling(running), Some(source)) if !source.deleting => {
                        running.send_if_modified(|old| {
                            let new = !Arc::ptr_eq(old, &source);
                            *old = source;
                            new
                        });
                    }
                    (_, None) if !self.desired.is_complete() => {}
                    (Work::Forgetting(uid), Some(source)) if source.uid == *uid && must_forget(&source) => {}
                    _ => stop.cancel(),
                }
            }
            self.start_next(&stream);
        }
    }

    /// Starts what is to run next for a source, if nothing runs.
    fn start_next(&mut self, stream: &StreamName) {
        let Some(held) = self.held.get_mut(stream).filter(|held| held.job.is_none()) else { return };
        if let Some(after) = held.ending.take() {
            return self.go_on(stream, after);
        }
        if self.stopping {
            return;
        }
        match self.desired.get(stream) {
            None if self.desired.is_complete() => {
                info!(%stream, "its object is gone");
                self.held.remove(stream);
                self.reports.remove(stream);
                self.shared.ownership.finished(stream);
            }
            Some(source) if !source.deleting => self.start_polling(stream, source),
            Some(source) if must_forget(&source) && !held.report.read().is_forgotten(&source.uid) => {
                self.start_forgetting(stream, &source);
            }
            // Not listed yet; or kept by somebody else's finalizer, or by ours, which is about to go.
            None | Some(_) => {}
        }
    }

    /// Its job has ended as it was to.
    fn go_on(&mut self, stream: &StreamName, after: After) {
        let Some(held) = self.held.remove(stream) else { return };
        match after {
            After::Yield => {
                // Nobody takes over, and nobody will ask for, what was deleted meanwhile.
                if self.desired.get(stream).is_some() || !self.desired.is_complete() {
                    self.reports.yielded(stream);
                } else {
                    self.reports.remove(stream);
                }
                self.shared.ownership.yielded(stream);
            }
            After::Drop => self.reports.remove(stream),
            After::RunAgain(next) => {
                self.reports.remove(stream);
                let held = self.held_for(next, held.guard);
                self.held.insert(stream.clone(), held);
                self.start_next(stream);
            }
        }
    }

    fn start_polling(&mut self, stream: &StreamName, source: Arc<Source>) {
        let Some(held) = self.held.get(stream) else { return };
        let context = Context::new(
            Arc::clone(&self.shared),
            stream.clone(),
            held.holding.holder.clone(),
            Reporter::new(stream.clone(), held.report.clone()),
            held.lease.subscribe(),
            Arc::clone(&held.guard),
        );
        let stop = CancellationToken::new();
        let (sender, sources) = watch::channel(source);
        let rng = StdRng::from_rng(&mut rand::rng());
        let task = SourceTask::new(context, sources, stop.clone(), held.won, rng);
        self.start(stream, Job { stop, work: Work::Polling(sender) }, task.run());
    }

    fn start_forgetting(&mut self, stream: &StreamName, source: &Source) {
        let Some(held) = self.held.get(stream) else { return };
        let stop = CancellationToken::new();
        let forget = Forget { stream: stream.clone(), uid: source.uid.clone() };
        let (uid, generation) = (source.uid.clone(), source.generation);
        let work = Work::Forgetting(uid.clone());
        let (shared, stopped) = (Arc::clone(&self.shared), stop.clone());
        let reporter = Reporter::new(stream.clone(), held.report.clone());
        let job = async move {
            if stopped.run_until_cancelled(forget_stream(&*shared.store, forget, &reporter)).await.is_some() {
                reporter.tell(|report| {
                    // Perhaps nothing ever ran for this object.
                    if report.uid != uid {
                        report.turns_to(&uid, generation);
                    }
                    report.forgotten = true;
                });
            }
        };
        self.start(stream, Job { stop, work }, job);
    }

    fn start(&mut self, stream: &StreamName, job: Job, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(held) = self.held.get_mut(stream) {
            held.job = Some(job);
            held.won = None;
            let id = self.jobs.spawn(work).id();
            self.streams.insert(id, stream.clone());
        }
    }

    fn ended(&mut self, ended: &Result<(Id, ()), JoinError>) {
        let (id, panicked) = match ended {
            Ok((id, ())) => (*id, false),
            Err(error) => (error.id(), error.is_panic()),
        };
        let Some(stream) = self.streams.remove(&id) else { return };
        let Some(held) = self.held.get_mut(&stream) else { return };
        held.job = None;
        if panicked && held.ending.is_none() && !self.stopping {
            let wait = held.recover();
            error!(%stream, restart_in = ?wait, "the task of this source panicked; only this source is affected");
            let stop = CancellationToken::new();
            let stopped = stop.clone();
            let waits = async move {
                stopped.run_until_cancelled(sleep(wait)).await;
            };
            self.start(&stream, Job { stop, work: Work::Recovering }, waits);
        } else {
            self.start_next(&stream);
        }
    }
}

/// Asks the database whether it answers, for `/readyz` and for ownership, which does not ask by itself. Never returns.
async fn watch_database(shared: &Shared, health: &Health) {
    loop {
        match shared.store.ping().await {
            Ok(()) => {
                health.works(Part::Database);
                shared.ownership.database_answered();
            }
            Err(error) => health.fails(Part::Database, &error),
        }
        sleep(PING_EVERY).await;
    }
}

fn lost(reason: LostReason) -> &'static str {
    match reason {
        LostReason::IncarnationEnded => "this replica was declared dead by another one; it rejoins",
        LostReason::TakenOver => "another replica holds the Lease",
        LostReason::LeaseDeleted => "the Lease was deleted; it is claimed again",
    }
}

#[cfg(test)]
mod tests;
