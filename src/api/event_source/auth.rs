//! Credentials and trust: everything that names a Secret.

#![expect(unreachable_pub, reason = "KubeSchema derives a second, private type with the visibility of the first")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::headers::{leaves_the_request_plain, sendable_by_users};

/// A header name (RFC 9110 token), inside a CEL string.
pub(super) const HEADER_NAME: &str = r"^[!#$%&\'*+.^_`|~0-9A-Za-z-]+$";

/// The names of Kubernetes objects, and of the keys of Secrets and ConfigMaps.
const OBJECT_NAME: &str = "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$";
const DATA_KEY: &str = "^[-._a-zA-Z0-9]+$";

/// One key of a Secret in the namespace of this object.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct SecretKeyRef {
    /// Name of the Secret, in the namespace of this object. 1 to 253 characters. Required.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
    /// Key in its data. 1 to 253 characters. Required.
    #[schemars(length(min = 1, max = 253), regex(pattern = DATA_KEY))]
    pub key: String,
}

/// A Secret in the namespace of this object, whose type says its keys.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct SecretRef {
    /// Name of the Secret, in the namespace of this object. 1 to 253 characters. Required.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
}

/// How requests are authenticated. A union: exactly one member.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "[has(self.bearer), has(self.basic), has(self.header), has(self.oauth2)].exists_one(x, x)"
)
    .message("exactly one of these must be set: `bearer`, `basic`, `header`, `oauth2`"))]
pub struct Auth {
    /// A token is sent as `Authorization: Bearer …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer: Option<BearerAuth>,
    /// User name and password are sent as `Authorization: Basic …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<BasicAuth>,
    /// A secret value is sent in a header of your choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderAuth>,
    /// A token from an OAuth 2.0 token endpoint (client credentials) is sent as `Authorization: Bearer …`. Token requests
    /// to the host of `url` keep to `poll.minInterval` as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth2: Option<OAuth2>,
}

/// A bearer token.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BearerAuth {
    /// The key of a Secret that holds the token. Required.
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub token_secret_ref: SecretKeyRef,
}

/// A user name and a password.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BasicAuth {
    /// A Secret of type kubernetes.io/basic-auth: its keys are `username` and `password`. Required.
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub secret_ref: SecretRef,
}

/// A secret value in a header of the user's choice.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HeaderAuth {
    /// Name of the header, such as X-API-Key. 1 to 256 characters. Required.
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(
        validation = Rule::new(format!("self.matches('{HEADER_NAME}')"))
            .message("must be a header name: letters, digits and !#$%&'*+-.^_`|~"),
        validation = Rule::new(sendable_by_users("self"))
            .message("must not be a header that belongs to the connection: Host, Connection, Keep-Alive, Proxy-*, TE, \
                      Trailer, Transfer-Encoding, Upgrade, Content-Length, Accept-Encoding"),
        validation = Rule::new(leaves_the_request_plain("self"))
            .message("must not be a header that makes the answer something other than a page, or that Headgate sets: \
                      Expect, Range, If-*, Headgate-*; choose another `name`")
    )]
    pub name: String,
    /// The key of a Secret that holds the value. Required.
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub value_secret_ref: SecretKeyRef,
}

/// OAuth 2.0 client credentials (RFC 6749, section 4.4).
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OAuth2 {
    /// The token endpoint: an absolute https URL without user-info or fragment (http only with `plaintextCredentials:
    /// Allow`). 1 to 2048 characters. Required.
    #[serde(rename = "tokenURL")]
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(
        validation = Rule::new("isURL(self) && self.matches('^https?://[^/?#:]')")
            .message("must be an absolute URL that begins with http:// or https://"),
        validation = Rule::new("!self.matches('^[^/?#]*//[^/?#]*@')").message("must not hold user-info"),
        validation = Rule::new("!self.contains('#')").message("must not hold a fragment")
    )]
    pub token_url: String,
    /// The key of a Secret that holds the client id. Required.
    #[serde(rename = "clientIDSecretRef")]
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub client_id_secret_ref: SecretKeyRef,
    /// The key of a Secret that holds the client secret. Required.
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub client_secret_secret_ref: SecretKeyRef,
    /// Scopes asked for. At most 32, each 1 to 256 characters without spaces. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 256), regex(pattern = r"^[\x21\x23-\x5b\x5d-\x7e]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub scopes: Vec<String>,
    /// The `audience` parameter that some token endpoints want. 1 to 512 characters. Default: none is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub audience: Option<String>,
}

/// Trust and client certificate for https.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Certificates to trust instead of the system's roots. Default: the system's roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub ca_ref: Option<CaRef>,
    /// A Secret of type kubernetes.io/tls with the client certificate: its keys are `tls.crt` and `tls.key`. Default: no
    /// client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub client_cert_secret_ref: Option<SecretRef>,
}

/// Where CA certificates are.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct CaRef {
    /// ConfigMap or Secret. Required.
    pub kind: CaKind,
    /// Name of the object, in the namespace of this object. 1 to 253 characters. Required.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME))]
    pub name: String,
    /// Key in its data that holds the certificates in PEM. 1 to 253 characters. Default: ca.crt.
    #[serde(default = "default_ca_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = DATA_KEY))]
    pub key: String,
}

fn default_ca_key() -> String {
    "ca.crt".to_owned()
}

/// The kind of object that holds CA certificates.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaKind {
    ConfigMap,
    Secret,
}
