use std::{sync::Arc, time::Duration};

use tokio::{
    join,
    time::{Instant, sleep},
};

use crate::{
    api::ReachableReason,
    event::{Event, Payload, StreamName},
    fetch::Item,
    loader::{
        buffer::Buffer,
        report::BlockedBy,
        testing::{Script, World, event, number},
    },
};

const KIB: usize = 1024;
const MIB: u64 = 1024 * 1024;

/// What two responses may have read before they looked at the budget.
const PIECES: u64 = 2 * 11 * 1024;

/// Events of 10 KiB each.
fn large_events(count: u64) -> impl Iterator<Item = Event> {
    let payload = Payload::from_json_text(format!("\"{}\"", "x".repeat(10 * KIB)));
    (1..=count).map(move |of| Event { payload: payload.clone(), ..number(of) })
}

/// A source with one page of so many large events, which its body makes the page hold back to the end.
fn held_back(name: &str, events: u64, buffer: &Buffer) -> World {
    let mut world = World::new();
    world.stream = StreamName::new("shop", name);
    world.buffer = buffer.clone();
    world.source.add(large_events(events));
    world.source.next([Script::HeldBack(1, Duration::from_millis(5))]);
    world
}

fn reason(world: &World) -> Option<ReachableReason> {
    world.report().reachable.as_ref().map(|verdict| verdict.reason)
}

/// Polls both sources at the same time, until the events of both are stored.
async fn store_both(one: &World, two: &World, events: usize) {
    let all_of = async |world: &World| {
        let mut polling = world.adopted_by("a").await;
        while world.stored_ids().len() < events {
            polling.poll().await;
        }
    };
    join!(all_of(one), all_of(two));
}

#[tokio::test(start_paused = true)]
async fn two_pages_that_wait_for_each_other_end_in_turn_with_the_last_part_of_the_budget() {
    let buffer = Buffer::new(MIB);
    let (one, mut two) = (held_back("one", 22, &buffer), held_back("two", 22, &buffer));
    two.source.kept = Arc::clone(&one.source.kept);
    let others = buffer.take(MIB / 8 * 4).await;
    store_both(&one, &two, 22).await;
    assert_eq!((one.source.log().len(), two.source.log().len()), (1, 1), "nothing was asked for again");
    let most = one.source.kept.most();
    assert!(most > MIB / 4 && most <= MIB / 8 * 3 + PIECES, "{most} bytes were held back at one time");
    drop(others);
    assert_eq!(buffer.free(), MIB, "all was given back");
}

