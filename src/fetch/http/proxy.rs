//! Proxies of the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, also in lower case).
//!
//! A source behind a proxy is always reached through a tunnel (`CONNECT host:port`), plain http too. A proxy that forwards
//! requests itself may repeat them (RFC 9110 lets it resend a GET whose connection died), and it would connect to the
//! source only after RESERVE; a tunnel carries bytes and nothing else.

use hyper::header::HeaderValue;
use hyper_util::client::proxy::matcher::Matcher;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

use super::{USER_AGENT, dial::Stream, endpoint::Endpoint};
use crate::fetch::FetchError;

/// A proxy's answer to CONNECT is a few hundred bytes.
const LONGEST_ANSWER: usize = 16 * 1024;

/// Which proxy is meant for which endpoint.
pub struct Proxies(Matcher);

impl Proxies {
    /// As the environment of the process says.
    #[must_use]
    pub fn from_environment() -> Self {
        Self(Matcher::from_env())
    }

    /// No proxy for anything.
    #[must_use]
    pub fn none() -> Self {
        Self(Matcher::builder().build())
    }

    /// One proxy (`http://host:port`) for everything but the hosts in `except`, which reads like `NO_PROXY`.
    #[must_use]
    pub fn all(proxy: &str, except: &str) -> Self {
        Self(Matcher::builder().all(proxy).no(except).build())
    }

    pub(super) fn for_endpoint(&self, endpoint: &Endpoint) -> Result<Option<Proxy>, FetchError> {
        let Some(found) = endpoint.uri().and_then(|uri| self.0.intercept(&uri)) else { return Ok(None) };
        let proxy = Url::parse(&found.uri().to_string()).ok().and_then(|url| Endpoint::of(&url)).ok_or_else(|| {
            let detail = "the proxy of the environment is neither http:// nor https://; set NO_PROXY for this source";
            FetchError::ConnectionFailed { detail: detail.to_owned() }
        })?;
        Ok(Some(Proxy { endpoint: proxy, authorization: found.basic_auth().cloned() }))
    }
}

pub(super) struct Proxy {
    endpoint: Endpoint,
    authorization: Option<HeaderValue>,
}

impl Proxy {
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

/// Asks the proxy for a tunnel. Until it stands, nothing can reach the source.
pub(super) async fn tunnel(proxy: &Proxy, endpoint: &Endpoint, stream: &mut Box<dyn Stream>) -> Result<(), FetchError> {
    let failed = |detail| FetchError::ConnectionFailed { detail };
    let broke = |error: std::io::Error| {
        failed(format!("the connection to the proxy {} broke ({})", proxy.endpoint, error.kind()))
    };
    stream.write_all(&question(proxy, endpoint)).await.map_err(broke)?;
    stream.flush().await.map_err(broke)?;
    match answered_status(stream).await.map_err(broke)? {
        Some(status) if (200..300).contains(&status) => Ok(()),
        Some(407) => Err(failed(format!(
            "the proxy {} wants other credentials (407); check the proxy variables of the operator",
            proxy.endpoint
        ))),
        Some(status) => Err(failed(format!(
            "the proxy {} answered {status} to CONNECT {endpoint}; let it open tunnels to this port, or set NO_PROXY \
             for this source",
            proxy.endpoint
        ))),
        None => Err(failed(format!("the proxy {} gave no HTTP answer to CONNECT", proxy.endpoint))),
    }
}

fn question(proxy: &Proxy, endpoint: &Endpoint) -> Vec<u8> {
    let authority = endpoint.authority();
    let mut text =
        format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {USER_AGENT}\r\n").into_bytes();
    if let Some(value) = &proxy.authorization {
        text.extend_from_slice(b"Proxy-Authorization: ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text
}

/// Reads the head of the answer and not one byte more: what follows belongs to the source.
async fn answered_status(stream: &mut Box<dyn Stream>) -> std::io::Result<Option<u16>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == LONGEST_ANSWER {
            return Ok(None);
        }
        head.push(stream.read_u8().await?);
    }
    let status = head.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
    Ok(status.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| digits.parse().ok()))
}
