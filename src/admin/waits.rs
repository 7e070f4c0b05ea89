//! What `/metrics` says of the replica itself: what it waits for, as `/readyz` does.

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::telemetry::{
    health::{Health, Part},
    metrics::PartLabels,
};

/// One series for each part, so that a replica that waits for nothing says so.
pub(super) fn series(health: &Health) -> Registry {
    let pending = Family::<PartLabels, Gauge>::default();
    let waited_for = health.pending();
    for part in Part::ALL.map(Part::as_str) {
        pending.get_or_create(&PartLabels { part }).set(waited_for.contains_key(part).into());
    }
    let mut registry = Registry::with_prefix("headgate");
    registry.register("pending", "1 for each part that this replica waits for, as /readyz names it; else 0", pending);
    registry
}
