use std::time::Duration;

use crate::api::{AcceptedReason, ReachableReason};

/// Why a source could not be asked, or its answer not be used.
///
/// Texts name the failed action and what to do; they hold no header value, no body and no secret. `detail` texts are
/// built by the adapter from positions, sizes, names of settings and library error kinds, never from content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("authentication failed: {detail}")]
    AuthenticationFailed { detail: String },
    #[error("the source answered 403: {detail}")]
    Forbidden { detail: String, retry_after: Option<Duration> },
    #[error("the source answered {status}: too many requests")]
    RateLimited { status: u16, retry_after: Option<Duration> },
    #[error(
        "the source answered {status} and points elsewhere; redirects are not followed, set `http.url` to the final address"
    )]
    Redirected { status: u16 },
    /// 5xx, and any other status that brings no page (404, 410, …).
    #[error("the source answered {status}{}", remedy(*status))]
    ServerError { status: u16, retry_after: Option<Duration> },
    /// 504 and its like. `after` is `http.timeout`: for so long the source may still serve a request that nobody waits for.
    #[error(
        "the source answered {status}: a gateway stopped waiting, and the request may still be served, so the next one waits \
         {after:?} (`http.timeout`); lower `poll.batchSize`, or let the gateway wait longer"
    )]
    GatewayTimeout { status: u16, retry_after: Option<Duration>, after: Duration },
    #[error("the connection failed: {detail}")]
    ConnectionFailed { detail: String },
    /// It can give no token now, with whichever credentials: 429, 5xx, 408, 425.
    #[error("the token endpoint answered {status} (`http.auth.oauth2.tokenURL`)")]
    TokenUnavailable { status: u16, retry_after: Option<Duration> },
    /// Found out before a byte of the request left this process; a new connection is no more than a handshake away.
    #[error("the source closed its idle connection before the request left")]
    ClosedWhileIdle,
    /// The operator does not connect to such an address.
    #[error("Headgate does not connect to this address: {detail}")]
    AddressRefused { detail: String },
    #[error("no complete answer within {after:?} (`http.timeout`)")]
    Timeout { after: Duration },
    #[error("the TLS handshake failed: {detail}")]
    TlsFailed { detail: String },
    #[error("the response is larger than {limit} bytes (`http.maxResponseBytes`)")]
    ResponseTooLarge { limit: u64 },
    /// Found by the loader, not by an adapter.
    #[error(
        "the response needs more memory than one response may have: {most} bytes of `--buffer-bytes`; lower `poll.batchSize`, or \
         give the operator more memory and a larger budget"
    )]
    LargerThanBudget { most: u64 },
    /// Found by the loader, not by an adapter.
    #[error(
        "the response was given up because it and others waited for each other's memory, {budget} bytes in all \
         (`--buffer-bytes`); it is asked for again when there is room"
    )]
    GaveWay { budget: u64 },
    /// Found by the loader, not by an adapter.
    #[error(
        "the response was not read within {after:?} (`http.timeout`), because what is not stored yet held the memory it waited \
         for ({budget} bytes in all, `--buffer-bytes`); it is asked for again when there is room"
    )]
    NoRoomInTime { budget: u64, after: Duration },
    #[error("cannot decode the response: {detail}")]
    DecodeFailed { detail: String },
    #[error("cannot map item {item} of the response: {detail}")]
    MappingFailed { item: usize, detail: String },
    /// The ids of a page do not fit the cursor; found by the loader, not by an adapter.
    #[error("the source does not keep to the cursor: {detail}")]
    CursorRejected { detail: String },
    /// The permit could not be spent in time; nothing left this process.
    #[error("the request did not leave within the send limit of its reservation")]
    PermitExpired,
}

