mod adopt;
mod credentials;
mod finalizer;

use std::{pin::pin, sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::credentials::Readings;
use super::{
    context::Context,
    poll::{Pass, Poller, Signals},
    report::BlockedBy,
    settings::Settings,
};
use crate::{
    api::{AcceptedReason, Source},
    backoff::{Backoff, Waits},
    fetch::Fetcher,
};

/// Between two tries to open a source whose Secret is missing: it runs by itself soon after the Secret appears.
const OPEN_RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    Due,
    /// A poll was asked for.
    PollNow,
    Ended(Ended),
}

/// Why a source does not go on as it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Open it again: another generation or another object is to run, or the credentials are gone.
    Reopen,
    Stopped,
}

/// What ended the polling of an adopted source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Interruption {
    Ended(Ended),
    Readopt,
    FencedOff,
}

impl From<Ended> for Interruption {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

/// The life of one source, until it is told to stop.
pub(super) struct SourceTask {
    context: Context,
    sources: watch::Receiver<Arc<Source>>,
    running: Arc<Source>,
    stop: CancellationToken,
    /// When the Lease was won, until the first reservation is granted. None if something of the source itself had to come about
    /// first: its takeover was over by then.
    won: Option<Instant>,
    /// The value of `headgate.dev/poll-requested-at` that the next request serves. That of another generation or holder may have
    /// been served before; then it is said again of the first request, which is sent in any case.
    requested: Option<String>,
    /// Another holder had adopted the row when it was last asked, at this instant.
    fenced_off: Option<Instant>,
    /// The UID of the object that was polled last.
    polled: Option<String>,
    rng: StdRng,
}

impl SourceTask {
    pub(super) fn new(
        context: Context,
        mut sources: watch::Receiver<Arc<Source>>,
        stop: CancellationToken,
        won: Option<Instant>,
        rng: StdRng,
    ) -> Self {
        let running = Arc::clone(&sources.borrow_and_update());
        Self { context, sources, running, stop, won, requested: None, fenced_off: None, polled: None, rng }
    }

    /// Runs until told to stop; then ends between two polls.
    pub(super) async fn run(mut self) {
        while !self.stop.is_cancelled() {
            if self.run_generation().await == Ended::Stopped {
                break;
            }
        }
    }

    /// Opens the source as it is now and polls it until that changes.
    async fn run_generation(&mut self) -> Ended {
        self.running = Arc::clone(&self.sources.borrow_and_update());
        self.requested.clone_from(&self.running.poll_requested_at);
        self.announce();
        let settings = match Settings::of(&self.running) {
            Ok(settings) => settings,
            Err(error) => {
                let reason = AcceptedReason::InvalidSpec;
                self.context.reporter.not_accepted(reason, &format!("spec.start.afterID is not valid: {error}"));
                return self.wait_for_change().await;
            }
        };
        let mut fetcher = match self.open().await {
            Ok(fetcher) => fetcher,
            Err(ended) => return ended,
        };
        let mut readings = Readings::new(&mut self.rng);
        if let Err(ended) = self.await_finalizer().await {
            return ended;
        }
        loop {
            let adopted = match self.adopt(&settings).await {
                Ok(adopted) => adopted,
                Err(ended) => return ended,
            };
            if self.running.spec.suspend {
                self.context.reporter.blocked_by(Some(BlockedBy::Suspended));
                return self.wait_for_change().await;
            }
            let uid = self.running.uid.clone();
            let rng = StdRng::from_rng(&mut self.rng);
            let mut poller =
                Poller::new(self.context.clone(), fetcher, settings.clone(), &adopted, self.won.take(), rng);
            let interruption = self.poll(&mut poller, &mut readings).await;
            if poller.polls() > 0 {
                self.polled = Some(uid);
            }
            if interruption == Interruption::FencedOff {
                self.fenced_off = Some(Instant::now());
            }
            poller.leave(&self.stop).await;
            match interruption {
                Interruption::Ended(ended) => return ended,
                Interruption::Readopt | Interruption::FencedOff => {}
            }
            fetcher = poller.into_fetcher();
        }
    }

    fn announce(&self) {
        let source = &self.running;
        self.context.reporter.tell(|report| {
            report.turns_to(&source.uid, source.generation);
            report.suspended = source.spec.suspend;
            report.blocked_by = source.spec.suspend.then_some(BlockedBy::Suspended);
        });
    }

