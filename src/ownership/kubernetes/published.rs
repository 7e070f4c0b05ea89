//! What the rest of the process is told of all that this replica knows.

use std::time::Duration;

use tokio::time::Instant;

use super::{OwnershipView, Stage, claims::Refusal, replica::Replica};
use crate::event::StreamName;

/// For this long, other work makes room for Leases that wait. Ten thousand sources on two cores that the API server shares are
/// taken in less (docs/benchmarks.md).
const ROOM_FOR_LEASES: Duration = Duration::from_secs(30);

impl Replica {
    /// Where no member can take them sources wait for ever, but other work does not make room for their Leases for ever.
    fn leases_wait(&mut self, now: Instant) -> bool {
        let at_once = self.config.writes_in_flight * self.roster.seats.len().max(1);
        let is_denied = |stream: &&StreamName| self.refused.get(*stream).is_some_and(Refusal::was_denied);
        let denied = if self.refused.is_empty() { 0 } else { self.roster.orphans.iter().filter(is_denied).count() };
        let since = (self.roster.orphans.len() - denied > at_once).then(|| self.leases_wait_since.unwrap_or(now));
        self.leases_wait_since = since;
        since.is_some_and(|since| now - since < ROOM_FOR_LEASES)
    }

    pub(super) fn publish(&mut self, now: Instant) {
        let leases_wait = self.leases_wait(now);
        let view = OwnershipView {
            stage: match (self.draining_since, self.view.is_synced()) {
                (Some(_), _) => Stage::Draining,
                (None, true) => Stage::TakingPart,
                (None, false) => Stage::Listing,
            },
            holder: self.me.clone(),
            members: self.view.members().filter(|lease| lease.holder().is_some()).count(),
            held: self.holdings.held(),
            orphans: self.roster.orphans.len() + self.roster.denied,
            leases_wait,
            database_lost: self.database.is_lost(),
            peers: self.view.peers(self.me.as_ref(), &self.config.pod_template),
            left_to_nobody: Vec::new(),
        };
        self.metrics.leases_held.set(i64::try_from(view.held).unwrap_or(i64::MAX));
        self.metrics.orphans.set(i64::try_from(view.orphans).unwrap_or(i64::MAX));
        self.outlets.publish.send_if_modified(|published| {
            let changed = *published != view;
            *published = view;
            changed
        });
    }
}
