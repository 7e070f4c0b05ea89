//! What was last seen of a source. A sample: the truth is in PostgreSQL, `/v1/sources` and the metrics.

#![expect(unreachable_pub, reason = "KubeSchema derives a second, private type with the visibility of the first")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The longest condition message. Ours are one or two sentences.
pub(crate) const LONGEST_MESSAGE: usize = 2048;

/// The longest value of `headgate.dev/poll-requested-at` that is told apart from others.
pub(crate) const LONGEST_POLL_REQUEST: usize = 256;

/// What was last seen of the source, written by the replica that holds it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EventSourceStatus {
    /// The `metadata.generation` that the rest of the status is about; -1: not observed yet. Default: -1.
    #[serde(default = "not_observed")]
    #[schemars(range(min = -1))]
    pub observed_generation: i64,
    /// The `spec.epoch` whose cursor this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_epoch: Option<i64>,
    /// The name of the stream in the store: `<namespace>/<name>`. It outlives this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 127))]
    pub stream: Option<String>,
    /// The replica that runs the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<HolderStatus>,
    /// The id of the last stored event; the next request asks for what comes after it. At most 1024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub cursor: Option<String>,
    /// Events stored over the whole life of the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub events_loaded: Option<i64>,
    /// When the last request started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_poll_time: Option<Time>,
    /// When a request last brought a usable answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_time: Option<Time>,
    /// When an event was last stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_event_time: Option<Time>,
    /// When the next request is due. Only set when that is more than 30 seconds away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_poll_time: Option<Time>,
    /// Seconds since the source was last known to hold nothing more; 0 while it is caught up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub lag_seconds: Option<i64>,
    /// Failed requests since the last usable answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub consecutive_failures: Option<i32>,
    /// When the fields above were read; they are a sample, written no more often than every `--status-interval` (30 seconds).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_time: Option<Time>,
    /// The value of the annotation `headgate.dev/poll-requested-at` that was last served; its first 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = LONGEST_POLL_REQUEST))]
    pub last_handled_poll_request: Option<String>,
    /// Ready, Accepted, Assigned, Reachable, Stored and CaughtUp; Reconciling and Stalled only while True. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}

fn not_observed() -> i64 {
    -1
}

impl Default for EventSourceStatus {
    fn default() -> Self {
        Self {
            observed_generation: not_observed(),
            observed_epoch: None,
            stream: None,
            holder: None,
            cursor: None,
            events_loaded: None,
            last_poll_time: None,
            last_success_time: None,
            last_event_time: None,
            next_poll_time: None,
            lag_seconds: None,
            consecutive_failures: None,
            sample_time: None,
            last_handled_poll_request: None,
            conditions: Vec::new(),
        }
    }
}

/// The replica that runs the source.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HolderStatus {
    /// The replica: its pod name and a nonce of its process.
    #[schemars(length(max = 512))]
    pub identity: String,
    /// The Lease of the source, in the namespace of the operator.
    #[schemars(length(max = 253))]
    pub lease_name: String,
    /// When the replica took the Lease.
    pub acquire_time: Time,
}

/// The standard condition, with the bounds and the list type that its Go original has and the generated schema lacks.
fn conditions_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "description": "One aspect of the current state.",
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {
                    "description": "The aspect, in CamelCase.",
                    "type": "string",
                    "maxLength": 316,
                },
                "status": {
                    "description": "True, False or Unknown.",
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                },
                "observedGeneration": {
                    "description": "The `metadata.generation` that the condition is about.",
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                },
                "lastTransitionTime": {
                    "description": "When `status` last changed.",
                    "type": "string",
                    "format": "date-time",
                },
                "reason": {
                    "description": "Why, as one word in CamelCase.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                },
                "message": {
                    "description": "Why, and what to do.",
                    "type": "string",
                    "maxLength": LONGEST_MESSAGE,
                },
            },
        },
    })
}
