//! An append as it will be stored: each id once, the ids that fit as numbers, and what was set aside. No IO.

use std::{
    cmp::Ordering,
    collections::{HashMap, hash_map::Entry},
};

use crate::{
    event::{Event, EventId, IdKind, SetAsideReason},
    store::Append,
};

/// The largest id that becomes its own sequence. Below the end of bigint (9.2e18), so that the count of a stream whose
/// ids outgrow it has room to go on above its highest sequence; snowflakes reach it in the year 2070.
const LARGEST_SEQUENCE: i64 = 8_000_000_000_000_000_000;

/// One item beside the events.
#[derive(Debug, Clone, Copy)]
pub(super) struct Aside<'a> {
    pub(super) id: &'a EventId,
    pub(super) reason: SetAsideReason,
    pub(super) item: &'a [u8],
}

#[derive(Debug, Clone)]
pub(super) struct Batch<'a> {
    pub(super) append: &'a Append,
    pub(super) events: Vec<&'a Event>,
    /// The sequence of each event, if its id fits.
    pub(super) numbers: Vec<Option<i64>>,
    pub(super) aside: Vec<Aside<'a>>,
    /// Events that this append, or its page before it, holds twice: with the same content and with other content.
    pub(super) repeated: i32,
    pub(super) conflicting: i32,
}

impl<'a> Batch<'a> {
    pub(super) fn of(append: &'a Append) -> Self {
        let mut batch = Self {
            append,
            events: append.events.iter().collect(),
            numbers: numbers(append, append.events.iter()),
            aside: append
                .set_aside
                .iter()
                .map(|item| Aside { id: &item.id, reason: item.reason, item: &item.item })
                .collect(),
            repeated: 0,
            conflicting: found_conflicting(append),
        };
        let ascends = batch.numbers.windows(2).all(|pair| pair[0].is_some() && pair[0] < pair[1]);
        if !ascends {
            batch.keep_each_id_once();
        }
        batch
    }

    fn keep_each_id_once(&mut self) {
        let kind = self.append.id_kind;
        let significant = |id: &'a EventId| kind.map_or(id.as_str(), |kind| kind.significant(id));
        let mut seen: HashMap<&str, &Event> = HashMap::with_capacity(self.events.len());
        let mut kept = Vec::with_capacity(self.events.len());
        for event in std::mem::take(&mut self.events) {
            match seen.entry(significant(&event.id)) {
                Entry::Vacant(entry) => {
                    entry.insert(event);
                    kept.push(event);
                }
                Entry::Occupied(first) if first.get().same_content(event) => self.repeated += 1,
                Entry::Occupied(_) => {
                    self.conflicting += 1;
                    self.aside.push(set_aside(event, SetAsideReason::ConflictingEvent));
                }
            }
        }
        self.numbers = numbers(self.append, kept.iter().copied());
        self.events = kept;
    }

    /// Sets the events aside for which `reason` gives one.
    pub(super) fn set_aside_where(&mut self, reason: impl Fn(usize) -> Option<SetAsideReason>) {
        let mut kept = Vec::with_capacity(self.events.len());
        for (position, event) in std::mem::take(&mut self.events).into_iter().enumerate() {
            match reason(position) {
                None => kept.push(event),
                Some(reason) => self.aside.push(set_aside(event, reason)),
            }
        }
        self.numbers = numbers(self.append, kept.iter().copied());
        self.events = kept;
    }

    /// Whether every id can be a sequence; if not, the whole append is counted.
    pub(super) fn ids_fit(&self) -> bool {
        self.numbers.iter().all(Option::is_some)
    }

    /// Whether it is known to hold stored events, or holds a number at or below the cursor that it moves: a part of the
    /// same response may have stored it, and where the sequence is a count, the sequence does not show it.
    pub(super) fn looks_back(&self) -> bool {
        if self.append.looks_up {
            return true;
        }
        let Some((cursor, kind)) = self.append.cursor_before.id().zip(self.append.id_kind) else { return false };
        self.events.iter().any(|event| kind.compare(&event.id, cursor).is_some_and(Ordering::is_le))
    }

    /// How the ids compare, if it holds any: an append of nothing decides nothing.
    pub(super) fn id_kind(&self) -> Option<IdKind> {
        self.append.id_kind.filter(|_| self.events.len() + self.aside.len() > 0)
    }

    /// Whether it holds opaque ids that an epoch before, in which all were digits, may have stored as numbers.
    pub(super) fn has_opaque_digits(&self) -> bool {
        self.append.id_kind == Some(IdKind::Opaque) && self.events.iter().any(|event| event.id.is_digits())
    }
}

fn set_aside(event: &Event, reason: SetAsideReason) -> Aside<'_> {
    Aside { id: &event.id, reason, item: event.payload.as_str().as_bytes() }
}

fn numbers<'a>(append: &Append, events: impl Iterator<Item = &'a Event>) -> Vec<Option<i64>> {
    let is_number = append.id_kind == Some(IdKind::Number);
    events.map(|event| number(&event.id).filter(|_| is_number)).collect()
}

