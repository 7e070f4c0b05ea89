//! SIGTERM, and the end of replicas that leave by themselves.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{SECOND, cluster::Cluster, cluster_of, moved_per_source};

#[tokio::test(start_paused = true)]
async fn sigterm_hands_every_source_over_once_and_leaves_none_alone_for_long() {
    let mut cluster = cluster_of(&["a", "b", "c"], 300, 1).await;
    let held = cluster.running()["b"];
    let start = Instant::now();
    cluster.drain("b").await;
    let changes = cluster.changes_of_holder(start);
    assert_eq!(changes.len(), held, "one move per source");
    assert!(moved_per_source(&changes).values().all(|&times| times == 1));
    assert!(changes.iter().all(|(entry, _)| entry.writer == "b"), "handed over by the one that left");
    assert!(start.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
    assert!(cluster.settled().await < SECOND);
    let longest = cluster.gaps_after("b").into_iter().max().unwrap();
    assert!(longest <= Duration::from_millis(500), "a source was left alone for {longest:?}");
    assert_eq!(cluster.members().len(), 2, "the member Lease is freed");
    cluster.assert_no_living_holder_was_robbed();
}

#[tokio::test(start_paused = true)]
async fn the_last_replica_just_stops_and_the_next_one_goes_on_at_once() {
    let mut cluster = cluster_of(&["a"], 50, 1).await;
    let start = Instant::now();
    cluster.drain("a").await;
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    assert_eq!(cluster.changes_of_holder(start).len(), 0);
    assert_eq!(cluster.members(), []);
    cluster.start("b");
    assert!(cluster.settled().await < 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_rolling_update_moves_each_source_once() {
    let mut cluster = Cluster::of(240, 3);
    for pod in ["old-0", "old-1", "old-2"] {
        cluster.start_from(pod, "v1");
    }
    cluster.settled().await;
    cluster.until(30 * SECOND, "even", Cluster::is_even).await;
    let start = Instant::now();
    for n in 0..3 {
        cluster.start_from(&format!("new-{n}"), "v2");
        sleep(2 * SECOND).await;
        cluster.drain(&format!("old-{n}")).await;
    }
    sleep(30 * SECOND).await;
    assert!(cluster.is_settled() && cluster.is_even(), "{:?}", cluster.running());
    let changes = cluster.changes_of_holder(start);
    let twice = moved_per_source(&changes).values().filter(|&&times| times > 1).count();
    assert!(twice <= 240 / 20, "{twice} of 240 moved more than once");
    cluster.assert_no_living_holder_was_robbed();
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_may_not_free_its_member_lease_does_not_stay_to_try() {
    let mut cluster = cluster_of(&["a"], 5, 1).await;
    cluster.pods["a"].faults.forbid(true);
    let start = Instant::now();
    cluster.drain("a").await;
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    assert_eq!(cluster.members().len(), 1, "it waits for its silence to be noticed");
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_namespace_was_deleted_leaves_at_once() {
    let mut cluster = cluster_of(&["a"], 5, 1).await;
    for lease in cluster.api.leases() {
        cluster.api.remove(&lease.metadata.name.unwrap());
    }
    cluster.pods["a"].faults.forbid(true);
    let start = Instant::now();
    cluster.drain("a").await;
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
}
