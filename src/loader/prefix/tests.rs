use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::{
    event::{Event, Payload},
    loader::testing::{event, number},
};

fn after(text: &str) -> Cursor {
    Cursor::After(EventId::new(text).expect("a valid id"))
}

fn page(requested: Cursor, limit: u32) -> Prefix {
    Prefix::new(requested, None, Some(limit), true)
}

fn push(page: &mut Prefix, ids: &[&str]) {
    for id in ids {
        page.push(Item::Event(event(id))).expect("a usable item");
    }
}

/// The ids of a batch in its order.
fn ids(batch: &Batch) -> String {
    batch.events.iter().map(|event| event.id.as_str()).collect::<Vec<_>>().join(" ")
}

fn with_payload(id: &str, payload: &str) -> Item {
    Item::Event(Event { payload: Payload::from_json_text(payload), ..event(id) })
}

#[test]
fn an_ascending_prefix_may_be_committed_before_the_page_ends() {
    let mut page = page(after("3"), 1000);
    push(&mut page, &["4", "9", "10"]);
    let first = page.take();
    assert_eq!((ids(&first), first.cursor_before, first.cursor_after), ("4 9 10".to_owned(), after("3"), after("10")));
    push(&mut page, &["12"]);
    assert_eq!(page.finish(true), Finish::default());
    let last = page.take();
    assert_eq!((ids(&last), last.cursor_before, last.cursor_after), ("12".to_owned(), after("10"), after("12")));
    assert_eq!(page.fill(), Fill::Partial);
}

#[test]
fn ids_at_or_below_the_cursor_are_dropped_and_counted() {
    let mut page = page(after("10"), 1000);
    push(&mut page, &["9", "10", "11", "007"]);
    page.finish(true);
    assert_eq!(ids(&page.take()), "11");
    assert_eq!((page.repeats(), page.seen(), page.is_out_of_order()), (3, 4, false));
}

#[test]
fn a_full_page_of_known_events_is_rejected_because_it_would_come_again_for_ever() {
    let mut page = page(after("10"), 3);
    push(&mut page, &["8", "9", "10"]);
    assert!(matches!(page.finish(true).rejected, Some(FetchError::CursorRejected { .. })));
    assert_eq!(page.cursor(), after("10"));
}

#[test]
fn a_page_that_does_not_ascend_is_sorted_and_taken_when_it_is_provably_complete() {
    let mut page = page(Cursor::Start, 1000);
    push(&mut page, &["5", "20", "3", "11"]);
    assert_eq!(page.ready(), 0, "nothing may be committed before the end");
    assert_eq!(page.finish(true), Finish::default());
    let batch = page.take();
    assert_eq!((ids(&batch), batch.cursor_after), ("3 5 11 20".to_owned(), after("20")));
    assert!(page.is_out_of_order());
}

#[test]
fn a_full_page_that_does_not_ascend_is_rejected_and_the_cursor_stays() {
    let mut page = page(after("1"), 3);
    push(&mut page, &["5", "3", "4"]);
    let finish = page.finish(true);
    let rejected = finish.rejected.expect("a rejection").to_string();
    assert!(rejected.contains("(item 2 is smaller than one before it)"), "{rejected}");
    assert_eq!(finish.dropped, 3);
    assert!(!page.has_pending());
    assert_eq!(page.cursor(), after("1"));
}

#[test]
fn a_full_page_that_ascends_is_taken_also_of_a_stream_that_once_did_not() {
    let mut page = Prefix::new(after("1"), None, Some(3), false);
    push(&mut page, &["3", "4", "5"]);
    assert_eq!(page.finish(true), Finish::default());
    assert_eq!((ids(&page.take()).as_str(), page.cursor()), ("3 4 5", after("5")));
}

#[test]
fn without_a_limit_no_page_that_does_not_ascend_is_provably_complete() {
    let mut page = Prefix::new(Cursor::Start, None, None, true);
    push(&mut page, &["2", "1"]);
    assert!(page.finish(true).rejected.is_some());
}

