//! The types of `eventsources.headgate.dev/v1alpha1`. Doc comments here are the descriptions users read in
//! `kubectl explain`; rules in `x_kube` are checked by the API server, and each has its cases in `tests/crd/rules.rs`.

#![expect(unreachable_pub, reason = "KubeSchema derives a second, private type with the visibility of the first")]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::{Cursor, EventId, IdError};

mod auth;
mod headers;
mod http;
mod mapping;
mod poll;
mod status;

pub use auth::{Auth, BasicAuth, BearerAuth, CaKind, CaRef, HeaderAuth, OAuth2, SecretKeyRef, SecretRef, Tls};
pub use headers::is_reserved_header;
pub use http::{AfterId, Decode, Format, Http, HttpCursor, NameValue, PlaintextCredentials, ValueFrom};
pub use mapping::{Mapping, MappingPreset};
pub use poll::{LEAST_MIN_INTERVAL, Poll};
pub use status::{EventSourceStatus, HolderStatus};
pub(crate) use status::{LONGEST_MESSAGE, LONGEST_POLL_REQUEST};

/// An RFC 9535 singular query: at most 32 names and indexes, no wildcards.
const JSON_PATH: &str = r"^\$((\.[A-Za-z_][A-Za-z0-9_-]*)|(\[[0-9]{1,9}\])|(\['[^']+'\])){0,32}$";

/// What to load, from where, and how fast.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[kube(
    group = "headgate.dev",
    version = "v1alpha1",
    kind = "EventSource",
    namespaced,
    status = "EventSourceStatus",
    derive = "PartialEq",
    shortname = "evsrc",
    category = "headgate",
    doc = "One remote source of immutable events, and how to load it into the store.",
    selectable = ".spec.suspend",
    label("app.kubernetes.io/part-of", "headgate"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Status", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Events", type_ = "integer", json_path = ".status.eventsLoaded"),
    printcolumn(name = "Last Event", type_ = "date", json_path = ".status.lastEventTime"),
    printcolumn(name = "Last Poll", type_ = "date", json_path = ".status.lastPollTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.http.url", priority = 1),
    printcolumn(name = "Cursor", type_ = "string", json_path = ".status.cursor", priority = 1),
    printcolumn(name = "Holder", type_ = "string", json_path = ".status.holder.identity", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = 1
    ),
    validation = Rule::new("self.metadata.name.size() <= 63")
        .message("`metadata.name` must be no more than 63 characters")
        .field_path(".metadata.name"),
    validation = Rule::new(
        "!has(self.status) || !has(self.status.cursor) || self.spec.epoch > oldSelf.spec.epoch \
         || (has(self.spec.mapping.idPath) == has(oldSelf.spec.mapping.idPath) \
         && (!has(self.spec.mapping.idPath) || self.spec.mapping.idPath == oldSelf.spec.mapping.idPath) \
         && has(self.spec.mapping.preset) == has(oldSelf.spec.mapping.preset) \
         && (!has(self.spec.mapping.preset) || self.spec.mapping.preset == oldSelf.spec.mapping.preset))"
    )
        .message("`epoch` must grow in the change that gives `idPath` or `preset` another value once a cursor exists: \
                  the cursor is an id as the old mapping read it")
        .field_path(".spec.mapping"),
    validation = Rule::new(
        "!has(self.status) || !has(self.status.cursor) || self.spec.epoch > oldSelf.spec.epoch \
         || !has(self.spec.http) || !has(oldSelf.spec.http) || self.spec.http.cursor == oldSelf.spec.http.cursor"
    )
        .message("`epoch` must grow in the change that gives `cursor` another value once a cursor exists")
        .field_path(".spec.http.cursor")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.http)].exists_one(x, x)")
        .message("exactly one transport must be set: `http`"),
    validation = Rule::new("self.epoch >= oldSelf.epoch")
        .message("`epoch` must not decrease")
        .field_path(".epoch"),
    validation = Rule::new("self.start == oldSelf.start || self.epoch > oldSelf.epoch")
        .message("`epoch` must grow in the change that gives `start` another value: `start` is only read when a cursor \
                  is created")
        .field_path(".start")
)]
pub struct EventSourceSpec {
    /// Suspend stops polling; the cursor and the stored events stay. A request in flight is finished. Default: false.
    #[serde(default)]
    pub suspend: bool,
    /// Increase to drop the cursor and begin again at `start`. Events that are stored already are recognised by their id
    /// and not stored twice. A number that may only grow; 0 to 1000000000. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub epoch: i64,
    /// Where a stream without a cursor begins. To change it, increase `epoch` too. Default: {position: Earliest}.
    #[serde(default)]
    pub start: Start,
    /// What becomes of the stored events and the cursor when this object is deleted: Retain or Delete. With Delete, a new
    /// source is first asked when this object has the finalizer `headgate.dev/stored-events`, and an earlier one loses its
    /// events only if it has that when it is deleted. Default: Retain.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// How often and how much is asked. Default: {minInterval: 200ms, maxIdleInterval: 5s, maxErrorInterval: 5m,
    /// batchSize: 1000}.
    #[serde(default)]
    pub poll: Poll,
    /// The transport HTTP: the source answers GET requests. Exactly one transport must be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// Which parts of an item become which parts of an event. Default: {idPath: $.id}, with the whole item as payload.
    #[serde(default)]
    pub mapping: Mapping,
}

