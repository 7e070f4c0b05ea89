//! What a source shares with the others of its process, and the times that several files keep to.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::{buffer::Buffer, guard::Guard, reporter::Reporter, send_limit::SendLimit};
use crate::{
    event::StreamName,
    fetch::Transports,
    ownership::Ownership,
    store::{Holder, Store},
    telemetry::metrics::{CauseLabels, Metrics},
};

/// D: how long a request is assumed to run when nothing is heard of its sender (DESIGN 4: 2 to 3 s). It is extended each
/// second, so two lost extensions in a row still keep the row shut, and a crash keeps the next holder waiting no longer
/// than the death of its member Lease takes anyway.
pub(super) const IN_FLIGHT: Duration = Duration::from_secs(3);

/// How soon a row whose lock somebody else holds is asked again: the length of a short transaction.
pub(super) const LOCKED_RETRY: Duration = Duration::from_millis(10);

/// How often a locked row is asked again for something that can wait.
pub(super) const LOCKED_TRIES: u32 = 20;

/// What all sources of the process share. Nothing in it blocks one source for another, but the byte budget, which is
/// what it is for.
pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) transports: Arc<dyn Transports>,
    pub(super) ownership: Arc<dyn Ownership>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) buffer: Buffer,
    pub(super) send_limit: SendLimit,
}

/// One source of this process.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    pub(super) stream: StreamName,
    pub(super) holder: Holder,
    pub(super) reporter: Reporter,
    /// Whether the Lease of this source is known to be ours; false for good once it was lost.
    pub(super) lease: watch::Receiver<bool>,
    guard: Arc<Mutex<Guard>>,
}

/// Why events travelled more than once; the label of `headgate_retransported_events_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Another holder had reserved before the commit.
    Superseded,
    /// They came in a page that could not be taken.
    Unusable,
    /// The source sent what it was not asked for.
    RepeatedBySource,
    /// They were stored before the cursor was reset.
    StoredBefore,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Self::Superseded => "superseded",
            Self::Unusable => "unusable",
            Self::RepeatedBySource => "repeated_by_source",
            Self::StoredBefore => "stored_before",
        }
    }
}

impl Context {
    pub(super) fn new(
        shared: Arc<Shared>,
        stream: StreamName,
        holder: Holder,
        reporter: Reporter,
        lease: watch::Receiver<bool>,
        guard: Arc<Mutex<Guard>>,
    ) -> Self {
        Self { shared, stream, holder, reporter, lease, guard }
    }

    pub(super) fn store(&self) -> &dyn Store {
        &*self.shared.store
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// A panic cannot leave the guard half written: its methods only assign.
    pub(super) fn guard(&self) -> MutexGuard<'_, Guard> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count_request(&self, outcome: &'static str) {
        self.reporter.note(|report| *report.requests.entry(outcome).or_default() += 1);
    }

    pub(super) fn count_retransported(&self, cause: Cause, events: u64) {
        if events > 0 {
            self.metrics().retransported_events.get_or_create(&CauseLabels { cause: cause.as_str() }).inc_by(events);
            self.reporter.note(|report| report.retransported += events);
        }
    }
}
