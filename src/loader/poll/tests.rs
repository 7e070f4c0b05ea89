mod extension;
mod kind;
mod memory;
mod order;
mod progressive;
mod row;

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    api::{ReachableReason, StoredReason},
    loader::{
        context::IN_FLIGHT,
        testing::{Odds, Script, World, event, number},
    },
    permit::Attempt,
    store::{Adopt, Answer, Epoch, Gate, Holder, Reserve},
};

const MIN_INTERVAL: Duration = Duration::from_millis(200);

fn ids(last: u64) -> Vec<String> {
    (1..=last).map(|number| number.to_string()).collect()
}

fn gaps(world: &World) -> Vec<Duration> {
    world.source.log().windows(2).map(|pair| pair[1].start - pair[0].start).collect()
}

/// Another replica takes the row over.
async fn adopt_as(world: &World, holder: &str) -> crate::store::Fence {
    let adopt = Adopt {
        stream: world.stream.clone(),
        uid: world.object.uid.clone(),
        holder: Holder::new(holder),
        epoch: Epoch(0),
        start: Cursor::Start,
        id_path: "$.id".to_owned(),
        in_doubt: false,
    };
    match world.store.adopt(adopt).await {
        Ok(Answer::Applied(adopted)) => adopted.fence,
        other => panic!("ADOPT is never refused: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn one_pass_connects_reserves_asks_and_stores_a_page_with_its_cursor() {
    let world = World::with_events(3);
    let mut polling = world.adopted_by("a").await;
    assert!(matches!(polling.pass().await, Pass::Again(_)));
    assert_eq!(world.stored_ids(), ids(3));
    assert_eq!(world.cursor(), "3");
    world.store.row(&world.stream, |row| assert_eq!(row.attempt, None, "the attempt is closed"));
    let report = world.report();
    assert_eq!(report.caught_up, Some(true));
    assert_eq!(report.events_stored, 3);
    assert_eq!(report.reachable.as_ref().map(|verdict| verdict.reason), Some(ReachableReason::PollSucceeded));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_cannot_be_connected_reserves_nothing_and_holds_no_memory() {
    let world = World::with_events(3);
    world.source.refuse_connections([FetchError::TlsFailed { detail: "unknown issuer".to_owned() }]);
    let mut polling = world.adopted_by("a").await;
    let free = world.buffer.free();
    polling.pass().await;
    assert_eq!(world.store.asked("reserve"), 0);
    assert_eq!(world.buffer.free(), free);
    assert_eq!(world.report().reachable.as_ref().map(|verdict| verdict.reason), Some(ReachableReason::TLSFailed));
    polling.poll().await;
    assert_eq!(world.cursor(), "3");
}

#[tokio::test(start_paused = true)]
async fn memory_is_taken_before_the_reservation_and_waited_for() {
    let mut world = World::with_events(3);
    world.buffer = crate::loader::buffer::Buffer::new(64 * 1024);
    let mut polling = world.adopted_by("a").await;
    let others = world.buffer.take(64 * 1024).await;
    let passing = tokio::spawn(async move { polling.pass().await });
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.report().blocked_by, Some(BlockedBy::Memory));
    assert_eq!(world.store.asked("reserve"), 0);
    drop(others);
    assert!(matches!(passing.await.expect("no panic"), Pass::Again(_)));
    assert_eq!(world.cursor(), "3");
}

#[tokio::test(start_paused = true)]
async fn a_page_larger_than_the_whole_budget_is_read_as_its_own_commits_free_memory() {
    let mut world = World::with_events(2000).asking_for(2000);
    world.buffer = crate::loader::buffer::Buffer::new(32 * 1024);
    world.source.next([Script::Slow(50, Duration::from_millis(5))]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    assert_eq!(world.stored_ids(), ids(2000));
    assert_eq!(world.source.log().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_saturated_source_is_asked_at_97_percent_of_the_limit_and_never_too_early() {
    let world = World::with_events(10_000).asking_for(10);
    // A round trip of 2 ms to the database, and one of 1 ms to the source.
    world.store.faults(|faults| faults.latency = Duration::from_millis(2));
    world.source.odds(Odds::default(), Duration::from_millis(1));
    let mut polling = world.adopted_by("a").await;
    for _ in 0..1000 {
        polling.poll().await;
    }
    let log = world.source.log();
    let to_first_byte: Duration = log.iter().filter_map(|served| Some(served.first_byte? - served.start)).sum();
    let took = log.last().expect("requests").start - log[0].start;
    let limit = MIN_INTERVAL + to_first_byte / 1000;
    let rate = (limit * 999).as_secs_f64() / took.as_secs_f64();
    assert!(rate >= 0.97, "{:.1} % of the limit", rate * 100.0);
    assert!(gaps(&world).into_iter().all(|gap| gap >= MIN_INTERVAL));
    assert_eq!(world.metrics.gate_violations.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_next_start_keeps_its_distance_from_the_first_byte_not_from_the_grant() {
    let world = World::with_events(2000).asking_for(10);
    world.source.odds(Odds::default(), Duration::from_millis(90));
    let mut polling = world.adopted_by("a").await;
    for _ in 0..20 {
        polling.poll().await;
    }
    for pair in world.source.log().windows(2) {
        assert!(pair[1].start >= pair[0].first_byte.expect("answered") + MIN_INTERVAL);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_is_committed_as_it_arrives() {
    let world = World::with_events(900);
    world.source.next([Script::Slow(100, Duration::from_millis(300))]);
    let mut polling = world.adopted_by("a").await;
    let passing = tokio::spawn(async move { polling.poll().await });
    sleep(Duration::from_millis(850)).await;
    assert_eq!(world.cursor(), "300", "a tail that a crash would lose is small");
    world.store.row(&world.stream, |row| assert!(row.attempt.is_some(), "the request is still in flight"));
    passing.await.expect("no panic");
    assert_eq!(world.stored_ids(), ids(900));
    assert_eq!(world.source.log().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_running_request_extends_its_deadline_first_byte_or_not() {
    let world = World::with_events(3);
    world.source.next([Script::NeverAnswers]);
    let mut polling = world.adopted_by("a").await;
    let passing = tokio::spawn(async move { polling.poll().await });
    for second in 1..5 {
        sleep(Duration::from_secs(1)).await;
        assert!(world.store.extends().len() + 1 >= second, "after {second} s");
        world.store.row(&world.stream, |row| assert!(row.deadline > Some(Instant::now() + Duration::from_secs(1))));
    }
    passing.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_does_not_release_the_row_but_shuts_it_for_as_long_as_the_source_may_serve() {
    let world = World::with_events(3);
    world.source.next([Script::NeverAnswers]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    assert_eq!(world.report().reachable.as_ref().map(|verdict| verdict.reason), Some(ReachableReason::Timeout));
    assert_eq!(world.store.asked("abort"), 0);
    let last = world.store.extends().pop().expect("the deadline was extended");
    assert!(last.by > Duration::from_millis(4900), "http.timeout is 5 s, longer than D: {:?}", last.by);
    let given_up = Instant::now();
    polling.poll().await;
    let log = world.source.log();
    assert!(log[1].start >= given_up + Duration::from_millis(4900));
    assert!(log[1].start >= log[0].end.expect("it has ended"));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_stops_waiting_shuts_the_row_for_as_long_as_a_timeout_of_our_own() {
    let world = World::with_events(3);
    let after = world.source.timeout;
    let error = FetchError::GatewayTimeout { status: 504, retry_after: None, after };
    world.source.next([Script::FailsUnread(error)]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    assert_eq!(world.store.asked("abort"), 0);
    let given_up = Instant::now();
    let mut other = world.adopted_by("b").await;
    other.poll().await;
    let next = world.source.log()[1].start;
    assert!(next >= given_up + Duration::from_millis(4900), "{:?}", next - given_up);
    assert_eq!(world.cursor(), "3");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_stops_waiting_makes_no_page_smaller() {
    let world = World::with_events(3);
    let error = FetchError::GatewayTimeout { status: 504, retry_after: None, after: world.source.timeout };
    world.source.next([Script::FailsUnread(error)]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    polling.poll().await;
    let limits: Vec<_> = world.source.log().iter().map(|request| request.limit).collect();
    assert_eq!(limits, [1000, 1000], "one event of a page whose order nobody knows would jump over the others");
}

#[tokio::test(start_paused = true)]
async fn a_cut_body_keeps_its_prefix_and_waits_out_the_deadline() {
    let world = World::with_events(100);
    world.source.next([Script::Cut(40)]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    assert_eq!(world.stored_ids(), ids(40));
    assert_eq!(world.store.asked("abort"), 0, "the source may still be serving");
    let given_up = Instant::now();
    polling.poll().await;
    let log = world.source.log();
    assert_eq!(log[1].after.as_deref(), Some("40"));
    assert_eq!(log[1].limit, 1000, "the cursor moved, so it is not the same failure again");
    assert!(log[1].start >= given_up + IN_FLIGHT - Duration::from_millis(10));
    assert_eq!(world.stored_ids(), ids(100));
}

#[tokio::test(start_paused = true)]
async fn an_error_that_was_read_to_its_end_releases_the_row() {
    let world = World::with_events(3);
    world.source.next([Script::Fails(FetchError::ServerError { status: 503, retry_after: None })]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    world.store.row(&world.stream, |row| assert_eq!(row.attempt, None));
    let report = world.report();
    assert_eq!(report.reachable.as_ref().map(|verdict| verdict.reason), Some(ReachableReason::ServerError));
    assert_eq!((report.consecutive_failures, report.blocked_by), (1, Some(BlockedBy::Backoff)));
    polling.poll().await;
    assert_eq!(world.cursor(), "3");
}

#[tokio::test(start_paused = true)]
async fn retry_after_stands_in_the_row_and_holds_for_every_replica() {
    let world = World::with_events(3);
    let retry_after = Some(Duration::from_secs(40));
    world.source.next([Script::Fails(FetchError::RateLimited { status: 429, retry_after })]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    let asked_to_wait = Instant::now();
    let mut other = world.adopted_by("b").await;
    other.poll().await;
    let next = world.source.log()[1].start;
    assert!(next >= asked_to_wait + Duration::from_millis(39_900), "{:?}", next - asked_to_wait);
    assert_eq!(world.cursor(), "3");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_must_come_first_is_closed_and_keeps_the_gap() {
    let world = World::with_events(3);
    world.source.next([Script::Prepares]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    polling.poll().await;
    assert_eq!(world.cursor(), "3");
    assert!(gaps(&world)[0] >= MIN_INTERVAL && gaps(&world)[0] < Duration::from_millis(400), "{:?}", gaps(&world));
}

#[tokio::test(start_paused = true)]
async fn an_idle_source_is_asked_ever_less_often_and_reserves_nothing_ahead() {
    let world = World::with_events(0);
    let mut polling = world.adopted_by("a").await;
    for _ in 0..15 {
        polling.poll().await;
    }
    // A second sooner than after 4.5 to 5 s: it may wait for others then.
    let due_in = polling.due_in();
    assert!(due_in > Duration::from_millis(3400) && due_in <= Duration::from_secs(4), "{due_in:?}");
    assert!(world.store.reserves().iter().skip(1).all(|reserve| reserve.at_most_ahead.is_zero()));
    for pair in world.store.reserves().windows(2) {
        assert_eq!(pair[1].ended.map(|ended| ended.attempt), Some(pair[0].attempt), "each closes the one before");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_without_news_is_asked_less_soon_while_others_wait_for_a_holder() {
    let world = World::with_events(0);
    let mut polling = world.adopted_by("a").await;
    world.ownership.leases_wait(true);
    polling.poll().await;
    polling.poll().await;
    let first = gaps(&world)[0];
    assert!(first >= Duration::from_millis(500) && first <= Duration::from_millis(800), "{first:?}: not 300 ms");
    world.source.add([number(1)]);
    world.ownership.leases_wait(false);
    polling.poll().await;
    polling.poll().await;
    let after_news = gaps(&world)[2];
    assert!(after_news < Duration::from_millis(300), "{after_news:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_pass_before_the_request_and_never_after() {
    let world = World::with_events(300);
    world.source.next([Script::Slow(100, Duration::from_millis(500))]);
    let mut polling = world.adopted_by("a").await;
    let stop = polling.stop.clone();
    let passing = tokio::spawn(async move { (polling.poll().await, polling.pass().await) });
    sleep(Duration::from_millis(100)).await;
    stop.cancel();
    let (sent, next) = passing.await.expect("no panic");
    assert!(matches!(sent, Pass::Again(_)));
    assert_eq!(world.stored_ids(), ids(300), "the sent request was read to its end");
    assert_eq!(next, Pass::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_has_closed_its_idle_connection_is_asked_over_another_one_and_has_not_failed() {
    let world = World::with_events(3);
    let mut polling = world.adopted_by("a").await;
    for _ in 0..15 {
        polling.poll().await;
    }
    world.source.close_idle_connections(1);
    assert_eq!(polling.pass().await, Pass::Again(Instant::now()));
    let found_closed = Instant::now();
    polling.poll().await;
    let waited = world.source.log()[15].start - found_closed;
    assert!(waited < MIN_INTERVAL * 3 / 2, "an idle source waits for 5 s, this one for {waited:?}");
    assert_eq!(world.store.asked("abort"), 1, "what never left is given back");
    let report = world.report();
    assert_eq!(report.reachable.as_ref().map(|verdict| verdict.reason), Some(ReachableReason::PollSucceeded));
    assert_eq!(report.consecutive_failures, 0);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_closes_each_connection_before_the_request_has_failed() {
    let world = World::with_events(3);
    let mut polling = world.adopted_by("a").await;
    world.source.close_idle_connections(1_000);
    while world.store.asked("abort") < 2 {
        polling.pass().await;
    }
    assert_eq!((polling.poller.polls(), world.report().last_poll), (0, None), "none left");
    assert_eq!(
        world.report().reachable.as_ref().map(|verdict| verdict.reason),
        Some(ReachableReason::ConnectionFailed)
    );
    assert!(polling.due_in() > Duration::ZERO, "it backs off");
}

#[tokio::test(start_paused = true)]
async fn a_reservation_slower_than_the_send_limit_sends_nothing_and_raises_the_limit() {
    let world = World::with_events(3);
    world.store.faults(|faults| faults.latency = Duration::from_millis(400));
    let mut polling = world.adopted_by("a").await;
    while world.source.log().is_empty() {
        polling.pass().await;
    }
    let limits: Vec<_> = world.store.reserves().iter().map(|reserve| reserve.send_within).collect();
    assert_eq!(limits[0], Duration::from_millis(100));
    assert!(limits.len() > 1 && limits[1..].iter().all(|limit| *limit > Duration::from_millis(100)), "{limits:?}");
    assert_eq!(world.report().reachable.as_ref().map(|it| it.reason), Some(ReachableReason::PollSucceeded));
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_the_reservation_leaves_no_attempt_open_for_the_next_holder_to_wait_for() {
    let world = World::with_events(3);
    let mut polling = world.adopted_by("a").await;
    world.store.faults(|faults| faults.latency = Duration::from_millis(90));
    let stop = polling.stop.clone();
    let passing = tokio::spawn(async move { polling.pass().await });
    sleep(Duration::from_millis(1)).await;
    stop.cancel();
    assert_eq!(passing.await.expect("no panic"), Pass::Stopped);
    assert_eq!(world.store.asked("reserve"), 1, "it was under way");
    world.store.row(&world.stream, |row| assert_eq!(row.attempt, None));
    assert!(world.source.log().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_an_abort_that_stands_behind_others() {
    let world = World::with_events(3);
    let mut polling = world.adopted_by("a").await;
    world.store.faults(|faults| faults.unavailable = true);
    polling.pass().await;
    world.store.faults(|faults| faults.queue = Duration::from_mins(1));
    let stop = polling.stop.clone();
    let passing = tokio::spawn(async move { polling.pass().await });
    // Longer than any wait before the next try.
    sleep(Duration::from_secs(20)).await;
    assert!(!passing.is_finished());
    stop.cancel();
    let stopped = Instant::now();
    assert_eq!(passing.await.expect("no panic"), Pass::Stopped);
    assert!(stopped.elapsed() < Duration::from_secs(1), "{:?}", stopped.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_reservation_that_no_statement_took_is_not_aborted() {
    let world = World::with_events(3);
    let mut polling = world.adopted_by("a").await;
    world.store.faults(|faults| faults.busy = true);
    assert!(matches!(polling.pass().await, Pass::Again(_)));
    assert_eq!(world.report().blocked_by, Some(BlockedBy::Database));
    world.store.faults(|faults| faults.busy = false);
    polling.poll().await;
    assert_eq!((world.cursor(), world.store.asked("abort")), ("3".to_owned(), 0));
}
