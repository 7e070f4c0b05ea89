//! A member is declared dead, and comes to life again.

use std::sync::atomic::Ordering;

use jiff::Timestamp;
use tokio::time::sleep;

use super::{super::fake::Entry, SECOND, cluster::Cluster, cluster_of};
use crate::{
    ownership::lease::{MemberLease, Version},
    store::Holder,
};

/// By hand, or by a replica of an earlier release, which took a certificate of its own for its Lease.
#[tokio::test(start_paused = true)]
async fn a_certificate_that_was_made_a_living_lease_again_is_not_deleted_for_what_it_was() {
    let mut cluster = cluster_of(&["a", "b", "c"], 30, 1).await;
    let lease = cluster.member_of("c").unwrap();
    let dead = lease.holder.clone().unwrap();
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
    cluster.until(20 * SECOND, "buried", |cluster| cluster.members().len() == 2).await;
    cluster.until(10 * SECOND, "settled", Cluster::is_settled).await;
}

impl Cluster {
    fn is_certified(&self, dead: &Holder) -> bool {
        self.members().iter().any(|lease| lease.death.as_ref().is_some_and(|death| death.of == *dead))
    }

    /// The holders whose member Lease another replica deleted while it named them.
    fn deleted_by_others(&self) -> Vec<Holder> {
        let log = self.api.log().into_iter().filter(|entry| entry.after.is_none());
        let named = |entry: Entry| {
            let lease = entry.before.as_ref().and_then(MemberLease::read)?;
            lease.holder.filter(|_| *lease.pod != *entry.writer)
        };
        log.filter_map(named).collect()
    }
}
