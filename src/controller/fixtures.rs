//! Sources and reports as tests tell of them.

use std::{sync::OnceLock, time::Duration};

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{
        AcceptedReason, EventSource, EventSourceSpec, ReachableReason, Source, StoredReason,
        event_source::{DeletionPolicy, Http},
    },
    clock::Moment,
    event::{Cursor, EventId, StreamName},
    loader::report::{LastCaughtUp, Report, Verdict},
    ownership::Holding,
    store::{Epoch, Holder},
};

pub(super) fn stream(name: &str) -> StreamName {
    StreamName::new("shop", name)
}

/// Noon of the day on which all tests happen.
pub(super) fn noon() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().expect("a timestamp")
}

pub(super) fn noon_plus(seconds: i64) -> Timestamp {
    noon() + SignedDuration::from_secs(seconds)
}

/// The same on the clock that nobody sets.
pub(super) fn moment_of(time: Timestamp) -> Moment {
    static NOON: OnceLock<Moment> = OnceLock::new();
    let noon = *NOON.get_or_init(Moment::now);
    let since = time.duration_since(self::noon()).try_into().expect("a time after noon");
    Moment { at: noon.at + since, ..noon }
}

/// An object as an API server would store it, a minute old.
pub(super) fn object(name: &str) -> EventSource {
    let url = format!("https://{name}.test/events");
    let mut object = EventSource::new(name, EventSourceSpec::over_http(Http::at(&url)));
    object.metadata.namespace = Some("shop".to_owned());
    object.metadata.uid = Some(format!("uid-of-{name}"));
    object.metadata.generation = Some(1);
    object.metadata.resource_version = Some("1".to_owned());
    object.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(noon_plus(-60)));
    object
}

pub(super) fn source(name: &str) -> Source {
    Source::from_object(&object(name)).expect("a stored object")
}

/// A source of this replica whose row was just adopted and that was not asked yet.
pub(super) fn held(name: &str) -> Report {
    let holding = Holding {
        stream: stream(name),
        holder: Holder::new("headgate-0#a1"),
        lease_name: format!("shop.{name}"),
        acquired_at: noon(),
    };
    Report {
        epoch: Some(Epoch(0)),
        cursor: Some(Cursor::Start),
        accepted: Some(verdict(AcceptedReason::Valid, "the spec is valid")),
        ..Report::of(holding, 1, format!("uid-of-{name}"))
    }
}

pub(super) fn verdict<R>(reason: R, message: &str) -> Verdict<R> {
    Verdict { reason, message: message.to_owned() }
}

/// What happened to a source, as a sentence: `held("orders").polled_at(3).caught_up()`.
pub(super) trait Story: Sized {
    fn polled_at(self, second: i64) -> Self;
    fn after_id(self, id: u64) -> Self;
    fn caught_up(self) -> Self;
    fn backfilling(self) -> Self;
    fn failing(self, times: u32, reason: ReachableReason) -> Self;
    fn not_accepted(self, reason: AcceptedReason) -> Self;
    fn stored(self, reason: StoredReason) -> Self;
}

impl Story for Report {
    fn polled_at(mut self, second: i64) -> Self {
        self.last_poll = Some(noon_plus(second));
        self.last_success = self.last_poll;
        self.consecutive_failures = 0;
        self.reachable = Some(verdict(ReachableReason::PollSucceeded, "the last poll succeeded"));
        self
    }

    fn after_id(mut self, id: u64) -> Self {
        self.cursor = Some(Cursor::After(EventId::new(&id.to_string()).expect("an id")));
        self.events_stored = id;
        self.stored(StoredReason::AppendSucceeded)
    }

    fn caught_up(mut self) -> Self {
        self.caught_up = Some(true);
        self.last_caught_up = self.last_success.map(|at| LastCaughtUp::before(moment_of(at), Duration::ZERO));
        self
    }

    fn backfilling(mut self) -> Self {
        self.caught_up = Some(false);
        self
    }

    fn failing(mut self, times: u32, reason: ReachableReason) -> Self {
        self.consecutive_failures = times;
        self.reachable = Some(verdict(reason, "the last poll failed; the next is due soon"));
        self
    }

    fn not_accepted(mut self, reason: AcceptedReason) -> Self {
        self.accepted = Some(verdict(reason, "Secret `orders-api` does not exist"));
        self
    }

    fn stored(mut self, reason: StoredReason) -> Self {
        self.stored = Some(verdict(reason, "about the last append"));
        self
    }
}

/// The same object with `deletionPolicy: Delete`.
pub(super) fn deleting_its_events(mut source: Source) -> Source {
    source.spec.deletion_policy = DeletionPolicy::Delete;
    source
}