impl FetchError {
    #[must_use]
    pub fn reason(&self) -> ReachableReason {
        match self {
            Self::AuthenticationFailed { .. } => ReachableReason::AuthenticationFailed,
            Self::Forbidden { .. } => ReachableReason::Forbidden,
            Self::RateLimited { .. } | Self::TokenUnavailable { status: 429, .. } => ReachableReason::RateLimited,
            Self::Redirected { .. } => ReachableReason::Redirected,
            Self::ServerError { .. } | Self::GatewayTimeout { .. } | Self::TokenUnavailable { .. } => {
                ReachableReason::ServerError
            }
            Self::ConnectionFailed { .. } | Self::ClosedWhileIdle | Self::PermitExpired => {
                ReachableReason::ConnectionFailed
            }
            Self::AddressRefused { .. } => ReachableReason::AddressRefused,
            Self::Timeout { .. } => ReachableReason::Timeout,
            Self::TlsFailed { .. } => ReachableReason::TLSFailed,
            Self::ResponseTooLarge { .. }
            | Self::LargerThanBudget { .. }
            | Self::GaveWay { .. }
            | Self::NoRoomInTime { .. } => ReachableReason::ResponseTooLarge,
            Self::DecodeFailed { .. } => ReachableReason::DecodeFailed,
            Self::MappingFailed { .. } => ReachableReason::MappingFailed,
            Self::CursorRejected { .. } => ReachableReason::CursorRejected,
        }
    }

    /// What the source asked us to wait, if it did.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Forbidden { retry_after, .. }
            | Self::RateLimited { retry_after, .. }
            | Self::ServerError { retry_after, .. }
            | Self::GatewayTimeout { retry_after, .. }
            | Self::TokenUnavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// What a user can do about a status that is not the server's own failure.
fn remedy(status: u16) -> &'static str {
    match status {
        404 | 410 => "; check `http.url`",
        // They pass by themselves.
        408 | 409 | 423 | 425 => "",
        400..500 => "; check `http.url`, `http.query` and `http.headers`",
        _ => "",
    }
}

/// Why a fetcher could not be built from its EventSource. Maps to the Accepted condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("{field} is not valid: {detail}")]
    InvalidSpec { field: &'static str, detail: String },
    #[error("Secret `{name}` named by {field} does not exist in the namespace of the EventSource")]
    SecretNotFound { field: &'static str, name: String },
    #[error("Secret `{name}` named by {field} has no key `{key}`")]
    SecretKeyMissing { field: &'static str, name: String, key: String },
    #[error("{kind} `{name}` named by `http.tls.caRef` {detail}")]
    CANotFound { kind: &'static str, name: String, detail: String },
    #[error(
        "the operator may not read {kind} `{name}` named by {field}: its ServiceAccount needs the right to `get` it in the \
         namespace of the EventSource"
    )]
    Forbidden { kind: &'static str, field: &'static str, name: String },
    /// The API server did not answer; nothing is known of the Secret. Not a verdict on the object.
    #[error("cannot read the credentials named by {field}")]
    Unavailable { field: &'static str },
}

impl OpenError {
    /// `None` when nothing is known yet (the API server did not answer): the condition keeps its value.
    #[must_use]
    pub fn reason(&self) -> Option<AcceptedReason> {
        match self {
            Self::InvalidSpec { .. } => Some(AcceptedReason::InvalidSpec),
            Self::SecretNotFound { .. } => Some(AcceptedReason::SecretNotFound),
            Self::SecretKeyMissing { .. } => Some(AcceptedReason::SecretKeyMissing),
            Self::CANotFound { .. } => Some(AcceptedReason::CANotFound),
            Self::Forbidden { .. } => Some(AcceptedReason::CredentialsForbidden),
            Self::Unavailable { .. } => None,
        }
    }

    /// Whether it says that what was read before is not there any more. A right that was taken away, perhaps for a moment,
    /// does not: what runs, runs on with what it has.
    #[must_use]
    pub fn revokes(&self) -> bool {
        match self {
            Self::InvalidSpec { .. }
            | Self::SecretNotFound { .. }
            | Self::SecretKeyMissing { .. }
            | Self::CANotFound { .. } => true,
            Self::Forbidden { .. } | Self::Unavailable { .. } => false,
        }
    }
}
