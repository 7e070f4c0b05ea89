//! The custom resource `EventSource`: its types, rules, reasons and conditions. No IO and no clock.

pub mod conditions;
mod crd;
mod duration;
pub mod event_source;
mod reason;
mod source;

pub use crd::{crd, crd_yaml};
pub use duration::{Duration, ParseDurationError};
pub use event_source::{EventSource, EventSourceSpec, EventSourceStatus};
pub use reason::{AcceptedReason, AssignedReason, CaughtUpReason, ReachableReason, StoredReason};
pub use source::{FINALIZER, POLL_REQUESTED_AT, Source, Unidentified};