#[test]
fn an_id_that_a_committed_prefix_has_passed_is_stored_and_the_cursor_does_not_go_back() {
    for limit in [1000, 4] {
        let mut page = page(after("1"), limit);
        push(&mut page, &["10", "20"]);
        assert_eq!(page.take().cursor_after, after("20"));
        push(&mut page, &["15", "30"]);
        let finish = page.finish(true);
        let batch = page.take();
        if limit == 1000 {
            assert_eq!((ids(&batch), batch.cursor_after), ("15 30".to_owned(), after("30")));
        } else {
            assert!(finish.rejected.is_some());
            assert_eq!((ids(&batch), batch.cursor_after), ("15".to_owned(), after("20")), "30 will be asked for again");
        }
    }
}

#[test]
fn a_cut_page_keeps_its_prefix_unless_the_stream_is_known_not_to_ascend() {
    let mut ascending = page(Cursor::Start, 1000);
    push(&mut ascending, &["1", "2"]);
    assert_eq!(ascending.finish(false).dropped, 0);
    assert_eq!(ids(&ascending.take()), "1 2");

    let mut known = Prefix::new(Cursor::Start, None, Some(1000), false);
    push(&mut known, &["5", "7"]);
    assert_eq!(known.ready(), 0);
    assert_eq!(known.finish(false).dropped, 2);
    assert_eq!(known.cursor(), Cursor::Start);
}

#[test]
fn opaque_ids_are_taken_in_the_order_of_the_feed() {
    let mut page = page(after("b"), 1000);
    push(&mut page, &["b", "z", "c"]);
    page.finish(true);
    let batch = page.take();
    assert_eq!((ids(&batch), batch.cursor_after), ("z c".to_owned(), after("c")));
    assert_eq!(page.repeats(), 1, "the event at the cursor came again");
}

#[test]
fn the_event_at_the_cursor_is_a_repeat_where_it_comes_first_and_held_for_the_store_to_judge_behind_others() {
    let mut page = page(after("b"), 1000);
    push(&mut page, &["b", "b", "a", "b", "c"]);
    let batch = page.take();
    assert_eq!((page.repeats(), ids(&batch).as_str()), (2, "a b c"));
    let (before, cursor) = batch.before_the_cursors().expect("it is there");
    assert_eq!((before.len(), cursor.as_str()), (1, "b"));
    page.overlaps(&batch, Overlap::Untold);
    push(&mut page, &["d"]);
    assert_eq!((page.cursor(), page.flows()), (after("b"), false));
    let finish = page.finish(true);
    assert!(matches!(finish.rejected, Some(FetchError::CursorRejected { .. })));
    assert_eq!((finish.dropped, page.has_pending()), (1, false));
}

#[test]
fn an_opaque_id_that_comes_again_after_its_commit_is_a_repeat() {
    let mut page = page(Cursor::Start, 1000);
    push(&mut page, &["a", "b"]);
    assert_eq!(ids(&page.take()), "a b");
    push(&mut page, &["a", "c"]);
    assert_eq!((page.repeats(), ids(&page.take()).as_str()), (1, "c"));
}

#[test]
fn an_opaque_id_that_comes_again_with_other_content_is_set_aside_and_leaves_the_cursor_where_it_is() {
    let mut page = page(Cursor::Start, 1000);
    push(&mut page, &["a", "b"]);
    page.push(with_payload("a", "{}")).expect("set aside");
    let batch = page.take();
    assert_eq!((ids(&batch).as_str(), batch.set_aside.len(), batch.cursor_after), ("a b", 1, after("b")));

    // Also when the first of the id is committed.
    push(&mut page, &["c"]);
    assert_eq!(page.take().cursor_after, after("c"));
    page.push(with_payload("b", "{}")).expect("set aside");
    push(&mut page, &["b"]);
    let batch = page.take();
    assert_eq!((batch.events.len(), batch.set_aside.len(), batch.cursor_after), (0, 1, after("c")));
    assert_eq!(batch.set_aside[0].reason, SetAsideReason::ConflictingEvent);
    assert_eq!((page.repeats(), page.cursor()), (1, after("c")));
}

