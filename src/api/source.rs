use super::EventSourceSpec;
use crate::event::StreamName;

/// One EventSource as this replica knows it: the parts that decide what runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    pub stream: StreamName,
    /// `metadata.uid`: epochs compare within one UID.
    pub uid: String,
    /// `metadata.generation`; the task restarts when it moved.
    pub generation: i64,
    pub spec: EventSourceSpec,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// Our finalizer is on the object (only ever put there for `deletionPolicy: Delete`).
    pub has_finalizer: bool,
    /// The value of the annotation `headgate.dev/poll-requested-at`; a new value polls now, through the gate.
    pub poll_requested_at: Option<String>,
    /// Another, older EventSource of this namespace has the same URL: `<namespace>/<name>` (SharedEndpoint).
    pub shares_endpoint_with: Option<StreamName>,
}
