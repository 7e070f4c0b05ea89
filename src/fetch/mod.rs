//! The port to a remote source. Nothing above it knows protocol or format.
//!
//! A transport is one folder here and one arm in [`Transports::open`]'s adapter.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    api::{ReachableReason, Source},
    event::{Cursor, Event, EventId, SetAside},
    permit::Permit,
};

pub mod credentials;
pub mod decode;
mod error;
#[cfg(test)]
mod fuzz;
pub mod http;

pub use error::{FetchError, OpenError};

/// A source that asks for a longer wait is asked again after this one (DESIGN 4).
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(24);

/// One page to ask for.
#[derive(Debug, Clone)]
pub struct PageRequest {
    /// Events after this are wanted.
    pub after: Cursor,
    /// At most this many.
    pub limit: u32,
}

/// Makes fetchers. The adapter holds what all sources of the process share (TLS roots, credentials port).
#[async_trait]
pub trait Transports: Send + Sync {
    /// Builds the fetcher of one source: reads its credentials, checks its settings. Sends nothing to the source.
    async fn open(&self, source: &Arc<Source>) -> Result<Box<dyn Fetcher>, OpenError>;
}

/// Asks one source, one request at a time.
#[async_trait]
pub trait Fetcher: Send {
    /// CONNECT: stand connected (TCP, TLS, proxy) before RESERVE, and do whatever needs no request to this source's host,
    /// such as a token request to another host. Sends no request to the source. At once when a connection stands.
    async fn connect(&mut self) -> Result<(), FetchError>;

    /// SEND: spends the permit next to the write system call, on the connection that stood before; never reconnects,
    /// never repeats. Returns when the first bytes of the response are here.
    ///
    /// # Errors
    /// A [`Failure`] says how far the request came, which decides whether the row may be released.
    async fn send(&mut self, permit: Permit, page: &PageRequest) -> Result<Reply, Failure>;

    /// Reads the credentials again. Returns whether they changed; then the next [`Fetcher::connect`] uses the new ones.
    async fn reload_credentials(&mut self) -> Result<bool, OpenError>;

    /// `http.timeout` or its like: how long the source may still serve a request that was given up.
    fn timeout(&self) -> Duration;
}

/// What came back.
pub enum Reply {
    /// The permit was spent on something that must come first and counts as a request to this host (an OAuth2 token from
    /// the same host). The response was read to its end. Close the attempt, then poll.
    Prepared { first_byte: Instant },
    /// A page of events, to be read.
    Page(Box<dyn Page>),
}

/// A response whose first byte is here.
#[async_trait]
pub trait Page: Send {
    /// When the first byte of the response arrived, on the local monotonic clock; the gap is anchored here.
    fn first_byte(&self) -> Instant;

    /// The next complete items, in the order of the response; `None` after the last, when the response was read to its
    /// end. Items that came before a failure are returned before it. Returns after each piece of the body, with no item
    /// if none became complete, so that the caller can look at [`Page::held`] before more is read: what one call adds is
    /// bounded, beyond the item that it ends in.
    ///
    /// # Errors
    /// A cut body, an item that cannot be used, a limit. The page is over then.
    async fn next(&mut self) -> Result<Option<Vec<Item>>, Failure>;

    /// Whether its end, once it has come, proves that nothing is missing: its framing or its format marks it. Where nothing
    /// does, a response that was cut between two items ends like a whole one.
    fn end_is_proven(&self) -> bool;

    /// Bytes the page itself keeps in memory between two calls of [`Page::next`]: a begun item, items held back.
    fn held(&self) -> u64;
}

/// One item of a page.
#[derive(Debug, Clone)]
pub enum Item {
    Event(Event),
    SetAside(SetAside),
}

impl Item {
    #[must_use]
    pub fn id(&self) -> &EventId {
        match self {
            Self::Event(event) => &event.id,
            Self::SetAside(item) => &item.id,
        }
    }

    /// What it takes in memory, near enough: its texts, and what holds them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let texts = match self {
            Self::Event(event) => {
                event.id.as_str().len()
                    + event.payload.len()
                    + event.event_type.as_ref().map_or(0, String::len)
                    + event.subject.as_ref().map_or(0, String::len)
            }
            Self::SetAside(item) => item.id.as_str().len() + item.item.len(),
        };
        (texts + size_of::<Self>()) as u64
    }
}

/// A failed request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    #[source]
    pub error: FetchError,
    pub progress: Progress,
}

/// How far a failed request came. Decides between ABORT and waiting out the deadline (DESIGN 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It provably never left: the row may be released.
    NeverLeft,
    /// Its response was read to the end, and ends what the source did for it: the row may be released.
    ReadToEnd { first_byte: Instant },
    /// It left, and the source may still be serving it: the row stays until its deadline.
    MayBeServed { first_byte: Option<Instant> },
}

impl FetchError {
    /// The condition reason; also the metric label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        ReachableReason::as_str(self.reason())
    }
}