#[rstest]
#[case::the_event_was_last(&["deep", "c"], "c")]
#[case::the_event_was_first(&["c", "deep"], "deep")]
fn a_batch_that_was_given_back_moves_the_cursor_as_before(#[case] feed: &[&str], #[case] last: &str) {
    let mut page = page(after("b"), 1000);
    for id in feed {
        page.push(if *id == "c" { Item::Event(event("c")) } else { set_aside(id) }).expect("an item");
    }
    let batch = page.take();
    assert_eq!(batch.cursor_after, after(last));
    page.give_back(&batch);
    // A copy that came meanwhile.
    page.push(with_payload("c", "{}")).expect("set aside");
    page.finish(true);
    let batch = page.take();
    assert_eq!((batch.cursor_after.clone(), page.cursor()), (after(last), after(last)));
    assert_eq!((ids(&batch).as_str(), batch.set_aside.len()), ("c", 2));
}

#[test]
fn the_same_id_twice_counts_once_and_other_content_is_set_aside() {
    let mut page = page(Cursor::Start, 1000);
    push(&mut page, &["1", "1"]);
    page.push(with_payload("1", "{}")).expect("set aside");
    push(&mut page, &["2"]);
    page.finish(true);
    let batch = page.take();
    assert_eq!(ids(&batch), "1 2");
    assert_eq!(batch.set_aside.len(), 1);
    assert_eq!(batch.set_aside[0].reason, SetAsideReason::ConflictingEvent);
}

#[test]
fn an_item_that_was_set_aside_moves_the_cursor_as_any_other() {
    let mut page = page(Cursor::Start, 1000);
    push(&mut page, &["1"]);
    page.push(set_aside("2")).expect("an item");
    page.finish(true);
    assert_eq!(page.take().cursor_after, after("2"));
}

#[test]
fn a_large_page_is_taken_in_statements_of_bounded_size() {
    let mut page = page(Cursor::Start, 10_000);
    for id in 1..=2500 {
        page.push(Item::Event(number(id))).expect("a usable item");
    }
    page.finish(true);
    let sizes: Vec<_> = std::iter::from_fn(|| page.has_pending().then(|| page.take().len())).collect();
    assert_eq!(sizes, [1000, 1000, 500]);
}

fn set_aside(id: &str) -> Item {
    let id = EventId::new(id).expect("a valid id");
    Item::SetAside(SetAside { id, reason: SetAsideReason::NestedTooDeep, item: Box::default() })
}

#[test]
fn a_batch_that_was_given_back_comes_again_with_one_event_more_or_at_the_end_of_the_page() {
    let mut page = page(after("b"), 10_000);
    page.push(set_aside("deep")).expect("an item");
    let batch = page.take();
    assert_eq!((batch.len(), batch.ends_page), (1, false));
    page.give_back(&batch);
    assert_eq!((page.ready(), page.cursor()), (0, after("b")));
    // What is handed out again is never the same.
    for number in 0..900 {
        page.push(set_aside(&format!("deep-{number}"))).expect("an item");
    }
    assert_eq!(page.ready(), 0);
    push(&mut page, &["c"]);
    let batch = page.take();
    assert_eq!((ids(&batch).as_str(), batch.set_aside.len(), batch.cursor_before.clone()), ("c", 901, after("b")));
    page.give_back(&batch);
    assert_eq!(page.ready(), 0);
    page.finish(true);
    let batch = page.take();
    assert_eq!((batch.len(), batch.ends_page), (902, true));
}

#[test]
fn a_statement_that_is_full_of_what_is_set_aside_waits_for_no_event() {
    let mut page = page(after("b"), 10_000);
    page.push(set_aside("deep")).expect("an item");
    let batch = page.take();
    assert!(batch.may_wait);
    page.give_back(&batch);
    for number in 1..1500 {
        page.push(set_aside(&format!("deep-{number}"))).expect("an item");
    }
    let batch = page.take();
    assert_eq!((batch.len(), batch.may_wait), (1000, false));
    assert_eq!(page.take().len(), 500);
}

