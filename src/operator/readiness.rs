//! What other parts are told of the watch of EventSources and of the membership, as they change: `/readyz` of both, the
//! controller of Leases that wait and of the other members.

use tokio::sync::watch;

use crate::{
    controller::WatchState,
    ownership::{
        Peers,
        kubernetes::{OwnershipView, Stage},
    },
    telemetry::health::{Health, Part},
};

/// Says how far the watch of EventSources is.
pub(super) async fn tell_sources(health: Health, mut told: watch::Receiver<WatchState>) {
    loop {
        let state = *told.borrow_and_update();
        match (state, state.pending()) {
            (_, None) => health.works(Part::Sources),
            (WatchState::Listing, Some(what)) => health.is_under_way(Part::Sources, what),
            (_, Some(why)) => health.waits(Part::Sources, why),
        }
        if told.changed().await.is_err() {
            return;
        }
    }
}

/// Says whether this replica takes part.
pub(super) async fn tell_membership(health: Health, mut views: watch::Receiver<OwnershipView>) {
    loop {
        let (stage, lives) = {
            let view = views.borrow_and_update();
            (view.stage, view.holder.is_some())
        };
        match stage {
            Stage::Listing => health.is_under_way(Part::Membership, "the first list of Leases is under way"),
            Stage::TakingPart if lives => health.works(Part::Membership),
            // What keeps it from being written is a warning of its own.
            Stage::TakingPart => {
                health.is_under_way(Part::Membership, "the member Lease of this replica is not written yet");
            }
            Stage::Draining | Stage::Ended => health.is_under_way(Part::Membership, "this replica is ending"),
        }
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// Says who else lives.
pub(super) async fn tell_of_peers(peers: watch::Sender<Peers>, mut views: watch::Receiver<OwnershipView>) {
    loop {
        let others = views.borrow_and_update().peers.clone();
        peers.send_if_modified(|told| {
            let changed = *told != others;
            *told = others;
            changed
        });
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// Says whether more sources wait for a holder than Leases are written at once.
pub(super) async fn tell_whether_leases_wait(
    leases_wait: watch::Sender<bool>,
    mut views: watch::Receiver<OwnershipView>,
) {
    loop {
        let wait = views.borrow_and_update().leases_wait;
        leases_wait.send_if_modified(|told| std::mem::replace(told, wait) != wait);
        if views.changed().await.is_err() {
            return;
        }
    }
}
