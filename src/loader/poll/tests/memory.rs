//! What a source may hold of the memory that all share, before its response has begun.

use super::*;
use crate::{event::StreamName, loader::buffer::Buffer};

const MIB: u64 = 1024 * 1024;

fn source(name: &str, buffer: &Buffer) -> World {
    let mut world = World::with_events(3);
    world.stream = StreamName::new("shop", name);
    world.object.stream = world.stream.clone();
    world.buffer = buffer.clone();
    world
}

/// A stream whose pages must be held whole, however large, and whose source takes its time.
async fn asks_for_everything(buffer: &Buffer) -> World {
    let mut world = source("greedy", buffer);
    let http = world.object.spec.http.as_mut().expect("over http");
    http.max_response_bytes = 256 * 1024 * 1024;
    world.source.timeout = Duration::from_mins(10);
    world.source.next([Script::NeverAnswers]);
    world.adopted_by("a").await;
    world.store.row(&world.stream, |row| row.progressive = false);
    world
}

#[tokio::test(start_paused = true)]
async fn a_source_that_may_send_more_than_the_budget_and_sends_nothing_keeps_nobody_else_waiting() {
    let buffer = Buffer::new(128 * MIB);
    let greedy = asks_for_everything(&buffer).await;
    let mut polling = greedy.adopted_by("a").await;
    let passing = tokio::spawn(async move { polling.pass().await });
    sleep(Duration::from_secs(1)).await;
    assert_eq!(greedy.source.log().len(), 1, "it is being served");
    for name in 0..10 {
        let innocent = source(&format!("innocent-{name}"), &buffer);
        let mut polling = innocent.adopted_by("a").await;
        let begun = Instant::now();
        polling.poll().await;
        assert_eq!(innocent.stored_ids(), ids(3));
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    assert!(!passing.is_finished(), "all the while");
    passing.abort();
}

#[tokio::test(start_paused = true)]
async fn a_source_that_connects_slowly_after_it_waited_for_memory_holds_none_meanwhile() {
    let buffer = Buffer::new(64 * 1024);
    let world = source("orders", &buffer);
    world.source.take_time_to_connect([Duration::ZERO, Duration::from_secs(3), Duration::from_secs(3)]);
    let mut polling = world.adopted_by("a").await;
    let free = buffer.free();
    let others = buffer.take(64 * 1024).await;
    let passing = tokio::spawn(async move { polling.pass().await });
    sleep(Duration::from_secs(1)).await;
    drop(others);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(buffer.free(), free);
    passing.await.expect("no panic");
    assert_eq!(world.stored_ids(), ids(3));
}
