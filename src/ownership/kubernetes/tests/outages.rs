//! The API server, the database or the replica itself is away for a while.

use std::{sync::atomic::Ordering, time::Duration};

use rstest::rstest;
use tokio::time::{Instant, sleep};

use super::{SECOND, cluster::Cluster, cluster_of};
use crate::ownership::{Ownership, lease::MemberLease};

#[rstest]
#[tokio::test(start_paused = true)]
async fn nobody_is_declared_dead_before_the_instant_that_its_last_renewal_promised(
    #[values(1, 2, 3, 4, 5, 6, 7, 8)] seed: u64,
) {
    let cluster = cluster_of(&["a", "b", "c"], 9, seed).await;
    sleep(Duration::from_millis(seed * 190)).await;
    let a = &cluster.pods["a"];
    let lease = cluster.member_of("a").unwrap();
    a.faults.partition(true);
    let declared = |cluster: &Cluster| cluster.members().into_iter().find(|member| member.death().is_some());
    cluster.until(10 * SECOND, "declared dead", |cluster| declared(cluster).is_some()).await;
    let died = cluster.api.log().into_iter().find(|entry| {
        let after = entry.after.as_ref().and_then(MemberLease::read);
        after.is_some_and(|after| after.death().is_some_and(|death| Some(&death.of) == lease.holder()))
    });
    let promised = a.ownership.renewals().borrow().clone().expect("it cannot know of its end");
    assert_eq!(Some(&promised.holder), lease.holder());
    assert_eq!(promised.alive_until, promised.issued + 5 * SECOND);
    let margin = died.unwrap().at.checked_duration_since(promised.alive_until);
    assert!(margin.is_some(), "declared dead too early");
    a.faults.partition(false);
    cluster
        .until(10 * SECOND, "alive again", |_| {
            a.ownership.renewals().borrow().as_ref().is_some_and(|renewal| renewal.holder != promised.holder)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_gone_for_minutes_stops_no_source() {
    let cluster = cluster_of(&["a", "b", "c"], 60, 1).await;
    let (start, before) = (Instant::now(), cluster.running().into_values().collect::<Vec<_>>());
    cluster.pods.values().for_each(|pod| pod.faults.partition(true));
    for _ in 0..300 {
        sleep(SECOND).await;
        assert_eq!(cluster.running().into_values().collect::<Vec<_>>(), before);
    }
    cluster.pods.values().for_each(|pod| pod.faults.partition(false));
    sleep(30 * SECOND).await;
    assert!(cluster.is_settled());
    assert_eq!(cluster.changes_of_holder(start).len(), 0, "nobody was taken for dead");
    assert_eq!(*cluster.gate.fenced.lock().unwrap(), []);
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn an_outage_in_the_middle_of_a_rebalancing_stops_no_source(#[values(1, 2, 3)] seed: u64) {
    let mut cluster = cluster_of(&["a", "b"], 60, seed).await;
    cluster.start("c");
    cluster.until(10 * SECOND, "moves have begun", |cluster| cluster.running()["c"] > 0).await;
    cluster.pods.values().for_each(|pod| pod.faults.partition(true));
    sleep(5 * SECOND).await;
    for _ in 0..60 {
        sleep(SECOND).await;
        assert_eq!(cluster.running().values().sum::<usize>(), 60, "{:?}", cluster.running());
    }
    cluster.pods.values().for_each(|pod| pod.faults.partition(false));
    cluster.until(40 * SECOND, "settled and even", |cluster| cluster.is_settled() && cluster.is_even()).await;
}

/// Two replicas, of which `a` hands sources to `b`, does not hear the answers to so many writes, and does not see them.
async fn a_hands_over_without_an_answer(unanswered: u32) -> Cluster {
    let mut cluster = cluster_of(&["a"], 8, 1).await;
    cluster.start("b");
    cluster.until(10 * SECOND, "b takes part", |cluster| cluster.member_of("b").is_some()).await;
    // Its last sight of `b` must be fresh when the moves begin, 3 s after the join.
    sleep(2 * SECOND).await;
    let a = &cluster.pods["a"];
    a.faults.deafen();
    a.faults.swallow_answers_to_source_writes(unanswered);
    let handed = |cluster: &Cluster| {
        cluster.changes_of_holder(Instant::now() - SECOND).iter().any(|(entry, _)| entry.writer == "a")
    };
    cluster.until(5 * SECOND, "handed over", handed).await;
    cluster
}

#[tokio::test(start_paused = true)]
async fn a_source_whose_handoff_landed_without_an_answer_never_runs_on_here() {
    let cluster = a_hands_over_without_an_answer(1).await;
    for _ in 0..40 {
        sleep(SECOND / 20).await;
        assert_eq!(cluster.resumed("a"), []);
    }
    cluster.until(10 * SECOND, "settled", Cluster::is_settled).await;
    cluster.assert_no_living_holder_was_robbed();
}

#[tokio::test(start_paused = true)]
async fn while_no_write_is_answered_a_source_runs_on_in_doubt_until_it_is_known_whose_it_is() {
    let cluster = a_hands_over_without_an_answer(u32::MAX).await;
    cluster.until(2 * SECOND, "runs in doubt", |cluster| !cluster.doubted("a").is_empty()).await;
    for stream in cluster.resumed("a") {
        assert!(cluster.doubted("a").contains(&stream), "{stream} runs as if nothing had happened");
    }
    cluster.pods["a"].faults.swallow_answers_to_source_writes(0);
    cluster.until(10 * SECOND, "known", |cluster| cluster.doubted("a").is_empty()).await;
    cluster.until(30 * SECOND, "settled", |cluster| cluster.is_settled() && cluster.is_even()).await;
}

#[tokio::test(start_paused = true)]
async fn a_source_whose_handoff_never_arrived_is_taken_back_and_runs_without_doubt() {
    let mut cluster = cluster_of(&["a"], 8, 1).await;
    cluster.start("b");
    let begun = Instant::now();
    while cluster.running()["a"] == 8 {
        assert!(begun.elapsed() < 10 * SECOND, "nothing moves");
        sleep(Duration::from_millis(1)).await;
    }
    cluster.pods["a"].faults.partition(true);
    cluster.until(2 * SECOND, "runs in doubt", |cluster| !cluster.doubted("a").is_empty()).await;
    let doubted = cluster.doubted("a");
    assert!(doubted.iter().all(|stream| cluster.runs("a", stream)), "an API server that is away stops nothing");
    cluster.pods["a"].faults.partition(false);
    cluster.until(10 * SECOND, "confirmed", |cluster| cluster.doubted("a").is_empty()).await;
    assert!(doubted.iter().all(|stream| cluster.runs("a", stream)), "it was not lost");
    cluster.until(30 * SECOND, "settled", |cluster| cluster.is_settled() && cluster.is_even()).await;
    cluster.assert_no_living_holder_was_robbed();
}

#[tokio::test(start_paused = true)]
async fn leases_that_may_not_be_created_hold_up_none_that_may_be_written() {
    let mut cluster = cluster_of(&["a", "b", "c"], 60, 1).await;
    cluster.pods.values().for_each(|pod| pod.faults.deny_new_source_leases(true));
    let denied: Vec<_> = (0..400).map(|nth| cluster.add_source(&format!("denied-{nth}"))).collect();
    sleep(30 * SECOND).await;
    assert_eq!(cluster.running().values().sum::<usize>(), 60, "none of the new ones has a Lease");
    cluster.kill("b");
    cluster.until(8 * SECOND, "taken over", |cluster| cluster.running().values().sum::<usize>() == 60).await;
    cluster.start("d").faults.deny_new_source_leases(true);
    cluster.until(40 * SECOND, "shared", |cluster| cluster.running().values().all(|held| *held >= 18)).await;
    assert_eq!(cluster.pods["d"].ownership.view().orphans, 400, "and counted as what nobody holds");

    cluster.pods.values().for_each(|pod| pod.faults.deny_new_source_leases(false));
    cluster
        .until(40 * SECOND, "settled", |cluster| {
            cluster.is_settled() && denied.iter().all(|stream| cluster.lease(stream).is_some())
        })
        .await;
    cluster.assert_no_living_holder_was_robbed();
}

#[tokio::test(start_paused = true)]
async fn what_is_handed_to_a_replica_that_does_not_know_yet_that_it_joined_runs_there() {
    let mut cluster = cluster_of(&["a"], 8, 1).await;
    cluster.start("b").faults.swallow_answers_to_joins(1);
    cluster.until(SECOND, "b takes part", |cluster| cluster.member_of("b").is_some()).await;
    cluster.drain("a").await;
    cluster.settled().await;
    cluster.assert_no_living_holder_was_robbed();
}

#[tokio::test(start_paused = true)]
async fn a_handoff_for_a_lost_database_that_an_outage_cuts_short_stops_no_source() {
    let cluster = cluster_of(&["a", "b"], 60, 1).await;
    let a = &cluster.pods["a"];
    a.database.store(true, Ordering::Relaxed);
    let (begun, held) = (Instant::now(), cluster.running()["a"]);
    while cluster.running()["a"] == held {
        assert!(begun.elapsed() < 20 * SECOND, "nothing is handed off");
        sleep(Duration::from_millis(1)).await;
    }
    cluster.pods.values().for_each(|pod| pod.faults.partition(true));
    sleep(5 * SECOND).await;
    a.database.store(false, Ordering::Relaxed);
    sleep(10 * SECOND).await;
    for _ in 0..60 {
        sleep(SECOND).await;
        assert_eq!(cluster.running().values().sum::<usize>(), 60, "{:?}", cluster.running());
    }
    cluster.pods.values().for_each(|pod| pod.faults.partition(false));
    cluster.until(40 * SECOND, "settled and even", |cluster| cluster.is_settled() && cluster.is_even()).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_cut_off_from_the_api_server_loses_its_sources_and_joins_again_with_a_new_nonce() {
    let cluster = cluster_of(&["a", "b", "c"], 90, 1).await;
    let before = cluster.holder_of("a");
    cluster.pods["a"].faults.partition(true);
    sleep(10 * SECOND).await;
    assert_eq!(cluster.running()["b"] + cluster.running()["c"], 90, "the others took over");
    cluster.pods["a"].faults.partition(false);
    cluster.until(30 * SECOND, "settled and even", |cluster| cluster.is_settled() && cluster.is_even()).await;
    assert_ne!(cluster.holder_of("a"), before);
    cluster.assert_no_living_holder_was_robbed();
}

#[tokio::test(start_paused = true)]
async fn a_replica_frozen_for_long_finds_itself_declared_dead_and_declares_nobody() {
    let cluster = cluster_of(&["a", "b", "c"], 60, 1).await;
    cluster.pods["a"].freeze(true);
    sleep(30 * SECOND).await;
    let thaw = Instant::now();
    cluster.pods["a"].freeze(false);
    cluster.until(40 * SECOND, "settled and even", |cluster| cluster.is_settled() && cluster.is_even()).await;
    let deaths = cluster.api.log().into_iter().filter(|entry| {
        entry.at >= thaw
            && entry.after.as_ref().and_then(MemberLease::read).is_some_and(|lease| lease.death().is_some())
    });
    assert_eq!(deaths.count(), 0);
    cluster.assert_no_living_holder_was_robbed();
}

#[tokio::test(start_paused = true)]
async fn a_short_freeze_moves_nothing() {
    let cluster = cluster_of(&["a", "b", "c"], 60, 1).await;
    let start = Instant::now();
    cluster.pods["a"].freeze(true);
    sleep(3 * SECOND).await;
    cluster.pods["a"].freeze(false);
    sleep(20 * SECOND).await;
    assert_eq!(cluster.changes_of_holder(start).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn rows_of_a_dead_holder_are_fenced_off_when_the_database_is_back_even_if_the_witness_died() {
    let mut cluster = cluster_of(&["a", "b", "c"], 30, 1).await;
    let dead = cluster.holder_of("a");
    cluster.gate.down.store(true, Ordering::Relaxed);
    cluster.kill("a");
    cluster.settled().await;
    let certificate =
        cluster.members().into_iter().find_map(|lease| lease.death().cloned()).expect("it waits for the fence");
    let witness = certificate.declared_by.as_str().split('_').next().unwrap().to_owned();
    cluster.kill(&witness);
    cluster.settled().await;
    cluster.gate.down.store(false, Ordering::Relaxed);
    cluster.until(10 * SECOND, "fenced", |cluster| cluster.gate.fenced.lock().unwrap().contains(&dead)).await;
    cluster.until(10 * SECOND, "rid of the certificate", |cluster| cluster.members().len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_without_a_database_hands_its_sources_off_except_those_that_hold_a_batch() {
    let cluster = cluster_of(&["a", "b", "c"], 60, 1).await;
    let stream = cluster.any_source_of("a");
    cluster.pods["a"].ownership.holds_batch(&stream, true);
    cluster.pods["a"].database.store(true, Ordering::Relaxed);
    sleep(9 * SECOND).await;
    assert_eq!(cluster.running()["a"], 20, "not before 10 s");
    cluster.until(15 * SECOND, "handed off", |cluster| cluster.running()["a"] == 1).await;
    assert!(cluster.runs("a", &stream));
    sleep(30 * SECOND).await;
    assert_eq!(cluster.running()["a"], 1, "and nothing comes back");
    cluster.pods["a"].database.store(false, Ordering::Relaxed);
    cluster.until(30 * SECOND, "even again", |cluster| cluster.is_even() && cluster.is_settled()).await;
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_down_for_all_moves_nothing() {
    let cluster = cluster_of(&["a", "b", "c"], 60, 1).await;
    let start = Instant::now();
    cluster.gate.down.store(true, Ordering::Relaxed);
    sleep(300 * SECOND).await;
    cluster.gate.down.store(false, Ordering::Relaxed);
    sleep(30 * SECOND).await;
    assert_eq!(cluster.changes_of_holder(start).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_new_replica_whose_database_never_answered_takes_nothing_while_anothers_works() {
    let mut cluster = cluster_of(&["a", "b"], 60, 1).await;
    let start = Instant::now();
    cluster.start_without_database("c");
    sleep(60 * SECOND).await;
    assert_eq!(cluster.changes_of_holder(start).len(), 0, "a rollout with a wrong database moves nothing");
    cluster.add_source("new");
    cluster.drain("a").await;
    cluster.kill("b");
    cluster.start_from("d", "v2");
    cluster.settled().await;
    assert_eq!(cluster.running()["c"], 0, "neither what is new, nor what is handed off or orphaned");
    assert_eq!(cluster.running()["d"], 61);
    cluster.pods["c"].database.store(false, Ordering::Relaxed);
    cluster.until(30 * SECOND, "even", |cluster| cluster.is_even() && cluster.is_settled()).await;
    cluster.assert_no_living_holder_was_robbed();
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn rows_of_the_dead_are_fenced_off_whoever_declared_them(#[values(1, 2, 3, 4, 5, 6, 7, 8)] seed: u64) {
    let mut cluster = cluster_of(&["b", "c"], 60, seed).await;
    cluster.start_without_database("a");
    cluster.start_without_database("d");
    sleep(10 * SECOND).await;
    let dead = cluster.holder_of("b");
    cluster.kill("b");
    cluster
        .until(15 * SECOND, "settled and fenced off", |cluster| {
            cluster.is_settled() && cluster.gate.fenced.lock().unwrap().contains(&dead)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn replicas_that_start_before_their_database_hold_all_sources_and_move_none_when_it_comes() {
    let mut cluster = Cluster::of(60, 1);
    for pod in ["a", "b", "c"] {
        cluster.start_without_database(pod);
    }
    cluster.settled().await;
    sleep(60 * SECOND).await;
    assert!(cluster.is_even(), "{:?}", cluster.running());
    let start = Instant::now();
    // Each asks it again at a moment of its own.
    for pod in ["c", "a", "b"] {
        cluster.pods[pod].database.store(false, Ordering::Relaxed);
        sleep(3 * SECOND).await;
    }
    sleep(60 * SECOND).await;
    assert_eq!(cluster.changes_of_holder(start).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_went_silent_is_noticed_by_my_own_renewals() {
    let mut cluster = cluster_of(&["a", "b", "c"], 60, 1).await;
    cluster.pods["a"].faults.deafen();
    sleep(20 * SECOND).await;
    cluster.kill("b");
    cluster.settled().await;
    cluster.assert_no_living_holder_was_robbed();
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn an_outage_of_both_servers_moves_nothing_whichever_comes_back_first(#[values(1, 2, 3)] seed: u64) {
    let cluster = cluster_of(&["a", "b", "c"], 60, seed).await;
    let start = Instant::now();
    cluster.gate.down.store(true, Ordering::Relaxed);
    cluster.pods.values().for_each(|pod| pod.faults.partition(true));
    sleep(30 * SECOND).await;
    cluster.pods.values().for_each(|pod| pod.faults.partition(false));
    for _ in 0..600 {
        sleep(SECOND / 10).await;
        assert!(cluster.pods.values().all(|pod| !pod.ownership.view().database_lost), "nobody knows of one that works");
    }
    cluster.gate.down.store(false, Ordering::Relaxed);
    sleep(30 * SECOND).await;
    assert_eq!(cluster.changes_of_holder(start).len(), 0);
    assert!(cluster.is_settled());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_handed_off_for_a_lost_database_to_a_replica_that_died_during_my_outage() {
    let mut cluster = cluster_of(&["a", "b"], 60, 1).await;
    let (start, b) = (Instant::now(), cluster.holder_of("b"));
    let a = &cluster.pods["a"];
    a.database.store(true, Ordering::Relaxed);
    a.faults.partition(true);
    sleep(2 * SECOND).await;
    cluster.kill("b");
    sleep(30 * SECOND).await;
    cluster.pods["a"].faults.partition(false);
    sleep(60 * SECOND).await;
    let to_b = cluster.changes_of_holder(start).iter().filter(|(_, lease)| lease.holder.as_ref() == Some(&b)).count();
    assert_eq!(to_b, 0);
    assert_eq!(cluster.running()["a"], 60, "the only one left holds all");
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn sources_of_a_lost_database_do_not_stop_for_a_replica_that_went_silent(
    #[values(9_600, 9_800, 10_000)] killed_after_ms: u64,
) {
    let mut cluster = cluster_of(&["a", "b"], 60, 1).await;
    let (held, stopped) = (cluster.running()["a"], cluster.gaps_after("a").len());
    cluster.pods["a"].database.store(true, Ordering::Relaxed);
    sleep(Duration::from_millis(killed_after_ms)).await;
    cluster.kill("b");
    let mut was_lost = false;
    for _ in 0..400 {
        sleep(SECOND / 20).await;
        assert!(cluster.running()["a"] >= held, "{:?}", cluster.running());
        was_lost |= cluster.pods["a"].ownership.view().database_lost;
    }
    assert!(was_lost, "b had worked for long enough");
    assert_eq!((cluster.running()["a"], cluster.gaps_after("a").len()), (60, stopped), "none stopped in vain");
}