impl EventSourceSpec {
    /// All defaults, over this transport.
    #[must_use]
    pub fn over_http(http: Http) -> Self {
        Self {
            suspend: false,
            epoch: 0,
            start: Start::default(),
            deletion_policy: DeletionPolicy::default(),
            poll: Poll::default(),
            http: Some(http),
            mapping: Mapping::default(),
        }
    }

    /// Where a stream without a cursor begins.
    ///
    /// # Errors
    /// When `start.afterID` is no id; the object is then not acceptable (`InvalidSpec`).
    pub fn start_cursor(&self) -> Result<Cursor, IdError> {
        match self.start.position {
            StartPosition::Earliest => Ok(Cursor::Start),
            StartPosition::AfterID => {
                EventId::new(self.start.after_id.as_deref().unwrap_or_default()).map(Cursor::After)
            }
        }
    }
}

/// Where a stream without a cursor begins.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.position == 'AfterID') == has(self.afterID)")
    .message("`afterID` must be set when, and only when, `position` is 'AfterID'")
    .field_path(".afterID"))]
pub struct Start {
    /// Earliest: with the first event the source has. AfterID: after the event `afterID`. Required.
    pub position: StartPosition,
    /// The id after which to begin; it need not exist. 1 to 1024 bytes without control characters. Set exactly when
    /// `position` is AfterID.
    #[serde(default, rename = "afterID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[^\x00-\x1f\x7f-\x{9f}]+$"))]
    pub after_id: Option<String>,
}

/// Where a stream without a cursor begins.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartPosition {
    #[default]
    Earliest,
    AfterID,
}

/// What becomes of the stored events and the cursor when the object is deleted. The gate row stays either way, and with it
/// every wait.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeletionPolicy {
    #[default]
    Retain,
    Delete,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(value: serde_json::Value) -> EventSourceSpec {
        serde_json::from_value(value).expect("a spec")
    }

    #[test]
    fn a_spec_without_its_defaults_reads_as_one_with_them() {
        let minimal = spec(json!({"http": {"url": "https://orders.example.com/events"}}));
        assert_eq!(minimal, EventSourceSpec::over_http(Http::at("https://orders.example.com/events")));
        assert_eq!(spec(serde_json::to_value(&minimal).expect("plain data")), minimal);
    }

    #[test]
    fn a_stream_begins_where_start_says() {
        let start = |start| spec(json!({ "start": start })).start_cursor();
        assert_eq!(start(json!({"position": "Earliest"})), Ok(Cursor::Start));
        let seven = EventId::new("7").expect("an id");
        assert_eq!(start(json!({"position": "AfterID", "afterID": "7"})), Ok(Cursor::After(seven)));
    }

    #[test]
    fn a_start_that_is_no_id_is_an_error_and_not_the_beginning() {
        let start = |start| spec(json!({ "start": start })).start_cursor();
        assert_eq!(start(json!({"position": "AfterID"})), Err(IdError::Empty));
        // 1024 characters pass the schema, which cannot count bytes.
        assert_eq!(start(json!({"position": "AfterID", "afterID": "ü".repeat(1024)})), Err(IdError::TooLong));
    }

    #[test]
    fn an_empty_limit_parameter_is_none() {
        let http = Http { limit_param: String::new(), ..Http::at("https://orders.example.com/events") };
        assert_eq!(http.limit_param(), None);
        assert_eq!(Http::at("https://orders.example.com/events").limit_param(), Some("limit"));
    }

    #[test]
    fn the_samples_are_objects_of_these_types() {
        for text in [include_str!("../../config/samples/minimal.yaml"), include_str!("../../config/samples/full.yaml")]
        {
            let sample: EventSource = serde_saphyr::from_str(text).expect("an EventSource");
            assert!(sample.spec.http.is_some());
        }
    }
}
