//! OAuth2 client credentials (RFC 6749, 4.4): one POST for a token that is kept in memory alone.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::Instant;
use url::{Url, form_urlencoded};

use super::{
    access::basic_authorization,
    answer::retry_after,
    endpoint::Endpoint,
    request::{Sender, address, origin_form},
    secrets::Reading,
};
use crate::{
    api::event_source::OAuth2,
    fetch::{FetchError, OpenError},
};

/// A token is fetched anew this long before it expires, so that none expires on its way.
const RENEW_BEFORE: Duration = Duration::from_secs(30);

/// What a token lives when its endpoint does not say. A shorter life shows itself as 401, which drops the token.
const UNTOLD_LIFETIME: Duration = Duration::from_mins(5);

/// No token is kept longer than this, whatever its endpoint says.
const LONGEST_LIFETIME: Duration = Duration::from_hours(24);

/// The codes of RFC 6749, 5.2. Anything else an endpoint says is not repeated.
const ERROR_CODES: [&str; 6] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

/// How to get a token. The client's name and secret travel as Basic authentication, which every server must take
/// (RFC 6749, 2.3.1).
pub(super) struct ClientCredentials {
    pub(super) endpoint: Endpoint,
    url: Url,
    authorization: HeaderValue,
    form: String,
}

impl ClientCredentials {
    pub(super) async fn read(oauth2: &OAuth2, reading: &mut Reading<'_>) -> Result<Self, OpenError> {
        const FIELD: &str = "http.auth.oauth2.clientSecretSecretRef";
        let (url, endpoint) = address("http.auth.oauth2.tokenURL", &oauth2.token_url)?;
        let id = reading.text_of("http.auth.oauth2.clientIDSecretRef", &oauth2.client_id_secret_ref).await?;
        let secret = reading.text_of(FIELD, &oauth2.client_secret_secret_ref).await?;
        let authorization = basic_authorization(FIELD, &encoded(&id), &encoded(&secret))?;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !oauth2.scopes.is_empty() {
            form.append_pair("scope", &oauth2.scopes.join(" "));
        }
        if let Some(audience) = &oauth2.audience {
            form.append_pair("audience", audience);
        }
        Ok(Self { endpoint, url, authorization, form: form.finish() })
    }

    /// `None` when the address cannot be asked for, which `address` has ruled out.
    pub(super) fn request(&self, sender: &Sender<'_>) -> Option<Request<Full<Bytes>>> {
        let mut request = Request::new(Full::new(Bytes::from(self.form.clone())));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = origin_form(&self.url)?;
        let headers = request.headers_mut();
        sender.sign(headers, &self.url)?;
        headers.insert(AUTHORIZATION, self.authorization.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        Some(request)
    }
}

/// The encoding of RFC 6749, 2.3.1 for name and secret.
fn encoded(text: &SecretString) -> SecretString {
    SecretString::from(form_urlencoded::byte_serialize(text.expose_secret().as_bytes()).collect::<String>())
}

/// A token as the `Authorization` header carries it.
pub(super) struct Token {
    authorization: HeaderValue,
    renew_at: Instant,
    used: bool,
}

impl Token {
    /// Reads the answer of a token endpoint.
    pub(super) fn from_answer(head: &Response<()>, body: &[u8], now: Instant) -> Result<Self, FetchError> {
        if head.status() != StatusCode::OK {
            return Err(refused(head, body));
        }
        let answer: Answer =
            serde_json::from_slice(body).map_err(|_| failed("the token endpoint answered without an access token"))?;
        if !answer.token_type.eq_ignore_ascii_case("bearer") {
            return Err(failed("the token endpoint gave a token that is no bearer token"));
        }
        let header = format!("Bearer {}", answer.access_token);
        let mut authorization = HeaderValue::from_str(&header)
            .map_err(|_| failed("the token endpoint gave a token that no header can carry"))?;
        authorization.set_sensitive(true);
        let lifetime = answer.expires_in.as_ref().and_then(lifetime).unwrap_or(UNTOLD_LIFETIME);
        // A life shorter than the margin is used to its half.
        let renew_at = now + lifetime.saturating_sub(RENEW_BEFORE).max(lifetime / 2);
        Ok(Self { authorization, renew_at, used: false })
    }

    /// A token is good for one request at least, or an endpoint that hands out expired ones would keep the source from
    /// ever being asked.
    pub(super) fn is_good(&self, now: Instant) -> bool {
        !self.used || now < self.renew_at
    }

    pub(super) fn take_for_request(&mut self) -> HeaderValue {
        self.used = true;
        self.authorization.clone()
    }
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    #[serde(default = "bearer")]
    token_type: String,
    expires_in: Option<serde_json::Value>,
}

/// Seconds as a number, or as a text, which some servers send.
fn lifetime(expires_in: &serde_json::Value) -> Option<Duration> {
    let seconds = expires_in.as_f64().or_else(|| expires_in.as_str()?.parse().ok())?;
    Duration::try_from_secs_f64(seconds).ok().map(|lifetime| lifetime.min(LONGEST_LIFETIME))
}

fn bearer() -> String {
    "Bearer".to_owned()
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// Only 400, 401 and 403 speak of the credentials (RFC 6749, 5.2). What passes by itself is no fault of theirs, and the rest, a
/// redirect or 404, is none of a token endpoint.
fn refused(head: &Response<()>, body: &[u8]) -> FetchError {
    let status = head.status();
    let number = status.as_u16();
    if status.is_server_error() || matches!(number, 408 | 425 | 429) {
        let retry_after = retry_after(head.headers(), Timestamp::now());
        return FetchError::TokenUnavailable { status: number, retry_after };
    }
    let is_of_credentials = matches!(number, 400 | 401 | 403);
    let code = serde_json::from_slice::<Refusal>(body).ok().map(|refusal| refusal.error);
    let code = ERROR_CODES.iter().find(|known| Some(**known) == code.as_deref());
    let code = code.map_or(String::new(), |code| format!(" ({code})"));
    let remedy = if is_of_credentials {
        "check `http.auth.oauth2` and its Secrets"
    } else if status.is_redirection() {
        "redirects are not followed, set `http.auth.oauth2.tokenURL` to the final address"
    } else {
        "check `http.auth.oauth2.tokenURL`"
    };
    failed(&format!("the token endpoint answered {number}{code}; {remedy}"))
}

fn failed(detail: &str) -> FetchError {
    FetchError::AuthenticationFailed { detail: detail.to_owned() }
}
