//! Objects whose events are to go with them.

use super::*;
use crate::api::event_source::DeletionPolicy;

fn goes_with_its_events(source: &mut Source) {
    source.spec.deletion_policy = DeletionPolicy::Delete;
    source.generation += 1;
}

fn accepted(world: &World) -> Option<AcceptedReason> {
    world.report().accepted.as_ref().map(|verdict| verdict.reason)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_or_adopted_before_a_deletion_would_wait_for_the_events() {
    let mut world = World::with_events(3);
    goes_with_its_events(&mut world.object);
    let running = start(&world);
    sleep(Duration::from_hours(1)).await;
    assert_eq!(accepted(&world), Some(AcceptedReason::FinalizerPending));
    assert_eq!(world.report().blocked_by, Some(BlockedBy::Finalizer));
    assert!(world.source.log().is_empty() && !world.store.has_row(&world.stream));

    let begun = Instant::now();
    running.change(|source| source.has_finalizer = true);
    until("loaded", || world.store.has_row(&world.stream) && world.cursor() == "3").await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(accepted(&world), Some(AcceptedReason::Valid));
    assert_ne!(world.report().blocked_by, Some(BlockedBy::Finalizer));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_waits_for_its_finalizer_hears_of_its_object_and_of_its_end() {
    let mut world = World::with_events(3);
    goes_with_its_events(&mut world.object);
    let running = start(&world);
    sleep(Duration::from_secs(10)).await;
    running.change(|source| {
        source.spec.deletion_policy = DeletionPolicy::Retain;
        source.generation += 1;
    });
    until("loaded", || world.store.has_row(&world.stream) && world.cursor() == "3").await;

    running.change(|source| {
        goes_with_its_events(source);
        "made-anew".clone_into(&mut source.uid);
    });
    until("it waits", || accepted(&world) == Some(AcceptedReason::FinalizerPending)).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_polled_already_does_not_wait_for_a_finalizer() {
    let world = World::with_events(3);
    let running = start(&world);
    until("loaded", || world.store.has_row(&world.stream) && world.cursor() == "3").await;
    running.change(goes_with_its_events);
    let requests = world.source.log().len();
    sleep(Duration::from_mins(1)).await;
    assert!(world.source.log().len() > requests + 5);
    assert_eq!(accepted(&world), Some(AcceptedReason::Valid));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_was_never_reached_waits_for_its_finalizer_as_a_new_one() {
    let world = World::with_events(3);
    let refused = || FetchError::ConnectionFailed { detail: "connection refused".to_owned() };
    world.source.refuse_connections(std::iter::repeat_with(refused).take(1000).collect::<Vec<_>>());
    let running = start(&world);
    sleep(Duration::from_secs(10)).await;
    running.change(goes_with_its_events);
    until("it waits", || accepted(&world) == Some(AcceptedReason::FinalizerPending)).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_another_replica_has_polled_does_not_wait_for_a_finalizer() {
    let mut world = World::with_events(3);
    goes_with_its_events(&mut world.object);
    world.object.was_polled = true;
    let running = start(&world);
    until("loaded", || world.store.has_row(&world.stream) && world.cursor() == "3").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_suspended_source_asks_nothing_and_waits_for_no_finalizer() {
    let mut world = World::with_events(3);
    goes_with_its_events(&mut world.object);
    world.object.spec.suspend = true;
    let running = start(&world);
    sleep(Duration::from_mins(1)).await;
    assert_eq!(world.report().blocked_by, Some(BlockedBy::Suspended));
    running.change(|source| {
        source.spec.suspend = false;
        source.generation += 1;
    });
    until("it waits", || accepted(&world) == Some(AcceptedReason::FinalizerPending)).await;
    assert!(world.source.log().is_empty());
    running.stop().await;
}
