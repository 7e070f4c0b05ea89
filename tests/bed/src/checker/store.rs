//! I5: the store holds exactly the events up to the cursor, in order, byte for byte.

use std::collections::{HashMap, HashSet};

use super::{Rule, Violation};
use crate::source::Feed;

/// What was found in the database about one stream.
#[derive(Debug, Clone)]
pub struct StoredStream {
    /// The source, as the access log names it.
    pub source: String,
    pub feed: Feed,
    /// The cursor of its row; none at the start.
    pub cursor: Option<String>,
    /// Its events in the order of their sequence.
    pub events: Vec<StoredEvent>,
    /// Events up to this index were never asked for (`start: AfterID`).
    pub begins_after: u64,
}

/// One stored event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    pub sequence: i64,
    pub id: String,
    /// SHA-256 of the payload's bytes, in hex.
    pub fingerprint: String,
    /// The attempt whose commit stored it, as `Headgate-Attempt` has it; none when no commit is known for it.
    pub attempt: Option<String>,
}

impl StoredStream {
    /// The events that are stored.
    pub(super) fn indexes(&self) -> HashSet<u64> {
        self.events.iter().filter_map(|event| self.feed.index(&event.id)).collect()
    }

    /// For each event, the attempt that brought it.
    pub(super) fn attempts(&self) -> HashMap<u64, &str> {
        self.events.iter().filter_map(|event| Some((self.feed.index(&event.id)?, event.attempt.as_deref()?))).collect()
    }
}

pub(super) fn check(stored: &StoredStream) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut broken = |what| {
        violations.push(Violation { rule: Rule::I5, source: stored.source.clone(), what, lines: Vec::new() });
    };
    let mut expected = stored.begins_after;
    let mut last_sequence = None;
    let mut seen = HashSet::new();
    for event in &stored.events {
        if last_sequence.is_some_and(|last| event.sequence <= last) {
            broken(format!("sequence {} does not follow {last_sequence:?}", event.sequence));
        }
        last_sequence = Some(event.sequence);
        let Some(index) = stored.feed.index(&event.id) else {
            broken(format!("id {} is not one of the source's", event.id));
            continue;
        };
        if !seen.insert(index) {
            broken(format!("event {index} is stored twice"));
            continue;
        }
        if index != expected + 1 {
            broken(format!("a hole: event {index} follows event {expected}"));
        }
        expected = index;
        if event.fingerprint != stored.feed.fingerprint(index) {
            broken(format!("the payload of event {index} is not what the source sent"));
        }
    }
    let cursor = stored.cursor.as_deref().map_or(Some(0), |id| stored.feed.index(id));
    if cursor != Some(expected) && !(cursor == Some(0) && stored.events.is_empty()) {
        broken(format!("the cursor is {cursor:?}, the last stored event {expected}"));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::{super::testing::stored, *};

    fn whats(stored: &StoredStream) -> Vec<String> {
        check(stored).into_iter().map(|violation| violation.what).collect()
    }

    #[test]
    fn a_whole_stream_is_clean() {
        assert!(check(&stored(5)).is_empty());
    }

    #[test]
    fn a_hole_is_found() {
        let mut stream = stored(5);
        stream.events.remove(2);
        assert_eq!(whats(&stream), ["a hole: event 4 follows event 2"]);
    }

    #[test]
    fn a_duplicate_is_found() {
        let mut stream = stored(5);
        let mut again = stream.events[1].clone();
        again.sequence = 6;
        stream.events.push(again);
        assert_eq!(whats(&stream), ["event 2 is stored twice"]);
    }

    #[test]
    fn a_changed_payload_is_found() {
        let mut stream = stored(5);
        stream.events[3].fingerprint = fingerprint_of_nothing();
        assert_eq!(whats(&stream), ["the payload of event 4 is not what the source sent"]);
    }

    #[test]
    fn a_cursor_that_is_not_the_last_event_is_found() {
        let mut stream = stored(5);
        stream.cursor = Some("4".into());
        assert_eq!(whats(&stream), ["the cursor is Some(4), the last stored event 5"]);
    }

    #[test]
    fn a_foreign_id_is_found() {
        let mut stream = stored(1);
        stream.events[0].id = "not-a-number".into();
        stream.cursor = None;
        assert_eq!(whats(&stream)[0], "id not-a-number is not one of the source's");
    }

    fn fingerprint_of_nothing() -> String {
        crate::source::fingerprint(b"")
    }
}
