//! Leases before status (DESIGN 7): while many sources wait for a holder, the API server is left to their Leases. A source
//! without a holder is not polled; a status that comes later is only read later.

use std::future::pending;

use tokio::sync::watch::Receiver;

/// Holds back what only tells: statuses and Events, not finalizers.
#[derive(Clone)]
pub(super) struct LeasesFirst {
    leases_wait: Receiver<bool>,
}

impl LeasesFirst {
    pub(super) fn new(leases_wait: Receiver<bool>) -> Self {
        Self { leases_wait }
    }

    /// Whether nothing is to be written now. Who does not hear of Leases any more goes on.
    pub(super) fn holds_back(&mut self) -> bool {
        *self.leases_wait.borrow_and_update() && self.leases_wait.has_changed().is_ok()
    }

    /// Returns when Leases begin or cease to wait.
    pub(super) async fn changed(&mut self) {
        if self.leases_wait.changed().await.is_err() {
            pending::<()>().await;
        }
    }

    /// Returns when it may be written.
    pub(super) async fn passed(&mut self) {
        // An error: nobody is left to make room for.
        let _ = self.leases_wait.wait_for(|wait| !wait).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{sync::watch, time::timeout};

    use super::*;

    const INSTANT: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn what_tells_goes_on_as_soon_as_no_lease_waits() {
        let (leases_wait, waiting) = watch::channel(true);
        let mut leases_first = LeasesFirst::new(waiting);
        assert!(leases_first.holds_back());
        assert!(timeout(Duration::from_secs(10), leases_first.passed()).await.is_err());
        leases_wait.send_replace(false);
        assert!(!leases_first.holds_back());
        assert!(timeout(INSTANT, leases_first.passed()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_hear_of_leases_any_more_goes_on_too() {
        let (leases_wait, waiting) = watch::channel(true);
        let mut leases_first = LeasesFirst::new(waiting);
        drop(leases_wait);
        assert!(!leases_first.holds_back());
        assert!(timeout(INSTANT, leases_first.passed()).await.is_ok());
    }
}
