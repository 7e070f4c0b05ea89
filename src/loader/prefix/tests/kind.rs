//! Of which kind a stream is, and what digits are in one that is opaque.

use super::*;

fn opaque(requested: Cursor) -> Prefix {
    Prefix::new(requested, Some(IdKind::Opaque), Some(1000), true)
}

#[test]
fn digits_in_an_opaque_stream_are_taken_in_feed_order_and_never_compared() {
    let mut page = opaque(after("507199222222"));
    push(&mut page, &["507199222222", "507199111111", "5f07", "000000000001"]);
    let batch = page.take();
    assert_eq!(ids(&batch), "507199111111 5f07 000000000001");
    assert_eq!((batch.cursor_after, page.repeats()), (after("000000000001"), 1), "of the event at the cursor alone");
    push(&mut page, &["1", "999999999999", "01", "1"]);
    assert!(!page.is_out_of_order());
    assert_eq!(page.finish(true), Finish::default());
    let batch = page.take();
    assert_eq!((ids(&batch).as_str(), batch.cursor_after.clone()), ("1 999999999999 01", after("01")));
    assert_eq!(page.repeats(), 2);
}

#[test]
fn what_comes_before_the_event_at_the_cursor_is_left_to_the_store_also_where_they_are_digits() {
    for kind in [Some(IdKind::Opaque), None] {
        let mut page = Prefix::new(after("5"), kind, Some(1000), true);
        push(&mut page, &["7", "5", "4", "a"]);
        let batch = page.take();
        let (before, cursor) = batch.before_the_cursors().expect("it is here");
        assert_eq!((before.len(), cursor.as_str(), ids(&batch).as_str()), (1, "5", "7 5 4 a"));
    }
}

#[test]
fn a_stream_of_numbers_holds_no_other_id_and_its_failure_says_how_to_read_on() {
    let mut known = Prefix::new(Cursor::Start, Some(IdKind::Number), Some(10), true);
    let mut begun = page(Cursor::Start, 1000);
    push(&mut begun, &["1"]);
    assert_eq!(ids(&begun.take()), "1");
    for page in [&mut known, &mut begun] {
        let number = usize::try_from(page.seen()).expect("a small page");
        match page.push(Item::Event(event("x"))) {
            Err(FetchError::MappingFailed { item, detail }) => {
                assert_eq!(item, number + 1, "the first is item 1, as where it was decoded");
                for word in ["spec.epoch", "AfterID", "status.cursor"] {
                    assert!(detail.contains(word), "{detail}");
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn who_asks_after_an_opaque_id_asks_an_opaque_stream() {
    let mut page = page(after("5f07"), 1000);
    push(&mut page, &["20", "3"]);
    page.finish(true);
    let batch = page.take();
    assert_eq!((ids(&batch).as_str(), batch.cursor_after.clone()), ("20 3", after("3")));
}

#[test]
fn the_first_page_of_a_stream_is_opaque_from_its_first_item_on_once_one_is_not_digits() {
    let mut page = page(after("20"), 1000);
    push(&mut page, &["20", "21", "3", "21", "021", "20000"]);
    page.push(with_payload("21", "{}")).expect("set aside");
    assert_eq!((page.ready(), page.is_out_of_order()), (0, false), "that these descend counts once they are numbers");
    push(&mut page, &["5f07", "4"]);
    assert_eq!((page.ready(), page.seen(), page.repeats()), (7, 9, 2));
    let batch = page.take();
    assert_eq!((ids(&batch).as_str(), batch.set_aside.len()), ("21 3 021 20000 5f07 4", 1));
    assert_eq!((batch.cursor_after.clone(), page.is_out_of_order()), (after("4"), false));
}

#[test]
fn what_could_be_committed_of_numbers_is_ready_before_it_is_known_that_they_are_none() {
    let mut page = page(after("5"), 1000);
    push(&mut page, &["4", "5"]);
    assert_eq!(page.ready(), 0, "nothing new for a stream of numbers");
    push(&mut page, &["6", "6", "7"]);
    assert!(page.ready() > 0);
    assert_eq!(ids(&page.take()), "6 7");
    assert!(page.push(Item::Event(event("a"))).is_err(), "what is taken is committed");
}

/// What a page comes to: the ids stored, the cursor, and whether it was rejected.
type Outcome = (Vec<String>, Cursor, bool);

/// Pushes the ids, and takes what is ready where `takes` says so. Every byte that was held is given back.
fn outcome(mut page: Prefix, ids: &[String], read_to_end: bool, takes: &[bool]) -> Outcome {
    let (mut stored, mut held, mut rejected) = (Vec::new(), 0, false);
    let take = |page: &mut Prefix, stored: &mut Vec<String>, held: &mut u64| {
        let batch = page.take();
        assert!(batch.len() > 0, "what is ready is there");
        stored.extend(batch.events.iter().map(|event| event.id.as_str().to_owned()));
        *held -= batch.bytes + page.let_go();
    };
    for (id, takes) in ids.iter().zip(takes) {
        let Ok(bytes) = page.push(Item::Event(event(id))) else {
            rejected = true;
            break;
        };
        held += bytes;
        if page.ready() > 0 && *takes {
            take(&mut page, &mut stored, &mut held);
        }
    }
    let finish = page.finish(read_to_end && !rejected);
    let sorted = page.is_out_of_order();
    while page.has_pending() {
        take(&mut page, &mut stored, &mut held);
    }
    assert!(sorted || held == page.let_go(), "{held} bytes are still held");
    (stored, page.cursor(), rejected || finish.rejected.is_some())
}

proptest! {
    #[test]
    fn a_page_comes_to_the_same_whether_the_row_knows_its_kind_or_not(
        ids in proptest::collection::vec("[0-3]{1,2}|[0-3a]", 1..12),
        takes in proptest::collection::vec(any::<bool>(), 12),
        cursor in proptest::option::of("[0-3]{1,2}"),
        read_to_end in any::<bool>(),
    ) {
        let requested = cursor.map_or(Cursor::Start, |id| after(&id));
        let turn = ids.iter().position(|id| id.contains('a'));
        let kind = if turn.is_some() { IdKind::Opaque } else { IdKind::Number };
        // What is taken before the turn would make it a stream of numbers.
        let takes: Vec<_> = (0..).zip(takes).map(|(place, takes)| takes && turn.is_none_or(|turn| place >= turn)).collect();
        let of = |kind| Prefix::new(requested.clone(), kind, Some(1000), true);
        let known = outcome(of(Some(kind)), &ids, read_to_end, &takes);
        prop_assert_eq!(outcome(of(None), &ids, read_to_end, &takes), known);
    }
}
