//! Two releases side by side: pod templates of two kinds, and objects that only one of them can read.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{SECOND, cluster::Cluster, cluster_of};
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
