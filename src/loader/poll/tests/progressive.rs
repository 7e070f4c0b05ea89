//! How much of a body is here and not in the store: what a crash would cost.

use prometheus_client::encoding::text::encode;

use super::*;

/// The sizes of the appends that were sent, all of them by one attempt.
fn prefixes(world: &World) -> Vec<usize> {
    let appends = world.store.appends();
    assert!(appends.iter().all(|append| append.attempt == appends[0].attempt), "all of one attempt");
    appends.iter().map(|append| append.events.len()).collect()
}

#[tokio::test(start_paused = true)]
async fn an_event_of_a_slow_body_is_in_the_store_about_50_ms_after_it_came() {
    let world = World::with_events(300);
    world.store.faults(|faults| faults.latency = Duration::from_millis(5));
    world.source.next([Script::Slow(10, Duration::from_millis(10))]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    let prefixes = prefixes(&world);
    assert!((5..=8).contains(&prefixes.len()), "{prefixes:?} of 300 ms");
    assert!(prefixes.iter().all(|events| *events <= 60), "{prefixes:?}: ten come in 10 ms");
    assert_eq!(world.stored_ids(), ids(300));
}

#[tokio::test(start_paused = true)]
async fn no_more_than_a_prefix_and_a_read_of_a_fast_body_is_taken_before_it_is_committed() {
    let world = World::with_events(1000);
    world.store.faults(|faults| faults.latency = Duration::from_millis(20));
    world.source.next([Script::Slow(100, Duration::ZERO)]);
    let mut polling = world.adopted_by("a").await;
    polling.poll().await;
    assert_eq!(prefixes(&world), [300, 300, 300, 100]);
}

#[tokio::test(start_paused = true)]
async fn an_outage_in_the_middle_of_a_body_does_not_keep_the_source_from_sending_it() {
    let world = World::with_events(1000);
    world.source.next([Script::Slow(100, Duration::from_millis(20))]);
    let mut polling = world.adopted_by("a").await;
    let passing = tokio::spawn(async move { polling.poll().await });
    sleep(Duration::from_millis(110)).await;
    world.store.faults(|faults| faults.unavailable = true);
    sleep(Duration::from_secs(2)).await;
    let log = world.source.log();
    assert!(log.len() == 1 && log[0].usable && log[0].end.is_some(), "{log:?}");
    world.store.faults(|faults| faults.unavailable = false);
    passing.await.expect("no panic");
    assert_eq!((world.stored_ids(), world.source.log().len()), (ids(1000), 1));
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_holds_up_a_commit_is_no_part_of_the_time_that_the_request_took() {
    let world = World::with_events(1000);
    world.source.next([Script::Slow(100, Duration::from_millis(20))]);
    let mut polling = world.adopted_by("a").await;
    let passing = tokio::spawn(async move { polling.poll().await });
    sleep(Duration::from_millis(110)).await;
    world.store.faults(|faults| faults.unavailable = true);
    sleep(Duration::from_mins(10)).await;
    world.store.faults(|faults| faults.unavailable = false);
    passing.await.expect("no panic");
    assert_eq!(world.stored_ids(), ids(1000));
    let mut metrics = String::new();
    encode(&mut metrics, &world.registry).expect("they can be written");
    let sum = metrics.lines().find_map(|line| line.split_once("request_duration_seconds_sum "));
    let seconds: f64 = sum.expect("a request was observed").1.parse().expect("a number");
    assert!((0.2..1.0).contains(&seconds), "{seconds} s from the send to the end of the response");
}

#[tokio::test(start_paused = true)]
async fn slow_commits_do_not_take_the_time_that_a_large_page_has() {
    let world = World::with_events(5000).asking_for(5000);
    world.source.next([Script::Slow(125, Duration::ZERO)]);
    let mut polling = world.adopted_by("a").await;
    world.store.faults(|faults| faults.latency = Duration::from_millis(400));
    // Reserved in time all the same: commits alone are slow from here on.
    polling.poll_until(|| !world.source.log().is_empty()).await;
    world.store.faults(|faults| faults.latency = Duration::ZERO);
    polling.poll_until(|| world.cursor() == "5000").await;
    let log = world.source.log();
    assert_eq!(log.len(), 1, "`http.timeout` is 5 s, and twenty commits take longer: {log:?}");
}
