//! Whether the database answers this replica. The supervisor asks it, and says when it was answered.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::replica::Replica;
use crate::{clock::Moment, ownership::database::could_take_over};

/// A replica that starts waits this long for the first answer, to begin its membership with it.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// When the database last answered this replica.
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

    /// Whether it has answered, or was given its time to.
    pub(super) fn is_known(&self, now: Instant) -> bool {
        self.answered().is_some() || now - self.began >= FIRST_ANSWER_WITHIN
    }

    pub(super) fn silence(&self, now: Instant) -> Option<Duration> {
        self.answered().map(|answered| now.saturating_duration_since(answered))
    }
}

impl Replica {
    pub(super) fn look_at_database(&mut self, now: Instant) {
        let answered = self.database_clock.answered();
        let moment = Moment::now();
        let another_works = self.view.members().any(|lease| {
            lease.holder().is_some_and(|holder| Some(holder) != self.me.as_ref())
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
    }
}
