//! What somebody does to Leases with kubectl.

use rstest::rstest;
use tokio::time::{Instant, sleep};

use super::{SECOND, cluster::Cluster, cluster_of};
use crate::ownership::lease::SourceLease;

#[tokio::test(start_paused = true)]
async fn a_lease_deleted_or_stripped_of_its_labels_by_hand_is_claimed_anew() {
    let mut cluster = cluster_of(&["a", "b"], 10, 1).await;
    let orders = cluster.add_source("orders");
    cluster.settled().await;
    let name = SourceLease::name_of(&orders);
    cluster.api.remove(&name);
    cluster.until(3 * SECOND, "claimed anew", |cluster| cluster.lease(&orders).is_some() && cluster.is_settled()).await;
    cluster.api.edit(&name, |lease| lease.metadata.labels = None);
    cluster
        .until(5 * SECOND, "labelled anew", |cluster| cluster.lease(&orders).is_some() && cluster.is_settled())
        .await;
    let before = cluster.lease(&orders).unwrap().holder;
    cluster.api.edit(&name, |lease| {
        lease.metadata.annotations.get_or_insert_default().insert("note".to_owned(), "by hand".to_owned());
    });
    sleep(5 * SECOND).await;
    assert_eq!(cluster.lease(&orders).unwrap().holder, before, "an edit that keeps the holder changes nothing");
}

#[tokio::test(start_paused = true)]
async fn the_only_member_claims_its_own_lease_anew_when_it_was_stripped_of_its_labels() {
    let mut cluster = cluster_of(&["a"], 10, 1).await;
    let orders = cluster.add_source("orders");
    cluster.settled().await;
    cluster.api.edit(&SourceLease::name_of(&orders), |lease| lease.metadata.labels = None);
    sleep(SECOND).await;
    cluster
        .until(5 * SECOND, "labelled anew", |cluster| cluster.lease(&orders).is_some() && cluster.is_settled())
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_somebody_made_up_is_declared_dead() {
    let mut cluster = cluster_of(&["a", "b"], 20, 1).await;
    let lease = cluster.member_of("b").unwrap().name;
    cluster.api.edit(&lease, |lease| lease.spec.as_mut().unwrap().holder_identity = Some("bob".to_owned()));
    cluster.until(60 * SECOND, "settled and even", |cluster| cluster.is_settled() && cluster.is_even()).await;
    sleep(60 * SECOND).await;
    assert!(cluster.is_settled() && cluster.is_even(), "{:?}", cluster.running());
    cluster.add_source("orders");
    cluster.settled().await;
}

/// Takes one of the labels by which a source's Lease is known, and leaves the others.
fn lose_a_label(cluster: &Cluster, name: &str, label: &str) {
    cluster.api.edit(name, |lease| {
        lease.metadata.labels.as_mut().unwrap().remove(label).unwrap();
    });
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_lease_that_lost_one_of_its_labels_is_claimed_anew(
    #[values("headgate.dev/kind", "headgate.dev/namespace", "headgate.dev/name")] label: &str,
    #[values(&["a"], &["a", "b"])] pods: &[&str],
) {
    let mut cluster = cluster_of(pods, 10, 1).await;
    let orders = cluster.add_source("orders");
    cluster.settled().await;
    lose_a_label(&cluster, &SourceLease::name_of(&orders), label);
    cluster
        .until(2 * SECOND, "labelled anew", |cluster| cluster.lease(&orders).is_some() && cluster.is_settled())
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_source_whose_lease_loses_a_label_again_and_again_ends_without_a_flood_and_runs_when_it_comes_back() {
    let mut cluster = cluster_of(&["a", "b"], 4, 1).await;
    let orders = cluster.add_source("orders");
    cluster.settled().await;
    let name = SourceLease::name_of(&orders);
    for _ in 0..30 {
        if cluster.lease(&orders).is_some() {
            lose_a_label(&cluster, &name, "headgate.dev/name");
        }
        sleep(SECOND / 10).await;
    }
    cluster.remove_source(&orders);
    let before: usize = cluster.pods.values().map(|pod| pod.faults.deletions()).sum();
    sleep(60 * SECOND).await;
    let deletions = cluster.pods.values().map(|pod| pod.faults.deletions()).sum::<usize>() - before;
    assert!(deletions < 20, "{deletions} in a minute");
    cluster.add_source("orders");
    cluster.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_whose_lease_loses_a_label_just_before_its_object_goes_ends_without_a_flood() {
    let mut cluster = cluster_of(&["a"], 4, 1).await;
    let orders = cluster.add_source("orders");
    cluster.settled().await;
    lose_a_label(&cluster, &SourceLease::name_of(&orders), "headgate.dev/name");
    cluster.remove_source(&orders);
    sleep(60 * SECOND).await;
    let deletions = cluster.pods["a"].faults.deletions();
    assert!(deletions < 20, "{deletions} in a minute");
    cluster.add_source("orders");
    cluster.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_a_source_whose_lease_lost_a_label() {
    let mut cluster = cluster_of(&["a", "b"], 4, 1).await;
    let orders = cluster.any_source_of("a");
    lose_a_label(&cluster, &SourceLease::name_of(&orders), "headgate.dev/name");
    sleep(5 * SECOND).await;
    let start = Instant::now();
    cluster.drain("a").await;
    assert!(start.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
}
