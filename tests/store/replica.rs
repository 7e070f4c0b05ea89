//! One replica as the store sees it: it adopts a stream, reserves, appends, and remembers what it was told.

use std::{sync::Arc, time::Duration};

use headgate::{
    event::{Cursor, Event, EventId, IdKind, Payload, StreamName},
    permit::Attempt,
    store::{
        Abort, Adopt, Adopted, Answer, Append, Appended, Close, Ended, Epoch, EventStore, Extend, Fence, Gate, Holder,
        Patience, Reserve, Reserved, Reset, Row, Then, postgres::PostgresStore,
    },
};

/// The least interval, for tests that do not wait for it.
pub(crate) const GAP: Duration = Duration::from_millis(200);

#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) store: PostgresStore,
    pub(crate) stream: StreamName,
    pub(crate) uid: String,
    pub(crate) holder: Holder,
    pub(crate) epoch: Epoch,
    pub(crate) fence: Fence,
    pub(crate) cursor: Cursor,
    pub(crate) id_kind: Option<IdKind>,
    pub(crate) id_path: String,
    pub(crate) attempt: Attempt,
    pub(crate) part: i32,
    pub(crate) in_flight: Duration,
}

pub(crate) fn after(id: &str) -> Cursor {
    Cursor::After(EventId::new(id).expect("an id"))
}

pub(crate) fn event(id: &str, payload: &str) -> Event {
    Event {
        id: EventId::new(id).expect("an id"),
        event_type: Some("order.placed".to_owned()),
        subject: None,
        occurred_at: Some("2026-11-22T10:00:00.123456Z".parse().expect("a time")),
        payload: Payload::from_json_text(payload),
    }
}

/// Events with these ids, each with its id in the payload.
pub(crate) fn events<T: ToString>(ids: impl IntoIterator<Item = T>) -> Vec<Event> {
    ids.into_iter().map(|id| id.to_string()).map(|id| event(&id, &format!("{{\"id\": \"{id}\"}}"))).collect()
}

pub(crate) fn applied<T: std::fmt::Debug>(answer: Answer<T>) -> T {
    match answer {
        Answer::Applied(value) => value,
        other => panic!("expected Applied, got {other:?}"),
    }
}

pub(crate) fn refused<T: std::fmt::Debug>(answer: Answer<T>) -> Row {
    match answer {
        Answer::Refused(Some(row)) => row,
        other => panic!("expected Refused with the row, got {other:?}"),
    }
}

impl Replica {
    pub(crate) fn new(store: &PostgresStore, holder: &str, name: &str) -> Self {
        Self {
            store: store.clone(),
            stream: StreamName::new("shop", name),
            uid: "uid-1".to_owned(),
            holder: Holder::new(holder),
            epoch: Epoch(0),
            fence: Fence(0),
            cursor: Cursor::Start,
            id_kind: None,
            id_path: "$.id".to_owned(),
            attempt: Attempt::random(),
            part: 0,
            in_flight: Duration::from_mins(1),
        }
    }

    /// A replica that has adopted the stream.
    pub(crate) async fn adopting(store: &PostgresStore, holder: &str, name: &str) -> Self {
        let mut replica = Self::new(store, holder, name);
        replica.adopt().await;
        replica
    }

    pub(crate) fn adoption(&self) -> Adopt {
        Adopt {
            stream: self.stream.clone(),
            uid: self.uid.clone(),
            holder: self.holder.clone(),
            epoch: self.epoch,
            start: Cursor::Start,
            id_path: self.id_path.clone(),
            in_doubt: false,
        }
    }

    pub(crate) async fn adopt(&mut self) -> Adopted {
        let adopted = applied(self.store.adopt(self.adoption()).await.expect("an answer"));
        self.learn(&adopted);
        adopted
    }

    fn learn(&mut self, adopted: &Adopted) {
        (self.fence, self.epoch, self.cursor) = (adopted.fence, adopted.epoch, adopted.cursor.clone());
        self.id_kind = adopted.id_kind;
    }

    pub(crate) fn resetting_to(&self, epoch: i64, start: Cursor) -> Reset {
        Reset {
            stream: self.stream.clone(),
            uid: self.uid.clone(),
            holder: self.holder.clone(),
            fence: self.fence,
            epoch: Epoch(epoch),
            start,
            id_path: self.id_path.clone(),
        }
    }