#[tokio::test(start_paused = true)]
async fn of_two_pages_that_need_more_than_there_is_together_one_gives_way_and_both_end_within_the_budget() {
    let buffer = Buffer::new(MIB);
    let (one, mut two) = (held_back("one", 60, &buffer), held_back("two", 60, &buffer));
    two.source.kept = Arc::clone(&one.source.kept);
    let started = Instant::now();
    store_both(&one, &two, 60).await;
    assert!(started.elapsed() < one.source.timeout, "no timeout was waited for: {:?}", started.elapsed());
    let requests = [one.source.log().len(), two.source.log().len()];
    assert!(requests.contains(&1) && requests != [1, 1], "one was served in one request, the other not: {requests:?}");
    let most = one.source.kept.most();
    assert!(most > MIB / 8 * 7 && most <= MIB + PIECES, "{most} bytes were held back at one time, of {MIB}");
    assert_eq!(buffer.free(), MIB, "all was given back");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_waits_for_the_memory_of_others_keeps_its_row_shut_and_goes_on() {
    let buffer = Buffer::new(MIB);
    let mut world = World::new();
    world.buffer = buffer.clone();
    world.source.add(large_events(60));
    world.source.next([Script::HeldBack(20, Duration::from_millis(100))]);
    let mut polling = world.adopted_by("a").await;
    let others = async {
        sleep(Duration::from_millis(50)).await;
        let share = buffer.try_take(MIB / 8 * 3).expect("room for others");
        let last_part = share.turn().await;
        sleep(Duration::from_secs(4)).await;
        assert_eq!(world.report().blocked_by, Some(BlockedBy::Memory));
        assert!(world.store.asked("extend") >= 3, "{} extensions in 4 s", world.store.asked("extend"));
        drop((share, last_part));
    };
    join!(polling.poll(), others);
    assert_eq!((world.stored_ids().len(), world.source.log().len()), (60, 1), "{:?}", reason(&world));
    assert_ne!(world.report().blocked_by, Some(BlockedBy::Memory));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_waits_for_memory_to_the_end_of_its_time_does_not_blame_the_source() {
    let buffer = Buffer::new(MIB);
    let world = held_back("one", 60, &buffer);
    let mut polling = world.adopted_by("a").await;
    let others = buffer.try_take(MIB / 8 * 5).expect("room for others");
    let last_part = others.turn().await;
    polling.poll().await;
    assert_eq!(reason(&world), Some(ReachableReason::ResponseTooLarge));
    let message = world.report().reachable.as_ref().map(|verdict| verdict.message.clone()).unwrap_or_default();
    assert!(message.contains("not stored yet held the memory") && message.contains("`--buffer-bytes`"), "{message}");
    let last = world.store.extends().pop().expect("the deadline was extended");
    assert!(last.by > Duration::from_millis(4900), "the row is shut for `http.timeout` as after any: {:?}", last.by);
    drop((others, last_part));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_an_outage_of_the_database_keeps_from_being_read_does_not_blame_the_source() {
    let mut world = World::new();
    world.buffer = Buffer::new(MIB);
    world.source.add(large_events(90));
    world.source.next([Script::Slow(1, Duration::from_millis(5))]);
    let mut polling = world.adopted_by("a").await;
    let others = world.buffer.try_take(MIB / 8 * 5).expect("room for others");
    let outage = async {
        sleep(Duration::from_millis(30)).await;
        world.store.faults(|faults| faults.unavailable = true);
        sleep(2 * world.source.timeout).await;
        world.store.faults(|faults| faults.unavailable = false);
    };
    join!(polling.poll(), outage);
    assert_eq!(reason(&world), Some(ReachableReason::ResponseTooLarge), "and not Timeout");
    drop(others);
    polling.poll().await;
    assert_eq!(world.stored_ids().len(), 90);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_needs_more_than_the_whole_budget_says_so_and_asks_for_less() {
    let buffer = Buffer::new(256 * KIB as u64);
    let world = held_back("one", 60, &buffer);
    world.source.next([Script::HeldBack(1, Duration::ZERO)]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    assert_eq!(reason(&world), Some(ReachableReason::ResponseTooLarge));
    let message = world.report().reachable.as_ref().map(|verdict| verdict.message.clone()).unwrap_or_default();
    assert!(message.contains("`--buffer-bytes`"), "{message}");
    assert_eq!(buffer.free(), 256 * KIB as u64);
    polling.poll().await;
    assert_eq!(world.stored_ids(), ["1"], "one event at a time fits");
}

#[tokio::test(start_paused = true)]
async fn the_next_share_is_as_large_as_what_the_page_held_back() {
    let buffer = Buffer::new(16 * MIB);
    let world = held_back("one", 60, &buffer);
    world.source.next([Script::NeverAnswers]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    let next = async {
        sleep(Duration::from_secs(1)).await;
        let taken = 16 * MIB - buffer.free();
        assert!(taken >= 600 * KIB as u64, "{taken} bytes are taken before the next request");
    };
    join!(polling.poll(), next);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_does_not_ascend_counts_as_a_whole_because_none_of_it_can_be_committed_before_its_end() {
    let mut world = World::new();
    world.buffer = Buffer::new(256 * KIB as u64);
    let mut descending: Vec<_> = large_events(60).collect();
    descending.reverse();
    world.source.next([Script::Exactly(descending)]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    assert_eq!(reason(&world), Some(ReachableReason::ResponseTooLarge));
    assert_eq!(world.stored_ids(), Vec::<String>::new(), "and the cursor stays");
}

#[tokio::test(start_paused = true)]
async fn a_page_of_more_opaque_ids_than_the_budget_holds_ends_with_what_it_brought_stored_and_is_gone_on_with() {
    let mut world = World::new().asking_for(4000);
    world.buffer = Buffer::new(256 * KIB as u64);
    world.source.add((0..4000).map(|of| event(&format!("id-{of:033}"))));
    world.source.next([Script::Slow(50, Duration::from_millis(1))]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    assert_eq!(reason(&world), Some(ReachableReason::ResponseTooLarge));
    let stored = world.stored_ids();
    assert!((1500..1900).contains(&stored.len()), "{} events were stored", stored.len());
    assert_eq!(world.buffer.free(), 256 * KIB as u64);
    polling.poll().await;
    assert!(world.stored_ids().len() > stored.len());
    assert_eq!(world.source.log()[1].after.as_ref(), stored.last());
}

#[tokio::test(start_paused = true)]
async fn a_page_whose_first_event_is_stored_and_fills_its_share_reads_on_with_the_last_part_of_the_budget() {
    let mut world = World::new();
    world.buffer = Buffer::new(MIB);
    let payload = Payload::from_json_text(format!("\"{}\"", "x".repeat(100 * KIB)));
    let large = Event { payload, ..event("x3") };
    world.source.next([Script::Exactly(vec![large.clone(), event("x10")])]);
    let page = [large, event("x11"), event("x12")].map(Item::Event).to_vec();
    world.source.next([Script::OneByOne(page, Duration::from_millis(100))]);
    world.adopted_by("a").await.poll().await;
    // What is left are the small shares, and the last part.
    let others = world.buffer.take(MIB).await;
    // Who has not seen how large its pages are.
    world.adopted_by("b").await.poll().await;
    let stored = world.stored_ids();
    assert_eq!((stored.len(), world.cursor()), (4, "x12".to_owned()), "{:?}", world.report().reachable);
    drop(others);
    assert_eq!(world.buffer.free(), MIB);
}
