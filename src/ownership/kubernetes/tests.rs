use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rstest::rstest;
use tokio::time::{Instant, sleep, timeout};

use super::{Stage, fake::Entry};
use crate::{event::StreamName, ownership::lease::SourceLease, store::Holder};

mod by_hand;
mod cluster;
mod database;
mod denials;
mod gate;
mod joining;
mod leaving;
mod lists;
mod outages;
mod renewals;
mod supervisor;
mod versions;

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
    let dead = cluster.holder_of("b");
    sleep(Duration::from_millis(seed * 190)).await;
    cluster.kill("b");
    let took = cluster.settled().await;
    assert!(took <= 7 * SECOND, "{took:?}");
    assert!(took >= 3 * SECOND, "nobody may be declared dead before its Lease ran out: {took:?}");
    cluster.until(SECOND, "fenced off", |cluster| cluster.gate.fenced.lock().unwrap().contains(&dead)).await;
    cluster.until(SECOND, "rid of the certificate", |cluster| cluster.members().len() == 3).await;
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
async fn a_container_that_restarts_takes_its_sources_back_without_waiting_for_its_own_silence() {
    let mut cluster = cluster_of(&["a", "b"], 40, 1).await;
    cluster.kill("a");
    cluster.start("a");
    let took = cluster.settled().await;
    assert!(took < 2 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn leases_wait_while_more_are_to_be_claimed_than_are_written_at_once() {
    let mut cluster = cluster_of(&["a", "b"], 200, 1).await;
    let mut views = cluster.pods["a"].ownership.views();
    views.mark_unchanged();
    cluster.add_source("orders");
    cluster.settled().await;
    assert!(!views.borrow_and_update().leases_wait, "nobody has to wait for one");

    cluster.kill("b");
    timeout(10 * SECOND, views.wait_for(|view| view.leases_wait)).await.expect("100 are to be claimed").unwrap();
    cluster.settled().await;
    timeout(SECOND, views.wait_for(|view| !view.leases_wait)).await.expect("all are claimed").unwrap();
}

#[tokio::test(start_paused = true)]
async fn room_is_not_made_for_ever_for_leases_that_nobody_can_write() {
    let mut cluster = cluster_of(&["a", "b"], 20, 1).await;
    cluster.pods.values().for_each(|pod| pod.faults.leave_unanswered(1_000));
    for nth in 0..200 {
        cluster.add_source(&format!("new-{nth}"));
    }
    let mut views = cluster.pods["a"].ownership.views();
    timeout(SECOND, views.wait_for(|view| view.leases_wait)).await.expect("200 are to be claimed").unwrap();
    let begun = Instant::now();
    timeout(40 * SECOND, views.wait_for(|view| !view.leases_wait)).await.expect("a while is over").unwrap();
    assert!(begun.elapsed() > 25 * SECOND, "{:?}", begun.elapsed());
    assert_eq!(views.borrow().orphans, 200);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_member_lease_ends_the_incarnation_and_fences_its_rows_off() {
    let cluster = cluster_of(&["a", "b"], 40, 1).await;
    let lease = cluster.member_of("a").unwrap();
    cluster.api.remove(&lease.name);
    cluster.until(SECOND, "ended", |cluster| !cluster.runs_anything_as(lease.holder().unwrap())).await;
    cluster.until(40 * SECOND, "settled and even", |cluster| cluster.is_settled() && cluster.is_even()).await;
    assert!(cluster.gate.fenced.lock().unwrap().contains(lease.holder().unwrap()));
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
async fn one_deletion_of_a_lease_is_under_way_however_long_the_api_server_does_not_answer() {
    let mut cluster = cluster_of(&["a", "b"], 4, 1).await;
    let orders = cluster.add_source("orders");
    cluster.settled().await;
    let (holder, other) = if cluster.runs("a", &orders) { ("a", "b") } else { ("b", "a") };
    cluster.kill(holder);
    cluster.remove_source(&orders);
    sleep(9 * 60 * SECOND).await;
    let faults = cluster.pods[other].faults.clone();
    faults.leave_unanswered(1_000);
    sleep(60 * 60 * SECOND).await;
    assert!((900..1_400).contains(&faults.deletions()), "one each 3 s: {}", faults.deletions());
    faults.leave_unanswered(0);
    cluster.until(10 * SECOND, "gone", |cluster| cluster.lease(&orders).is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_goes_with_all_its_sources_neither_floods_the_api_server_nor_keeps_a_new_source_waiting() {
    let mut cluster = cluster_of(&["a", "b"], 4, 1).await;
    let names: Vec<_> = (0..1_000).map(|nth| cluster.add_source(&format!("preview-{nth}"))).collect();
    cluster.settled().await;
    for name in &names {
        cluster.remove_source(name);
    }
    let orders = cluster.add_source("orders");
    cluster.until(SECOND, "claimed", |cluster| cluster.lease(&orders).is_some()).await;
    cluster.until(5 * SECOND, "gone", |cluster| names.iter().all(|name| cluster.lease(name).is_none())).await;
    for pod in cluster.pods.values() {
        assert!(pod.faults.most_deletions_at_once() <= 48, "{}", pod.faults.most_deletions_at_once());
    }
}

#[tokio::test(start_paused = true)]
async fn leases_whose_deletion_is_never_answered_keep_no_other_from_going() {
    let mut cluster = cluster_of(&["a"], 4, 1).await;
    let stuck: Vec<_> = (0..60).map(|nth| cluster.add_source(&format!("stuck-{nth}"))).collect();
    let orders = cluster.add_source("orders");
    cluster.settled().await;
    cluster.pods["a"].faults.leave_deletions_unanswered_of("stuck");
    for name in &stuck {
        cluster.remove_source(name);
    }
    sleep(SECOND).await;
    cluster.remove_source(&orders);
    cluster.until(20 * SECOND, "gone", |cluster| cluster.lease(&orders).is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_source_whose_lease_may_not_be_deleted_runs_again_when_its_object_comes_back() {
    let mut cluster = cluster_of(&["a", "b"], 20, 1).await;
    let orders = cluster.add_source("orders");
    cluster.settled().await;
    cluster.pods.values().for_each(|pod| pod.faults.deny_deletions(true));
    cluster.remove_source(&orders);
    sleep(60 * SECOND).await;
    assert!(cluster.lease(&orders).is_some());
    cluster.add_source("orders");
    cluster.settled().await;
    cluster.remove_source(&orders);
    cluster.pods.values().for_each(|pod| pod.faults.deny_deletions(false));
    cluster.until(30 * SECOND, "deleted", |cluster| cluster.lease(&orders).is_none()).await;
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
async fn a_member_that_does_not_claim_some_of_its_sources_is_passed_over_though_it_claims_others() {
    let mut cluster = cluster_of(&["a", "b"], 20, 1).await;
    let unseen: Vec<_> = (0..20).map(|nth| cluster.add_source(&format!("unseen-{nth}"))).collect();
    for stream in &unseen {
        cluster.cannot_read("b", stream);
    }
    let start = Instant::now();
    for nth in 0.. {
        cluster.add_source(&format!("new-{nth}"));
        sleep(SECOND / 5).await;
        if unseen.iter().all(|stream| cluster.runs("a", stream)) {
            break;
        }
        assert!(start.elapsed() < 4 * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn deletions_that_are_refused_by_the_thousand_make_few_calls_and_are_done_soon_when_they_are_not() {
    let mut cluster = cluster_of(&["a"], 4, 1).await;
    let names: Vec<_> = (0..3_000).map(|nth| cluster.add_source(&format!("preview-{nth}"))).collect();
    cluster.settled().await;
    let faults = cluster.pods["a"].faults.clone();
    faults.leave_unanswered(1_000);
    for name in &names {
        cluster.remove_source(name);
    }
    sleep(30 * SECOND).await;
    let before = faults.deletions();
    sleep(30 * SECOND).await;
    let calls = faults.deletions() - before;
    assert!(calls < 1_500, "{calls} in 30 s");
    faults.leave_unanswered(0);
    cluster.until(30 * SECOND, "gone", |cluster| names.iter().all(|name| cluster.lease(name).is_none())).await;
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
    cluster.until(20 * SECOND, "run by c", |cluster| cluster.runs("c", &orders)).await;
}

#[tokio::test(start_paused = true)]
async fn the_view_tells_the_stage_the_members_and_what_is_held() {
    let mut cluster = cluster_of(&["a", "b"], 21, 1).await;
    let ownership = cluster.pods["a"].ownership.clone();
    let view = ownership.view();
    assert_eq!((view.stage, view.members, view.orphans), (Stage::TakingPart, 2, 0));
    assert!(cluster.pods["a"].is_settled_with(cluster.running()["a"]));
    assert_eq!(view.holder, Some(cluster.holder_of("a")));
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
