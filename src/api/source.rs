use kube::ResourceExt;

use super::{
    EventSource, EventSourceSpec,
    event_source::{DeletionPolicy, LONGEST_POLL_REQUEST},
};
use crate::event::StreamName;

/// Asks for a poll at once, still through the gate. Any new value counts; the time is the usual one.
pub const POLL_REQUESTED_AT: &str = "headgate.dev/poll-requested-at";

/// Holds a deleted object back until its events and its cursor are gone. Only ever put on objects with
/// `deletionPolicy: Delete`.
pub const FINALIZER: &str = "headgate.dev/stored-events";

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
    /// Some replica has polled for this object, as its status has it. Only looked at while our finalizer is missing: else what a
    /// status tells is no change.
    pub was_polled: bool,
    /// The value of the annotation `headgate.dev/poll-requested-at`; a new value polls now, through the gate.
    pub poll_requested_at: Option<String>,
    /// Another, older EventSource of this namespace has the same URL: `<namespace>/<name>` (SharedEndpoint).
    pub shares_endpoint_with: Option<StreamName>,
}

/// An object without what every API server gives one, so no object of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot work with an EventSource without `metadata.{0}`")]
pub struct Unidentified(&'static str);

impl Source {
    /// If the object were deleted now, it would be gone at once, and the events that are to go with it would stay.
    #[must_use]
    pub fn lacks_finalizer(&self) -> bool {
        self.spec.deletion_policy == DeletionPolicy::Delete && !self.deleting && !self.has_finalizer
    }

    /// What one object says. It knows no other objects: whoever does sets `shares_endpoint_with`.
    ///
    /// # Errors
    /// When the object has no namespace, name, UID or generation, so was never stored by an API server.
    pub fn from_object(object: &EventSource) -> Result<Self, Unidentified> {
        let metadata = &object.metadata;
        let namespace = metadata.namespace.as_deref().ok_or(Unidentified("namespace"))?;
        let name = metadata.name.as_deref().ok_or(Unidentified("name"))?;
        let has_finalizer = object.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
        let needs_finalizer = object.spec.deletion_policy == DeletionPolicy::Delete && !has_finalizer;
        let polled = object.status.as_ref().is_some_and(|status| status.last_poll_time.is_some());
        Ok(Self {
            stream: StreamName::new(namespace, name),
            uid: metadata.uid.clone().ok_or(Unidentified("uid"))?,
            generation: metadata.generation.ok_or(Unidentified("generation"))?,
            spec: object.spec.clone(),
            deleting: metadata.deletion_timestamp.is_some(),
            has_finalizer,
            was_polled: needs_finalizer && polled,
            // Cut here, once, so that what is served and what the status says was served compare equal.
            poll_requested_at: object
                .annotations()
                .get(POLL_REQUESTED_AT)
                .map(|value| value.chars().take(LONGEST_POLL_REQUEST).collect()),
            shares_endpoint_with: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    use super::*;
    use crate::api::{EventSourceStatus, event_source::Http};

    fn orders() -> EventSource {
        let mut object =
            EventSource::new("orders", EventSourceSpec::over_http(Http::at("https://orders.example.com/events")));
        object.metadata.namespace = Some("shop".to_owned());
        object.metadata.uid = Some("6f0c".to_owned());
        object.metadata.generation = Some(3);
        object
    }

    #[test]
    fn an_object_of_a_cluster_is_a_source() {
        let source = Source::from_object(&orders()).expect("a source");
        assert_eq!(source.stream, StreamName::new("shop", "orders"));
        assert_eq!((source.uid.as_str(), source.generation), ("6f0c", 3));
        assert!(!source.deleting && !source.has_finalizer);
        assert_eq!((source.poll_requested_at, source.shares_endpoint_with), (None, None));
    }

    #[test]
    fn deletion_finalizer_and_poll_request_are_seen() {
        let mut object = orders();
        object.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        object.finalizers_mut().extend(["example.com/other".to_owned(), FINALIZER.to_owned()]);
        object.annotations_mut().insert(POLL_REQUESTED_AT.to_owned(), "1732269600".to_owned());
        let source = Source::from_object(&object).expect("a source");
        assert!(source.deleting && source.has_finalizer);
        assert_eq!(source.poll_requested_at.as_deref(), Some("1732269600"));
    }

    #[test]
    fn only_an_object_that_would_leave_its_events_behind_lacks_our_finalizer() {
        let mut source = Source::from_object(&orders()).expect("a source");
        assert!(!source.lacks_finalizer(), "its events stay");
        source.spec.deletion_policy = DeletionPolicy::Delete;
        assert!(source.lacks_finalizer());
        assert!(!Source { deleting: true, ..source.clone() }.lacks_finalizer(), "none can be added any more");
        assert!(!Source { has_finalizer: true, ..source }.lacks_finalizer());
    }

    #[test]
    fn whether_it_was_polled_is_only_of_interest_while_the_finalizer_is_missing() {
        let mut object = orders();
        object.status = Some(EventSourceStatus {
            last_poll_time: Some(Time(Timestamp::UNIX_EPOCH)),
            ..EventSourceStatus::default()
        });
        let was_polled = |object: &EventSource| Source::from_object(object).expect("a source").was_polled;
        assert!(!was_polled(&object), "a status write is no change");
        object.spec.deletion_policy = DeletionPolicy::Delete;
        assert!(was_polled(&object));
        object.finalizers_mut().push(FINALIZER.to_owned());
        assert!(!was_polled(&object));
    }

    #[test]
    fn another_finalizer_is_not_ours() {
        let mut object = orders();
        object.finalizers_mut().push("example.com/other".to_owned());
        assert!(!Source::from_object(&object).expect("a source").has_finalizer);
    }

    #[test]
    fn a_poll_request_fits_the_status_whatever_somebody_wrote() {
        let mut object = orders();
        object.annotations_mut().insert(POLL_REQUESTED_AT.to_owned(), "ü".repeat(100_000));
        let request = Source::from_object(&object).expect("a source").poll_requested_at.expect("a request");
        assert_eq!(request.chars().count(), LONGEST_POLL_REQUEST);
    }

    #[test]
    fn an_object_that_no_api_server_stored_is_none() {
        let mut object = orders();
        object.metadata.uid = None;
        assert_eq!(Source::from_object(&object), Err(Unidentified("uid")));
    }
}
