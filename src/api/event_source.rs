//! The types of `eventsources.headgate.dev/v1alpha1`. Doc comments here are the descriptions users read in
//! `kubectl explain`.

#![allow(unreachable_pub, reason = "KubeSchema derives a second, private type with the visibility of the first")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(group = "headgate.dev", version = "v1alpha1", kind = "EventSource", namespaced, status = "EventSourceStatus")]
#[serde(rename_all = "camelCase")]
pub struct EventSourceSpec {
    #[serde(default)]
    pub suspend: bool,
    #[serde(default)]
    pub epoch: i64,
    #[serde(default)]
    pub start: Start,
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    #[serde(default)]
    pub poll: Poll,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    #[serde(default)]
    pub mapping: Mapping,
}

#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Start {
    pub position: StartPosition,
    #[serde(default, rename = "afterID", skip_serializing_if = "Option::is_none")]
    pub after_id: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartPosition {
    #[default]
    Earliest,
    AfterID,
}

#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeletionPolicy {
    #[default]
    Retain,
    Delete,
}

#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Poll {
    pub min_interval: Duration,
    pub max_idle_interval: Duration,
    pub max_error_interval: Duration,
    pub batch_size: i32,
}

impl Default for Poll {
    fn default() -> Self {
        use std::time::Duration;
        Self {
            min_interval: Duration::from_millis(200).into(),
            max_idle_interval: Duration::from_secs(5).into(),
            max_error_interval: Duration::from_mins(5).into(),
            batch_size: 1000,
        }
    }
}

#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Http {
    pub url: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<NameValue>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<NameValue>,
    #[serde(default)]
    pub cursor: HttpCursor,
    /// Empty: none is sent.
    #[serde(default = "default_limit_param")]
    pub limit_param: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    #[serde(default)]
    pub plaintext_credentials: PlaintextCredentials,
    #[serde(default)]
    pub decode: Decode,
    #[serde(default = "default_timeout")]
    pub timeout: Duration,
    #[serde(default = "default_max_response_bytes")]
    pub max_response_bytes: i64,
}

fn default_limit_param() -> String {
    "limit".to_owned()
}

fn default_timeout() -> Duration {
    std::time::Duration::from_secs(30).into()
}

fn default_max_response_bytes() -> i64 {
    16 * 1024 * 1024
}

/// Exactly one of `value` and `valueFrom`.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NameValue {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<ValueFrom>,
}

#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ValueFrom {
    pub secret_key_ref: SecretKeyRef,
}

#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct SecretKeyRef {
    pub name: String,
    pub key: String,
}

#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct SecretRef {
    pub name: String,
}

/// A union: exactly one.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HttpCursor {
    #[serde(default, rename = "afterID", skip_serializing_if = "Option::is_none")]
    pub after_id: Option<AfterId>,
}

impl Default for HttpCursor {
    fn default() -> Self {
        Self { after_id: Some(AfterId::default()) }
    }
}

#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct AfterId {
    #[serde(default = "default_after_id_param")]
    pub param: String,
}

impl Default for AfterId {
    fn default() -> Self {
        Self { param: default_after_id_param() }
    }
}

fn default_after_id_param() -> String {
    "afterId".to_owned()
}

/// A union: exactly one.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer: Option<BearerAuth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<BasicAuth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderAuth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth2: Option<OAuth2>,
}

#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BearerAuth {
    pub token_secret_ref: SecretKeyRef,
}

/// A Secret with `username` and `password`.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BasicAuth {
    pub secret_ref: SecretRef,
}

#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HeaderAuth {
    pub name: String,
    pub value_secret_ref: SecretKeyRef,
}

#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OAuth2 {
    #[serde(rename = "tokenURL")]
    pub token_url: String,
    #[serde(rename = "clientIDSecretRef")]
    pub client_id_secret_ref: SecretKeyRef,
    pub client_secret_secret_ref: SecretKeyRef,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_ref: Option<CaRef>,
    /// A Secret with `tls.crt` and `tls.key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert_secret_ref: Option<SecretRef>,
}

#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct CaRef {
    pub kind: CaKind,
    pub name: String,
    #[serde(default = "default_ca_key")]
    pub key: String,
}

fn default_ca_key() -> String {
    "ca.crt".to_owned()
}

#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaKind {
    ConfigMap,
    Secret,
}

#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlaintextCredentials {
    #[default]
    Deny,
    Allow,
}

#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Decode {
    #[serde(default)]
    pub format: Format,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items_path: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    JSON,
    NDJSON,
}

/// Either the paths or a preset.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Mapping {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<MappingPreset>,
}

impl Default for Mapping {
    fn default() -> Self {
        Self {
            id_path: Some("$.id".to_owned()),
            time_path: None,
            type_path: None,
            subject_path: None,
            data_path: None,
            preset: None,
        }
    }
}

#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum MappingPreset {
    CloudEvents,
}

#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct EventSourceStatus {
    pub observed_generation: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_epoch: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<HolderStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_loaded: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_poll_time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success_time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_event_time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_poll_time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_failures: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_time: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_handled_poll_request: Option<String>,
    pub conditions: Vec<Condition>,
}

#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HolderStatus {
    pub identity: String,
    pub lease_name: String,
    pub acquire_time: Time,
}
