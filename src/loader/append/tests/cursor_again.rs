//! The item at the cursor, listed again behind others.

use super::*;
use crate::store::{Epoch, Gate as _, Reset};

const FAST: Duration = Duration::ZERO;
const SLOW: Duration = Duration::from_millis(100);

#[tokio::test(start_paused = true)]
async fn the_event_at_the_cursor_behind_a_new_one_is_a_repeat_however_fast_it_comes() {
    for pace in [FAST, SLOW] {
        let world = World::new();
        world.source.next([Script::Exactly(opaque(1..=10)), Script::OneByOne(items(&["x11", "x10", "x12"]), pace)]);
        world.source.next([Script::Exactly(opaque([13]))]);
        let mut polling = world.adopted_by("a").await;
        polling.poll().await;
        polling.poll().await;
        assert_eq!((world.stored_ids(), world.cursor()), (names(&opaque(1..=12)), "x12".to_owned()), "{pace:?}");
        assert_eq!(world.report().retransported, 1, "it is counted");
        polling.poll().await;
        assert_eq!(world.source.log()[2].after.as_deref(), Some("x12"));
        assert_eq!(world.report().reachable.as_ref().expect("a verdict").reason, ReachableReason::PollSucceeded);
        world.store.row(&world.stream, |row| assert!(row.progressive));
    }
}

