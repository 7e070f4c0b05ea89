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
    assert!((2..=4).contains(&world.source.reloads()), "{}", world.source.reloads());
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

#[tokio::test(start_paused = true)]
async fn a_source_that_waits_for_hours_learns_within_five_minutes_that_its_secret_is_gone_and_sends_it_no_more() {
    let mut world = World::with_events(3);
    world.object.spec.poll.max_idle_interval = Duration::from_hours(24).into();
    let running = start(&world);
    sleep(Duration::from_hours(10)).await;
    let requests = world.source.log().len();
    world.source.refuse_to_open(vec![missing_secret(); 1000]);
    sleep(Duration::from_mins(6)).await;
    assert_eq!(world.report().accepted.as_ref().map(|verdict| verdict.reason), Some(AcceptedReason::SecretNotFound));
    sleep(HOUR).await;
    assert_eq!(world.source.log().len(), requests);
    running.stop().await;
}

/// The source refuses this often in a row.
fn refuses(world: &World, times: usize, error: &FetchError) {
    world.source.next(vec![Script::Fails(error.clone()); times]);
}

fn unauthorized() -> FetchError {
    FetchError::AuthenticationFailed { detail: "bearer".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_are_looked_at_before_they_are_sent_again() {
    for seed in 0..8 {
        let world = World::with_events(3);
        refuses(&world, 9, &unauthorized());
        let (task, steering) = world.task("a", &Frost::default(), seed);
        let running = Running { steering, task: tokio::spawn(task.run()) };
        until("refused", || world.report().consecutive_failures == 9).await;
        sleep(Duration::from_millis(300)).await;
        let mended = Instant::now();
        world.source.rotate_credentials();
        until("asked again", || world.source.log().len() > 9).await;
        let next = world.source.log()[9].clone();
        // A try that follows the last reading so soon may come before the next one.
        if next.start - mended > Duration::from_secs(10) {
            assert_eq!(next.rotations, 1, "seed {seed}: the credentials that were refused nine times");
        }
        assert!(next.start - mended < Duration::from_mins(5), "seed {seed}: {:?}", next.start - mended);
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_for_hours_is_tried_within_five_minutes_of_a_change_of_its_secret() {
    for error in [unauthorized(), FetchError::ServerError { status: 503, retry_after: None }] {
        let mut world = World::with_events(3);
        world.object.spec.poll.max_error_interval = Duration::from_hours(24).into();
        refuses(&world, 16, &error);
        let running = start(&world);
        until_within(Duration::from_hours(100), || failures(&world) == 16).await;
        world.source.rotate_credentials();
        let mended = Instant::now();
        until("loaded", || world.cursor() == "3").await;
        assert!(mended.elapsed() < Duration::from_mins(5), "{error}: {:?}", mended.elapsed());
        running.stop().await;
    }
}

fn failures(world: &World) -> u32 {
    world.reports.get(&world.stream).map_or(0, |report| report.consecutive_failures)
}

async fn until_within(limit: Duration, reached: impl Fn() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < limit, "not within {limit:?}");
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotated_certificate_is_used_at_once_after_a_handshake_that_failed() {
    let world = World::with_events(3);
    world.source.refuse_connections([FetchError::TlsFailed { detail: "unknown authority".to_owned() }]);
    world.source.rotate_credentials();
    let begun = Instant::now();
    let running = start(&world);
    until("loaded", || world.store.has_row(&world.stream) && world.cursor() == "3").await;
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(world.report().credentials_reloads, 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_secret_shortens_no_wait_that_the_source_asked_for() {
    let world = World::with_events(3);
    world.source.next([Script::Fails(asks_to_wait_an_hour())]);
    let running = start(&world);
    until("refused", || failures(&world) == 1).await;
    world.source.rotate_credentials();
    until_within(HOUR * 2, || world.source.log().len() == 2).await;
    let log = world.source.log();
    assert!(log[1].start - log[0].start >= HOUR, "{:?}", log[1].start - log[0].start);
    assert_eq!(log[1].rotations, 1);
    running.stop().await;
}

/// As a token endpoint does, before there is a reservation.
fn no_token_for_an_hour() -> FetchError {
    FetchError::TokenUnavailable { status: 429, retry_after: Some(HOUR) }
}

#[tokio::test(start_paused = true)]
async fn a_changed_secret_shortens_no_wait_that_a_token_endpoint_asked_for() {
    let world = World::with_events(3);
    world.source.refuse_connections([no_token_for_an_hour()]);
    let (running, begun) = (start(&world), Instant::now());
    until("refused", || failures(&world) == 1).await;
    world.source.rotate_credentials();
    until_within(HOUR * 2, || !world.source.log().is_empty()).await;
    assert!(begun.elapsed() >= HOUR, "{:?}", begun.elapsed());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_a_token_endpoint_asks_for_while_the_gap_passes_is_kept() {
    let world = World::with_events(2500);
    world.source.take_time_to_connect([Duration::ZERO, Duration::from_millis(50)]);
    let running = start(&world);
    until("asked", || world.source.log().iter().any(|request| request.end.is_some())).await;
    world.source.refuse_connections([no_token_for_an_hour()]);
    until_within(HOUR * 2, || world.source.log().len() >= 2).await;
    let log = world.source.log();
    assert!(log[1].start - log[0].start >= HOUR, "{:?}", log[1].start - log[0].start);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_goes_on_with_what_it_has_says_why_until_its_credentials_are_read_again() {
    let world = World::with_events(3);
    let running = start(&world);
    let unread = || world.report().unread.as_ref().map(|unread| unread.message.clone());
    let is_told = || world.report().facts().unread.is_some();
    sleep(Duration::from_mins(6)).await;
    assert_eq!(unread(), None);
    world.source.refuse_to_open([OpenError::Forbidden {
        kind: "Secret",
        field: "http.auth",
        name: "orders-api".to_owned(),
    }]);
    sleep(Duration::from_mins(5)).await;
    assert!(unread().is_some_and(|why| why.contains("may not read Secret `orders-api`")), "{:?}", unread());
    assert!(is_told());
    world.source.open_again();
    sleep(Duration::from_mins(5)).await;
    assert_eq!(unread(), None);

    world.source.take_time_to_reload(Duration::from_mins(1));
    sleep(Duration::from_mins(6)).await;
    assert!(unread().is_some_and(|why| why.contains("the API server did not answer")), "{:?}", unread());
    assert!(!is_told(), "it is well, and so are thousands of others");
    refuses(&world, 4, &unauthorized());
    until("refused", || failures(&world) == 3).await;
    assert!(is_told());
    assert_eq!(world.report().accepted.as_ref().map(|verdict| verdict.reason), Some(AcceptedReason::Valid));
    running.stop().await;
}
