//! What a source does whose Lease is lost, or in doubt.

use super::*;

/// A replica whose member Lease stays fresh, and whose database goes away while a long body is being read.
async fn loses_its_database_in_a_long_body() -> Replica {
    let mut world = World::with_events(1000);
    world.source.timeout = Duration::from_mins(10);
    world.source.next([Script::Slow(10, Duration::from_secs(1))]);
    let replica = replica(world);
    let ownership = Arc::clone(&replica.world.ownership);
    tokio::spawn(async move {
        loop {
            ownership.renewed(&replica_name(), Instant::now());
            sleep(Duration::from_secs(1)).await;
        }
    });
    replica.wants(|_| {});
    replica.holds_the_lease();
    until("a request", || !replica.world.source.log().is_empty()).await;
    sleep(Duration::from_secs(2)).await;
    replica.world.store.faults(|faults| faults.unavailable = true);
    replica
}

fn replica_name() -> Holder {
    Holder::new("a")
}

impl Replica {
    fn reads_on(&self) -> bool {
        self.world.source.log()[0].end.is_none()
    }
}

/// D, and the time in which the source notices a reset.
const ROW_AND_RESET: Duration = Duration::from_millis(3800);

#[tokio::test(start_paused = true)]
async fn a_request_whose_lease_is_lost_is_given_up_with_the_row_however_alive_the_replica_is() {
    let replica = loses_its_database_in_a_long_body().await;
    replica.direct(Directive::Lost(replica.stream(), LostReason::TakenOver));
    sleep(ROW_AND_RESET).await;
    assert!(!replica.reads_on(), "the next holder may send now");
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_lease_is_lost_is_given_up_with_the_row_also_where_the_source_was_to_run_again() {
    let replica = loses_its_database_in_a_long_body().await;
    replica.direct(Directive::Yield(replica.stream()));
    replica.holds_the_lease();
    replica.direct(Directive::Lost(replica.stream(), LostReason::TakenOver));
    sleep(ROW_AND_RESET).await;
    assert!(!replica.reads_on(), "the next holder may send now");
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_lease_is_in_doubt_is_given_up_with_the_row() {
    let replica = loses_its_database_in_a_long_body().await;
    replica.may_hold_the_lease();
    sleep(ROW_AND_RESET).await;
    assert!(!replica.reads_on(), "who knows whether there is a next holder");
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_lease_is_known_to_be_ours_again_outlives_an_outage_of_the_database() {
    let replica = loses_its_database_in_a_long_body().await;
    replica.may_hold_the_lease();
    sleep(Duration::from_secs(1)).await;
    replica.direct(Directive::Confirmed(replica.stream()));
    sleep(Duration::from_secs(30)).await;
    assert!(replica.reads_on());
}

#[tokio::test(start_paused = true)]
async fn a_source_whose_lease_is_in_doubt_runs_on_while_nobody_else_has_adopted_it() {
    let replica = replica(World::with_events(300));
    replica.wants(|_| {});
    replica.holds_the_lease();
    replica.loaded("300").await;
    replica.direct(Directive::Yield(replica.stream()));
    until("yielded", || replica.world.ownership.told().yielded.len() == 1).await;
    replica.may_hold_the_lease();
    let asked = replica.world.source.log().len();
    until("asked again", || replica.world.source.log().len() > asked).await;
}

#[tokio::test(start_paused = true)]
async fn a_source_whose_lease_is_in_doubt_is_not_taken_from_who_has_adopted_it_until_the_lease_is_known() {
    let replica = replica(World::with_events(300));
    let _other = replica.world.adopted_by("b").await;
    replica.wants(|_| {});
    replica.may_hold_the_lease();
    sleep(Duration::from_mins(1)).await;
    assert!(replica.world.source.log().is_empty(), "the row is not its own");
    replica.direct(Directive::Confirmed(replica.stream()));
    replica.loaded("300").await;
}
