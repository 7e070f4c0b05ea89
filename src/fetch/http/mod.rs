//! The HTTP adapter: one connection to one source, one request per permit.
//!
//! | file | what it is |
//! |---|---|
//! | `line` | the send check: the permit is spent next to the write system call |
//! | `patience` | what was written must be acknowledged soon, and a silence behind it may last |
//! | `connection` | one HTTP/1.1 connection, without pool, retry or redirect |
//! | `dial`, `names`, `egress`, `proxy`, `tls`, `tickets` | CONNECT: name, addresses that may be connected to, TCP, tunnel, TLS |
//! | `fetcher` | CONNECT and SEND of one source |
//! | `page`, `inflate`, `gzip`, `answer` | reading the response, and what it means |
//! | `request`, `access`, `secrets`, `oauth2` | what is asked, and with which credentials |
//! | `by_content` | what was read, compared and shared by its digest |
//!
//! What was decided here, beside DESIGN 1, 4 and 7:
//!
//! - **hyper and not reqwest** carries the requests: `docs/adr/0001-one-hyper-connection-per-source.md` says why.
//! - **200 and 203 are pages, 204 is a page without events**; every other status is a failure. A failed response is read to
//!   its end within 64 KiB and 5 s, so that its row is released at once; else the row waits out its deadline. 504 and 524 are
//!   timeouts of a gateway: the row waits as after one of our own.
//! - **Proxies** of the environment are used through tunnels only, also for plain http (`proxy`).
//! - **Each request carries** `User-Agent: headgate/<version>`, `Accept`, `Accept-Encoding: gzip`, `Headgate-Replica` and
//!   `Headgate-Attempt` (who asked, for the access log of the source; no secret), and no `traceparent`.
//! - **`http.tls.caRef` replaces** the default roots for the source. Without it: the system's, or Mozilla's where there are
//!   none. A token endpoint on another host is trusted by either, and never shown the client certificate.
//! - **A token endpoint on the source's host** (whichever port) passes the gate ([`super::Reply::Prepared`]); on another host it is
//!   asked inside [`Fetcher::connect`].
//! - **A request counts as sent** when the first write system call took a byte of it. `http.timeout` runs from there to the
//!   end of the response.

use std::sync::Arc;

use async_trait::async_trait;
use hyper::header::HeaderValue;

use self::{dial::Dialer, fetcher::HttpFetcher, names::SystemNames, tls::TlsConfigs};
use super::{Fetcher, OpenError, Transports, credentials::Credentials};
use crate::api::Source;

mod access;
mod answer;
mod by_content;
mod connection;
mod dial;
mod egress;
mod endpoint;
mod fetcher;
#[cfg(test)]
mod fuzz;
mod gzip;
mod inflate;
mod line;
mod names;
mod oauth2;
mod page;
mod patience;
mod proxy;
mod request;
mod secrets;
mod tickets;
mod tls;

pub use egress::Egress;
pub use proxy::{Proxies, ProxyError};
pub use tls::TlsSetupError;

const USER_AGENT: &str = concat!("headgate/", env!("CARGO_PKG_VERSION"));

/// Makes the fetchers of all sources of the process.
#[derive(Clone)]
pub struct HttpTransports {
    shared: Arc<Shared>,
}

/// What all fetchers share.
struct Shared {
    credentials: Arc<dyn Credentials>,
    replica: HeaderValue,
    tls: TlsConfigs,
    dialer: Dialer,
}

/// The transports cannot be set up. Found at start.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("cannot load the TLS roots")]
    Tls(#[from] TlsSetupError),
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("the name of the replica cannot stand in a header")]
    Replica,
}

impl HttpTransports {
    /// Reads the TLS roots of the system and the proxies of the environment. `replica` names this process to the sources, and
    /// `egress` says where they may be.
    ///
    /// # Errors
    /// When the roots or the proxies that the environment names cannot be read.
    pub fn new(credentials: Arc<dyn Credentials>, replica: &str, egress: Egress) -> Result<Self, SetupError> {
        Self::with_proxies(credentials, replica, egress, Proxies::from_environment()?)
    }

    /// As [`HttpTransports::new`], with these proxies and not those of the environment.
    ///
    /// # Errors
    /// When the roots that the environment names cannot be read.
    pub fn with_proxies(
        credentials: Arc<dyn Credentials>,
        replica: &str,
        egress: Egress,
        proxies: Proxies,
    ) -> Result<Self, SetupError> {
        let replica = HeaderValue::from_str(replica).map_err(|_| SetupError::Replica)?;
        let tls = TlsConfigs::load()?;
        let dialer = Dialer { names: Box::new(SystemNames::new()), egress, proxies, proxy_tls: tls.shared().clone() };
        Ok(Self { shared: Arc::new(Shared { credentials, replica, tls, dialer }) })
    }
}

#[async_trait]
impl Transports for HttpTransports {
    async fn open(&self, source: &Arc<Source>) -> Result<Box<dyn Fetcher>, OpenError> {
        match &source.spec.http {
            Some(http) => Ok(Box::new(HttpFetcher::open(self.shared.clone(), source.clone(), http).await?)),
            None => Err(OpenError::InvalidSpec { field: "http", detail: "a source needs a transport".to_owned() }),
        }
    }
}
