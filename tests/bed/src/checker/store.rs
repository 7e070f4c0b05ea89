//! I5: the store holds exactly the events up to the cursor, in order, byte for byte, each from the request that
//! delivered it.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Rule, Violation};
use crate::{access_log::Access, source::Feed};

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

/// Each stored event has a commit, whose attempt delivered it. Without that nothing tells what was committed before it
/// came again.
pub(super) fn origins(stored: &StoredStream, accesses: &[Access]) -> Vec<Violation> {
    let mut requests: HashMap<&str, Vec<&Access>> = HashMap::new();
    for access in accesses.iter().filter(|access| access.source == stored.source) {
        requests.entry(&access.attempt).or_default().push(access);
    }
    let delivered = |attempt: &str, index: u64| {
        let mut runs = requests.get(attempt).into_iter().flatten().flat_map(|access| &access.delivered);
        runs.any(|run| (run.first..=run.last).contains(&index))
    };
    // One violation for each attempt, not for each event.
    let mut strange: BTreeMap<Option<&str>, (u64, u64)> = BTreeMap::new();
    for event in &stored.events {
        // What is not one of the source's is found anyway.
        let Some(index) = stored.feed.index(&event.id) else { continue };
        let attempt = event.attempt.as_deref();
        if !attempt.is_some_and(|attempt| delivered(attempt, index)) {
            let range = strange.entry(attempt).or_insert((index, index));
            *range = (range.0.min(index), range.1.max(index));
        }
    }
    let violation = |(attempt, (first, last)): (Option<&str>, (u64, u64))| {
        let what = match attempt {
            None => format!("no commit is known for what is stored of events {first} to {last}"),
            Some(attempt) => {
                format!("attempt {attempt} stored of events {first} to {last} what it did not deliver")
            }
        };
        Violation { rule: Rule::I5, source: stored.source.clone(), what, lines: Vec::new() }
    };
    strange.into_iter().map(violation).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{access, stored, stored_under},
        *,
    };

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

    /// What is said of the origins of `stored` when attempt 01 delivered 1 to 10.
    fn origins_of(stored: &StoredStream) -> Vec<String> {
        let accesses = [
            access("orders").under("01").delivering(1, 4).delivering(5, 10).build(),
            access("bills").under("02").delivering(1, 10).build(),
        ];
        origins(stored, &accesses).into_iter().map(|violation| violation.what).collect()
    }

    #[test]
    fn an_event_from_the_request_that_delivered_it_is_clean() {
        assert_eq!(origins_of(&stored_under("01", 10)), [] as [&str; 0]);
    }

    #[test]
    fn an_event_without_a_commit_is_found() {
        let expected = "no commit is known for what is stored of events 1 to 10";
        assert_eq!(origins_of(&stored(10)), [expected]);
    }

    #[test]
    fn an_event_under_an_attempt_that_did_not_deliver_it_is_found() {
        let of_another_source = "attempt 02 stored of events 1 to 10 what it did not deliver";
        assert_eq!(origins_of(&stored_under("02", 10)), [of_another_source]);
        let further_than_it_went = "attempt 01 stored of events 11 to 12 what it did not deliver";
        assert_eq!(origins_of(&stored_under("01", 12)), [further_than_it_went]);
    }

    fn fingerprint_of_nothing() -> String {
        crate::source::fingerprint(b"")
    }
}
