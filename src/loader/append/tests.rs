use super::*;
use crate::{
    api::{ReachableReason, StoredReason},
    event::{Event, Payload, SetAside, SetAsideReason},
    fetch::{FetchError, Item},
    loader::{
        report::BlockedBy,
        testing::{Script, World, event},
    },
};

fn opaque(ids: impl IntoIterator<Item = u32>) -> Vec<Event> {
    ids.into_iter().map(|id| event(&format!("x{id}"))).collect()
}

fn names(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| event.id.as_str().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_the_database_is_too_slow_for_is_stored_in_parts_and_the_last_one_closes() {
    let world = World::with_events(240);
    world.store.faults(|faults| faults.too_slow_above = Some(70));
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    let appends = world.store.appends();
    let sizes: Vec<_> = appends.iter().map(|append| append.events.len()).collect();
    assert_eq!(sizes, [60, 60, 60, 60]);
    assert_eq!(appends.iter().map(|append| append.part).collect::<Vec<_>>(), [0, 1, 2, 3]);
    for pair in appends.windows(2) {
        assert_eq!(pair[0].cursor_after, pair[1].cursor_before);
    }
    let closes: Vec<_> = appends.iter().map(|append| append.then.close().is_some()).collect();
    assert_eq!(closes, [false, false, false, true]);
    // No EXTEND comes through while an append holds the row's lock.
    assert!(appends[..3].iter().all(|append| append.then.in_flight() == Some(IN_FLIGHT)));
    assert_eq!((world.stored_ids().len(), world.cursor()), (240, "240".to_owned()));
    assert!(!world.ownership.told().held_a_batch, "it is no outage");
    polling.poll().await;
    assert_eq!(world.source.log()[1].after.as_deref(), Some("240"), "nothing travels again");
}

#[tokio::test(start_paused = true)]
async fn one_event_that_the_database_is_too_slow_for_is_held_as_in_an_outage() {
    let world = World::with_events(2);
    world.store.faults(|faults| faults.too_slow_above = Some(0));
    let mut polling = world.adopted_by("a").await;
    let passing = tokio::spawn(async move { polling.poll().await });
    sleep(Duration::from_mins(1)).await;
    assert!(world.ownership.told().holding_a_batch.contains(&world.stream));
    world.store.faults(|faults| faults.too_slow_above = None);
    passing.await.expect("no panic");
    assert_eq!(world.stored_ids(), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn an_appender_that_ends_in_the_middle_of_an_outage_holds_no_batch_any_more() {
    let world = World::with_events(2);
    let mut polling = world.adopted_by("a").await;
    world.source.next([Script::Slow(1, Duration::from_millis(300))]);
    let passing = tokio::spawn(async move { polling.poll().await });
    sleep(Duration::from_millis(100)).await;
    world.store.faults(|faults| faults.unavailable = true);
    sleep(Duration::from_mins(1)).await;
    assert!(world.ownership.told().holding_a_batch.contains(&world.stream));
    // As a panic does, it drops everything where it stands.
    passing.abort();
    passing.await.expect_err("it was aborted");
    assert!(world.ownership.told().holding_a_batch.is_empty(), "else the source is never handed off");
}

#[tokio::test(start_paused = true)]
async fn an_opaque_source_that_does_not_know_the_cursor_and_begins_anew_stores_nothing_twice() {
    for answer in [Script::Page, Script::Slow(50, Duration::from_millis(100))] {
        let world = World::new();
        let stored: Vec<_> = opaque(1..=300).into_iter().chain([event("gone")]).collect();
        world.source.next([Script::Exactly(stored.clone())]);
        let mut polling = world.adopted_by("a").await;
        polling.poll().await;
        assert_eq!(world.cursor(), "gone");
        let appended = world.store.appends().len();

        // The event at the cursor is not in its feed any more.
        world.source.add(opaque(1..=900));
        world.source.next([answer]);
        polling.poll().await;
        assert_eq!((world.stored_ids(), world.cursor()), (names(&stored), "gone".to_owned()));
        assert!(world.store.appends()[appended..].iter().all(|append| append.events.is_empty()));
        let reachable = world.report().reachable.clone().expect("a verdict");
        assert_eq!(reachable.reason, ReachableReason::CursorRejected);
        world.store.row(&world.stream, |row| assert_eq!(row.attempt, None, "the attempt is closed"));

        // It is mended.
        world.source.next([Script::Exactly(opaque(301..=310))]);
        polling.poll().await;
        assert_eq!((world.stored_ids().len(), world.cursor()), (311, "x310".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn reservations_that_expire_in_a_row_are_repeated_less_and_less_often() {
    let world = World::with_events(5);
    // Every reservation is granted and answered after its send limit.
    world.store.faults(|faults| faults.latency = Duration::from_secs(8));
    let mut polling = world.adopted_by("a").await;
    let mut longest = Duration::ZERO;
    for _ in 0..16 {
        polling.pass().await;
        longest = longest.max(polling.due_in());
    }
    assert!(longest >= Duration::from_secs(5), "{longest:?}");
    assert!(world.source.log().is_empty(), "a permit that has expired sends nothing");
    let verdict = |world: &World| world.report().stored.as_ref().map(|verdict| verdict.reason);
    assert_eq!(verdict(&world), Some(StoredReason::DatabaseUnavailable), "who is paged is told why nothing comes");
    assert_eq!(world.report().blocked_by, Some(BlockedBy::Database));

    // The database is well again, whatever the source is.
    world.store.faults(|faults| faults.latency = Duration::ZERO);
    world.source.next([Script::Fails(FetchError::ServerError { status: 503, retry_after: None })]);
    polling.poll().await;
    assert_eq!(
        (verdict(&world), world.report().blocked_by),
        (Some(StoredReason::AppendSucceeded), Some(BlockedBy::Backoff))
    );
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_down_since_the_database_is_slow_is_not_blamed_on_the_database() {
    let world = World::with_events(5);
    world.store.faults(|faults| faults.latency = Duration::from_secs(8));
    let mut polling = world.adopted_by("a").await;
    for _ in 0..8 {
        polling.pass().await;
    }
    assert_eq!(world.report().problem().map(|(reason, _)| reason), Some("DatabaseUnavailable"));
    world.source.refuse_connections([FetchError::TlsFailed { detail: "expired".to_owned() }]);
    polling.pass().await;
    assert_eq!(world.report().problem().map(|(reason, _)| reason), Some("TLSFailed"));
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_connection_makes_no_reservation_expire() {
    let world = World::with_events(5);
    world.store.faults(|faults| faults.queue = Duration::from_secs(3));
    let mut polling = world.adopted_by("a").await;
    polling.pass().await;
    assert_eq!((world.store.asked("reserve"), world.cursor()), (1, "5".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn an_opaque_event_that_comes_again_among_new_ones_is_a_repeat_and_the_cursor_never_goes_back_to_it() {
    let world = World::new();
    world.source.next([
        Script::Exactly(opaque(1..=10)),
        Script::Exactly(opaque([11, 3, 12])),
        Script::Exactly(opaque([13, 4])),
    ]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    for (stored, cursor) in [(12, "x12"), (13, "x13")] {
        polling.poll().await;
        assert_eq!((world.stored_ids(), world.cursor()), (names(&opaque(1..=stored)), cursor.to_owned()));
        assert_ne!(world.report().reachable.clone().expect("a verdict").reason, ReachableReason::CursorRejected);
    }
    polling.poll().await;
    assert_eq!(world.source.log()[3].after.as_deref(), Some("x13"));
    assert_eq!(world.report().retransported, 2, "they are counted");
}

#[tokio::test(start_paused = true)]
async fn a_page_with_stored_opaque_events_that_is_stored_in_parts_leaves_the_cursor_at_a_new_one_after_each() {
    let world = World::new();
    world.source.next([Script::Exactly(opaque(1..=10)), Script::Exactly(opaque([11, 3, 12, 4]))]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    world.store.faults(|faults| faults.too_slow_above = Some(2));
    polling.poll().await;
    let cursors: Vec<_> = world.store.appends().into_iter().skip(1).map(|append| append.cursor_after).collect();
    let after = |id: &str| Cursor::After(EventId::new(id).expect("an id"));
    assert_eq!(cursors, [after("x11"), after("x12")]);
    assert_eq!(world.stored_ids(), names(&opaque(1..=12)));
}

#[tokio::test(start_paused = true)]
async fn a_row_that_stays_locked_is_asked_less_and_less_often() {
    let world = World::with_events(2);
    let mut polling = world.adopted_by("a").await;
    world.source.next([Script::Slow(1, Duration::from_millis(300))]);
    let passing = tokio::spawn(async move { polling.poll().await });
    sleep(Duration::from_millis(250)).await;
    world.store.faults(|faults| faults.lock = 1.0);
    let asked = world.store.asked("append");
    sleep(Duration::from_secs(20)).await;
    let tries = world.store.asked("append") - asked;
    assert!((20..120).contains(&tries), "{tries} tries in 20 s");
    world.store.faults(|faults| faults.lock = 0.0);
    passing.await.expect("no panic");
    assert_eq!(world.stored_ids(), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn opaque_ids_that_take_too_long_to_look_up_are_asked_for_in_parts() {
    let world = World::new();
    world.source.next([Script::Exactly(opaque(1..=10)), Script::Exactly(opaque([11, 3, 12, 13, 14]))]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    world.store.faults(|faults| faults.too_slow_above = Some(2));
    let asked = world.store.asked("find_stored");
    polling.poll().await;
    assert!(world.store.asked("find_stored") - asked >= 3, "no two at a time cover five");
    assert_eq!(world.stored_ids(), names(&opaque(1..=14)));
    assert!(!world.ownership.told().held_a_batch, "it is no outage");
}

#[tokio::test(start_paused = true)]
async fn a_stored_event_that_begins_a_page_with_new_ones_is_dropped_and_stops_nothing() {
    let world = World::new();
    world.source.next([Script::Exactly(opaque(1..=10)), Script::Exactly(opaque([3, 11, 12]))]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    polling.poll().await;
    assert_eq!((world.stored_ids(), world.cursor()), (names(&opaque(1..=12)), "x12".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_stored_event_that_is_all_of_a_page_of_one_does_not_keep_the_source_from_what_follows_it() {
    let world = World::new();
    // A bad item, so that one event is asked for; and that is one that is listed again.
    world.source.next([Script::Exactly(opaque(1..=10)), Script::Bad(0), Script::Exactly(opaque([3]))]);
    world.source.next([Script::Exactly(opaque([3, 11, 12]))]);
    let mut polling = world.adopted_by("a").await;
    for _ in 0..4 {
        polling.poll().await;
    }
    let limits: Vec<_> = world.source.log().iter().map(|served| served.limit).collect();
    assert_eq!(limits, [limits[0], limits[0], 1, limits[0]]);
    assert_eq!((world.stored_ids(), world.cursor()), (names(&opaque(1..=12)), "x12".to_owned()));
}

/// Events, and items set aside: `deep…`, and under the id of an event `…*`.
fn items(ids: &[&str]) -> Vec<Item> {
    let set_aside = |id: &str| {
        let (id, item) = (EventId::new(id).expect("an id"), id.as_bytes().into());
        Item::SetAside(SetAside { id, reason: SetAsideReason::NestedTooDeep, item })
    };
    let item = |id: &&str| match id.strip_suffix('*') {
        Some(id) => set_aside(id),
        None if id.starts_with("deep") => set_aside(id),
        None => Item::Event(event(id)),
    };
    ids.iter().map(item).collect()
}

/// What one page leaves behind: the ids of what is stored, the cursor, the verdict, and how many events travelled in vain.
async fn after_a_page(answer: Script) -> (Vec<String>, String, ReachableReason, u64) {
    let world = World::new();
    world.source.next([Script::Exactly(opaque(1..=10)), answer]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    polling.poll().await;
    assert_eq!(world.source.log().len(), 2);
    let report = world.report();
    let reason = report.reachable.as_ref().expect("a verdict").reason;
    (world.stored_ids(), world.cursor(), reason, report.retransported)
}

/// All ways to put up to four of these in a row.
fn arrangements<'a>(of: &[&'a str]) -> Vec<Vec<&'a str>> {
    let mut all: Vec<Vec<&str>> = vec![vec![]];
    for length in 0..of.len() {
        let longest: Vec<_> = all.iter().filter(|page| page.len() == length).cloned().collect();
        for page in longest {
            let more = of.iter().filter(|id| !page.contains(*id)).map(|id| [page.as_slice(), &[*id]].concat());
            all.extend(more.collect::<Vec<_>>());
        }
    }
    all
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_an_opaque_page_does_not_depend_on_how_fast_it_comes() {
    // Three that are stored, the last of them at the cursor, and two that are not.
    for page in arrangements(&["x3", "x4", "x10", "x11", "x12"]) {
        for page in [page.clone(), [vec!["deep"], page].concat()] {
            let fast = after_a_page(Script::OneByOne(items(&page), Duration::ZERO)).await;
            let slow = after_a_page(Script::OneByOne(items(&page), Duration::from_millis(100))).await;
            assert_eq!(fast, slow, "{page:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_page_that_begins_with_an_item_set_aside_and_stored_events_does_not_move_the_cursor_back_to_it() {
    let slow = Script::OneByOne(items(&["deep", "x1", "x2", "x3"]), Duration::from_millis(100));
    let (stored, cursor, reason, _) = after_a_page(slow).await;
    assert_eq!((stored, cursor.as_str()), (names(&opaque(1..=10)), "x10"));
    assert_eq!(reason, ReachableReason::CursorRejected);
}

#[tokio::test(start_paused = true)]
async fn a_stored_event_that_fills_a_statement_begins_a_page_as_a_small_one_does() {
    let large = Payload::from_json_text(format!("\"{}\"", "x".repeat(5 * 1024 * 1024)));
    let large = |id| Event { payload: large.clone(), ..event(id) };
    let world = World::new();
    world.source.next([Script::Exactly(vec![large("x3"), event("x10")])]);
    world.source.next([Script::Exactly(vec![large("x3"), event("x11"), event("x12")])]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    polling.poll().await;
    assert_eq!((world.stored_ids().len(), world.cursor()), (4, "x12".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_stored_event_that_begins_a_page_is_held_with_what_follows_it_through_an_outage() {
    let world = World::new();
    let slow = Script::OneByOne(items(&["x3", "x11", "x12"]), Duration::from_millis(100));
    world.source.next([Script::Exactly(opaque(1..=10)), slow]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    let asked = world.store.asked("find_stored");
    let passing = tokio::spawn(async move { polling.poll().await });
    while world.store.asked("find_stored") == asked {
        sleep(Duration::from_millis(5)).await;
    }
    world.store.faults(|faults| faults.unavailable = true);
    sleep(Duration::from_secs(20)).await;
    assert!(world.ownership.told().holding_a_batch.contains(&world.stream));
    world.store.faults(|faults| faults.unavailable = false);
    passing.await.expect("no panic");
    assert_eq!((world.stored_ids(), world.cursor()), (names(&opaque(1..=12)), "x12".to_owned()));
    assert_eq!(world.source.log().len(), 2, "the outage caused no second fetch");
    assert!(world.ownership.told().holding_a_batch.is_empty());
}

mod cursor_again;
mod feed_order;
