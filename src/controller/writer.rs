//! Writes the status of the sources that this replica holds: what the [`Board`] says, when it says so.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::Client;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Inputs,
    board::{Board, Done, Job, JobKind, Look, Serial},
    events::EventSink,
    leases_first::LeasesFirst,
    patch::{Performed, perform},
    status::behind_for,
};
use crate::{
    desired::Desired,
    event::StreamName,
    loader::reports::Reports,
    telemetry::metrics::{Metrics, StatusWriteLabels},
};

/// Changes that a condition shows are looked through together, this often at most.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Counters and times move without a word; they are looked at this often, which is nothing beside their intervals.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// At the end of the process the last statuses are written within this, as many as fit. Of the 12 s of the grace period that are
/// left after `--drain-timeout`, the last polls have 3.
pub(super) const LAST_WORDS_WITHIN: Duration = Duration::from_secs(7);

/// The status writer of one replica.
pub(super) struct StatusWriter {
    client: Client,
    board: Board,
    desired: Desired,
    reports: Reports,
    leases_first: LeasesFirst,
    sink: EventSink,
    metrics: Arc<Metrics>,
    jobs: JoinSet<Finished>,
}

struct Finished {
    stream: StreamName,
    uid: String,
    serial: Serial,
    done: Done,
}

impl StatusWriter {
    pub(super) fn new(
        client: Client,
        board: Board,
        Inputs { desired, reports, leases_wait, .. }: Inputs,
        sink: EventSink,
        metrics: Arc<Metrics>,
    ) -> Self {
        let leases_first = LeasesFirst::new(leases_wait);
        Self { client, board, desired, reports, leases_first, sink, metrics, jobs: JoinSet::new() }
    }

    /// Runs until `shutdown`, which must come after the drain: a source that is still in the reports then has no
    /// successor, and its status is to say so.
    pub(super) async fn run(mut self, shutdown: &CancellationToken) {
        let mut reported = self.reports.changes();
        let mut wanted = self.desired.changes();
        let (mut changed, mut at) = (false, Look::Reports);
        let mut looked = Instant::now();
        self.look(Look::Everything, looked);
        loop {
            let now = Instant::now();
            let look_at = looked + if changed { LOOK_EVERY } else { SAMPLE_EVERY };
            if look_at <= now {
                self.look(at, now);
                (changed, at, looked) = (false, Look::Reports, now);
                continue;
            }
            self.board.hold_statuses_back(self.leases_first.holds_back(), now);
            self.start_jobs(now);
            let wake = self.board.wakes_at(now).map_or(look_at, |at| at.min(look_at));
            tokio::select! {
                () = shutdown.cancelled() => break,
                Ok(()) = reported.changed(), if !changed => changed = true,
                Ok(()) = wanted.changed(), if at == Look::Reports => (changed, at) = (true, Look::Everything),
                Some(finished) = self.jobs.join_next() => self.finish(finished),
                () = self.leases_first.changed() => {}
                () = sleep_until(wake) => {}
            }
        }
        self.last_words().await;
    }

    async fn last_words(&mut self) {
        let deadline = Instant::now() + LAST_WORDS_WITHIN;
        self.look(Look::Everything, Instant::now());
        self.board.leave(Instant::now());
        while !self.board.is_settled() {
            let now = Instant::now();
            self.start_jobs(now);
            let wake = self.board.wakes_at(now).map_or(deadline, |at| at.min(deadline));
            tokio::select! {
                Some(finished) = self.jobs.join_next() => self.finish(finished),
                () = sleep_until(wake) => if wake >= deadline { return },
            }
        }
    }

    fn look(&mut self, at: Look, now: Instant) {
        for event in self.board.look(at, &self.reports, &self.desired, now) {
            self.sink.tell(event);
        }
    }

    fn start_jobs(&mut self, now: Instant) {
        while let Some(job) = self.board.next(now) {
            let (client, metrics) = (self.client.clone(), self.metrics.clone());
            self.jobs.spawn(async move { work(&client, &metrics, job).await });
        }
    }

    fn finish(&mut self, finished: Result<Finished, tokio::task::JoinError>) {
        // A job is only ever aborted with the writer itself; a panic in one is a panic of the writer.
        match finished {
            Ok(Finished { stream, uid, serial, done }) => {
                // The gauge of the lag goes on where the holder before was.
                if let Done::Settled(base) = &done
                    && let Some(ago) = behind_for(&base.status, Timestamp::now())
                {
                    self.reports.was_caught_up(&stream, &uid, ago);
                }
                self.board.done(&stream, serial, done, Instant::now());
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }
}

async fn work(client: &Client, metrics: &Metrics, job: Job) -> Finished {
    let (stream, uid, serial) = (job.stream.clone(), job.uid.clone(), job.serial);
    let trigger = match &job.kind {
        JobKind::Status { trigger, .. } => trigger.as_str(),
        JobKind::Finalizer(step) => step.as_str(),
    };
    let Performed { done, result } = perform(client, job).await;
    metrics.status_writes.get_or_create(&StatusWriteLabels { trigger, result }).inc();
    Finished { stream, uid, serial, done }
}
