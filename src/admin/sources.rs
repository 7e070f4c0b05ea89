//! `/v1/sources`: every EventSource as this replica sees it, exact for those it holds.

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    api::Source,
    clock::Moment,
    desired::Desired,
    loader::{
        report::{BlockedBy, Report},
        reports::Reports,
    },
};

/// What the list is made of.
#[derive(Clone)]
pub struct Sources {
    pub desired: Desired,
    pub reports: Reports,
}

/// One source, in the words of its status. What only its holder knows is left out by the others.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceView {
    pub namespace: String,
    pub name: String,
    pub holder: Option<String>,
    /// This replica holds it: the fields below are exact.
    pub held: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Events in the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_loaded: Option<u64>,
    /// Events that travelled twice while this replica held it, as far as it can tell (P3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_retransported: Option<u64>,
    /// Whether the last answer brought everything there was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caught_up: Option<bool>,
    /// How old the newest certain state is, in seconds; 0 when caught up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_poll_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_poll_time: Option<Timestamp>,
    /// Why it does not send right now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked_by: Option<&'static str>,
    /// Milliseconds between the starts of its last two requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_interval_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_failures: Option<u32>,
    /// The reason and the words of what is wrong, if something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// What is wrong with a source.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Problem {
    pub reason: &'static str,
    pub message: String,
}

impl Sources {
    /// All sources by name; with `held`, only those of this replica.
    #[must_use]
    pub fn list(&self, held: bool) -> Vec<SourceView> {
        let mut sources = self.desired.sources();
        sources.sort_by(|a, b| a.stream.cmp(&b.stream));
        let views = sources.iter().map(|source| self.view(source, Moment::now()));
        views.filter(|view| view.held || !held).collect()
    }

    fn view(&self, source: &Source, now: Moment) -> SourceView {
        let view = SourceView {
            namespace: source.stream.namespace().to_owned(),
            name: source.stream.name().to_owned(),
            ..SourceView::default()
        };
        match self.reports.get(&source.stream) {
            Some(report) => view.exact(&report, now),
            None => SourceView { blocked_by: Some(BlockedBy::Lease.as_str()), ..view },
        }
    }
}

impl SourceView {
    fn exact(self, report: &Report, now: Moment) -> Self {
        Self {
            holder: Some(report.holding.holder.to_string()),
            held: true,
            cursor: report.cursor.as_ref().and_then(|cursor| cursor.id()).map(ToString::to_string),
            events_loaded: Some(report.events_stored),
            events_retransported: Some(report.retransported),
            caught_up: report.caught_up,
            lag_seconds: report.lag_seconds(now),
            last_poll_time: report.last_poll,
            next_poll_time: report.next_poll,
            blocked_by: report.blocked_by.map(BlockedBy::as_str),
            last_interval_ms: report.last_interval.and_then(|interval| interval.as_millis().try_into().ok()),
            consecutive_failures: Some(report.consecutive_failures),
            problem: report.problem().map(|(reason, message)| Problem { reason, message: message.to_owned() }),
            ..self
        }
    }
}
