//! Two releases side by side: pod templates of two kinds, and objects that only one of them can read.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{SECOND, cluster::Cluster, cluster_of, moved_per_source};
use crate::event::StreamName;

/// For how long the sources run nowhere, all together, while a while passes.
async fn left_alone(cluster: &Cluster, sources: &[StreamName], time: Duration) -> Duration {
    let (until, step) = (Instant::now() + time, Duration::from_millis(100));
    let mut alone = Duration::ZERO;
    while Instant::now() < until {
        sleep(step).await;
        let runs = |stream: &&StreamName| cluster.pods.keys().any(|pod| cluster.runs(pod, stream));
        alone += step * u32::try_from(sources.iter().filter(|stream| !runs(stream)).count()).unwrap();
    }
    alone
}

#[tokio::test(start_paused = true)]
async fn what_the_newer_release_cannot_read_stays_with_the_older_one_while_an_update_is_paused() {
    let mut cluster = cluster_of(&["a", "b"], 30, 1).await;
    let unread = cluster.sources()[..15].to_vec();
    cluster.start_from("c", "v2");
    for stream in &unread {
        cluster.cannot_read("c", stream);
    }
    let at_first = left_alone(&cluster, &unread, 60 * SECOND).await;
    assert!(at_first < 15 * SECOND, "they were handed over in vain, and left alone for {at_first:?}");
    let start = Instant::now();
    let later = left_alone(&cluster, &unread, 540 * SECOND).await;
    assert_eq!((cluster.changes_of_holder(start).len(), later), (0, Duration::ZERO));
    assert!(cluster.running()["c"] >= 9, "it has its share of the others: {:?}", cluster.running());
    cluster.assert_no_living_holder_was_robbed();
}

#[tokio::test(start_paused = true)]
async fn what_the_older_release_cannot_read_any_more_runs_on_the_newer_one() {
    let mut cluster = cluster_of(&["a", "b"], 30, 1).await;
    cluster.start_from("c", "v2");
    sleep(60 * SECOND).await;
    let edited = cluster.sources()[..15].to_vec();
    for stream in &edited {
        cluster.cannot_read("a", stream);
        cluster.cannot_read("b", stream);
    }
    let alone = left_alone(&cluster, &edited, 60 * SECOND).await;
    assert!(alone < 30 * SECOND, "ten wait until who does not see them is passed over, 2 s: {alone:?}");
    assert!(edited.iter().all(|stream| cluster.runs("c", stream)));
    // The two older ones even out what they have left.
    sleep(360 * SECOND).await;
    let start = Instant::now();
    sleep(540 * SECOND).await;
    assert_eq!(cluster.changes_of_holder(start).len(), 0);
    cluster.assert_no_living_holder_was_robbed();
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_an_object_that_no_release_can_read_goes() {
    let mut cluster = cluster_of(&["a", "b"], 10, 1).await;
    cluster.start_from("c", "v2");
    sleep(60 * SECOND).await;
    let broken = cluster.any_source_of("a");
    for pod in ["a", "b", "c"] {
        cluster.cannot_read(pod, &broken);
    }
    cluster.until(5 * SECOND, "without a Lease", |cluster| cluster.lease(&broken).is_none()).await;
    let start = Instant::now();
    sleep(60 * SECOND).await;
    assert!(cluster.changes_of_holder(start).iter().all(|(_, lease)| lease.stream != broken));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_leaves_hands_nothing_to_whoever_could_not_read_it() {
    let mut cluster = cluster_of(&["a", "b"], 20, 1).await;
    cluster.start_from("c", "v2");
    let unread = cluster.sources()[..10].to_vec();
    for stream in &unread {
        cluster.cannot_read("c", stream);
    }
    sleep(120 * SECOND).await;
    let start = Instant::now();
    cluster.drain("a").await;
    sleep(SECOND).await;
    assert!(unread.iter().all(|stream| cluster.runs("b", stream)), "{:?}", cluster.running());
    let handed = cluster.changes_of_holder(start);
    let tried = handed.iter().filter(|(_, lease)| unread.contains(&lease.stream)).count();
    assert!(tried <= 10, "each moves once: {tried}");
}

/// Two replicas of the older template and one of the newer, which share 60 sources evenly.
async fn paused_update() -> Cluster {
    let mut cluster = cluster_of(&["a", "b"], 60, 1).await;
    cluster.start_from("c", "v2");
    sleep(60 * SECOND).await;
    assert!(cluster.is_even());
    cluster
}

#[tokio::test(start_paused = true)]
async fn while_an_update_is_paused_a_newer_replica_that_joins_gets_its_share_and_then_nothing_moves() {
    let mut cluster = paused_update().await;
    cluster.start_from("d", "v2");
    sleep(360 * SECOND).await;
    assert!(cluster.is_settled() && cluster.is_even(), "{:?}", cluster.running());
    let start = Instant::now();
    sleep(3_600 * SECOND).await;
    assert_eq!(cluster.changes_of_holder(start).len(), 0);
    cluster.assert_no_living_holder_was_robbed();
}

#[tokio::test(start_paused = true)]
async fn while_an_update_is_paused_an_older_replica_that_comes_back_gets_what_those_of_its_own_have_too_much() {
    let mut cluster = paused_update().await;
    cluster.kill("a");
    cluster.settled().await;
    let surplus = cluster.running()["b"] - 20;
    cluster.start_from("e", "v1");
    sleep(360 * SECOND).await;
    assert!(cluster.is_settled() && surplus > 0, "{:?}", cluster.running());
    assert_eq!((cluster.running()["b"], cluster.running()["e"]), (20, surplus));
    let start = Instant::now();
    sleep(3_600 * SECOND).await;
    assert_eq!(cluster.changes_of_holder(start).len(), 0);
    cluster.assert_no_living_holder_was_robbed();
}

#[tokio::test(start_paused = true)]
async fn an_update_that_is_rolled_back_half_way_settles_and_moves_little_more_than_once() {
    let mut cluster = Cluster::of(120, 5);
    for pod in ["old-0", "old-1", "old-2"] {
        cluster.start_from(pod, "v1");
    }
    cluster.settled().await;
    cluster.until(30 * SECOND, "even", Cluster::is_even).await;
    for n in 0..2 {
        cluster.start_from(&format!("new-{n}"), "v2");
        sleep(5 * SECOND).await;
        cluster.drain(&format!("old-{n}")).await;
    }
    sleep(3_600 * SECOND).await;
    let start = Instant::now();
    for n in 0..2 {
        cluster.start_from(&format!("back-{n}"), "v1");
        sleep(5 * SECOND).await;
        cluster.drain(&format!("new-{n}")).await;
    }
    sleep(360 * SECOND).await;
    assert!(cluster.is_settled() && cluster.is_even(), "{:?}", cluster.running());
    let changes = cluster.changes_of_holder(start);
    let twice = moved_per_source(&changes).values().filter(|&&times| times > 1).count();
    assert!(twice <= 120 / 8, "{twice} of 120 moved more than once");
    cluster.assert_no_living_holder_was_robbed();
}
