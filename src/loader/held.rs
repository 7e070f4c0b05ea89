//! One held source, as the supervisor sees it: its Lease, and what runs for it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    guard::Guard,
    report::{BlockedBy, Verdict},
    reports::ReportWriter,
};
use crate::{
    api::{ReachableReason, Source},
    backoff::Backoff,
    ownership::Holding,
};

/// After a panic: a defect that one source brings out must not spin, and must not keep that source down for good.
const RESTART: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(5));

/// A panic this long after the one before counts as the first.
const PANICS_FORGOTTEN: Duration = Duration::from_hours(1);

/// A source whose Lease is ours, or was until its task has ended.
pub(super) struct Held {
    pub(super) holding: Holding,
    pub(super) report: ReportWriter,
    pub(super) guard: Arc<Mutex<Guard>>,
    /// Whether the Lease is known to be ours: not while it is in doubt, and for this task never again once it was lost.
    pub(super) lease: watch::Sender<bool>,
    pub(super) job: Option<Job>,
    /// What follows when the job has ended, if it is to end.
    pub(super) ending: Option<After>,
    /// When the Lease was won, until something runs under it.
    pub(super) won: Option<Instant>,
    panics: u32,
    last_panic: Option<Instant>,
}

/// What becomes of a source once its job has ended.
pub(super) enum After {
    /// Another replica may have it: ownership waits to be told.
    Yield,
    /// Its Lease is lost; nobody waits.
    Drop,
    /// It runs again: its Lease came back while the job was ending, or is another incarnation's.
    RunAgain(Next),
}

/// What a source is held as from now on.
pub(super) struct Next {
    pub(super) holding: Holding,
    pub(super) is_ours: bool,
    /// When the Lease was won; none if this replica had it before.
    pub(super) won: Option<Instant>,
}

/// What runs for a source right now; at most one thing.
pub(super) struct Job {
    pub(super) stop: CancellationToken,
    pub(super) work: Work,
}

pub(super) enum Work {
    /// Polls, and hears of each change of its object.
    Polling(watch::Sender<Arc<Source>>),
    /// For the object with this UID, as long as our finalizer keeps that. What takes it off lets the events stay, those that are
    /// not deleted yet.
    Forgetting(String),
    /// Waits after a panic, until its object changes at most: what changed may be the remedy.
    Recovering,
}

impl Held {
    pub(super) fn new(next: Next, report: ReportWriter, guard: Arc<Mutex<Guard>>) -> Self {
        let Next { holding, is_ours, won } = next;
        let lease = watch::Sender::new(is_ours);
        Self { holding, report, guard, lease, job: None, ending: None, won, panics: 0, last_panic: None }
    }

    /// The job ends between two polls, and then this follows.
    pub(super) fn end(&mut self, after: After) {
        self.ending = Some(after);
        if let Some(job) = &self.job {
            job.stop.cancel();
        }
    }

    /// Whether the Lease is known to be ours. What is lost is not found again by the same task.
    pub(super) fn know_the_lease(&mut self, is_ours: bool) {
        match &mut self.ending {
            None | Some(After::Yield) => {
                self.lease.send_replace(is_ours);
            }
            Some(After::RunAgain(next)) => next.is_ours = is_ours,
            Some(After::Drop) => {}
        }
    }

    /// After a panic: tells of it, and returns how long the next task waits.
    pub(super) fn recover(&mut self) -> Duration {
        if self.last_panic.is_some_and(|last| last.elapsed() > PANICS_FORGOTTEN) {
            self.panics = 0;
        }
        self.last_panic = Some(Instant::now());
        let wait = RESTART.after(self.panics);
        self.panics += 1;
        let next_try = crate::api::Duration::from(wait);
        let message = format!(
            "a defect of Headgate: the task of this source panicked (the log of {} says where); next try in {next_try}, or \
             when the object changes",
            self.holding.holder
        );
        self.report.write(|report| {
            report.reachable = Some(Verdict { reason: ReachableReason::InternalError, message });
            report.blocked_by = Some(BlockedBy::Backoff);
            report.next_poll_in(wait);
            true
        });
        wait
    }
}
