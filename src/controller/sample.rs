//! What of a source's reports is published, and which of its parts force a write. Pure.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::steady::Steady;
use crate::{
    api::{AcceptedReason, AssignedReason, ReachableReason, Source, StoredReason},
    event::{Cursor, StreamName},
    loader::report::{Report, Verdict},
    store::Epoch,
};

/// A source that fails now and then, or that gets one event at a time, would change these two conditions with each poll.
const FLAPPING_HELD_FOR: Duration = Duration::from_secs(5);

/// The published side of a source: its reports with the flapping parts held still.
#[derive(Debug)]
pub(super) struct Sample {
    generation: i64,
    reachable: Steady<ReachableReason>,
    caught_up: Steady<bool>,
    /// The last report whose verdict had the published reason: its message goes with it.
    reachable_in: Option<Arc<Report>>,
    published_caught_up: Option<bool>,
}

/// Everything a status is made of.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) report: Arc<Report>,
    pub(super) source: Option<Arc<Source>>,
    reachable_in: Option<Arc<Report>>,
    pub(super) caught_up: Option<bool>,
    /// This replica ends and knows of no other that takes the source over.
    pub(super) leaving: bool,
}

/// What a user waits for: a difference here is written at once. Messages are not part of it; they tell of next tries and
/// counts and go with the counters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outline<'a> {
    generation: i64,
    epoch: Option<Epoch>,
    accepted: Option<AcceptedReason>,
    assigned: AssignedReason,
    stored: Option<StoredReason>,
    reachable: Option<ReachableReason>,
    caught_up: Option<bool>,
    suspended: bool,
    handled_poll_request: Option<&'a str>,
    shares_endpoint_with: Option<&'a StreamName>,
    leaving: bool,
}

/// What moves with the work done.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Counters<'a> {
    cursor: Option<&'a Cursor>,
    events_stored: u64,
    consecutive_failures: u32,
    messages: [Option<&'a str>; 5],
}

/// What moves with the clock.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Times {
    last_poll: Option<Timestamp>,
    last_success: Option<Timestamp>,
    last_event: Option<Timestamp>,
    next_poll: Option<Timestamp>,
}

impl Sample {
    pub(super) fn new() -> Self {
        Self {
            generation: 0,
            reachable: Steady::new(FLAPPING_HELD_FOR),
            caught_up: Steady::new(FLAPPING_HELD_FOR),
            reachable_in: None,
            published_caught_up: None,
        }
    }

    /// Takes in what was seen last; also to be called when a held value settles.
    pub(super) fn observe(&mut self, report: &Arc<Report>, now: Instant) {
        if self.generation != report.generation {
            // The verdicts of another spec; the first one of this spec is to be seen at once.
            *self = Self { generation: report.generation, ..Self::new() };
        }
        // An absent verdict is no observation: the source was not asked since.
        if let Some(verdict) = &report.reachable {
            let published = self.reachable.observe(&verdict.reason, now);
            if published == verdict.reason {
                self.reachable_in = Some(report.clone());
            }
        }
        if let Some(caught_up) = report.caught_up {
            self.published_caught_up = Some(self.caught_up.observe(&caught_up, now));
        }
    }

    /// When a held value is taken if nothing else happens.
    pub(super) fn settles_at(&self) -> Option<Instant> {
        self.reachable.settles_at().into_iter().chain(self.caught_up.settles_at()).min()
    }

    pub(super) fn view(&self, report: Arc<Report>, source: Option<Arc<Source>>, leaving: bool) -> View {
        View { report, source, reachable_in: self.reachable_in.clone(), caught_up: self.published_caught_up, leaving }
    }
}

impl View {
    pub(super) fn reachable(&self) -> Option<&Verdict<ReachableReason>> {
        self.reachable_in.as_ref()?.reachable.as_ref()
    }

    /// The replica that saw all this.
    pub(super) fn holder(&self) -> &str {
        self.report.holding.holder.as_str()
    }

    /// Nothing will be written of this source after it, unless this replica wins it again.
    pub(super) fn is_last_word(&self) -> bool {
        self.leaving || self.report.assigned.reason == AssignedReason::LeaseLost
    }

    pub(super) fn outline(&self) -> Outline<'_> {
        let report = &self.report;
        Outline {
            generation: report.generation,
            epoch: report.epoch,
            accepted: report.accepted.as_ref().map(|verdict| verdict.reason),
            assigned: report.assigned.reason,
            stored: report.stored.as_ref().map(|verdict| verdict.reason),
            reachable: self.reachable().map(|verdict| verdict.reason),
            caught_up: self.caught_up,
            suspended: report.suspended,
            handled_poll_request: report.handled_poll_request.as_deref(),
            shares_endpoint_with: self.source.as_ref().and_then(|source| source.shares_endpoint_with.as_ref()),
            leaving: self.leaving,
        }
    }

    pub(super) fn counters(&self) -> Counters<'_> {
        let report = &self.report;
        Counters {
            cursor: report.cursor.as_ref(),
            events_stored: report.events_stored,
            consecutive_failures: report.consecutive_failures,
            messages: [
                report.accepted.as_ref().map(|verdict| verdict.message.as_str()),
                report.stored.as_ref().map(|verdict| verdict.message.as_str()),
                self.reachable().map(|verdict| verdict.message.as_str()),
                report.note.as_deref(),
                report.facts().unread,
            ],
        }
    }

    pub(super) fn times(&self) -> Times {
        Times {
            last_poll: self.report.last_poll,
            last_success: self.report.last_success,
            last_event: self.report.last_event,
            next_poll: self.report.next_poll,
        }
    }
}
