use std::{
    collections::{BTreeSet, HashMap},
    sync::atomic::Ordering,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rstest::rstest;
use tokio::time::{Instant, sleep};

use super::{Stage, fake::Entry};
use crate::{
    event::StreamName,
    ownership::{
        Ownership,
        lease::{MemberLease, SourceLease},
    },
    store::Holder,
};

mod cluster;
mod gate;

use cluster::Cluster;

const SECOND: Duration = Duration::from_secs(1);

async fn cluster_of(pods: &[&str], sources: usize, seed: u64) -> Cluster {
    let mut cluster = Cluster::of(sources, seed);
    for pod in pods {
        cluster.start(pod);
    }
    cluster.settled().await;
    // Whatever was to move has moved.
    sleep(30 * SECOND).await;
    assert!(cluster.is_settled() && cluster.is_even());
    cluster
}

fn moved_per_source(changes: &[(Entry, SourceLease)]) -> HashMap<&StreamName, usize> {
    let mut moved = HashMap::new();
    for (_, lease) in changes {
        *moved.entry(&lease.stream).or_default() += 1;
    }
    moved
}

#[tokio::test(start_paused = true)]
async fn replicas_that_start_together_share_all_sources_evenly() {
    let cluster = cluster_of(&["a", "b", "c"], 300, 1).await;
    assert!(cluster.is_even(), "{:?}", cluster.running());
    cluster.assert_no_living_holder_was_robbed();
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn sources_of_a_killed_replica_run_elsewhere_within_7_s(#[values(1, 2, 3, 4, 5, 6, 7, 8)] seed: u64) {
    let mut cluster = cluster_of(&["a", "b", "c", "d"], 200, seed).await;
    let dead = cluster.member_of("b").unwrap().holder.unwrap();
    sleep(Duration::from_millis(seed * 190)).await;
    cluster.kill("b");
    let took = cluster.settled().await;
    assert!(took <= 7 * SECOND, "{took:?}");
    assert!(took >= 3 * SECOND, "nobody may be declared dead before its Lease ran out: {took:?}");
    cluster.until(SECOND, "fenced off", |cluster| cluster.gate.fenced.lock().unwrap().contains(&dead)).await;
    cluster.until(SECOND, "buried", |cluster| cluster.members().len() == 3).await;
    cluster.assert_no_living_holder_was_robbed();
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_join_is_even_within_30_s_and_moves_no_more_than_the_ideal_share(#[values(1, 2, 3, 4)] seed: u64) {
    let mut cluster = cluster_of(&["a", "b", "c"], 400, seed).await;
    let join = Instant::now();
    cluster.start("d");
    cluster.until(30 * SECOND, "even", Cluster::is_even).await;
    sleep(30 * SECOND).await;
    assert!(cluster.is_even() && cluster.is_settled(), "{:?}", cluster.running());
    let changes = cluster.changes_of_holder(join);
    assert!(changes.len() <= 100, "{} moved, 100 are the ideal share", changes.len());
    assert!(moved_per_source(&changes).values().all(|&times| times == 1));
    assert!(changes.iter().all(|(entry, _)| entry.at >= join + 3 * SECOND), "nothing moves in the first 3 s");
    cluster.assert_no_living_holder_was_robbed();
}

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
async fn a_container_that_restarts_takes_its_sources_back_without_waiting_for_its_own_silence() {
    let mut cluster = cluster_of(&["a", "b"], 40, 1).await;
    cluster.kill("a");
    cluster.start("a");
    let took = cluster.settled().await;
    assert!(took < 2 * SECOND, "{took:?}");
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

#[tokio::test(start_paused = true)]
async fn a_replica_cut_off_from_the_api_server_loses_its_sources_and_joins_again_with_a_new_nonce() {
    let cluster = cluster_of(&["a", "b", "c"], 90, 1).await;
    let before = cluster.member_of("a").unwrap().holder;
    cluster.pods["a"].faults.partition(true);
    sleep(10 * SECOND).await;
    assert_eq!(cluster.running()["b"] + cluster.running()["c"], 90, "the others took over");
    cluster.pods["a"].faults.partition(false);
    cluster.until(30 * SECOND, "settled and even", |cluster| cluster.is_settled() && cluster.is_even()).await;
    assert_ne!(cluster.member_of("a").unwrap().holder, before);
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
        entry.at >= thaw && entry.after.as_ref().and_then(MemberLease::read).is_some_and(|lease| lease.death.is_some())
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
async fn a_deleted_member_lease_ends_the_incarnation_and_fences_its_rows_off() {
    let cluster = cluster_of(&["a", "b"], 40, 1).await;
    let lease = cluster.member_of("a").unwrap();
    cluster.api.remove(&lease.name);
    cluster.until(SECOND, "ended", |cluster| !cluster.runs_anything_as(lease.holder.as_ref().unwrap())).await;
    cluster.until(40 * SECOND, "settled and even", |cluster| cluster.is_settled() && cluster.is_even()).await;
    assert!(cluster.gate.fenced.lock().unwrap().contains(lease.holder.as_ref().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn rows_of_a_dead_holder_are_fenced_off_when_the_database_is_back_even_if_the_witness_died() {
    let mut cluster = cluster_of(&["a", "b", "c"], 30, 1).await;
    let dead = cluster.member_of("a").unwrap().holder.unwrap();
    cluster.gate.down.store(true, Ordering::Relaxed);
    cluster.kill("a");
    cluster.settled().await;
    let certificate = cluster.members().into_iter().find_map(|lease| lease.death).expect("it waits for the fence");
    let witness = certificate.declared_by.as_str().split('_').next().unwrap().to_owned();
    cluster.kill(&witness);
    cluster.settled().await;
    cluster.gate.down.store(false, Ordering::Relaxed);
    cluster.until(10 * SECOND, "fenced", |cluster| cluster.gate.fenced.lock().unwrap().contains(&dead)).await;
    cluster.until(10 * SECOND, "buried", |cluster| cluster.members().len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_source_is_claimed_at_once_and_a_finished_one_leaves_no_lease() {
    let mut cluster = cluster_of(&["a", "b", "c"], 10, 1).await;
    let orders = cluster.add_source("orders");
    assert!(cluster.settled().await < SECOND);
    cluster.remove_source(&orders);
    cluster.until(SECOND, "deleted", |cluster| cluster.lease(&orders).is_none()).await;
    sleep(5 * SECOND).await;
    assert_eq!(cluster.lease(&orders), None, "nobody claims it again");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_nobody_deleted_goes_after_its_object_has_been_gone_for_10_minutes() {
    let mut cluster = cluster_of(&["a", "b"], 4, 1).await;
    let orders = cluster.add_source("orders");
    cluster.settled().await;
    let holder = if cluster.runs("a", &orders) { "a" } else { "b" };
    cluster.kill(holder);
    cluster.remove_source(&orders);
    sleep(9 * 60 * SECOND).await;
    assert!(cluster.lease(&orders).is_some());
    sleep(2 * 60 * SECOND).await;
    assert_eq!(cluster.lease(&orders), None);
}

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
    let dead = cluster.member_of("b").unwrap().holder.unwrap();
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

#[tokio::test(start_paused = true)]
async fn a_member_that_does_not_claim_is_passed_over() {
    let mut cluster = cluster_of(&["a", "b"], 20, 1).await;
    // It lives, but its controller sees no new objects.
    let deaf = cluster.pods.remove("a").unwrap();
    let added: BTreeSet<_> = (0..10).map(|n| cluster.add_source(&format!("new-{n}"))).collect();
    cluster.until(6 * SECOND, "claimed by b", |cluster| added.iter().all(|stream| cluster.runs("b", stream))).await;
    cluster.pods.insert("a".to_owned(), deaf);
}

#[tokio::test(start_paused = true)]
async fn a_source_handed_to_a_member_that_does_not_know_it_goes_on_elsewhere() {
    let mut cluster = cluster_of(&["a", "b"], 20, 1).await;
    let orders = cluster.add_source("orders");
    cluster.settled().await;
    let (holder, other) = if cluster.runs("a", &orders) { ("a", "b") } else { ("b", "a") };
    cluster.pods[other].desired.remove(&orders);
    cluster.drain(holder).await;
    cluster.start("c");
    cluster.until(60 * SECOND, "run by c", |cluster| cluster.runs("c", &orders)).await;
}

#[tokio::test(start_paused = true)]
async fn the_view_tells_the_stage_the_members_and_what_is_held() {
    let mut cluster = cluster_of(&["a", "b"], 21, 1).await;
    let ownership = cluster.pods["a"].ownership.clone();
    let view = ownership.view();
    assert_eq!((view.stage, view.members, view.orphans), (Stage::TakingPart, 2, 0));
    assert!(cluster.pods["a"].is_settled_with(cluster.running()["a"]));
    assert_eq!(view.holder, cluster.member_of("a").unwrap().holder);
    let held = i64::try_from(view.held).unwrap();
    assert_eq!(cluster.pods["a"].metrics.leases_held.get(), held);
    cluster.drain("a").await;
    assert_eq!(ownership.view().stage, Stage::Ended);
}

/// Anything may happen to anyone; afterwards every source runs once, where its Lease says, evenly.
#[rstest]
#[tokio::test(start_paused = true)]
async fn whatever_happens_no_living_holder_is_robbed_and_all_settles(#[values(0, 1, 2, 3, 4, 5, 6, 7)] eighth: u64) {
    for seed in (0..3).map(|n| n * 8 + eighth) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut cluster = Cluster::of(40, seed);
        let wanted = rng.random_range(3..=5);
        for n in 0..wanted {
            cluster.start(&format!("pod-{n}"));
        }
        let mut next = wanted;
        for _ in 0..30 {
            sleep(Duration::from_millis(rng.random_range(50..5_000))).await;
            let names: Vec<String> = cluster.pods.keys().cloned().collect();
            let name = &names[rng.random_range(0..names.len())];
            match rng.random_range(0..12) {
                0 if names.len() > 1 => cluster.kill(name),
                1 if names.len() > 1 => {
                    cluster.thaw_all();
                    cluster.drain(name).await;
                }
                2 | 3 if names.len() < 5 => {
                    cluster.start(&format!("pod-{next}"));
                    next += 1;
                }
                4 => cluster.pods[name].freeze(true),
                5 => cluster.pods[name].freeze(false),
                6 => cluster.pods[name].faults.partition(true),
                7 => cluster.pods[name].faults.partition(false),
                8 => cluster.pods[name].faults.drop_watches(),
                9 => cluster.pods[name].faults.leave_unanswered(rng.random_range(0..200)),
                10 => {
                    let leases = cluster.api.leases();
                    let lease = leases[rng.random_range(0..leases.len())].metadata.name.clone().unwrap();
                    cluster.api.edit(&lease, |lease| {
                        lease.metadata.annotations.get_or_insert_default().insert("note".to_owned(), String::new());
                    });
                }
                _ => {
                    if let Some(lease) = cluster.member_of(name) {
                        cluster.api.remove(&lease.name);
                    }
                }
            }
        }
        cluster.thaw_all();
        cluster.until(60 * SECOND, &format!("settled and even, seed {seed}"), |c| c.is_settled() && c.is_even()).await;
        // Rounds of moves that have begun go on to the even share.
        sleep(30 * SECOND).await;
        let calm = Instant::now();
        sleep(20 * SECOND).await;
        assert_eq!(cluster.changes_of_holder(calm).len(), 0, "seed {seed}: nothing moves in a calm cluster");
        cluster.assert_no_living_holder_was_robbed();
    }
}

impl Cluster {
    fn runs_anything_as(&self, holder: &Holder) -> bool {
        self.tasks_as(holder) > 0
    }

    fn thaw_all(&self) {
        for pod in self.pods.values() {
            pod.freeze(false);
            pod.faults.partition(false);
            pod.faults.leave_unanswered(0);
        }
    }
}
