//! Calls for the member Lease that are not answered.

use std::time::Duration;

use rstest::rstest;
use tokio::time::sleep;

use super::{super::Config, SECOND, cluster::Cluster};

/// A cluster of `a` and `b` whose Leases last and are renewed like this.
async fn cluster_that_renews(lease_duration_ms: u64, renew_interval_ms: u64) -> Cluster {
    let mut cluster = Cluster::of(20, 1);
    for pod in ["a", "b"] {
        let mut config = Config::of_pod(pod, "v1");
        config.lease_duration = Duration::from_millis(lease_duration_ms);
        config.renew_interval = Duration::from_millis(renew_interval_ms);
        cluster.start_with(config);
    }
    cluster.settled().await;
    sleep(30 * SECOND).await;
    cluster
}

#[rstest]
#[case::the_shortest_that_the_command_line_takes(1, 2_000, 1_000)]
#[case::renewed_much_more_often_than_needed(1, 2_000, 100)]
#[case::short(1, 3_000, 1_500)]
#[case::by_default(2, 5_000, 1_500)]
#[case::renewed_as_seldom_as_may_be(2, 5_000, 2_500)]
#[case::long(2, 30_000, 1_500)]
#[tokio::test(start_paused = true)]
async fn renewals_in_a_row_that_hang_end_no_incarnation(
    #[case] renewals: u32,
    #[case] lease_duration_ms: u64,
    #[case] renew_interval_ms: u64,
) {
    let cluster = cluster_that_renews(lease_duration_ms, renew_interval_ms).await;
    let before = cluster.holder_of("a");
    cluster.pods["a"].faults.lose_renewals(renewals);
    sleep(Duration::from_millis(3 * lease_duration_ms)).await;
    assert_eq!(cluster.holder_of("a"), before);
    assert_eq!(cluster.members().len(), 2, "nobody was declared dead");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_finds_no_lease_ends_an_incarnation_only_if_there_is_none() {
    let cluster = cluster_that_renews(5_000, 1_500).await;
    let before = cluster.holder_of("a");
    cluster.pods["a"].faults.mislead_renewals(2);
    sleep(10 * SECOND).await;
    assert_eq!(cluster.holder_of("a"), before);
    cluster.api.remove(&cluster.member_of("a").unwrap().name);
    cluster.until(5 * SECOND, "another", |cluster| cluster.member_of("a").is_some()).await;
    assert_ne!(cluster.holder_of("a"), before);
}
