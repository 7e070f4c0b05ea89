//! The metric families, all with the prefix `headgate_`. Label values come from enums, never from error text. No
//! family here is labelled by source, because its series would outlive it: those are made of the reports at each scrape
//! (`admin::held`).

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::logs::LostLines;
use crate::event::StreamName;

/// The label of cheap per-source series: `<namespace>/<name>`, as in `status.stream` and in the store. Not two labels:
/// scrapers write their own `namespace` over one that comes from here.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabels {
    pub stream: StreamName,
}

impl EncodeLabelValue for StreamName {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.as_str().encode(encoder)
    }
}

/// One label: the STATUS of a source, which is the reason of its Ready condition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StatusLabels {
    pub status: &'static str,
}

/// One label: a part of the replica, as `/readyz` names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PartLabels {
    pub part: &'static str,
}

/// Per source, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    pub stream: StreamName,
    pub outcome: &'static str,
}

/// One label from a closed set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CauseLabels {
    pub cause: &'static str,
}

/// One label: a verb of the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VerbLabels {
    pub verb: &'static str,
}

/// Why the API server was written to for an EventSource, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StatusWriteLabels {
    pub trigger: &'static str,
    pub result: &'static str,
}

/// One label: what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabels {
    pub result: &'static str,
}

/// The families of the process, registered once and shared.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Start to start per source, between requests of this process: across replicas only the log of the source tells.
    pub request_interval: Histogram,
    /// Must stay 0: a start seen by this process less than 200 ms after the one before.
    pub gate_violations: Counter,
    pub gate_wait: Histogram,
    pub request_duration: Histogram,
    pub append_duration: Histogram,
    /// How many sources share one statement.
    pub statement_rows: Family<VerbLabels, Histogram>,
    pub retransported_events: Family<CauseLabels, Counter>,
    /// Rounds in which day partitions were not made or not dropped.
    pub upkeep_failures: Counter,
    pub takeover_duration: Histogram,
    pub leases_held: Gauge,
    pub orphans: Gauge,
    pub lease_transitions: Counter,
    pub lease_renew_failures: Counter,
    pub lease_takeover_duration: Histogram,
    /// Events of the watch of EventSources by what they came to.
    pub reconcile: Family<ResultLabels, Counter>,
    pub reconcile_duration: Histogram,
    /// Of the watch of EventSources, from the third in a row on.
    pub watch_failures: Counter,
    pub unreadable_sources: Gauge,
    /// The write budget as a series: every patch of an EventSource by this replica.
    pub status_writes: Family<StatusWriteLabels, Counter>,
    pub kubernetes_events: Family<ResultLabels, Counter>,
}

impl Metrics {
    /// Makes the families and registers them.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Arc<Self> {
        let registry = registry.sub_registry_with_prefix("headgate");
        let metrics = Self::unregistered();
        metrics.register_requests(registry);
        metrics.register_events(registry);
        metrics.register_ownership(registry);
        metrics.register_controller(registry);
        registry.register_collector(Box::new(LostLines));
        Arc::new(metrics)
    }

    fn unregistered() -> Self {
        Self {
            request_interval: Histogram::new([0.19, 0.2, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0]),
            gate_violations: Counter::default(),
            gate_wait: Histogram::new([0.005, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0]),
            request_duration: Histogram::new([0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 30.0]),
            append_duration: Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0]),
            statement_rows: statement_rows(),
            retransported_events: Family::default(),
            upkeep_failures: Counter::default(),
            takeover_duration: Histogram::new([0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 30.0]),
            leases_held: Gauge::default(),
            orphans: Gauge::default(),
            lease_transitions: Counter::default(),
            lease_renew_failures: Counter::default(),
            lease_takeover_duration: Histogram::new([1.0, 2.0, 4.0, 5.0, 6.0, 7.0, 8.0, 12.0, 30.0]),
            reconcile: Family::default(),
            reconcile_duration: Histogram::new([0.000_01, 0.000_1, 0.001, 0.01, 0.1]),
            watch_failures: Counter::default(),
            unreadable_sources: Gauge::default(),
            status_writes: Family::default(),
            kubernetes_events: Family::default(),
        }
    }

    /// What is asked of the sources, and when: P1, P2, P6.
    fn register_requests(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "request_interval",
            "Time between the starts of two consecutive requests to one source",
            Unit::Seconds,
            self.request_interval.clone(),
        );
        registry.register(
            "gate_violations",
            "Requests that started too early; must stay 0",
            self.gate_violations.clone(),
        );
        registry.register_with_unit(
            "gate_wait",
            "From when a request was due to its slot: for the gate, and before it for a connection, memory and the database",
            Unit::Seconds,
            self.gate_wait.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "Send to end of response",
            Unit::Seconds,
            self.request_duration.clone(),
        );
    }

    /// What became of the events: P3, P4, P5.
    fn register_events(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "append_duration",
            "Time to commit one append, by the try that did",
            Unit::Seconds,
            self.append_duration.clone(),
        );
        registry.register(
            "statement_rows",
            "Sources that one statement answered, by verb of the store",
            self.statement_rows.clone(),
        );
        registry.register(
            "retransported_events",
            "Events that travelled more than once, by cause",
            self.retransported_events.clone(),
        );
        registry.register(
            "upkeep_failures",
            "Rounds in which day partitions of the store could not be made or dropped",
            self.upkeep_failures.clone(),
        );
    }

    /// Who holds the sources: P7.
    fn register_ownership(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "takeover_duration",
            "Lease won to the first reservation granted, of sources that could be polled at once; without the wait that they had asked \
             for",
            Unit::Seconds,
            self.takeover_duration.clone(),
        );
        registry.register("leases_held", "Source Leases that name this replica", self.leases_held.clone());
        registry.register(
            "orphans",
            "Sources that no replica holds, as this one sees it: the same on each, so take the max and not the sum",
            self.orphans.clone(),
        );
        registry.register(
            "lease_transitions",
            "Changes of holder written by this replica",
            self.lease_transitions.clone(),
        );
        registry.register(
            "lease_renew_failures",
            "Failed tries to write the member Lease: to join with it, or to renew it",
            self.lease_renew_failures.clone(),
        );
        registry.register_with_unit(
            "lease_takeover_duration",
            "Last sign of a dead holder to the Lease that names the next one",
            Unit::Seconds,
            self.lease_takeover_duration.clone(),
        );
    }

    fn register_controller(&self, registry: &mut Registry) {
        registry.register("reconcile", "Watch events of EventSources by result", self.reconcile.clone());
        registry.register_with_unit(
            "reconcile_duration",
            "Time to bring the desired set in line with one watch event",
            Unit::Seconds,
            self.reconcile_duration.clone(),
        );
        registry.register(
            "watch_failures",
            "Failures of the watch of EventSources, from the third in a row on: what is changed or deleted is not seen",
            self.watch_failures.clone(),
        );
        registry.register(
            "unreadable_sources",
            "EventSources that this replica cannot read and does not run: the same on each of one release, so take the max",
            self.unreadable_sources.clone(),
        );
        registry.register("status_writes", "Patches of EventSources by trigger and result", self.status_writes.clone());
        registry.register("kubernetes_events", "Kubernetes Events by result", self.kubernetes_events.clone());
    }
}

/// Up to what one statement carries at most.
#[must_use]
pub fn statement_rows() -> Family<VerbLabels, Histogram> {
    Family::new_with_constructor(|| Histogram::new([1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0]))
}