/// The sequence of an id of a stream of numbers, if it fits.
fn number(id: &EventId) -> Option<i64> {
    if !id.is_digits() {
        return None;
    }
    id.as_str().parse().ok().filter(|number| *number <= LARGEST_SEQUENCE)
}

/// The id, unless it is exactly the text of its number: then the sequence says it all.
pub(super) fn text_beside_number(event: &Event, number: Option<i64>) -> Option<&str> {
    let said_by_number = number.is_some() && is_text_of_number(&event.id);
    (!said_by_number).then_some(event.id.as_str())
}

/// The sequence that says an id wherever it was taken for a number.
pub(super) fn saying_sequence(id: &EventId) -> Option<i64> {
    number(id).filter(|_| is_text_of_number(id))
}

fn is_text_of_number(id: &EventId) -> bool {
    id.as_str() == "0" || !id.as_str().starts_with('0')
}

/// What the index of ids holds of one, whatever its kind (`event_id` in migration 2).
pub(super) fn indexed(id: &EventId) -> &str {
    id.as_str().trim_start_matches('0')
}

/// Other content that the loader found in the page.
fn found_conflicting(append: &Append) -> i32 {
    let conflicting = append.set_aside.iter().filter(|item| item.reason == SetAsideReason::ConflictingEvent);
    i32::try_from(conflicting.count()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        event::{Cursor, Payload, SetAside, StreamName},
        permit::Attempt,
        store::Then,
    };

    fn event(id: &str, payload: &str) -> Event {
        Event {
            id: EventId::new(id).expect("a valid id"),
            event_type: None,
            subject: None,
            occurred_at: None,
            payload: Payload::from_json_text(payload),
        }
    }

    fn append(id_kind: IdKind, events: &[(&str, &str)]) -> Append {
        Append {
            stream: StreamName::new("shop", "orders"),
            attempt: Attempt::random(),
            part: 0,
            cursor_before: Cursor::Start,
            cursor_after: Cursor::Start,
            id_kind: Some(id_kind),
            events: events.iter().map(|(id, payload)| event(id, payload)).collect(),
            set_aside: Arc::new([]),
            not_ascending: false,
            looks_up: false,
            then: Then::GoesOn { in_flight: Duration::ZERO },
        }
    }

    fn ids<'a>(batch: &Batch<'a>) -> Vec<&'a str> {
        batch.events.iter().map(|event| event.id.as_str()).collect()
    }

    #[test]
    fn other_content_that_was_found_in_the_page_is_told() {
        let conflict = SetAside {
            id: EventId::new("1").expect("a valid id"),
            reason: SetAsideReason::ConflictingEvent,
            item: Box::from(*b"2"),
        };
        let deep = SetAside { reason: SetAsideReason::NestedTooDeep, ..conflict.clone() };
        let append = Append { set_aside: Arc::new([conflict, deep]), ..append(IdKind::Number, &[("1", "1")]) };
        assert_eq!((Batch::of(&append).conflicting, Batch::of(&append).aside.len()), (1, 2));
    }

    #[test]
    fn an_id_that_comes_twice_in_one_append_is_kept_once() {
        let numbers = append(IdKind::Number, &[("2", "1"), ("3", "1"), ("2", "1"), ("002", "1"), ("3", "2")]);
        let batch = Batch::of(&numbers);
        assert_eq!(ids(&batch), ["2", "3"]);
        assert_eq!((batch.repeated, batch.conflicting), (2, 1));
        assert_eq!(batch.aside.len(), 1);
        assert_eq!(batch.aside[0].item, b"2");
    }

    #[test]
    fn digits_among_opaque_ids_are_no_numbers() {
        let events = [("b", "1"), ("2", "1"), ("002", "1"), ("2", "1"), ("1", "1")];
        let opaque = append(IdKind::Opaque, &events);
        let batch = Batch::of(&opaque);
        assert_eq!(ids(&batch), ["b", "2", "002", "1"]);
        assert_eq!((batch.repeated, batch.conflicting, batch.ids_fit()), (1, 0, false));
        let digits = append(IdKind::Opaque, &[("1", "1"), ("2", "1")]);
        let digits = Append { cursor_before: Cursor::After(event("3", "1").id), ..digits };
        let batch = Batch::of(&digits);
        assert!(!batch.ids_fit() && !batch.looks_back(), "nothing here is below anything");
        assert_eq!(text_beside_number(batch.events[0], batch.numbers[0]), Some("1"));
    }

    #[test]
    fn ids_fit_as_long_as_a_count_has_room_above_them() {
        assert_eq!(number(&event("8000000000000000000", "1").id), Some(LARGEST_SEQUENCE));
        assert_eq!(number(&event("8000000000000000001", "1").id), None);
        assert_eq!(number(&event(&"9".repeat(40), "1").id), None);
        assert_eq!(number(&event("01JD8Z6K0V8M", "1").id), None);
    }

    #[test]
    fn only_a_text_that_differs_from_its_number_is_stored_beside_it() {
        for (id, beside) in [("7", None), ("0", None), ("007", Some("007")), ("00", Some("00")), ("x7", Some("x7"))] {
            let event = event(id, "1");
            assert_eq!(text_beside_number(&event, number(&event.id)), beside, "{id}");
        }
    }
}
