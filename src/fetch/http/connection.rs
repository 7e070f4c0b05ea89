//! One HTTP/1.1 connection to one host, driven by the task that uses it.
//!
//! There is no pool and no background task: hyper's connection is polled only while its fetcher waits for something, and
//! the socket closes when the value is dropped. So nothing under this file can choose another connection, send a request
//! again or follow a redirect.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    client::conn::http1,
    header::{HeaderMap, HeaderName},
};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};

use super::{
    dial::{Dialer, Stream},
    endpoint::Endpoint,
    line::{Heard, Line},
};
use crate::fetch::FetchError;

/// The most that is buffered of a response: a head that does not fit is refused, a body is read in pieces of this size.
const BUFFER: usize = 64 * 1024;

/// How long a connection may idle before it is not trusted any more. Balancers forget idle connections after 60 s, often
/// without a word. A server that closes sooner and says so (`Keep-Alive: timeout=5`) is believed.
const IDLE_FOR: Duration = Duration::from_secs(50);

/// Left of the time a server announced, for the way there, and for the wait before it (up to a second). Half of a short time.
const IDLE_MARGIN: Duration = Duration::from_secs(2);

type Driver = http1::Connection<TokioIo<Heard<Box<dyn Stream>>>, Full<Bytes>>;

/// A connection that stands.
pub(super) struct Connection {
    pub(super) endpoint: Endpoint,
    pub(super) line: Arc<Line>,
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Driver,
    /// How it ended, if it did.
    end: Option<hyper::Result<()>>,
    has_served: bool,
    /// Not to be used after this.
    idle_until: Instant,
}

/// What a request needs to pass on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passage {
    /// A source: nothing leaves without a permit.
    Gated,
    /// A host that is no source (a token endpoint elsewhere).
    Free,
}

/// Why a body was not read to its end.
pub(super) enum Unread {
    Broke(hyper::Error),
    TooLarge,
    Late,
}

impl Connection {
    /// Name, TCP, proxy, TLS. Sends no request.
    pub(super) async fn open(
        endpoint: &Endpoint,
        passage: Passage,
        tls: &Arc<ClientConfig>,
        dialer: &Dialer,
        within: Duration,
    ) -> Result<Self, FetchError> {
        let line = Line::open();
        let stream = dialer.dial(endpoint, tls, line.clone(), within).await?;
        if passage == Passage::Gated {
            line.stand(!endpoint.https);
        }
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(BUFFER)
            .writev(false)
            .handshake(TokioIo::new(Heard::new(stream, line.clone())))
            .await
            .map_err(|_| FetchError::ConnectionFailed { detail: format!("the connection to {endpoint} broke") })?;
        let idle_until = Instant::now() + IDLE_FOR;
        Ok(Self { endpoint: endpoint.clone(), line, sender, driver, end: None, has_served: false, idle_until })
    }

    /// Whether a request could be sent now, as far as this end can know.
    pub(super) async fn stands(&mut self) -> bool {
        poll_fn(|cx| {
            self.turn(cx);
            Poll::Ready(())
        })
        .await;
        self.end.is_none() && self.sender.is_ready()
    }

    /// Whether it was good for a request: then a server that closes it does what any server may.
    pub(super) fn has_served(&self) -> bool {
        self.has_served
    }

    /// What broke the connection while no request was there to be told.
    pub(super) fn error(&self) -> Option<&hyper::Error> {
        self.end.as_ref()?.as_ref().err()
    }

    /// Whether the connection has idled for so long that the server may be about to close it.
    pub(super) fn is_stale(&self) -> bool {
        Instant::now() >= self.idle_until
    }

    /// Sends one request and waits for the head of its response.
    pub(super) async fn exchange(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        let answer = self.sender.send_request(request);
        let response = self.drive(answer).await?;
        self.line.answered();
        self.has_served = true;
        self.idle_until = Instant::now() + idle_time(response.headers());
        Ok(response)
    }

    /// The next piece of a body; `None` when it ended as the protocol says it should.
    pub(super) async fn piece(&mut self, body: &mut Incoming) -> Option<hyper::Result<Bytes>> {
        loop {
            let frame = self.drive(body.frame()).await?;
            match frame.map(Frame::into_data) {
                Ok(Ok(bytes)) => return Some(Ok(bytes)),
                Ok(Err(_trailers)) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Reads a body to its end if that takes no more than `most` bytes and no longer than `until`.
    pub(super) async fn read_out(
        &mut self,
        body: &mut Incoming,
        most: usize,
        until: Instant,
    ) -> Result<Vec<u8>, Unread> {
        let reading = async {
            let mut read = Vec::new();
            while let Some(piece) = self.piece(body).await {
                let piece = piece.map_err(Unread::Broke)?;
                if read.len() + piece.len() > most {
                    return Err(Unread::TooLarge);
                }
                read.extend_from_slice(&piece);
            }
            Ok(read)
        };
        timeout_at(until, reading).await.unwrap_or(Err(Unread::Late))
    }

    /// Waits for `work` while the connection moves on.
    async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|cx| {
            self.turn(cx);
            work.as_mut().poll(cx)
        })
        .await
    }

    fn turn(&mut self, cx: &mut Context<'_>) {
        if self.end.is_none()
            && let Poll::Ready(end) = Pin::new(&mut self.driver).poll(cx)
        {
            self.end = Some(end);
        }
    }
}

/// How long the server lets a connection idle: the smaller of what it says and what is usual.
fn idle_time(headers: &HeaderMap) -> Duration {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    let told = headers.get(KEEP_ALIVE).and_then(|value| value.to_str().ok()).and_then(|value| {
        let timeout = value.split(',').find_map(|part| part.trim().strip_prefix("timeout="))?;
        timeout.parse().ok().map(Duration::from_secs)
    });
    told.map_or(IDLE_FOR, |told| told.saturating_sub(IDLE_MARGIN.min(told / 2)).min(IDLE_FOR))
}
