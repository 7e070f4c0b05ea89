//! What each source was last seen to do. The loader writes; the status writer, `/v1/sources` and the metrics read.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::{
    api::{AcceptedReason, AssignedReason, ReachableReason, StoredReason},
    event::{Cursor, StreamName},
    ownership::Holding,
    store::Epoch,
};

/// The facts of one source that this replica holds.
#[derive(Debug, Clone)]
pub struct Report {
    pub holding: Holding,
    /// The generation and UID of the object that runs.
    pub generation: i64,
    pub uid: String,
    pub epoch: Option<Epoch>,
    pub cursor: Option<Cursor>,
    pub events_stored: u64,
    pub last_poll: Option<Timestamp>,
    pub last_success: Option<Timestamp>,
    /// When the last event was stored.
    pub last_event: Option<Timestamp>,
    pub next_poll: Option<Timestamp>,
    pub consecutive_failures: u32,
    /// `None`: not known yet.
    pub accepted: Option<Verdict<AcceptedReason>>,
    pub assigned: Verdict<AssignedReason>,
    pub reachable: Option<Verdict<ReachableReason>>,
    pub stored: Option<Verdict<StoredReason>>,
    /// `None` before the first poll; `Some(true)` when the last answer brought nothing more.
    pub caught_up: Option<bool>,
    pub suspended: bool,
    pub blocked_by: Option<BlockedBy>,
    /// Between the starts of the last two requests of this process to the source.
    pub last_interval: Option<Duration>,
    /// Events that travelled twice, as far as this process can tell, by cause.
    pub retransported: u64,
    /// Why no progressive commit happens, repeats dropped and the like: evidence for condition messages.
    pub note: Option<String>,
    /// The last value of `headgate.dev/poll-requested-at` that was served.
    pub handled_poll_request: Option<String>,
    /// Events and cursor of a deleted object with `deletionPolicy: Delete` are gone: the finalizer may be removed.
    pub forgotten: bool,
}

/// The outcome behind one condition: its reason and the message that says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict<R> {
    pub reason: R,
    pub message: String,
}

/// Why a source does not send right now (`/v1/sources`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockedBy {
    Gate,
    Backoff,
    Database,
    Memory,
    Lease,
    Suspended,
}

impl BlockedBy {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Backoff => "backoff",
            Self::Database => "database",
            Self::Memory => "memory",
            Self::Lease => "lease",
            Self::Suspended => "suspended",
        }
    }
}

/// The reports of all sources this replica holds, shared by clones.
#[derive(Clone)]
pub struct Reports {
    reports: Arc<RwLock<HashMap<StreamName, Arc<Report>>>>,
    /// The streams whose report changed are not named: readers compare what they last saw.
    version: Arc<watch::Sender<u64>>,
}

impl Default for Reports {
    fn default() -> Self {
        Self { reports: Arc::default(), version: Arc::new(watch::Sender::new(0)) }
    }
}

impl Reports {
    pub fn put(&self, stream: &StreamName, report: Report) {
        self.reports
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(stream.clone(), Arc::new(report));
        self.version.send_modify(|version| *version += 1);
    }

    pub fn remove(&self, stream: &StreamName) {
        self.reports.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(stream);
        self.version.send_modify(|version| *version += 1);
    }

    #[must_use]
    pub fn get(&self, stream: &StreamName) -> Option<Arc<Report>> {
        self.reports.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(stream).cloned()
    }

    #[must_use]
    pub fn all(&self) -> Vec<Arc<Report>> {
        self.reports.read().unwrap_or_else(std::sync::PoisonError::into_inner).values().cloned().collect()
    }

    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}
