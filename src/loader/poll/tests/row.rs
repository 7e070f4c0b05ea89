//! What the row says, when it does not answer, and who else has it.

use super::*;
use crate::event::{Event, Payload};

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_database_holds_the_batch_and_never_asks_the_source_again() {
    let world = World::with_events(700);
    world.source.next([Script::Slow(100, Duration::from_millis(100))]);
    let mut polling = world.adopted_by("a").await;
    let passing = tokio::spawn(async move { polling.poll().await });
    sleep(Duration::from_millis(250)).await;
    world.store.faults(|faults| faults.unavailable = true);
    sleep(Duration::from_mins(5)).await;
    assert!(!passing.is_finished(), "it holds on");
    let report = world.report();
    assert_eq!(report.blocked_by, Some(BlockedBy::Database));
    assert_eq!(report.stored.as_ref().map(|verdict| verdict.reason), Some(StoredReason::DatabaseUnavailable));
    assert!(world.ownership.told().holding_a_batch.contains(&world.stream));
    world.store.faults(|faults| faults.unavailable = false);
    passing.await.expect("no panic");
    assert_eq!(world.stored_ids(), ids(700));
    assert_eq!(world.source.log().len(), 1, "one request");
    assert!(world.ownership.told().holding_a_batch.is_empty());
    let report = world.report();
    assert_eq!(report.blocked_by, None);
    assert_eq!(report.stored.as_ref().map(|verdict| verdict.reason), Some(StoredReason::AppendSucceeded));
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_answer_was_lost_is_repeated_and_stored_once() {
    let world = World::with_events(5);
    world.store.faults(|faults| faults.lose_next = vec!["append", "append"]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    assert_eq!(world.stored_ids(), ids(5));
    let parts: Vec<_> = world.store.appends().iter().map(|append| append.part).collect();
    assert_eq!(parts, [0, 0, 0], "the same append each time");
    polling.poll().await;
    assert_eq!(world.source.log()[1].after.as_deref(), Some("5"));
}

#[tokio::test(start_paused = true)]
async fn a_page_without_events_costs_one_statement_and_no_deadline() {
    let world = World::with_events(0);
    let mut polling = world.adopted_by("a").await;
    for _ in 0..5 {
        polling.poll().await;
    }
    assert_eq!((world.store.asked("reserve"), world.store.asked("append"), world.store.asked("abort")), (5, 0, 0));
    let longest = gaps(&world).into_iter().max().expect("five requests");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reservation_that_is_lost_with_the_attempt_it_closes_costs_no_deadline() {
    let world = World::with_events(0);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    // Carried out, and its answer lost; then not carried out.
    world.store.faults(|faults| faults.lose_next = vec!["reserve"]);
    polling.poll().await;
    world.store.faults(|faults| faults.unavailable = true);
    assert!(matches!(polling.pass().await, Pass::Again(_)));
    world.store.faults(|faults| faults.unavailable = false);
    polling.poll().await;
    let longest = gaps(&world).into_iter().max().expect("three requests");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_stops_closes_what_its_next_reservation_would_have_closed() {
    let world = World::with_events(0);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    assert!(world.store.row(&world.stream, |row| row.attempt.is_some()));
    polling.leave().await;
    assert!(world.store.row(&world.stream, |row| row.attempt.is_none()));
    world.adopted_by("b").await.poll().await;
    assert!(gaps(&world)[0] < Duration::from_millis(250), "{:?}", gaps(&world));
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_away_does_not_hold_up_whoever_stops() {
    let world = World::with_events(0);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    world.store.faults(|faults| faults.latency = Duration::from_mins(1));
    let begun = Instant::now();
    polling.leave().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn whoever_stops_after_a_lost_reservation_closes_the_attempt_that_it_would_have_closed() {
    let world = World::with_events(0);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    // It did not come to the row, which still has the attempt before.
    world.store.faults(|faults| faults.unavailable = true);
    polling.pass().await;
    world.store.faults(|faults| faults.unavailable = false);
    polling.leave().await;
    assert!(world.store.row(&world.stream, |row| row.attempt.is_none()));
}

#[tokio::test(start_paused = true)]
async fn whoever_stops_long_after_its_last_poll_has_nothing_to_close() {
    let world = World::with_events(0);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    sleep(Duration::from_secs(4)).await;
    polling.leave().await;
    assert_eq!(world.store.asked("abort"), 0);
    world.adopted_by("b").await.poll().await;
    assert!(gaps(&world)[0] < Duration::from_millis(4100), "{:?}", gaps(&world));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_asked_seldom_is_closed_at_once_because_a_crash_would_cost_the_deadline_beside_its_interval() {
    let mut world = World::with_events(0);
    let seldom = Duration::from_secs(5).into();
    (world.object.spec.poll.min_interval, world.object.spec.poll.max_idle_interval) = (seldom, seldom);
    world.adopted_by("a").await.poll().await;
    assert!(world.store.row(&world.stream, |row| row.attempt.is_none()));
}

#[tokio::test(start_paused = true)]
async fn only_an_idle_source_lets_its_reservations_wait_for_company() {
    let world = World::with_events(3);
    let mut polling = world.adopted_by("a").await;
    // Events, the first page without any, and an idle one.
    for _ in 0..3 {
        polling.poll().await;
    }
    // Half of what the wait has grown by: from 200 to 300 ms.
    let (none, some) = (Duration::ZERO, Duration::from_millis(50));
    let reserves: Vec<_> = world.store.reserves().iter().map(|reserve| reserve.patience.longest).collect();
    assert_eq!(reserves, [none, none, some]);
}

#[tokio::test(start_paused = true)]
async fn company_is_not_looked_for_before_the_gate_may_open() {
    let mut world = World::with_events(0);
    // So little above, that what is taken off at random leaves no time to be patient in.
    world.object.spec.poll.min_interval = Duration::from_secs(1).into();
    world.object.spec.poll.max_idle_interval = Duration::from_millis(1_150).into();
    let mut polling = world.adopted_by("a").await;
    for _ in 0..30 {
        polling.poll().await;
        let last = world.source.log().last().expect("a request").start;
        assert!(polling.due - last >= Duration::from_secs(1), "{:?}", polling.due - last);
    }
    assert_eq!(world.store.asked("reserve"), 30, "none was refused");
}

#[tokio::test(start_paused = true)]
async fn who_holds_much_memory_waits_for_no_company() {
    let payload = Payload::from_json_text(format!("\"{}\"", "x".repeat(200 * 1024)));
    let mut world = World::new();
    world.source.add([Event { payload, ..number(1) }]);
    world.object.spec.poll.max_idle_interval = Duration::from_secs(5).into();
    let mut polling = world.adopted_by("a").await;
    for _ in 0..30 {
        polling.poll().await;
    }
    let reserves: Vec<_> = world.store.reserves().iter().map(|reserve| reserve.patience.longest).collect();
    assert_eq!(reserves[4], Duration::ZERO, "the page before was large: {reserves:?}");
    assert!(reserves[29] > Duration::ZERO, "it was long ago: {reserves:?}");
}

#[tokio::test(start_paused = true)]
async fn a_page_without_events_is_closed_at_once_by_who_was_told_to_stop_meanwhile() {
    let world = World::with_events(0);
    let mut polling = world.adopted_by("a").await;
    world.store.faults(|faults| faults.latency = Duration::from_millis(20));
    let stop = polling.stop.clone();
    let passing = tokio::spawn(async move { polling.poll().await });
    while world.source.log().is_empty() {
        sleep(Duration::from_millis(1)).await;
    }
    stop.cancel();
    passing.await.expect("no panic");
    assert!(world.store.row(&world.stream, |row| row.attempt.is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_reservation_whose_answer_was_lost_is_given_back_before_the_next() {
    let world = World::with_events(5);
    world.store.faults(|faults| faults.lose_next = vec!["reserve"]);
    let mut polling = world.adopted_by("a").await;
    let begun = Instant::now();
    polling.poll().await;
    assert_eq!(world.store.asked("abort"), 1);
    assert!(begun.elapsed() < Duration::from_secs(1), "not after the deadline of a request that was never sent");
    assert_eq!(world.stored_ids(), ids(5));
}

#[tokio::test(start_paused = true)]
async fn a_locked_row_is_asked_again_and_never_read_as_a_refusal() {
    let world = World::with_events(500).asking_for(50);
    world.store.faults(|faults| faults.lock = 0.5);
    let mut polling = world.adopted_by("a").await;
    while world.cursor() != "500" {
        assert!(matches!(polling.poll().await, Pass::Again(_)));
    }
    assert_eq!(world.stored_ids(), ids(500));
}

#[tokio::test(start_paused = true)]
async fn a_row_that_another_session_keeps_locked_is_asked_for_less_and_less_often_and_its_source_says_so() {
    let world = World::with_events(5);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    let verdict = |world: &World| world.report().stored.as_ref().map(|verdict| verdict.reason);

    world.store.faults(|faults| faults.lock = 1.0);
    let (began, mut minutes) = (Instant::now(), Vec::new());
    while began.elapsed() < Duration::from_secs(4) {
        polling.pass().await;
    }
    assert_eq!(verdict(&world), Some(StoredReason::AppendSucceeded), "it may be a statement of another replica");
    for _ in 0..2 {
        let (asked, minute) = (world.store.asked("reserve"), Instant::now());
        while minute.elapsed() < Duration::from_mins(1) {
            polling.pass().await;
        }
        minutes.push(world.store.asked("reserve") - asked);
    }
    assert!(minutes[1] < minutes[0] && (50..80).contains(&minutes[1]), "{minutes:?}");
    assert_eq!(
        (verdict(&world), world.report().blocked_by),
        (Some(StoredReason::DatabaseUnavailable), Some(BlockedBy::Database))
    );
    let (_, message) =
        world.report().problem().map(|(reason, message)| (reason, message.to_owned())).expect("a problem");
    assert!(message.contains("pg_stat_activity"), "{message}");

    world.store.faults(|faults| faults.lock = 0.0);
    polling.poll().await;
    assert_eq!((verdict(&world), world.report().blocked_by), (Some(StoredReason::AppendSucceeded), None));
    assert_eq!(world.stored_ids(), ids(5));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_waits_for_a_row_that_another_session_keeps_locked_says_so() {
    let world = World::with_events(2);
    let mut polling = world.adopted_by("a").await;
    world.source.next([Script::Slow(1, Duration::from_millis(300))]);
    let passing = tokio::spawn(async move { polling.poll().await });
    sleep(Duration::from_millis(250)).await;
    world.store.faults(|faults| faults.lock = 1.0);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.report().problem().map(|(reason, _)| reason), Some("DatabaseUnavailable"));
    world.store.faults(|faults| faults.lock = 0.0);
    passing.await.expect("no panic");
    assert_eq!((world.report().problem(), world.stored_ids()), (None, ids(2)));
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_row_was_adopted_by_another_is_fenced_off_at_its_next_reservation() {
    let world = World::with_events(3);
    let mut polling = world.adopted_by("a").await;
    adopt_as(&world, "b").await;
    assert_eq!(polling.poll().await, Pass::FencedOff);
    assert!(world.source.log().is_empty(), "nothing was sent");
}

#[tokio::test(start_paused = true)]
async fn a_late_commit_is_kept_as_long_as_nobody_has_reserved_since() {
    let world = World::with_events(3);
    world.source.next([Script::Slow(1, Duration::from_millis(500))]);
    let mut polling = world.adopted_by("a").await;
    let passing = tokio::spawn(async move { (polling.poll().await, polling.poll().await) });
    sleep(Duration::from_millis(800)).await;
    adopt_as(&world, "b").await;
    let (first, second) = passing.await.expect("no panic");
    assert!(matches!(first, Pass::Again(_)));
    assert_eq!(world.stored_ids(), ids(3), "the answer was kept");
    assert_eq!(second, Pass::FencedOff);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_comes_after_another_reservation_is_dropped_and_counted() {
    let world = World::with_events(300);
    let mut polling = world.adopted_by("a").await;
    world.source.next([Script::Slow(100, Duration::from_secs(2))]);
    let passing = tokio::spawn(async move { (polling.poll().await, polling.poller.polls()) });
    sleep(Duration::from_millis(500)).await;
    // As after a freeze past the deadline: the row is taken over and reserved.
    let fence = adopt_as(&world, "b").await;
    world.store.row(&world.stream, |row| (row.deadline, row.not_before) = (Some(Instant::now()), Instant::now()));
    sleep(Duration::from_millis(1)).await;
    let cursor = world.store.row(&world.stream, |row| row.cursor.clone());
    let reserve = Reserve {
        stream: world.stream.clone(),
        holder: Holder::new("b"),
        fence,
        cursor,
        attempt: Attempt::random(),
        send_within: Duration::from_millis(100),
        in_flight: IN_FLIGHT,
        min_interval: MIN_INTERVAL,
        at_most_ahead: Duration::from_secs(1),
        ended: None,
        patience: crate::store::Patience::default(),
    };
    assert!(matches!(world.store.reserve(reserve).await, Ok(Answer::Applied(_))));
    assert_eq!(passing.await.expect("no panic"), (Pass::FencedOff, 1), "it was sent all the same");
    assert_eq!(world.stored_ids(), ids(100));
}

#[tokio::test(start_paused = true)]
async fn a_cursor_that_moved_without_us_means_adopting_again() {
    let world = World::with_events(3);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    world.store.row(&world.stream, |row| row.cursor = Cursor::Start);
    assert_eq!(polling.poll().await, Pass::Readopt);
}

#[tokio::test(start_paused = true)]
async fn a_database_clock_that_jumps_forward_does_not_shorten_the_gap() {
    let world = World::with_events(50).asking_for(10);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    world.store.row(&world.stream, |row| row.not_before = Instant::now());
    polling.due = Instant::now();
    polling.poll().await;
    assert!(gaps(&world)[0] >= MIN_INTERVAL, "{:?}", gaps(&world));
}
