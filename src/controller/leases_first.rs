//! Leases before status (DESIGN 7): while many sources wait for a holder, the API server is left to their Leases. A source
//! without a holder is not polled; a status that comes later is only read later.

use std::{future::pending, time::Duration};

use tokio::{
    sync::watch::Receiver,
    time::{Instant, sleep_until},
};

/// Sources may wait for ever, for members that can take none. What people are to read does not. Ten thousand sources on two
/// cores that the API server shares are taken in less (docs/benchmarks.md).
const HELD_BACK_FOR: Duration = Duration::from_secs(30);

/// Holds back what only tells: statuses and Events, not finalizers.
#[derive(Clone)]
pub(super) struct LeasesFirst {
    leases_wait: Receiver<bool>,
    since: Option<Instant>,
}

impl LeasesFirst {
    pub(super) fn new(leases_wait: Receiver<bool>) -> Self {
        Self { leases_wait, since: None }
    }

    /// Until when nothing is to be written if Leases wait for so long; `None` when it may be written now.
    pub(super) fn held_back_until(&mut self, now: Instant) -> Option<Instant> {
        let wait = *self.leases_wait.borrow_and_update();
        self.since = wait.then(|| self.since.unwrap_or(now));
        self.since.map(|since| since + HELD_BACK_FOR).filter(|until| *until > now)
    }

    /// Returns when Leases begin or cease to wait.
    pub(super) async fn changed(&mut self) {
        if self.leases_wait.changed().await.is_err() {
            pending::<()>().await;
        }
    }

    /// Returns when it may be written.
    pub(super) async fn passed(&mut self) {
        while let Some(until) = self.held_back_until(Instant::now()) {
            tokio::select! {
                () = sleep_until(until) => {}
                () = self.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::watch, time::timeout};

    use super::*;

    const INSTANT: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn what_tells_goes_on_as_soon_as_no_lease_waits() {
        let (leases_wait, waiting) = watch::channel(true);
        let mut leases_first = LeasesFirst::new(waiting);
        assert!(timeout(Duration::from_secs(10), leases_first.passed()).await.is_err());
        leases_wait.send_replace(false);
        assert!(timeout(INSTANT, leases_first.passed()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn leases_that_wait_for_ever_silence_nobody_for_ever() {
        let (leases_wait, waiting) = watch::channel(true);
        let mut leases_first = LeasesFirst::new(waiting);
        let begun = Instant::now();
        leases_first.passed().await;
        assert_eq!(begun.elapsed(), HELD_BACK_FOR);
        assert!(timeout(INSTANT, leases_first.passed()).await.is_ok(), "not held back a second time for the same");

        leases_wait.send_replace(false);
        leases_first.passed().await;
        leases_wait.send_replace(true);
        assert!(timeout(INSTANT, leases_first.passed()).await.is_err(), "but for the next ones");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_hear_of_leases_any_more_goes_on_too() {
        let (leases_wait, waiting) = watch::channel(true);
        drop(leases_wait);
        let begun = Instant::now();
        LeasesFirst::new(waiting).passed().await;
        assert_eq!(begun.elapsed(), HELD_BACK_FOR);
    }
}
