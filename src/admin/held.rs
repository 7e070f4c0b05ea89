//! What `/metrics` says of the sources that this replica holds, read from their reports at each scrape: a source that went
//! to another replica leaves no series behind.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::{
    api::{
        CaughtUpReason,
        conditions::{CAUGHT_UP, PENDING, SUSPENDED},
    },
    clock::Moment,
    loader::report::{BlockedBy, Report},
    telemetry::metrics::{OutcomeLabels, SourceLabels, StatusLabels},
};

/// Pending, while the row of the source says that it may not be asked yet: a wait that began with the holder before goes on.
const WAITING: &str = "Waiting";

/// The series of these reports. Counters count from when this replica won the Lease.
pub(super) fn series<'a>(reports: impl Iterator<Item = &'a Report>, now: Moment) -> Registry {
    let sources = Family::<StatusLabels, Gauge>::default();
    let requests = Family::<OutcomeLabels, Counter>::default();
    let events_appended = Family::<SourceLabels, Counter>::default();
    let lag = Family::<SourceLabels, Gauge>::default();
    // Always there, so that an alert need not guess whether no series means 0.
    for status in [CAUGHT_UP, CaughtUpReason::Backfilling.as_str(), SUSPENDED, WAITING, PENDING] {
        drop(sources.get_or_create(&StatusLabels { status }));
    }
    for report in reports {
        sources.get_or_create(&StatusLabels { status: status(report) }).inc();
        let stream = &report.holding.stream;
        for (outcome, count) in &report.requests {
            requests.get_or_create(&OutcomeLabels { stream: stream.clone(), outcome }).inc_by(*count);
        }
        let labels = SourceLabels { stream: stream.clone() };
        if report.events_appended > 0 {
            events_appended.get_or_create(&labels).inc_by(report.events_appended);
        }
        if let Some(seconds) = report.lag_seconds(now) {
            lag.get_or_create(&labels).set(seconds);
        }
    }
    let mut registry = Registry::with_prefix("headgate");
    registry.register("sources", "Sources that this replica holds, by the STATUS of `kubectl get evsrc`; Pending and Waiting were not asked by this replica yet", sources);
    registry.register(
        "requests",
        "Requests to sources by outcome, and tries of one that failed before it left",
        requests,
    );
    registry.register("events_appended", "Events stored by this replica since it won the Lease", events_appended);
    registry.register_with_unit(
        "lag",
        "Time since everything of a source was known to be stored; 0 while it is caught up and well, no series while it is suspended, \
         may be with another replica, or never was caught up",
        Unit::Seconds,
        lag,
    );
    registry
}

fn status(report: &Report) -> &'static str {
    match report.facts().status() {
        PENDING if report.blocked_by == Some(BlockedBy::Gate) => WAITING,
        status => status,
    }
}
