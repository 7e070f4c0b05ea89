//! Secrets that are missing, change, or come late.

use super::*;

fn missing_secret() -> OpenError {
    OpenError::SecretNotFound { field: "http.auth.bearer", name: "orders-api".to_owned() }
}
#[tokio::test(start_paused = true)]
async fn a_source_whose_secret_is_missing_says_so_and_runs_by_itself_when_it_appears() {
    let world = World::with_events(3);
    world.source.refuse_to_open([missing_secret(), missing_secret(), missing_secret()]);
    let running = start(&world);
    sleep(Duration::from_secs(1)).await;
    let accepted = world.report().accepted.clone().expect("a verdict");
    assert_eq!(accepted.reason, AcceptedReason::SecretNotFound);
    assert!(accepted.message.contains("orders-api"), "{}", accepted.message);
    until("loaded", || world.store.has_row(&world.stream) && world.cursor() == "3").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_are_read_again_and_a_rotated_secret_is_used_at_once() {
    let world = World::with_events(3);
    world.source.next([Script::Fails(FetchError::AuthenticationFailed { detail: "bearer".to_owned() })]);
    world.source.rotate_credentials();
    let running = start(&world);
    until("loaded", || world.store.has_row(&world.stream) && world.cursor() == "3").await;
    assert_eq!(world.source.reloads(), 1);
    assert_eq!(world.report().credentials_reloads, 1);
    let log = world.source.log();
    let gap = log[1].start - log[0].start;
    assert!(gap >= Duration::from_millis(200) && gap < Duration::from_millis(500), "{gap:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn credentials_are_read_again_every_five_minutes_and_a_deleted_secret_ends_the_polling() {
    let world = World::with_events(3);
    let running = start(&world);
    sleep(Duration::from_mins(11)).await;
    assert_eq!(world.source.reloads(), 2);
    assert_eq!(world.report().credentials_reloads, 0, "nothing had changed");

    let forbidden = OpenError::Forbidden { kind: "Secret", field: "http.auth", name: "orders-api".to_owned() };
    world.source.refuse_to_open([forbidden]);
    sleep(Duration::from_mins(6)).await;
    let accepted = || world.report().accepted.as_ref().map(|verdict| verdict.reason);
    assert_eq!(accepted(), Some(AcceptedReason::Valid), "what runs, runs on with what it has");
    world.source.open_again();

    world.source.refuse_to_open(vec![missing_secret(); 1000]);
    sleep(Duration::from_mins(6)).await;
    assert_eq!(world.report().accepted.as_ref().map(|verdict| verdict.reason), Some(AcceptedReason::SecretNotFound));
    let requests = world.source.log().len();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(world.source.log().len(), requests);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn credentials_that_are_slow_to_come_hold_up_no_handoff() {
    let world = World::with_events(3);
    world.source.next([Script::Fails(FetchError::AuthenticationFailed { detail: "bearer".to_owned() })]);
    world.source.take_time_to_reload(Duration::from_secs(1));
    let running = start(&world);
    until("they are read again", || world.source.reloads() == 1).await;
    let asked = Instant::now();
    running.stop().await;
    assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
}
