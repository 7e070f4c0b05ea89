//! Whether the database answers this replica: told with every statement that is answered, asked when there are none.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures::FutureExt;
use tokio::time::Instant;

use super::{deaths::Duty, replica::Replica};
use crate::ownership::database::WORKS_WITHIN;

/// An idle replica asks this often.
const PING_EVERY: Duration = Duration::from_secs(2);

/// When the database last answered this replica. Told with every statement, so it is one atomic store.
#[derive(Debug)]
pub(super) struct DatabaseClock {
    began: Instant,
    answered_ms: AtomicU64,
}

impl DatabaseClock {
    pub(super) fn begin(now: Instant) -> Self {
        Self { began: now, answered_ms: AtomicU64::new(0) }
    }

    pub(super) fn answered_at(&self, now: Instant) {
        let since = u64::try_from((now - self.began).as_millis()).unwrap_or(u64::MAX);
        self.answered_ms.fetch_max(since, Ordering::Relaxed);
    }

    pub(super) fn answered(&self) -> Instant {
        self.began + Duration::from_millis(self.answered_ms.load(Ordering::Relaxed))
    }

    pub(super) fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.answered())
    }
}

impl Replica {
    pub(super) fn look_at_database(&mut self, now: Instant) {
        let answered = self.database_clock.answered();
        let another_works = self.view.members().any(|lease| {
            lease.holder.is_some()
                && lease.holder != self.me
                && lease.state.database_silent < WORKS_WITHIN
                && self.membership.silence(&lease.name, now) < self.config.late_after()
        });
        let was_lost = self.database.is_lost();
        let lost = self.database.look(answered, another_works, now);
        if lost != was_lost {
            tracing::warn!(lost, "the database does not answer me while it answers another replica");
            self.outlets.wish.send_modify(|wish| wish.database_lost = lost);
            self.dirty = true;
        }
        if now - answered >= PING_EVERY && !self.pinging {
            self.pinging = true;
            let gate = self.gate.clone();
            let ping = async move {
                let answer = tokio::time::timeout(PING_EVERY, gate.ping()).await;
                Duty::Pinged(matches!(answer, Ok(Ok(()))))
            };
            self.duties.push(ping.boxed());
        }
    }

    pub(super) fn on_pinged(&mut self, answered: bool) {
        self.pinging = false;
        if answered {
            self.database_clock.answered_at(Instant::now());
        }
    }
}
