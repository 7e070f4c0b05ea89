//! Whether the database answers this replica: told with every statement that is answered, asked when there are none.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures::FutureExt;
use tokio::time::Instant;

use super::{deaths::Duty, replica::Replica};
use crate::{clock::Moment, ownership::database::could_take_over};

/// An idle replica asks this often.
const PING_EVERY: Duration = Duration::from_secs(2);

/// When the database last answered this replica. Told with every statement, so it is one atomic store.
#[derive(Debug)]
pub(super) struct DatabaseClock {
    began: Instant,
    /// Milliseconds since then, and one: zero is never.
    answered_ms: AtomicU64,
}

impl DatabaseClock {
    pub(super) fn begin(now: Instant) -> Self {
        Self { began: now, answered_ms: AtomicU64::new(0) }
    }

    pub(super) fn answered_at(&self, now: Instant) {
        let since = u64::try_from((now - self.began).as_millis()).unwrap_or(u64::MAX - 1);
        self.answered_ms.fetch_max(since + 1, Ordering::Relaxed);
    }

    pub(super) fn answered(&self) -> Option<Instant> {
        let since = self.answered_ms.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.began + Duration::from_millis(since))
    }

    pub(super) fn silence(&self, now: Instant) -> Option<Duration> {
        self.answered().map(|answered| now.saturating_duration_since(answered))
    }
}

/// The asking of an idle replica.
#[derive(Debug, Default)]
pub(super) struct Ping {
    is_under_way: bool,
    /// Whatever came of it.
    pub(super) has_ended_once: bool,
}

impl Replica {
    pub(super) fn look_at_database(&mut self, now: Instant) {
        let answered = self.database_clock.answered();
        let moment = Moment::now();
        let another_works = self.view.members().any(|lease| {
            lease.holder.is_some()
                && lease.holder != self.me
                && could_take_over(&lease.state)
                && self.is_heard(lease, moment)
        });
        let was_lost = self.database.is_lost();
        let lost = self.database.look(answered, another_works, now);
        if lost != was_lost {
            if lost {
                tracing::warn!("my database does not answer while another replica's does");
            } else {
                tracing::info!("my database answers again");
            }
            self.outlets.wish.send_modify(|wish| wish.database_lost = lost);
            self.dirty = true;
        }
        if answered.is_none_or(|answered| now - answered >= PING_EVERY) && !self.ping.is_under_way {
            self.ping.is_under_way = true;
            let gate = self.gate.clone();
            let ping = async move {
                let answer = tokio::time::timeout(PING_EVERY, gate.ping()).await;
                Duty::Pinged(matches!(answer, Ok(Ok(()))))
            };
            self.duties.push(ping.boxed());
        }
    }

    pub(super) fn on_pinged(&mut self, answered: bool) {
        self.ping = Ping { is_under_way: false, has_ended_once: true };
        if answered {
            self.database_clock.answered_at(Instant::now());
        }
    }
}
