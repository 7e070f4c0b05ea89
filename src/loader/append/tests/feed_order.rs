//! Where the cursor ends among items that are set aside, and those that are listed again.

use super::*;

const FAST: Duration = Duration::ZERO;
const SLOW: Duration = Duration::from_millis(100);

#[tokio::test(start_paused = true)]
async fn an_item_set_aside_under_the_id_of_a_stored_event_does_not_take_the_cursor_back() {
    for pace in [FAST, SLOW] {
        let world = World::new();
        world.source.next([Script::Exactly(opaque(1..=3)), Script::OneByOne(items(&["x4", "x2*"]), pace)]);
        world.source.next([Script::Exactly(opaque([3, 4, 5]))]);
        let mut polling = world.adopted_by("a").await;
        polling.poll().await;
        polling.poll().await;
        assert_eq!((world.stored_ids(), world.cursor()), (names(&opaque(1..=4)), "x4".to_owned()), "{pace:?}");
        world.store.row(&world.stream, |row| assert_eq!(row.set_aside.len(), 1));
    }
}

#[tokio::test(start_paused = true)]
async fn an_item_that_was_set_aside_before_does_not_take_the_cursor_back_to_it() {
    for pace in [FAST, SLOW] {
        let world = World::new();
        let first = Script::OneByOne(items(&["x1", "deep", "x3"]), FAST);
        world.source.next([first, Script::OneByOne(items(&["x4", "deep"]), pace)]);
        world.source.next([Script::OneByOne(items(&["deep", "x5"]), pace)]);
        let mut polling = world.adopted_by("a").await;
        for cursor in ["x3", "x4", "x5"] {
            polling.poll().await;
            assert_eq!(world.cursor(), cursor, "{pace:?}");
        }
        assert_eq!(world.stored_ids(), names(&opaque([1, 3, 4, 5])));
    }
}

#[tokio::test(start_paused = true)]
async fn the_cursor_ends_at_the_last_new_item_whether_it_is_stored_or_set_aside() {
    for pace in [FAST, SLOW] {
        for (page, last) in [
            (&["x11", "deep", "x3"][..], "deep"),
            (&["x11", "deep", "x3", "x12"], "x12"),
            (&["deep", "x11", "x3", "x4*"], "x11"),
        ] {
            let (_, cursor, ..) = after_a_page(Script::OneByOne(items(page), pace)).await;
            assert_eq!(cursor, last, "{page:?} {pace:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_set_aside_goes_with_the_part_in_which_it_came() {
    let world = World::new();
    let page = ["x11", "deep1", "x12", "x13", "deep2", "x14", "deep3"];
    world.source.next([Script::Exactly(opaque(1..=2)), Script::OneByOne(items(&page), FAST)]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    world.store.faults(|faults| faults.too_slow_above = Some(2));
    polling.poll().await;
    let parts: Vec<_> = world.store.appends().into_iter().skip(1).collect();
    let aside = |part: &Append| part.set_aside.iter().map(|item| item.id.to_string()).collect::<Vec<_>>();
    assert_eq!(parts.iter().map(aside).collect::<Vec<_>>(), [vec!["deep1"], vec!["deep2", "deep3"]]);
    let cursors: Vec<_> = parts.iter().map(|part| part.cursor_after.to_string()).collect();
    assert_eq!(cursors, ["x12", "deep3"]);
    assert_eq!(world.stored_ids(), names(&opaque([1, 2, 11, 12, 13, 14])));
}

#[tokio::test(start_paused = true)]
async fn a_copy_with_other_content_does_not_take_the_cursor_back_where_stored_events_follow_it() {
    let page = ["x11", "x12", "x11*", "x3"];
    for pace in [FAST, SLOW] {
        let (_, cursor, ..) = after_a_page(Script::OneByOne(items(&page), pace)).await;
        assert_eq!(cursor, "x12", "{pace:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_of_nothing_but_items_that_were_set_aside_before_does_not_begin_after_the_cursor() {
    for (page, reason, cursor) in [
        (&["deep1"][..], ReachableReason::CursorRejected, "x3"),
        (&["deep1", "deep2"], ReachableReason::CursorRejected, "x3"),
        (&["deep3", "deep1"], ReachableReason::PollSucceeded, "deep3"),
        (&["deep1", "deep2", "x4"], ReachableReason::PollSucceeded, "x4"),
    ] {
        for pace in [FAST, SLOW] {
            let world = World::new();
            let first = Script::OneByOne(items(&["deep1", "deep2", "x3"]), FAST);
            world.source.next([first, Script::OneByOne(items(page), pace)]);
            let mut polling = world.adopted_by("a").await;
            polling.poll().await;
            polling.poll().await;
            let told = world.report().reachable.as_ref().expect("a verdict").reason;
            assert_eq!((told, world.cursor()), (reason, cursor.to_owned()), "{page:?} {pace:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_a_page_with_items_set_aside_does_not_depend_on_how_fast_it_comes() {
    for page in arrangements(&["x3", "x11", "deep", "x4*", "x12"]) {
        let fast = after_a_page(Script::OneByOne(items(&page), FAST)).await;
        let slow = after_a_page(Script::OneByOne(items(&page), SLOW)).await;
        assert_eq!(fast, slow, "{page:?}");
        let (_, cursor, reason, _) = fast;
        let last_new = page.iter().rev().find(|id| ["x11", "x12", "deep"].contains(id));
        if reason == ReachableReason::CursorRejected {
            assert_eq!(cursor, "x10", "{page:?}");
        } else {
            assert_eq!(cursor, last_new.map_or("x10", |id| *id), "{page:?}");
        }
    }
}
