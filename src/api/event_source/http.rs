//! The transport `http`: one GET per page, after the id of the last stored event.

#![expect(unreachable_pub, reason = "KubeSchema derives a second, private type with the visibility of the first")]

use std::time;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    JSON_PATH,
    auth::{Auth, HEADER_NAME, SecretKeyRef, Tls},
    headers::{leaves_the_request_plain, sendable_by_users},
};
use crate::api::Duration;

/// A source that answers `GET url?afterId=…&limit=…` with the events after that id.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "self.plaintextCredentials == 'Allow' || self.url.startsWith('https://') || !(has(self.auth) \
         || (has(self.headers) && self.headers.exists(h, has(h.valueFrom))) \
         || (has(self.query) && self.query.exists(q, has(q.valueFrom))) \
         || (has(self.tls) && has(self.tls.clientCertSecretRef)))"
    )
        .message("`plaintextCredentials` must be 'Allow' to send a Secret to an http `url`; better use https")
        .field_path(".plaintextCredentials"),
    validation = Rule::new(
        "self.plaintextCredentials == 'Allow' || !has(self.auth) || !has(self.auth.oauth2) \
         || self.auth.oauth2.tokenURL.startsWith('https://')"
    )
        .message("`tokenURL` must be https, unless `plaintextCredentials` is 'Allow'")
        .field_path(".auth.oauth2.tokenURL"),
    validation = Rule::new(
        "!has(self.auth) || !has(self.headers) || self.headers.all(h, h.name.lowerAscii() != 'authorization')"
    )
        .message("`headers` must not name Authorization beside `auth`")
        .field_path(".headers"),
    validation = Rule::new(
        "!has(self.auth) || !has(self.auth.header) || !has(self.headers) \
         || self.headers.all(h, h.name.lowerAscii() != self.auth.header.name.lowerAscii())"
    )
        .message("`headers` must not name the header of `auth.header`")
        .field_path(".headers"),
    validation = Rule::new(
        "!has(self.query) || !has(self.cursor.afterID) || self.query.all(q, q.name != self.cursor.afterID.param)"
    )
        .message("`query` must not name the cursor's `param` (default afterId), which is added to each request")
        .field_path(".query"),
    validation = Rule::new("!has(self.query) || self.query.all(q, q.name != self.limitParam)")
        .message("`query` must not name `limitParam` (default limit): give its value in `poll.batchSize`")
        .field_path(".query"),
    validation = Rule::new(
        "!isURL(self.url) || !has(self.cursor.afterID) || !(self.cursor.afterID.param in url(self.url).getQuery())"
    )
        .message("`url` must not name the cursor's `param` (default afterId) in its query: it is added to each request")
        .field_path(".url"),
    validation = Rule::new("!isURL(self.url) || !(self.limitParam in url(self.url).getQuery())")
        .message("`url` must not name `limitParam` (default limit) in its query: give its value in `poll.batchSize`")
        .field_path(".url"),
    validation = Rule::new("!has(self.cursor.afterID) || self.limitParam != self.cursor.afterID.param")
        .message("`limitParam` must not be the cursor's `param`")
        .field_path(".limitParam"),
    validation = Rule::new("duration(self.timeout) >= duration('100ms') && duration(self.timeout) <= duration('10m')")
        .message("`timeout` must be from 100ms to 10m")
        .field_path(".timeout")
)]
pub struct Http {
    /// Where the events are: an absolute http or https URL without user-info or fragment. 1 to 2048 characters.
    /// Required.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(
        validation = Rule::new("isURL(self) && self.matches('^https?://[^/?#:]')")
            .message("must be an absolute URL that begins with http:// or https://"),
        validation = Rule::new("!self.matches('^[^/?#]*//[^/?#]*@')")
            .message("must not hold user-info; use `auth`"),
        validation = Rule::new("!self.contains('#')").message("must not hold a fragment")
    )]
    pub url: String,
    /// Headers sent with every request. At most 32, each name once, whatever its case. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = Rule::new(format!("self.all(h, h.name.matches('{HEADER_NAME}'))"))
            .message("each `name` must be a header name: letters, digits and !#$%&'*+-.^_`|~"),
        validation = Rule::new(format!("self.all(h, {})", sendable_by_users("h.name")))
            .message("must not name a header that belongs to the connection: Host, Connection, Keep-Alive, Proxy-*, TE, \
                      Trailer, Transfer-Encoding, Upgrade, Content-Length, Accept-Encoding"),
        validation = Rule::new(format!("self.all(h, {})", leaves_the_request_plain("h.name")))
            .message("must not name a header that makes the answer something other than a page, or that Headgate sets: \
                      Expect, Range, If-*, Headgate-*; remove it"),
        validation = Rule::new("self.all(h, self.exists_one(g, g.name.lowerAscii() == h.name.lowerAscii()))")
            .message("each `name` must occur once, whatever its case"),
        validation = Rule::new(r"self.all(h, !has(h.value) || h.value.matches('^[\\t\\x20-\\x7e]*$'))")
            .message("each `value` must be visible ASCII, spaces and tabs")
    )]
    pub headers: Vec<NameValue>,
    /// Query parameters sent with every request, in this order; names may repeat. At most 32. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub query: Vec<NameValue>,
    /// How a position in the stream is sent. Default: {afterID: {param: afterId}}.
    #[serde(default)]
    pub cursor: HttpCursor,
    /// Query parameter that carries `poll.batchSize`; empty: none is sent, and a page may hold any number of events. At
    /// most 128 characters. Default: limit.
    #[serde(default = "default_limit_param")]
    #[schemars(length(max = 128))]
    pub limit_param: String,
    /// How requests are authenticated. Exactly one member. Default: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Trust and client certificate for https. Default: the system's roots and no client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Whether a Secret may travel over plain http: Deny or Allow. Default: Deny.
    #[serde(default)]
    pub plaintext_credentials: PlaintextCredentials,
    /// How a response body becomes items. Default: {format: JSON}.
    #[serde(default)]
    pub decode: Decode,
    /// Limit of a whole request, from sending it to the last byte of the response. Connecting (name, TCP, proxy, TLS) comes
    /// before that and has the same limit, but never more than 10s. A duration from 100ms to 10m. Default: 30s.
    #[serde(default = "default_timeout")]
    pub timeout: Duration,
    /// Largest response body, after decompression; it bounds the memory of this source. Bytes; 1024 to 268435456 (256
    /// MiB). Default: 16777216 (16 MiB).
    #[serde(default = "default_max_response_bytes")]
    #[schemars(range(min = 1024, max = 268_435_456))]
    pub max_response_bytes: i64,
}

