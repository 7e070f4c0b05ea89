//! What the API server denies: a policy, a quota, or a Role that somebody changed.

use std::time::Duration;

use rstest::rstest;
use tokio::time::{Instant, sleep};

use super::{SECOND, cluster::Cluster, cluster_of};

/// SIGTERM. Returns how long until it had ended, and how long until another ran all sources again.
async fn drained_and_run_again(cluster: &mut Cluster, pod: &str, sources: usize) -> (Duration, Duration) {
    let start = Instant::now();
    cluster.drain(pod).await;
    let drained = start.elapsed();
    let all = |cluster: &Cluster| cluster.running().values().sum::<usize>() == sources;
    cluster.until(60 * SECOND, "run again", all).await;
    (drained, start.elapsed())
}

#[rstest]
#[case::of_source_leases(|cluster: &Cluster| cluster.pods["a"].faults.deny_source_writes(true), 2)]
#[case::of_all(|cluster: &Cluster| cluster.pods["a"].faults.forbid(true), 8)]
#[tokio::test(start_paused = true)]
async fn a_replica_that_leaves_and_may_hand_nothing_over_leaves_its_sources_to_others(
    #[case] deny: fn(&Cluster),
    #[case] seconds: u32,
    #[values(60, 600)] sources: usize,
) {
    let mut cluster = cluster_of(&["a", "b"], sources, 1).await;
    deny(&cluster);
    let (drained, run_again) = drained_and_run_again(&mut cluster, "a", sources).await;
    assert!(drained < 2 * SECOND, "{drained:?}");
    assert!(run_again < seconds * SECOND, "{run_again:?}");
}

#[tokio::test(start_paused = true)]
async fn replicas_that_leave_together_and_may_write_nothing_leave() {
    let mut cluster = cluster_of(&["a", "b"], 60, 1).await;
    cluster.pods.values().for_each(|pod| pod.faults.forbid(true));
    let b = cluster.pods["b"].ownership.clone();
    tokio::spawn(async move { b.drain().await });
    let start = Instant::now();
    cluster.drain("a").await;
    assert!(start.elapsed() < 2 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_drain_hands_over_what_a_passing_denial_has_stopped_while_another_source_finishes_its_poll() {
    let cluster = cluster_of(&["a", "b"], 60, 1).await;
    let (long, held) = (cluster.any_source_of("a"), cluster.running()["a"]);
    cluster.pods["a"].polls_for(&long, 5 * SECOND);
    let faults = cluster.pods["a"].faults.clone();
    faults.deny_source_writes(true);
    let start = Instant::now();
    tokio::spawn(async move {
        sleep(SECOND / 2).await;
        faults.deny_source_writes(false);
    });
    let a = cluster.pods["a"].ownership.clone();
    tokio::spawn(async move { a.drain().await });
    sleep(4 * SECOND).await;
    assert_eq!(cluster.running()["b"], 59, "all but the one that polls");
    cluster.until(3 * SECOND, "run by b", |cluster| cluster.running()["b"] == 60).await;
    assert_eq!(cluster.changes_of_holder(start).len(), held, "each moves once");
    cluster.assert_no_living_holder_was_robbed();
}

#[tokio::test(start_paused = true)]
async fn sources_whose_rebalancing_is_denied_do_not_hold_a_drain_and_are_in_doubt_until_they_stop() {
    let mut cluster = cluster_of(&["a"], 60, 1).await;
    cluster.pods["a"].faults.deny_source_writes(true);
    cluster.start("b");
    cluster.until(10 * SECOND, "in doubt", |cluster| !cluster.doubted("a").is_empty()).await;
    let doubted = cluster.doubted("a");
    let a = cluster.pods["a"].ownership.clone();
    tokio::spawn(async move { a.drain().await });
    for _ in 0..500 {
        sleep(SECOND / 100).await;
        let confirmed = |stream: &&_| cluster.runs("a", stream) && !cluster.doubted("a").contains(stream);
        assert_eq!(doubted.iter().find(confirmed), None, "a denial tells nothing of what landed before");
    }
    assert_eq!(cluster.running()["b"], 60);
}

#[tokio::test(start_paused = true)]
async fn a_handoff_that_landed_without_an_answer_and_is_denied_when_it_is_repeated_never_runs_here_again() {
    let cluster = cluster_of(&["a", "b"], 60, 1).await;
    let a = &cluster.pods["a"];
    let held = u32::try_from(cluster.running()["a"]).unwrap();
    a.faults.swallow_answers_to_source_writes(held);
    // Nor does the watch tell before they are repeated, nor the list of the next one.
    a.faults.deafen();
    a.faults.slow_lists_down(3 * SECOND);
    let ownership = a.ownership.clone();
    tokio::spawn(async move { ownership.drain().await });
    sleep(2 * SECOND).await;
    assert_eq!(cluster.running()["b"], 60);
    a.faults.deny_source_writes(true);
    for _ in 0..200 {
        sleep(SECOND / 20).await;
        assert_eq!(cluster.resumed("a"), []);
    }
    assert!(cluster.member_of("a").is_none(), "it has left");
}

#[tokio::test(start_paused = true)]
async fn a_death_that_may_not_be_declared_is_not_tried_ten_times_a_second() {
    let mut cluster = cluster_of(&["a", "b"], 4, 1).await;
    cluster.pods["a"].faults.deny_declarations();
    cluster.kill("b");
    sleep(70 * SECOND).await;
    let tried = cluster.pods["a"].faults.declarations();
    assert!((10..30).contains(&tried), "{tried} in a minute");
}
