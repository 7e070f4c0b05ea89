//! Streams of opaque ids that begin again, here and there, before they were read to their end.

use std::collections::BTreeSet;

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::{
    api::event_source::{Start, StartPosition},
    loader::testing::{Odds, event},
};

const EVENTS: usize = 16;

/// One epoch: behind which event it begins, in pages of how many, and how long it lasts.
#[derive(Debug, Clone)]
struct Era {
    after: Option<usize>,
    limit: i32,
    lasts: Duration,
}

fn eras() -> impl Strategy<Value = Vec<Era>> {
    let era = (option::weighted(0.7, 1..=EVENTS), 1..7, 0..3000u64);
    vec(era.prop_map(|(after, limit, ms)| Era { after, limit, lasts: Duration::from_millis(ms) }), 1..7)
}

fn begin(running: &Running, era: &Era) {
    running.change(|source| {
        source.generation += 1;
        source.spec.epoch += 1;
        source.spec.poll.batch_size = era.limit;
        source.spec.start = match era.after {
            None => Start { position: StartPosition::Earliest, after_id: None },
            Some(place) => Start { position: StartPosition::AfterID, after_id: Some(format!("x{place}")) },
        };
    });
}

async fn reads_to_the_end(world: &World, running: &Running) {
    let last = format!("x{EVENTS}");
    let epoch = Epoch(running.steering.source.borrow().spec.epoch);
    let at_the_end = || world.store.row(&world.stream, |row| row.epoch == epoch) && world.cursor() == last;
    until("the end of the feed", || world.store.has_row(&world.stream) && at_the_end()).await;
    let stored = world.stored_ids();
    assert_eq!(stored.iter().collect::<BTreeSet<_>>().len(), stored.len(), "stored twice: {stored:?}");
}

async fn begins_again(eras: Vec<Era>, seed: u64) {
    let world = World::seeded(seed);
    world.source.add((1..=EVENTS).map(|n| event(&format!("x{n}"))));
    world.source.odds(Odds { slow: 0.3, cut: 0.1, ..Odds::default() }, Duration::from_millis(5));
    let running = start(&world);
    for era in &eras {
        begin(&running, era);
        sleep(era.lasts).await;
    }
    reads_to_the_end(&world, &running).await;
    begin(&running, &Era { after: None, limit: 4, lasts: Duration::ZERO });
    reads_to_the_end(&world, &running).await;
    assert_eq!(world.stored_ids().len(), EVENTS);
    assert_eq!(world.requests("CursorRejected"), 0);
    running.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_epochs_it_has_been_through_a_stream_is_read_to_its_end_and_nothing_is_stored_twice(
        eras in eras(),
        seed in any::<u64>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(begins_again(eras, seed));
    }
}