fn default_limit_param() -> String {
    "limit".to_owned()
}

fn default_timeout() -> Duration {
    time::Duration::from_secs(30).into()
}

fn default_max_response_bytes() -> i64 {
    16 * 1024 * 1024
}

impl Http {
    /// All defaults, and this URL.
    #[must_use]
    pub fn at(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            headers: Vec::new(),
            query: Vec::new(),
            cursor: HttpCursor::default(),
            limit_param: default_limit_param(),
            auth: None,
            tls: None,
            plaintext_credentials: PlaintextCredentials::default(),
            decode: Decode::default(),
            timeout: default_timeout(),
            max_response_bytes: default_max_response_bytes(),
        }
    }

    /// The limit of a whole request.
    #[must_use]
    pub fn timeout(&self) -> time::Duration {
        self.timeout.into()
    }

    /// The largest response body in bytes.
    #[must_use]
    pub fn max_response_bytes(&self) -> u64 {
        u64::try_from(self.max_response_bytes).unwrap_or(0)
    }

    /// The query parameter of the limit; none when it is not to be sent.
    #[must_use]
    pub fn limit_param(&self) -> Option<&str> {
        Some(self.limit_param.as_str()).filter(|param| !param.is_empty())
    }
}

/// A name with a value from here or from a Secret.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.value) != has(self.valueFrom)")
    .message("exactly one of `value` and `valueFrom` must be set"))]
pub struct NameValue {
    /// The name as it is sent. 1 to 256 characters. Required.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// The value as it is sent. At most 4096 characters. Exactly one of `value` and `valueFrom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub value: Option<String>,
    /// Where the value is. Exactly one of `value` and `valueFrom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<ValueFrom>,
}

/// Where a value is.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ValueFrom {
    /// A key of a Secret in the namespace of this object. Required.
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub secret_key_ref: SecretKeyRef,
}

/// How a position in the stream is sent. A union: exactly one member.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.afterID)].exists_one(x, x)")
    .message("exactly one of these must be set: `afterID`"))]
pub struct HttpCursor {
    /// The id of the last stored event is sent in `param`; without one, `param` is not sent.
    #[serde(default, rename = "afterID", skip_serializing_if = "Option::is_none")]
    pub after_id: Option<AfterId>,
}

impl Default for HttpCursor {
    fn default() -> Self {
        Self { after_id: Some(AfterId::default()) }
    }
}

/// The id of the last stored event is sent.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct AfterId {
    /// Query parameter that carries the id. 1 to 128 characters. Default: afterId.
    #[serde(default = "default_after_id_param")]
    #[schemars(length(min = 1, max = 128))]
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

/// Whether a Secret may travel over plain http.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlaintextCredentials {
    #[default]
    Deny,
    Allow,
}

/// How a response body becomes items.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.itemsPath) || self.format == 'JSON'")
    .message("`itemsPath` must only be set when `format` is 'JSON'")
    .field_path(".itemsPath"))]
pub struct Decode {
    /// JSON: one document. NDJSON: one item per line. Default: JSON.
    #[serde(default)]
    pub format: Format,
    /// Where the array of items is, as an RFC 9535 singular query such as $.data.items. At most 512 characters. Default:
    /// the body itself when it is an array, or else the only array among its members; one that has an id of its own at
    /// `mapping.idPath` is refused, and so is an array of another name than the one that held items before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = JSON_PATH))]
    pub items_path: Option<String>,
}

/// The format of a response body.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    JSON,
    NDJSON,
}
