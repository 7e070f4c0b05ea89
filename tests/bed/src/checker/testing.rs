//! Builders of log lines and faults that read as sentences.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Evidence, Findings, Nemesis, NemesisKind, Rule, StoredEvent, StoredStream, check};
use crate::{
    access_log::{Access, Delivered, RetryAfter},
    source::{FaultKind, SourceConfig},
};

/// A request to this source that went well, under an attempt of its own: it took 3 ms and delivered nothing.
pub(crate) fn access(source: &str) -> Builder {
    static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
    Builder(Access {
        source: source.to_owned(),
        path: format!("/{source}/events"),
        replica: "a".to_owned(),
        attempt: format!("{:032x}", ATTEMPTS.fetch_add(1, Ordering::Relaxed)),
        connection: 1,
        after: 0,
        limit: 1000,
        accepted: 0,
        started: 0,
        parsed: 0,
        first_byte: None,
        ended: 0,
        status: 200,
        fault: FaultKind::None,
        delivered: Vec::new(),
        complete: true,
        retry_after: None,
    })
    .at_us(0)
}

pub(crate) struct Builder(Access);

impl Builder {
    pub(crate) fn by(mut self, replica: &str) -> Self {
        replica.clone_into(&mut self.0.replica);
        self
    }

    /// The reservation it was sent under.
    pub(crate) fn under(mut self, attempt: &str) -> Self {
        attempt.clone_into(&mut self.0.attempt);
        self
    }

    pub(crate) fn at_ms(self, at: u64) -> Self {
        self.at_us(at * 1000)
    }

    pub(crate) fn at_us(mut self, at: u64) -> Self {
        (self.0.started, self.0.parsed, self.0.first_byte, self.0.ended) = (at, at, Some(at + 1000), at + 3000);
        self
    }

    pub(crate) fn lasting_ms(mut self, time: u64) -> Self {
        self.0.ended = self.0.started + time * 1000;
        self
    }

    pub(crate) fn after(mut self, index: u64) -> Self {
        self.0.after = index;
        self
    }

    pub(crate) fn limit(mut self, limit: u64) -> Self {
        self.0.limit = limit;
        self
    }

    /// The largest first, each event once.
    pub(crate) fn delivering_backwards(mut self, first: u64, last: u64) -> Self {
        self.0.delivered.extend((first..=last).rev().map(|index| Delivered { first: index, last: index }));
        self
    }

    pub(crate) fn delivering(mut self, first: u64, last: u64) -> Self {
        self.0.delivered.push(Delivered { first, last });
        self
    }

    pub(crate) fn fault(mut self, fault: FaultKind) -> Self {
        self.0.fault = fault;
        self
    }

    /// 429, to be asked again so much later.
    pub(crate) fn limited(mut self, seconds: u32) -> Self {
        (self.0.status, self.0.fault) = (429, FaultKind::RateLimited);
        self.0.retry_after = Some(RetryAfter { seconds, as_date: false });
        self
    }

    /// As [`Builder::limited`], by a date.
    pub(crate) fn limited_until_a_date(self, seconds: u32) -> Self {
        let mut limited = self.limited(seconds);
        limited.0.retry_after = Some(RetryAfter { seconds, as_date: true });
        limited
    }

    pub(crate) fn incomplete(mut self) -> Self {
        self.0.complete = false;
        self
    }

    pub(crate) fn build(self) -> Access {
        self.0
    }
}

/// The stream `orders` as it should be after `count` events.
pub(crate) fn stored(count: u64) -> StoredStream {
    let feed = SourceConfig::new("orders", 100).feed;
    let events = (1..=count)
        .map(|index| StoredEvent {
            sequence: index.try_into().unwrap(),
            id: feed.id(index),
            fingerprint: feed.fingerprint(index),
            attempt: None,
        })
        .collect();
    StoredStream { source: "orders".into(), cursor: Some(feed.id(count)), feed, events, begins_after: 0 }
}

/// The stream `orders` as it should be after `count` events, all stored by this attempt.
pub(crate) fn stored_under(attempt: &str, count: u64) -> StoredStream {
    let mut stream = stored(count);
    for event in &mut stream.events {
        event.attempt = Some(attempt.to_owned());
    }
    stream
}

/// SIGKILL at this many milliseconds.
pub(crate) fn killed(replica: &str, at_ms: u64) -> Nemesis {
    Nemesis { replica: replica.to_owned(), kind: NemesisKind::Killed, from: at_ms * 1000, until: at_ms * 1000 }
}

/// SIGSTOP and SIGCONT at these many milliseconds.
pub(crate) fn paused(replica: &str, from_ms: u64, until_ms: u64) -> Nemesis {
    Nemesis { replica: replica.to_owned(), kind: NemesisKind::Paused, from: from_ms * 1000, until: until_ms * 1000 }
}

/// A line of a replica that was lost between these many milliseconds.
pub(crate) fn lost(kind: NemesisKind, replica: &str, from_ms: u64, until_ms: u64) -> Nemesis {
    Nemesis { kind, ..paused(replica, from_ms, until_ms) }
}

/// What the rules say of a log during which nothing was done to any replica.
pub(crate) fn check_log(accesses: Vec<Access>) -> Findings {
    check(&Evidence { accesses, ..Evidence::default() })
}

/// The rules that were broken, once for each violation.
pub(crate) fn broken(findings: &Findings) -> Vec<Rule> {
    findings.violations.iter().map(|violation| violation.rule).collect()
}
