use std::fmt;

use hyper::Uri;
use url::{Host, Url};

/// Where a connection goes: scheme, host and port. Safe to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) https: bool,
    pub(super) host: Host,
    pub(super) port: u16,
}

impl Endpoint {
    /// `None` when the URL is not http or https, or names no host.
    pub(super) fn of(url: &Url) -> Option<Self> {
        let https = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        Some(Self { https, host: url.host()?.to_owned(), port: url.port_or_known_default()? })
    }

    /// Host and port alone, as a proxy is asked for them.
    pub(super) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The host as resolvers and certificates know it: an IPv6 address without brackets.
    pub(super) fn host_name(&self) -> String {
        match &self.host {
            Host::Ipv6(address) => address.to_string(),
            other => other.to_string(),
        }
    }

    /// For the proxy rules.
    pub(super) fn uri(&self) -> Option<Uri> {
        let scheme = if self.https { "https" } else { "http" };
        Uri::builder().scheme(scheme).authority(self.authority()).path_and_query("/").build().ok()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}