    /// Builds the fetcher; as long as that fails, says why and tries again.
    async fn open(&mut self) -> Result<Box<dyn Fetcher>, Ended> {
        let mut retry = OPEN_RETRY.waits();
        loop {
            let transports = Arc::clone(&self.context.shared.transports);
            match self.stop.run_until_cancelled(transports.open(&self.running)).await {
                None => return Err(Ended::Stopped),
                Some(Ok(fetcher)) => {
                    self.context.reporter.credentials_read();
                    return Ok(fetcher);
                }
                Some(Err(error)) => {
                    self.won = None;
                    self.context.reporter.not_opened(&error);
                    self.back_off(&mut retry).await?;
                }
            }
        }
    }

    /// The loop: the repetition of one pass.
    async fn poll(&mut self, poller: &mut Poller, readings: &mut Readings) -> Interruption {
        let mut next = Instant::now();
        loop {
            if let Err(ended) = self.await_pass(poller, readings, next).await {
                return ended.into();
            }
            let polls = poller.polls();
            let pass = self.pass(poller).await;
            if poller.polls() > polls {
                self.served();
            }
            next = match pass {
                Pass::Again(until) => until,
                Pass::Refused(until) => {
                    readings.doubt();
                    until
                }
                Pass::Readopt => return Interruption::Readopt,
                Pass::FencedOff => return Interruption::FencedOff,
                Pass::Stopped => return Ended::Stopped.into(),
            };
            if !poller.is_failing() {
                readings.trust();
            }
        }
    }

    /// One pass. Its reservation waits for no others when a poll was asked for, and no longer when the object changes.
    async fn pass(&self, poller: &mut Poller) -> Pass {
        let signals = Signals::below(&self.stop);
        if self.requested.is_some() {
            signals.hurry.cancel();
        }
        let mut sources = self.sources.clone();
        let mut pass = pin!(poller.run_once(&signals));
        loop {
            select! {
                biased;
                pass = &mut pass => return pass,
                Ok(()) = sources.changed() => {
                    signals.hurry.cancel();
                    if self.is_replaced_by(&sources.borrow_and_update()) {
                        signals.replaced.cancel();
                    }
                }
            }
        }
    }

    fn is_replaced_by(&self, new: &Source) -> bool {
        self.running.generation != new.generation || self.running.uid != new.uid
    }

    /// The source was asked: that serves the poll that was asked for.
    fn served(&mut self) {
        if let Some(requested) = self.requested.take() {
            self.context.reporter.tell(|report| report.handled_poll_request = Some(requested));
        }
    }

    /// Nothing can be done for the source before its object changes, or somebody else has done something.
    async fn wait_for_change(&mut self) -> Ended {
        self.won = None;
        loop {
            // A poll that is asked for now is served after the change.
            match self.wait(Instant::now() + Duration::from_hours(24)).await {
                Wake::Due | Wake::PollNow => {}
                Wake::Ended(ended) => return ended,
            }
        }
    }

    async fn back_off(&mut self, retry: &mut Waits) -> Result<(), Ended> {
        let wait = retry.failed().mul_f64(self.rng.random_range(0.75..=1.0));
        self.pause(wait).await
    }

    async fn pause(&mut self, wait: Duration) -> Result<(), Ended> {
        match self.wait(Instant::now() + wait).await {
            Wake::Due | Wake::PollNow => Ok(()),
            Wake::Ended(ended) => Err(ended),
        }
    }

    async fn wait(&mut self, until: Instant) -> Wake {
        loop {
            select! {
                biased;
                () = self.stop.cancelled() => return Wake::Ended(Ended::Stopped),
                changed = self.sources.changed() => match changed {
                    Ok(()) => if let Some(wake) = self.look() { return wake },
                    Err(_) => return Wake::Ended(Ended::Stopped),
                },
                () = sleep_until(until) => return Wake::Due,
            }
        }
    }

    /// What a new version of the object means for the running one.
    fn look(&mut self) -> Option<Wake> {
        let new = Arc::clone(&self.sources.borrow_and_update());
        let is_replaced = self.is_replaced_by(&new);
        let old = std::mem::replace(&mut self.running, Arc::clone(&new));
        if is_replaced {
            return Some(Wake::Ended(Ended::Reopen));
        }
        if new.poll_requested_at.is_some() && new.poll_requested_at != old.poll_requested_at {
            self.requested.clone_from(&new.poll_requested_at);
            return Some(Wake::PollNow);
        }
        None
    }
}

#[cfg(test)]
mod tests;
