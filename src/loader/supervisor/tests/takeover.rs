//! What `headgate_takeover_duration_seconds` is told: how long sources wait that this replica could poll at once.

use super::*;

const LONG: Duration = Duration::from_hours(3);

impl Replica {
    /// How many takeovers were observed, and how many seconds they took in all.
    fn takeovers(&self) -> (u64, f64) {
        let text = self.exposition();
        let value = |series: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(series)).expect("the series");
            line.trim().to_owned()
        };
        let count = value("headgate_takeover_duration_seconds_count").parse().expect("a count");
        (count, value("headgate_takeover_duration_seconds_sum").parse().expect("seconds"))
    }

    /// Until nothing is left to be observed of a source that is asked by now.
    async fn asked(&self) {
        until("asked", || !self.world.source.log().is_empty()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_takeover_is_observed_once_and_lasts_from_the_lease_to_the_first_reservation() {
    let replica = replica(World::with_events(3));
    replica.world.store.faults(|faults| faults.unavailable = true);
    replica.wants(|_| {});
    replica.holds_the_lease();
    sleep(Duration::from_secs(10)).await;
    replica.world.store.faults(|faults| faults.unavailable = false);
    replica.loaded("3").await;
    sleep(Duration::from_mins(1)).await;
    let (count, seconds) = replica.takeovers();
    assert!(count == 1 && (10.0..20.0).contains(&seconds), "{count} takeovers, {seconds} s");
}

#[tokio::test(start_paused = true)]
async fn a_takeover_lasts_while_the_task_of_the_incarnation_before_finishes_its_poll() {
    let replica = replica(World::with_events(2000).asking_for(500));
    replica.world.source.next([Script::Slow(100, Duration::from_millis(700))]);
    replica.wants(|_| {});
    replica.holds_the_lease();
    replica.asked().await;
    let (count, before) = replica.takeovers();
    assert_eq!(count, 1);
    replica.direct(Directive::Lost(replica.stream(), LostReason::IncarnationEnded));
    replica.direct(Directive::Run(replica.world.holding("a-again")));
    replica.loaded("2000").await;
    let (count, seconds) = replica.takeovers();
    assert!(count == 2 && seconds - before > 3.0, "{count} takeovers, {seconds} s");
}

#[tokio::test(start_paused = true)]
async fn a_takeover_is_not_the_longer_for_what_the_source_had_asked_to_wait_for() {
    let replica = replica(World::with_events(3));
    let an_hour = Some(Duration::from_hours(1));
    replica.world.source.next([Script::Fails(FetchError::RateLimited { status: 429, retry_after: an_hour })]);
    replica.wants(|_| {});
    replica.holds_the_lease();
    replica.asked().await;
    let (_, before) = replica.takeovers();
    replica.direct(Directive::Lost(replica.stream(), LostReason::IncarnationEnded));
    replica.direct(Directive::Run(replica.world.holding("a-again")));
    sleep(LONG).await;
    replica.loaded("3").await;
    let (count, seconds) = replica.takeovers();
    assert!(count == 2 && seconds - before < 10.0, "{count} takeovers, {seconds} s");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_was_suspended_when_it_was_taken_over_is_no_takeover_when_it_is_resumed() {
    let replica = replica(World::with_events(3));
    replica.wants(|source| source.spec.suspend = true);
    replica.holds_the_lease();
    sleep(LONG).await;
    replica.wants(|source| source.generation = 2);
    replica.asked().await;
    assert_eq!(replica.takeovers().0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_source_whose_spec_was_not_valid_is_no_takeover_when_it_is_corrected() {
    let replica = replica(World::with_events(3));
    replica.wants(|source| source.spec.start.position = StartPosition::AfterID);
    replica.holds_the_lease();
    sleep(LONG).await;
    assert_eq!(replica.world.report().problem().map(|it| it.0), Some("InvalidSpec"));
    replica.wants(|source| source.generation = 2);
    replica.asked().await;
    assert_eq!(replica.takeovers().0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_source_whose_secret_was_missing_is_no_takeover_when_it_appears() {
    let replica = replica(World::with_events(3));
    let missing = OpenError::SecretNotFound { field: "http.auth.bearer", name: "orders-api".to_owned() };
    replica.world.source.refuse_to_open(vec![missing; 1000]);
    replica.wants(|_| {});
    replica.holds_the_lease();
    sleep(Duration::from_mins(10)).await;
    replica.world.source.open_again();
    replica.asked().await;
    assert_eq!(replica.takeovers().0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_could_not_be_connected_to_is_no_takeover_when_it_is_back() {
    let replica = replica(World::with_events(3));
    let refused = FetchError::ConnectionFailed { detail: "connection refused".to_owned() };
    replica.world.source.refuse_connections(vec![refused; 5]);
    replica.wants(|_| {});
    replica.holds_the_lease();
    replica.asked().await;
    assert_eq!(replica.takeovers().0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_begins_anew_after_a_panic_is_no_takeover() {
    let world = World::with_events(3);
    let sound = Arc::new(world.source.transports("a", &Frost::default()));
    let replica = replica_with(world, Arc::new(Defective { panics: Mutex::new(4), sound }));
    replica.wants(|_| {});
    replica.holds_the_lease();
    replica.asked().await;
    assert_eq!(replica.reachable(), Some(ReachableReason::InternalError));
    assert_eq!(replica.takeovers().0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_nobody_took_and_that_runs_on_here_is_no_takeover() {
    let replica = replica(World::with_events(3));
    replica.wants(|_| {});
    replica.holds_the_lease();
    replica.loaded("3").await;
    for (times, in_doubt) in [(1, false), (2, true)] {
        replica.direct(Directive::Yield(replica.stream()));
        until("yielded", || replica.world.ownership.told().yielded.len() == times).await;
        replica.world.store.faults(|faults| faults.unavailable = true);
        let asked = replica.world.source.log().len();
        if in_doubt {
            replica.may_hold_the_lease();
        } else {
            replica.holds_the_lease();
        }
        sleep(LONG).await;
        replica.world.store.faults(|faults| faults.unavailable = false);
        until("it runs on", || replica.world.source.log().len() > asked).await;
        assert_eq!(replica.takeovers().0, 1, "when it was won");
    }
}
