//! The custom resource `EventSource`: its types, rules, reasons and conditions. No IO and no clock.

pub mod conditions;
pub mod event_source;
mod reason;
mod source;

pub use event_source::{EventSource, EventSourceSpec, EventSourceStatus};
pub use reason::{AcceptedReason, AssignedReason, CaughtUpReason, ReachableReason, StoredReason};
pub use source::Source;