    pub(crate) async fn reset(&mut self, epoch: i64) -> Adopted {
        let reset = self.resetting_to(epoch, Cursor::Start);
        let adopted = applied(self.store.reset(reset).await.expect("an answer"));
        self.learn(&adopted);
        adopted
    }

    pub(crate) fn reservation(&self) -> Reserve {
        Reserve {
            stream: self.stream.clone(),
            holder: self.holder.clone(),
            fence: self.fence,
            cursor: self.cursor.clone(),
            attempt: Attempt::random(),
            send_within: Duration::ZERO,
            in_flight: self.in_flight,
            min_interval: GAP,
            at_most_ahead: Duration::ZERO,
            ended: None,
            patience: Patience::default(),
        }
    }

    /// The attempt reserved last, known to be over.
    pub(crate) fn ended(&self, next_start_in: Duration) -> Ended {
        Ended { attempt: self.attempt, close: Close { next_start_in } }
    }

    /// Asks once.
    pub(crate) async fn try_reserve(&mut self) -> Answer<Reserved> {
        let reservation = self.reservation();
        let attempt = reservation.attempt;
        let answer = self.store.reserve(reservation).await.expect("an answer");
        if matches!(answer, Answer::Applied(_)) {
            (self.attempt, self.part) = (attempt, 0);
        }
        answer
    }

    /// Asks until the gate opens.
    pub(crate) async fn reserve(&mut self) -> Reserved {
        loop {
            match self.try_reserve().await {
                Answer::Applied(reserved) => return reserved,
                Answer::Locked => tokio::task::yield_now().await,
                Answer::Refused(Some(row)) => {
                    assert!(
                        row.fence == self.fence && row.cursor == self.cursor,
                        "waiting mends nothing when the row is {row:?}"
                    );
                    tokio::time::sleep(row.starts_in.max(row.in_flight_for)).await;
                }
                Answer::Refused(None) => panic!("no row"),
            }
        }
    }

    /// The kind of the stream, or what these events make of it.
    fn kind_with(&self, events: &[Event]) -> Option<IdKind> {
        let digits = events.iter().all(|event| event.id.is_digits()) && self.cursor.id().is_none_or(EventId::is_digits);
        self.id_kind.or(Some(if digits { IdKind::Number } else { IdKind::Opaque }))
    }

    /// An append of these events, at this replica's cursor and up to the last of them.
    pub(crate) fn appending(&self, events: Vec<Event>) -> Append {
        let cursor_after = events.last().map_or_else(|| self.cursor.clone(), |event| Cursor::After(event.id.clone()));
        Append {
            stream: self.stream.clone(),
            attempt: self.attempt,
            part: self.part,
            cursor_before: self.cursor.clone(),
            cursor_after,
            id_kind: self.kind_with(&events),
            events: events.into(),
            set_aside: Arc::new([]),
            not_ascending: false,
            looks_up: false,
            then: Then::GoesOn { in_flight: Duration::ZERO },
        }
    }

    /// The last append of an answer.
    pub(crate) fn closing(&self, events: Vec<Event>) -> Append {
        Append { then: Then::Closes(Close { next_start_in: Duration::ZERO }), ..self.appending(events) }
    }

    pub(crate) async fn append(&mut self, append: &Append) -> Appended {
        let appended = applied(self.store.append(append).await.expect("an answer"));
        self.cursor = append.cursor_after.clone();
        if append.events.len() + append.set_aside.len() > 0 {
            self.id_kind = self.id_kind.or(append.id_kind);
        }
        self.part = append.part + 1;
        appended
    }

    /// One whole poll that brings these events.
    pub(crate) async fn poll(&mut self, events: Vec<Event>) -> Appended {
        self.reserve().await;
        let append = self.closing(events);
        self.append(&append).await
    }

    pub(crate) async fn extend(&self, by: Duration) -> Answer<()> {
        let extend = Extend { stream: self.stream.clone(), attempt: self.attempt, by };
        self.store.extend(extend).await.expect("an answer")
    }

    pub(crate) async fn abort(&self, next_start_in: Duration) -> Answer<()> {
        let close = Close { next_start_in };
        let abort = Abort { stream: self.stream.clone(), attempt: self.attempt, close };
        self.store.abort(abort).await.expect("an answer")
    }
}