#[test]
fn what_follows_a_batch_that_was_given_back_and_then_committed_waits_for_nothing() {
    let mut page = page(after("b"), 1000);
    push(&mut page, &["c"]);
    let batch = page.take();
    page.give_back(&batch);
    push(&mut page, &["d"]);
    assert_eq!(ids(&page.take()), "c d");
    push(&mut page, &["e"]);
    assert_eq!(ids(&page.take()), "e");
}

/// A page as a source may send it: which ids, in which order, how it ends, and when prefixes are taken.
#[derive(Debug, Clone)]
struct Arrival {
    requested: u64,
    ids: Vec<u64>,
    limit: u32,
    progressive: bool,
    read_to_end: bool,
    takes: Vec<bool>,
}

fn arrivals() -> impl Strategy<Value = Arrival> {
    (0..20u64, proptest::collection::vec(1..60u64, 0..40), 1..60u32, any::<bool>(), any::<bool>(), any::<bool>())
        .prop_flat_map(|(requested, mut ids, limit, progressive, read_to_end, sorted)| {
            if sorted {
                ids.sort_unstable();
            }
            let takes = proptest::collection::vec(any::<bool>(), ids.len());
            takes.prop_map(move |takes| Arrival { requested, ids: ids.clone(), limit, progressive, read_to_end, takes })
        })
}

proptest! {
    #[test]
    fn no_page_leaves_a_hole_below_the_cursor_or_stores_what_it_was_not_asked_for(arrival in arrivals()) {
        let requested = after(&arrival.requested.to_string());
        let mut page = Prefix::new(requested.clone(), None, Some(arrival.limit), arrival.progressive);
        let mut batches = Vec::new();
        for (id, take) in arrival.ids.iter().zip(&arrival.takes) {
            page.push(Item::Event(number(*id))).expect("numbers are usable");
            if *take && page.ready() > 0 {
                batches.push(page.take());
            }
        }
        page.finish(arrival.read_to_end);
        while page.has_pending() {
            batches.push(page.take());
        }
        let mut cursor = requested;
        let mut stored = Vec::new();
        for batch in &batches {
            prop_assert_eq!(&batch.cursor_before, &cursor);
            let (before, now) = (number_of(&cursor), number_of(&batch.cursor_after));
            prop_assert!(now >= before, "the cursor goes back from {} to {}", before, now);
            cursor = batch.cursor_after.clone();
            stored.extend(batch.events.iter().map(|event| event.id.as_str().parse::<u64>().expect("a number")));
        }
        let cursor = number_of(&cursor);
        prop_assert!(stored.iter().all(|id| *id > arrival.requested && *id <= cursor));
        for id in &arrival.ids {
            let due = *id > arrival.requested && *id <= cursor;
            prop_assert!(!due || stored.contains(id), "{} is below the cursor {} and not stored", id, cursor);
        }
        let complete = arrival.read_to_end && arrival.ids.len() < arrival.limit as usize;
        let wanted = arrival.ids.iter().filter(|id| **id > arrival.requested);
        prop_assert!(!complete || wanted.clone().all(|id| stored.contains(id)));
    }
}

fn number_of(cursor: &Cursor) -> u64 {
    cursor.id().map_or(0, |id| id.as_str().parse().expect("a number"))
}

proptest! {
    #[test]
    fn what_is_kept_of_opaque_ids_counts_to_the_end_of_the_page_whatever_is_committed(
        lengths in proptest::collection::vec(1..40usize, 1..200),
        commits in proptest::collection::vec(any::<bool>(), 200),
    ) {
        let mut page = page(Cursor::Start, 1000);
        let mut texts = 0;
        for ((number, length), commit) in (0..).zip(lengths.iter().copied()).zip(commits) {
            let id = format!("id-{number:0length$}");
            push(&mut page, &[&id, &id]);
            texts += id.len() as u64;
            if commit {
                page.take();
            }
        }
        prop_assert_eq!(page.remembered(), texts + lengths.len() as u64 * opaque_ids::BESIDE_ITS_TEXT);
    }
}

#[test]
fn numbers_are_compared_and_not_kept() {
    let mut page = page(Cursor::Start, 1000);
    push(&mut page, &["1", "2", "3"]);
    assert_eq!(page.remembered(), 0);
}

mod end;
mod kind;
