//! What becomes of ids that do not ascend, or repeat.

use std::sync::Arc;

use rstest::rstest;

use super::*;
use crate::{
    api::Source,
    event::{Event, Payload},
    loader::testing::Frost,
};

#[tokio::test(start_paused = true)]
async fn a_source_that_does_not_ascend_is_held_whole_from_then_on() {
    let world = World::new();
    let mut polling = world.adopted_by("a").await;
    world.source.next([Script::Exactly(vec![number(5), number(2), number(9)])]);
    polling.poll().await;
    assert_eq!(world.stored_ids(), ["2", "5", "9"]);
    assert_eq!(world.cursor(), "9");
    world.store.row(&world.stream, |row| assert!(!row.progressive, "remembered in the row"));
    assert!(world.report().note.as_ref().is_some_and(|note| note.contains("ascend")));
    world.source.add((10..=300).map(number));
    world.source.next([Script::Slow(100, Duration::from_millis(200))]);
    let passing = tokio::spawn(async move { polling.poll().await });
    sleep(Duration::from_millis(500)).await;
    assert_eq!(world.cursor(), "9", "nothing before the end of the page");
    passing.await.expect("no panic");
    assert_eq!(world.cursor(), "300");
}

#[tokio::test(start_paused = true)]
async fn a_full_page_that_does_not_ascend_leaves_the_cursor_and_is_not_asked_for_one_by_one() {
    let world = World::new().asking_for(3);
    let mut polling = world.adopted_by("a").await;
    world.source.next([Script::Exactly(vec![number(5), number(2), number(9)])]);
    polling.poll().await;
    assert_eq!(world.cursor(), "(start)");
    let report = world.report();
    assert_eq!(report.reachable.as_ref().map(|verdict| verdict.reason), Some(ReachableReason::CursorRejected));
    assert_eq!(report.retransported, 3, "they will come again");
    polling.poll().await;
    assert_eq!(world.source.log()[1].limit, 3, "one event out of an unsorted page would jump over the others");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_may_have_been_cut_is_asked_for_again_unless_its_ids_ascend() {
    let world = World::new();
    let mut polling = world.adopted_by("a").await;
    world.source.next([Script::Unproven(vec![number(1), number(2)])]);
    polling.poll().await;
    assert_eq!((world.stored_ids(), world.cursor()), (ids(2), "2".to_owned()));
    world.source.next([Script::Unproven(vec![number(9), number(5)]), Script::Unproven(vec![number(5), number(9)])]);
    for _ in 0..2 {
        polling.poll().await;
        assert_eq!((world.stored_ids(), world.cursor()), (ids(2), "2".to_owned()), "7 may be missing");
        let reachable = world.report().reachable.as_ref().map(|verdict| verdict.reason);
        assert_eq!(reachable, Some(ReachableReason::CursorRejected));
    }
    world.source.next([Script::Exactly(vec![number(9), number(5), number(7)])]);
    polling.poll().await;
    assert_eq!(world.stored_ids(), ["1", "2", "5", "7", "9"]);
}

#[tokio::test(start_paused = true)]
async fn a_bad_item_keeps_what_came_before_and_costs_one_event_from_then_on() {
    let world = World::with_events(100);
    world.source.next([Script::Bad(30), Script::Bad(0), Script::Bad(0)]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    assert_eq!(world.stored_ids(), ids(30));
    assert_eq!(world.report().reachable.as_ref().map(|verdict| verdict.reason), Some(ReachableReason::MappingFailed));
    polling.poll().await;
    polling.poll().await;
    assert_eq!(world.cursor(), "30", "the cursor stays before the bad item");
    let limits: Vec<_> = world.source.log().iter().map(|served| served.limit).collect();
    assert_eq!(limits, [1000, 1, 1]);
    polling.poll_until(|| world.cursor() == "100").await;
    assert_eq!(world.stored_ids(), ids(100), "good again, with growing pages");
}

#[tokio::test(start_paused = true)]
async fn repeats_are_dropped_counted_and_told() {
    let world = World::with_events(10);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    world.source.next([Script::Exactly((8..=12).map(number).collect())]);
    polling.poll().await;
    assert_eq!(world.stored_ids(), ids(12));
    let report = world.report();
    assert_eq!(report.retransported, 3);
    assert!(report.note.as_ref().is_some_and(|note| note.contains("3 items at or below the cursor")));
}

#[rstest]
#[case::numbers(["1", "2", "3"])]
#[case::opaque(["u-7", "u-1", "u-4"])]
#[tokio::test(start_paused = true)]
async fn an_event_that_comes_again_with_other_content_is_told_and_moves_no_cursor_back(#[case] ids: [&str; 3]) {
    let world = World::new();
    world.source.add(ids.map(event));
    let [_, again, _] = ids;
    let copy = Event { payload: Payload::from_json_text("{}"), ..event(again) };
    world.source.next([Script::Exactly(ids.map(event).into_iter().chain([copy]).collect())]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    assert_eq!((world.stored_ids(), world.cursor().as_str()), (ids.map(str::to_owned).to_vec(), ids[2]));
    assert_eq!(world.report().stored.as_ref().map(|verdict| verdict.reason), Some(StoredReason::ConflictingEvent));
    polling.poll().await;
    assert_eq!(world.source.log()[1].after.as_deref(), Some(ids[2]), "nothing is asked for again");
}

#[tokio::test(start_paused = true)]
async fn that_ids_do_not_ascend_is_forgotten_with_their_epoch_also_when_its_answer_was_lost() {
    for lost in [vec![], vec!["reset"]] {
        let world = World::new();
        world.source.next([Script::Exactly([5, 2, 9].map(number).to_vec())]);
        let (task, steering) = world.task("a", &Frost::default(), 1);
        let task = tokio::spawn(task.run());
        sleep(Duration::from_millis(100)).await;
        assert!(world.report().note.as_ref().is_some_and(|note| note.contains("ascend")));

        // The id is read from elsewhere now, and there it ascends.
        world.source.add((1..=900).map(number));
        world.source.next([Script::Slow(100, Duration::from_millis(300))]);
        world.store.faults(|faults| faults.lose_next = lost);
        let mut changed = Source::clone(&steering.source.borrow());
        (changed.generation, changed.spec.epoch) = (2, 1);
        steering.source.send_replace(Arc::new(changed));
        while world.source.log().len() < 2 {
            sleep(Duration::from_millis(10)).await;
        }
        sleep(Duration::from_secs(1)).await;
        assert!(world.source.log()[1].end.is_none(), "it is being sent");
        assert_ne!(world.cursor(), "(start)", "and committed as it comes");
        sleep(Duration::from_secs(3)).await;
        assert_eq!((world.stored_ids().len(), world.cursor()), (900, "900".to_owned()));
        assert_eq!(world.report().note, None);
        steering.stop.cancel();
        task.await.expect("no panic");
    }
}
