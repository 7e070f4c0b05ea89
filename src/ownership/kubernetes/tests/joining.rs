//! A member Lease is created, and its replica does not hear of it; or it is declared dead, and comes to life again.

use std::{sync::atomic::Ordering, time::Duration};

use jiff::Timestamp;
use tokio::time::sleep;

use super::{super::fake::Entry, SECOND, cluster::Cluster, cluster_of};
use crate::{
    ownership::lease::{MemberLease, Version},
    store::Holder,
};

/// `a` and `b`, and an `m` that created its Lease without an answer and is cut off since. Returns the incarnation as well.
async fn m_does_not_hear_that_it_joined() -> (Cluster, Holder) {
    let mut cluster = cluster_of(&["a", "b"], 20, 1).await;
    cluster.start("m").faults.swallow_answers_to_joins(1);
    cluster.until(5 * SECOND, "created", |cluster| cluster.member_of("m").is_some()).await;
    cluster.pods["m"].faults.partition(true);
    let unheard = cluster.holder_of("m");
    (cluster, unheard)
}

#[tokio::test(start_paused = true)]
async fn who_was_declared_dead_before_it_heard_that_it_had_joined_does_not_live_on_over_its_certificate() {
    let (cluster, unheard) = m_does_not_hear_that_it_joined().await;
    cluster.gate.down.store(true, Ordering::Relaxed);
    cluster.until(10 * SECOND, "declared dead", |cluster| cluster.is_certified(&unheard)).await;
    cluster.pods["m"].faults.partition(false);
    cluster.until(5 * SECOND, "joined", |cluster| cluster.pods["m"].ownership.view().holder.is_some()).await;
    sleep(3 * SECOND).await;
    cluster.gate.down.store(false, Ordering::Relaxed);
    sleep(10 * SECOND).await;
    assert!(cluster.gate.fenced.lock().unwrap().contains(&unheard));
    assert_eq!(cluster.deleted_by_others(), [], "whose peers must not take over before their silence");
    assert_ne!(cluster.pods["m"].ownership.view().holder, Some(unheard));
    cluster.until(40 * SECOND, "settled and even", |cluster| cluster.is_settled() && cluster.is_even()).await;
    assert_eq!(cluster.members().len(), 3, "the certificate is gone");
    cluster.assert_no_living_holder_was_robbed();
}

/// By hand, or by a replica of an earlier release, which took a certificate of its own for its Lease.
#[tokio::test(start_paused = true)]
async fn a_certificate_that_was_made_a_living_lease_again_is_not_deleted_for_what_it_was() {
    let mut cluster = cluster_of(&["a", "b", "c"], 30, 1).await;
    let lease = cluster.member_of("c").unwrap();
    let dead = lease.holder().cloned().unwrap();
    cluster.gate.down.store(true, Ordering::Relaxed);
    cluster.kill("c");
    cluster.until(10 * SECOND, "declared dead", |cluster| cluster.is_certified(&dead)).await;
    // Its witness tries to fence its rows off.
    sleep(SECOND).await;
    cluster.api.edit(&lease.name, |certificate| {
        let version = Version::of(certificate);
        *certificate = MemberLease { version, ..lease.clone() }.write(Timestamp::UNIX_EPOCH);
    });
    cluster.gate.down.store(false, Ordering::Relaxed);
    cluster.until(2 * SECOND, "fenced off", |cluster| cluster.gate.fenced.lock().unwrap().contains(&dead)).await;
    sleep(SECOND).await;
    assert_eq!(cluster.deleted_by_others(), [], "nobody has measured its silence yet");
    cluster.until(20 * SECOND, "rid of the certificate", |cluster| cluster.members().len() == 2).await;
    cluster.until(10 * SECOND, "settled", Cluster::is_settled).await;
}

#[tokio::test(start_paused = true)]
async fn who_finds_a_certificate_where_it_would_create_its_lease_begins_another_incarnation() {
    let mut cluster = cluster_of(&["a"], 4, 1).await;
    let witness = cluster.holder_of("a");
    cluster.gate.down.store(true, Ordering::Relaxed);
    cluster.start("m").faults.swallow_answers_to_joins(1);
    cluster.until(5 * SECOND, "created", |cluster| cluster.member_of("m").is_some()).await;
    let unheard = cluster.member_of("m").unwrap();
    // As for a second process under the name of its pod, which waits for no silence.
    cluster.api.edit(&unheard.name, |lease| {
        *lease = MemberLease::read(lease)
            .and_then(|lease| lease.declared_dead(&witness))
            .unwrap()
            .write(Timestamp::UNIX_EPOCH);
    });
    cluster.until(4 * SECOND, "joined", |cluster| cluster.pods["m"].ownership.view().holder.is_some()).await;
    let unheard = unheard.holder().unwrap();
    assert_ne!(cluster.pods["m"].ownership.view().holder.as_ref(), Some(unheard));
    assert!(cluster.is_certified(unheard), "until its rows are fenced off");
}

#[tokio::test(start_paused = true)]
async fn who_hears_late_that_it_had_joined_renews_before_its_silence_is_over() {
    let (cluster, joined) = m_does_not_hear_that_it_joined().await;
    sleep(Duration::from_millis(4_200)).await;
    cluster.pods["m"].faults.partition(false);
    sleep(10 * SECOND).await;
    assert_eq!(cluster.pods["m"].ownership.view().holder, Some(joined));
}

#[tokio::test(start_paused = true)]
async fn an_incarnation_that_was_declared_dead_unheard_does_not_come_again_once_its_certificate_is_gone() {
    let (cluster, unheard) = m_does_not_hear_that_it_joined().await;
    cluster
        .until(10 * SECOND, "declared dead, and its certificate removed", |cluster| cluster.members().len() == 2)
        .await;
    cluster.pods["m"].faults.partition(false);
    cluster.until(5 * SECOND, "joined", |cluster| cluster.pods["m"].ownership.view().holder.is_some()).await;
    assert_ne!(cluster.pods["m"].ownership.view().holder, Some(unheard));
}

impl Cluster {
    fn is_certified(&self, dead: &Holder) -> bool {
        self.members().iter().any(|lease| lease.death().is_some_and(|death| death.of == *dead))
    }

    /// The holders whose member Lease another replica deleted while it named them.
    fn deleted_by_others(&self) -> Vec<Holder> {
        let log = self.api.log().into_iter().filter(|entry| entry.after.is_none());
        let named = |entry: Entry| {
            let lease = entry.before.as_ref().and_then(MemberLease::read)?;
            lease.holder().filter(|_| *lease.pod != *entry.writer).cloned()
        };
        log.filter_map(named).collect()
    }
}
