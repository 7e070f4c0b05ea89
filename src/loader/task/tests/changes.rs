//! Objects that change while their source waits for something.

use super::*;
use crate::loader::buffer::Buffer;

fn suspend(running: &Running) {
    running.change(|source| {
        source.spec.suspend = true;
        source.generation += 1;
    });
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_suspended_while_it_waits_for_memory_sends_nothing_and_says_so_at_once() {
    let mut world = World::with_events(3);
    world.buffer = Buffer::new(64 * 1024);
    let all = world.buffer.take(64 * 1024).await;
    let running = start(&world);
    until("it waits", || world.reports.get(&world.stream).is_some_and(|it| it.blocked_by == Some(BlockedBy::Memory)))
        .await;
    suspend(&running);
    sleep(Duration::from_secs(1)).await;
    assert_eq!((world.report().suspended, world.report().blocked_by), (true, Some(BlockedBy::Suspended)));
    drop(all);
    sleep(Duration::from_mins(1)).await;
    assert!(world.source.log().is_empty());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_suspended_source_announces_no_poll() {
    let world = World::with_events(3);
    let an_hour = Some(Duration::from_hours(1));
    world.source.next([Script::Fails(FetchError::RateLimited { status: 429, retry_after: an_hour })]);
    let running = start(&world);
    until("asked", || world.reports.get(&world.stream).is_some_and(|report| report.next_poll.is_some())).await;
    suspend(&running);
    until("suspended", || world.report().suspended).await;
    assert_eq!(world.report().next_poll, None);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_suspended_stays_blocked_by_that_after_an_outage_of_the_database() {
    let mut world = World::with_events(3);
    world.object.spec.suspend = true;
    world.store.faults(|faults| faults.unavailable = true);
    let running = start(&world);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.report().blocked_by, Some(BlockedBy::Database));
    world.store.faults(|faults| faults.unavailable = false);
    sleep(Duration::from_mins(1)).await;
    assert_eq!(world.report().blocked_by, Some(BlockedBy::Suspended));
    running.stop().await;
}
