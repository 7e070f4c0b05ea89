//! The watch of all EventSources, on every replica.
//!
//! A plain watcher, not a `Controller`: what follows from an event is one put into a map, which neither fails nor is
//! tried again, so there is nothing to queue, to debounce or to give an object back for. And the end of the first list,
//! before which nobody may take an absent source for a deleted one, is an event here; a `Controller` hides it.

use std::{fmt, pin::pin, time::Duration};

use futures::StreamExt;
use kube::{
    Api, Client,
    core::DeserializeGuard,
    runtime::watcher::{self, watcher},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    ControllerError,
    intake::{Intake, Outcome, WatchEvent},
    unreadable::Unreadable,
};
use crate::{
    api::EventSource,
    backoff::{Backoff, jittered},
    telemetry::metrics::{Metrics, ResultLabels},
};

/// The API server ends a watch after so many seconds, and the next one goes on where it ended. Short, because a connection
/// that died without a word shows nothing until then.
const WATCH_SECONDS: u32 = 30;

/// After a failed list or watch. The longest wait is how late a new object may be seen once the API server is back.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));

/// So many failures in a row are more than a watch that ended.
const FAILURES_OF_AN_OUTAGE: u32 = 3;

/// An outage is said again after so many further failures: every four minutes or so.
const SAID_AGAIN_AFTER: u32 = 60;

/// How far the watch has come; `/readyz` names it while it is not [`WatchState::Watching`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchState {
    /// The first list is under way.
    Listing,
    /// The API server does not know the resource.
    CrdMissing,
    /// No answer, or none that helps.
    ApiServerUnavailable,
    /// The first list was complete. It stays so: what is known stays known when the API server goes away.
    Watching,
}

impl WatchState {
    /// What readiness waits for.
    #[must_use]
    pub fn pending(self) -> Option<&'static str> {
        match self {
            Self::Listing => Some("the first list of EventSources is under way"),
            Self::CrdMissing => {
                Some("the CRD eventsources.headgate.dev is not installed (headgate crd | kubectl apply -f -)")
            }
            Self::ApiServerUnavailable => Some("the API server does not answer"),
            Self::Watching => None,
        }
    }
}

impl fmt::Display for WatchState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.pending().unwrap_or("watching EventSources"))
    }
}

/// The watch and what it feeds.
pub(super) struct Watch<'a> {
    pub(super) client: Client,
    pub(super) namespace: Option<String>,
    pub(super) intake: Intake,
    pub(super) state: watch::Sender<WatchState>,
    pub(super) unreadable: Unreadable,
    pub(super) metrics: &'a Metrics,
}

impl Watch<'_> {
    /// Follows the EventSources until `shutdown`.
    ///
    /// # Errors
    /// When this replica may not list EventSources and so could never begin. After the first list such an answer is
    /// waited out like any other: what runs goes on.
    pub(super) async fn run(mut self, shutdown: &CancellationToken) -> Result<(), ControllerError> {
        let api: Api<DeserializeGuard<EventSource>> = match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let mut events = pin!(watcher(api, watcher::Config::default().timeout(WATCH_SECONDS)));
        let mut failures = 0;
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                event = events.next() => event,
            };
            match event {
                Some(Ok(event)) => {
                    // A list that failed begins again with this event; it says nothing about the server's health.
                    if !matches!(event, watcher::Event::Init) {
                        failures = 0;
                    }
                    self.take(event);
                }
                Some(Err(error)) => {
                    failures += 1;
                    self.failed(&error, failures)?;
                    let wait = jittered(RETRY.after(failures - 1), &mut rand::rng());
                    tokio::select! {
                        () = shutdown.cancelled() => return Ok(()),
                        () = tokio::time::sleep(wait) => {}
                    }
                }
                None => return Ok(()),
            }
        }
    }

    fn take(&mut self, event: WatchEvent) {
        let started = Instant::now();
        let outcome = self.intake.take(event, started);
        self.metrics.reconcile_duration.observe(started.elapsed().as_secs_f64());
        self.metrics.unreadable_sources.set(i64::try_from(self.unreadable.len()).unwrap_or(i64::MAX));
        let result = match outcome {
            Outcome::Applied => "applied",
            Outcome::Unchanged => "unchanged",
            Outcome::Removed => "removed",
            Outcome::Invalid(invalid) => {
                warn!(stream = %invalid.stream, generation = invalid.generation, reason = %invalid.message,
                    "an EventSource is not run because it is invalid");
                "invalid"
            }
            Outcome::Listing => return,
            Outcome::Listed { gone } => {
                info!(gone, "listed all EventSources");
                self.enter(WatchState::Watching);
                return;
            }
        };
        self.metrics.reconcile.get_or_create(&ResultLabels { result }).inc();
    }

    fn failed(&self, error: &watcher::Error, failures: u32) -> Result<(), ControllerError> {
        if *self.state.borrow() == WatchState::Watching {
            // A closed connection and 410 are how watches end; the next list or watch says whether it is more.
            if failures < FAILURES_OF_AN_OUTAGE {
                debug!(%error, "the watch of EventSources ended and begins again");
                return Ok(());
            }
            self.metrics.watch_failures.inc();
            if (failures - FAILURES_OF_AN_OUTAGE).is_multiple_of(SAID_AGAIN_AFTER) {
                warn!(%error, failures, "the watch of EventSources fails; what runs goes on, also what was deleted; changes are seen later");
            }
            return Ok(());
        }
        match status_code(error) {
            Some(401) => return Err(ControllerError::Unauthorized),
            Some(403) => return Err(ControllerError::Forbidden),
            Some(404) if self.enter(WatchState::CrdMissing) => {
                warn!(
                    "the CRD eventsources.headgate.dev is not installed; waiting for it (headgate crd | kubectl apply -f -)"
                );
            }
            Some(404) => {}
            _ if self.enter(WatchState::ApiServerUnavailable) => {
                warn!(%error, "the API server cannot be asked for EventSources; waiting for it");
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns whether the state is a new one.
    fn enter(&self, state: WatchState) -> bool {
        self.state.send_if_modified(|current| std::mem::replace(current, state) != state)
    }
}

fn status_code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}
