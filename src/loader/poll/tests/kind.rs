//! A stream of hexadecimal ids has some that are digits only: one in 1,800 of sixteen characters.

use std::sync::Arc;

use super::*;
use crate::{
    api::{
        Source,
        event_source::{Start, StartPosition},
    },
    loader::testing::Frost,
};

/// Digits only at the beginning of a page of three, in the middle, as the last, larger and smaller than their neighbours, with
/// leading zeros, and the same number in another spelling.
const FEED: [&str; 14] = [
    "5f07",
    "507199222222",
    "5f08",
    "507199111111",
    "000000000007",
    "7",
    "5f09",
    "5f0a",
    "999999999999",
    "12",
    "3",
    "07",
    "5f0b",
    "00",
];

fn reason(world: &World) -> Option<ReachableReason> {
    world.report().reachable.as_ref().map(|verdict| verdict.reason)
}

#[tokio::test(start_paused = true)]
async fn digits_among_opaque_ids_are_loaded_in_feed_order_wherever_a_page_ends() {
    for limit in 1..=FEED.len() {
        let world = World::new().asking_for(i32::try_from(limit).expect("a small page"));
        world.source.add(FEED.map(event));
        let mut polling = world.adopted_by("a").await;
        polling.poll_until(|| world.cursor() == "00").await;
        assert_eq!(world.stored_ids(), FEED, "in pages of {limit}");
        let report = world.report();
        assert_eq!((report.retransported, report.note.clone()), (0, None), "in pages of {limit}");
        assert_eq!(reason(&world), Some(ReachableReason::PollSucceeded), "in pages of {limit}");
        // Who comes next reads on at digits.
        world.source.add([event("5"), event("5f0c")]);
        let mut heir = world.adopted_by("b").await;
        heir.poll_until(|| world.cursor() == "5f0c").await;
        assert_eq!(world.stored_ids()[FEED.len()..], ["5", "5f0c"]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_opaque_source_that_begins_anew_with_digits_stores_nothing_twice_and_moves_no_cursor() {
    let world = World::new();
    let feed = ["5f07", "12", "11", "507199222222"];
    world.source.add(feed.map(event));
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    assert_eq!(world.cursor(), "507199222222");
    // It does not know the cursor: as numbers these were all below it, and dropped.
    for anew in [vec!["12", "11", "5f0c"], vec!["12", "11"]] {
        world.source.next([Script::Exactly(anew.into_iter().map(event).collect())]);
        polling.poll().await;
        assert_eq!((world.stored_ids(), world.cursor()), (feed.map(str::to_owned).to_vec(), "507199222222".to_owned()));
        assert_eq!(reason(&world), Some(ReachableReason::CursorRejected));
    }
    // One that is listed again among new ones is no beginning, nor does the cursor go back to it.
    world.source.next([Script::Exactly(["11", "9", "12"].map(event).to_vec())]);
    polling.poll().await;
    assert_eq!((world.stored_ids().len(), world.cursor()), (5, "9".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_first_ids_are_digits_is_opaque_once_one_of_its_first_page_is_not() {
    for feed in [vec!["22", "3", "3a", "21"], vec!["3", "22", "022", "3a"]] {
        let world = World::new();
        world.source.add(feed.iter().copied().map(event));
        let mut polling = world.adopted_by("a").await;
        polling.poll().await;
        assert_eq!(world.stored_ids(), feed);
        world.source.add([event("20")]);
        polling.poll().await;
        assert_eq!((world.cursor(), reason(&world)), ("20".to_owned(), Some(ReachableReason::PollSucceeded)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_began_as_numbers_reads_on_as_opaque_from_its_cursor_with_the_next_epoch() {
    let world = World::new();
    world.source.add(["507199222222"].map(event));
    let (task, steering) = world.task("a", &Frost::default(), 1);
    let task = tokio::spawn(task.run());
    let feed = ["507199222222", "5f07", "507199111111", "5f08"];
    sleep(Duration::from_secs(1)).await;
    world.source.add(feed[1..].iter().copied().map(event));
    sleep(Duration::from_mins(1)).await;
    assert_eq!((world.cursor(), reason(&world)), (feed[0].to_owned(), Some(ReachableReason::MappingFailed)));

    let mut changed = Source::clone(&steering.source.borrow());
    (changed.generation, changed.spec.epoch) = (2, 1);
    changed.spec.start = Start { position: StartPosition::AfterID, after_id: Some(feed[0].to_owned()) };
    steering.source.send_replace(Arc::new(changed));
    sleep(Duration::from_mins(1)).await;
    assert_eq!((world.stored_ids(), world.cursor()), (feed.map(str::to_owned).to_vec(), "5f08".to_owned()));
    assert_eq!(reason(&world), Some(ReachableReason::PollSucceeded));
    steering.stop.cancel();
    task.await.expect("no panic");
}
