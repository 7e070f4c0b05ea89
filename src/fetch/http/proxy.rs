//! Proxies of the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, also in lower case).
//!
//! A source behind a proxy is always reached through a tunnel (`CONNECT host:port`), plain http too. A proxy that forwards
//! requests itself may repeat them (RFC 9110 lets it resend a GET whose connection died), and it would connect to the
//! source only after RESERVE; a tunnel carries bytes and nothing else.

use std::ffi::OsString;

use hyper::{Uri, header::HeaderValue};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

use super::{USER_AGENT, dial::Stream, endpoint::Endpoint};
use crate::fetch::FetchError;

/// A proxy's answer to CONNECT is a few hundred bytes.
const LONGEST_ANSWER: usize = 16 * 1024;

/// Which proxy is meant for which endpoint.
pub struct Proxies(Matcher);

/// A variable that is set and cannot be read. Somebody relies on it, so it must not count as none. Its value may hold a
/// password and is not told.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the environment variable {variable} is set, but cannot be read as the address of a proxy: write it as `http://host:port` or \
     `https://host:port` (special characters of a user name or password percent-encoded), or unset it"
)]
pub struct ProxyError {
    variable: &'static str,
}

impl Proxies {
    /// As the environment of the process says.
    ///
    /// # Errors
    /// When one of its variables is set and cannot be read.
    pub fn from_environment() -> Result<Self, ProxyError> {
        Self::read(|variable| std::env::var_os(variable))
    }

    fn read(value_of: impl Fn(&str) -> Option<OsString>) -> Result<Self, ProxyError> {
        let first = |variables: [&'static str; 2]| {
            let found = variables.into_iter().find_map(|variable| Some((variable, value_of(variable)?)));
            let Some((variable, value)) = found else { return Ok((variables[0], String::new())) };
            // A line end is in each variable that is made of a file.
            let value = value.into_string().map_err(|_| ProxyError { variable })?.trim().to_owned();
            Ok((variable, value))
        };
        let proxy = |variables| {
            let (variable, value) = first(variables)?;
            if value.is_empty() || can_be_read(&value) { Ok(value) } else { Err(ProxyError { variable }) }
        };
        let matcher = Matcher::builder()
            .all(proxy(["ALL_PROXY", "all_proxy"])?)
            .http(proxy(["HTTP_PROXY", "http_proxy"])?)
            .https(proxy(["HTTPS_PROXY", "https_proxy"])?)
            .no(first(["NO_PROXY", "no_proxy"])?.1);
        Ok(Self(matcher.build()))
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
        let proxy = hop(&found).ok_or_else(|| {
            let detail = "the proxy of the environment is neither http:// nor https://; set NO_PROXY for this source";
            FetchError::ConnectionFailed { detail: detail.to_owned() }
        })?;
        Ok(Some(Proxy { endpoint: proxy, authorization: found.basic_auth().cloned() }))
    }
}

/// The proxy that is meant; `None` when it is neither http nor https.
fn hop(found: &Intercept) -> Option<Endpoint> {
    Url::parse(&found.uri().to_string()).ok().and_then(|url| Endpoint::of(&url))
}

/// Whether a value leads to a proxy. SOCKS counts: a source that it is meant for is refused with a text, others are not.
fn can_be_read(value: &str) -> bool {
    let found = Matcher::builder().all(value).build().intercept(&Uri::from_static("http://source/"));
    let leads_on = |found: Intercept| hop(&found).is_some() || found.uri().scheme_str().is_some_and(is_socks);
    found.is_some_and(leads_on) && !has_credentials_behind_its_host(value)
}

fn is_socks(scheme: &str) -> bool {
    scheme.starts_with("socks")
}

/// A password with `/`, `?` or `#` in it ends the host too early: the start of the credentials would be taken for a host, be
/// looked up, and be told.
fn has_credentials_behind_its_host(value: &str) -> bool {
    let rest = value.split_once("://").map_or(value, |(_, rest)| rest);
    rest.find(['/', '?', '#']).is_some_and(|end| rest[end..].contains('@'))
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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Result<Proxies, ProxyError> {
        Proxies::read(|name| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| OsString::from(value)))
    }

    fn proxy_of(proxies: &Proxies, url: &str) -> Option<String> {
        let endpoint = Endpoint::of(&Url::parse(url).expect("a URL")).expect("of HTTP");
        proxies.for_endpoint(&endpoint).expect("of HTTP").map(|proxy| proxy.endpoint.to_string())
    }

    #[rstest]
    #[case::a_space("http://pro xy:3128")]
    #[case::a_domain_of_windows("http://CORP\\hunter2@proxy:3128")]
    #[case::an_unknown_scheme("tcp://proxy:3128")]
    #[case::socks_without_its_version("socks://proxy:1080")]
    #[case::no_port("http://proxy:hunter2")]
    #[case::no_host("http://:3128")]
    #[case::a_slash_in_the_password("http://me:12/hunter2@proxy:3128")]
    #[case::a_number_sign_in_the_password("http://me:12#hunter2@proxy:3128")]
    fn a_proxy_that_cannot_be_read_is_named_at_the_start_and_its_value_is_not_told(
        #[case] value: &str,
        #[values("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")] variable: &str,
    ) {
        let error = proxies(&[(variable, value)]).err().expect("nothing is asked directly that was meant for a proxy");
        let text = error.to_string();
        assert!(text.contains(&format!(" {variable} ")) && text.contains("http://host:port"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn a_proxy_that_is_no_text_is_named_at_the_start() {
        use std::os::unix::ffi::OsStringExt;
        let value = |name: &str| (name == "HTTPS_PROXY").then(|| OsString::from_vec(b"http://proxy\xff:3128".to_vec()));
        assert_eq!(Proxies::read(value).err(), Some(ProxyError { variable: "HTTPS_PROXY" }));
    }

    #[rstest]
    #[case("http://proxy:3128", "proxy:3128")]
    #[case("http://me:hunter2@proxy:3128/", "proxy:3128")]
    #[case("https://proxy", "proxy:443")]
    #[case("proxy:3128", "proxy:3128")]
    #[case("http://[fd00::1]:3128", "[fd00::1]:3128")]
    #[case::of_a_file(" http://proxy:3128\n", "proxy:3128")]
    fn a_proxy_is_read_in_every_form(#[case] value: &str, #[case] expected: &str) {
        let found = proxies(&[("ALL_PROXY", value), ("NO_PROXY", "orders.example\n")]).expect("a proxy");
        assert_eq!(proxy_of(&found, "https://other.example/").as_deref(), Some(expected));
        assert_eq!(proxy_of(&found, "https://orders.example/"), None);
    }

    #[test]
    fn the_variable_of_the_scheme_goes_before_that_of_all_and_an_empty_one_is_none() {
        let found =
            proxies(&[("HTTPS_PROXY", "http://one"), ("https_proxy", "http://two"), ("all_proxy", "http://all")]);
        let found = found.expect("proxies");
        assert_eq!(proxy_of(&found, "https://orders.example/").as_deref(), Some("one:80"));
        assert_eq!(proxy_of(&found, "http://orders.example/").as_deref(), Some("all:80"));
        let none = proxies(&[("HTTPS_PROXY", ""), ("https_proxy", "http://two"), ("ALL_PROXY", "\n")]).expect("none");
        assert_eq!(proxy_of(&none, "https://orders.example/"), None);
    }
}
