//! What one fake source has, and how it behaves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Chance, Fault, Feed, IdStyle};

/// One fake source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceConfig {
    pub feed: Feed,
    /// Time between the request and the first byte of the answer, in milliseconds.
    #[serde(default)]
    pub latency_ms: u64,
    /// Random faults; at most one per request.
    #[serde(default)]
    pub chances: Vec<Chance>,
    /// A header and the value it must have; a request without it is answered with 401.
    #[serde(default)]
    pub guard: Option<(String, String)>,
    /// No event exists before [`super::FakeSource::open`].
    #[serde(default)]
    pub closed: bool,
    /// What the network stack takes before the peer's has it, in bytes: what the log calls delivered may still be here.
    /// Holds for all sources served together.
    #[serde(default)]
    pub send_buffer: Option<u32>,
}

impl SourceConfig {
    /// A well-behaved source with this many events of 300 bytes.
    #[must_use]
    pub fn new(name: &str, events: u64) -> Self {
        let feed = Feed {
            name: name.to_owned(),
            ids: IdStyle::Number,
            initial: events,
            per_second: 0.0,
            total: u64::MAX,
            event_bytes: 300,
        };
        Self { feed, latency_ms: 0, chances: Vec::new(), guard: None, closed: false, send_buffer: None }
    }

    #[must_use]
    pub fn with_opaque_ids(mut self) -> Self {
        self.feed.ids = IdStyle::Opaque;
        self
    }

    #[must_use]
    pub fn growing_by(mut self, events_per_second: f64) -> Self {
        self.feed.per_second = events_per_second;
        self
    }

    #[must_use]
    pub fn at_most(mut self, total: u64) -> Self {
        self.feed.total = total;
        self
    }

    #[must_use]
    pub fn answering_after(mut self, latency: Duration) -> Self {
        self.latency_ms = u64::try_from(latency.as_millis()).expect("a latency of this century");
        self
    }

    /// The log is to call delivered what has really left, but for this many bytes.
    #[must_use]
    pub fn sending_no_more_ahead_than(mut self, bytes: u32) -> Self {
        self.send_buffer = Some(bytes);
        self
    }

    /// Empty until [`super::FakeSource::open`] is called.
    #[must_use]
    pub fn once_opened(mut self) -> Self {
        self.closed = true;
        self
    }

    #[must_use]
    pub fn behind_header(mut self, name: &str, value: &str) -> Self {
        self.guard = Some((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn sometimes(mut self, of: f64, fault: Fault) -> Self {
        self.chances.push(Chance { of, fault });
        self
    }
}