#[tokio::test(start_paused = true)]
async fn the_event_at_the_cursor_with_no_new_event_before_it_is_rejected_and_the_cursor_stays() {
    for page in [&["x3", "x10", "x11"][..], &["x9", "x10"], &["deep", "x10", "x11"], &["deep", "x3", "x10"]] {
        for pace in [FAST, SLOW] {
            let (stored, cursor, reason, _) = after_a_page(Script::OneByOne(items(page), pace)).await;
            assert_eq!((stored, cursor.as_str()), (names(&opaque(1..=10)), "x10"), "{page:?} {pace:?}");
            assert_eq!(reason, ReachableReason::CursorRejected, "{page:?} {pace:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_item_set_aside_at_the_cursor_that_is_listed_again_is_a_repeat_as_an_event_is() {
    for pace in [FAST, SLOW] {
        let world = World::new();
        let first = Script::OneByOne(items(&["x1", "x2", "deep"]), FAST);
        world.source.next([first, Script::OneByOne(items(&["x3", "deep", "x4"]), pace)]);
        let mut polling = world.adopted_by("a").await;
        polling.poll().await;
        assert_eq!(world.cursor(), "deep");
        polling.poll().await;
        assert_eq!((world.stored_ids(), world.cursor()), (names(&opaque(1..=4)), "x4".to_owned()), "{pace:?}");
    }
}

/// The second page of a stream of whose ten events retention has dropped the first `dropped`.
async fn after_a_page_and_retention(dropped: usize, page: &[&str]) -> (World, ReachableReason) {
    let world = World::new();
    world.source.next([Script::Exactly(opaque(1..=10)), Script::OneByOne(items(page), FAST)]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    world.store.row(&world.stream, |row| row.drop_first(dropped));
    polling.poll().await;
    if !world.store.row(&world.stream, |row| row.progressive) {
        // Held whole from then on, it is the same however it comes.
        world.source.next([Script::OneByOne(items(page), SLOW)]);
        polling.poll().await;
    }
    let reason = world.report().reachable.as_ref().expect("a verdict").reason;
    (world, reason)
}

#[tokio::test(start_paused = true)]
async fn what_retention_has_dropped_is_not_stored_again_with_a_page_that_begins_before_the_cursor() {
    for (dropped, page) in [
        (10, &["x9", "x10", "x11"][..]),
        (9, &["x9", "x10", "x11"]),
        (9, &["deep", "x9", "x10", "x11"]),
        (8, &["x7", "x8", "x9", "x10", "x11"]),
        (5, &["x4", "x5", "x6", "x7", "x8", "x9", "x10"]),
    ] {
        let (world, reason) = after_a_page_and_retention(dropped, page).await;
        assert_eq!((world.stored_ids(), world.cursor()), (names(&opaque(1..=10)), "x10".to_owned()), "{page:?}");
        assert_eq!(reason, ReachableReason::CursorRejected, "{page:?}");
        world.store.row(&world.stream, |row| assert!(!row.progressive));
    }
}

#[tokio::test(start_paused = true)]
async fn the_event_at_the_cursor_is_a_repeat_also_where_retention_has_dropped_older_ones() {
    for (dropped, page) in
        [(8, &["x11", "x10", "x12"][..]), (5, &["x11", "x9", "x10", "x12"]), (5, &["x6", "x11", "x10", "x12"])]
    {
        let (world, reason) = after_a_page_and_retention(dropped, page).await;
        assert_eq!((world.stored_ids(), world.cursor()), (names(&opaque(1..=12)), "x12".to_owned()), "{page:?}");
        assert_eq!(reason, ReachableReason::PollSucceeded, "{page:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_one_event_takes_it_again_behind_a_new_one() {
    let world = World::new();
    world.source.next([Script::Exactly(opaque([1])), Script::Exactly(opaque([2, 1, 3]))]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    polling.poll().await;
    assert_eq!((world.stored_ids(), world.cursor()), (names(&opaque(1..=3)), "x3".to_owned()));
}

/// Everything up to this event is stored, and is read again.
async fn read_again(last: u32) -> World {
    let world = World::new();
    world.source.next([Script::Exactly(opaque(1..=last))]);
    world.adopted_by("a").await.poll().await;
    let (holder, fence) = world.store.row(&world.stream, |row| (row.holder.clone().expect("a holder"), row.fence));
    let (stream, uid, id_path) = (world.stream.clone(), String::new(), String::new());
    let reset = Reset { stream, uid, holder, fence, epoch: Epoch(1), start: Cursor::Start, id_path };
    world.store.reset(reset).await.expect("an answer");
    world
}

#[tokio::test(start_paused = true)]
async fn a_page_in_the_parts_of_which_the_reading_again_ends_stores_nothing_twice() {
    let world = read_again(3).await;
    let mut polling = world.adopted_by("b").await;
    world.source.next([Script::Exactly(opaque([1, 2])), Script::Exactly(opaque([3, 4, 1, 5]))]);
    polling.poll().await;
    world.store.faults(|faults| faults.too_slow_above = Some(2));
    polling.poll().await;
    assert_eq!((world.stored_ids(), world.cursor()), (names(&opaque(1..=5)), "x5".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn while_everything_is_read_again_the_event_at_the_cursor_behind_others_is_rejected() {
    let world = read_again(10).await;
    let mut polling = world.adopted_by("b").await;
    world.source.next([Script::Exactly(opaque(1..=5)), Script::Exactly(opaque([4, 5, 6]))]);
    polling.poll().await;
    polling.poll().await;
    assert_eq!((world.stored_ids(), world.cursor()), (names(&opaque(1..=10)), "x5".to_owned()));
    assert_eq!(world.report().reachable.as_ref().expect("a verdict").reason, ReachableReason::CursorRejected);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_the_store_sees_begin_before_the_cursor_leaves_a_source_whose_bodies_are_cut_its_prefixes() {
    let world = World::new();
    let before = || items(&["x3", "x10", "x11"]);
    world.source.next([Script::Exactly(opaque(1..=10)), Script::OneByOne(before(), FAST)]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    polling.poll().await;
    world.store.row(&world.stream, |row| assert!(row.progressive));
    // Somebody else who knows nothing of it reads the same slowly.
    let mut polling = world.adopted_by("b").await;
    world.source.next([Script::OneByOne(before(), SLOW)]);
    polling.poll().await;
    assert_eq!((world.stored_ids(), world.cursor()), (names(&opaque(1..=10)), "x10".to_owned()));

    world.source.add(opaque(1..=40));
    world.source.next([Script::Cut(5)]);
    polling.poll().await;
    assert_eq!((world.stored_ids().len(), world.cursor()), (15, "x15".to_owned()));
}
