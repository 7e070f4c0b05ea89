//! The deadline of a request in flight, at its end and after it was given up.

use super::*;
use crate::loader::testing::Faults;

/// The last extension of a request that was told to stop, then given up, while this was wrong for a moment.
async fn given_up_while(wrong: impl FnOnce(&mut Faults)) -> (Duration, usize) {
    let world = World::with_events(3);
    world.source.next([Script::NeverAnswers]);
    let mut polling = world.adopted_by("a").await;
    let stop = polling.stop.clone();
    let passing = tokio::spawn(async move { polling.pass().await });
    sleep(Duration::from_millis(4500)).await;
    stop.cancel();
    world.store.faults(wrong);
    let before = world.store.asked("extend");
    sleep(Duration::from_millis(1500)).await;
    let tries = world.store.asked("extend") - before;
    world.store.faults(|faults| *faults = Faults::default());
    passing.await.expect("no panic");
    (world.store.extends().pop().expect("it was extended").by, tries)
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_the_row_shut_for_a_request_that_was_given_up_while_the_row_was_locked() {
    let (by, tries) = given_up_while(|faults| faults.lock = 1.0).await;
    assert!(by > Duration::from_millis(3500), "http.timeout is 5 s: {by:?}");
    assert!(tries < 15, "ever less often: {tries} tries in 1.5 s");
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_the_row_shut_for_a_request_that_was_given_up_while_the_database_was_away() {
    let (by, _) = given_up_while(|faults| faults.unavailable = true).await;
    assert!(by > Duration::from_millis(3500), "http.timeout is 5 s: {by:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_no_longer_than_the_deadline_for_a_row_that_stays_locked() {
    let world = World::with_events(3);
    world.source.next([Script::NeverAnswers]);
    let mut polling = world.adopted_by("a").await;
    let stop = polling.stop.clone();
    let begun = Instant::now();
    let passing = tokio::spawn(async move { polling.pass().await });
    sleep(Duration::from_millis(4500)).await;
    stop.cancel();
    world.store.faults(|faults| faults.lock = 1.0);
    passing.await.expect("no panic");
    // http.timeout is 5 s, and the source may serve for as long again.
    let ended = begun.elapsed();
    assert!(ended >= Duration::from_secs(5) + IN_FLIGHT && ended < Duration::from_secs(9), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn an_extension_that_is_answered_after_the_end_of_the_response_keeps_nobody_waiting() {
    let world = World::with_events(300);
    world.source.next([Script::Slow(100, Duration::from_millis(345))]);
    let mut polling = world.adopted_by("a").await;
    let passing = tokio::spawn(async move {
        polling.poll().await;
        polling
    });
    sleep(Duration::from_millis(990)).await;
    world.store.faults(|faults| faults.latency = Duration::from_millis(400));
    let mut polling = passing.await.expect("no panic");
    assert_eq!(world.store.asked("extend"), 1, "it was under way");
    world.store.faults(|faults| faults.latency = Duration::ZERO);
    polling.poll().await;
    assert!(gaps(&world)[0] < Duration::from_secs(3), "{:?}", gaps(&world));
}
