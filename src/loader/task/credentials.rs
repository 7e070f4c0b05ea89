//! When an opened source reads its credentials again, and what comes of it (DESIGN 7).

use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::time::{Instant, timeout};
use tracing::info;

use super::{Ended, SourceTask, Wake};
use crate::loader::poll::Poller;

/// Credentials are read again this often at least, so that a rotated Secret needs no restart.
const EVERY: Duration = Duration::from_mins(5);

/// They come sooner by up to this part, so that thousands of sources that were opened together do not ask the API server together.
const JITTER: f64 = 0.5;

/// An API server that does not answer must not hold up a source that runs.
const LIMIT: Duration = Duration::from_secs(2);

/// A refusal that follows a reading this soon says of the Secret, and not of what is known of it, that it is wrong.
const JUST_READ: Duration = Duration::from_secs(1);

/// Before credentials that were refused are sent again, those that were read this short a time ago are not looked at.
const LATELY: Duration = Duration::from_secs(10);

/// When the credentials of an opened source are to be read again.
pub(super) struct Readings {
    due: Instant,
    last: Option<Instant>,
    /// The source refuses what was read.
    doubted: bool,
}

impl Readings {
    pub(super) fn new(rng: &mut impl Rng) -> Self {
        Self { due: Instant::now() + interval(rng), last: None, doubted: false }
    }

    /// The source refused the credentials, or a handshake with them failed.
    pub(super) fn doubt(&mut self) {
        self.doubted = true;
        if !self.were_within(JUST_READ) {
            self.due = Instant::now();
        }
    }

    /// The source took them.
    pub(super) fn trust(&mut self) {
        self.doubted = false;
    }

    fn are_due(&self, before_a_try: bool) -> bool {
        Instant::now() >= self.due || (before_a_try && self.doubted && !self.were_within(LATELY))
    }

    fn were_within(&self, time: Duration) -> bool {
        self.last.is_some_and(|last| last.elapsed() < time)
    }

    fn noted(&mut self, changed: bool, rng: &mut impl Rng) {
        let now = Instant::now();
        self.due = now + interval(rng);
        self.last = Some(now);
        self.doubted &= !changed;
    }
}

fn interval(rng: &mut impl Rng) -> Duration {
    EVERY.mul_f64(1.0 - JITTER * rng.random::<f64>())
}

impl SourceTask {
    /// Waits until the next pass may come, and reads the credentials whenever that is due meanwhile: what is gone is not sent
    /// once more, and a source that fails is tried as soon as they changed. The gate says whether it may be asked so soon.
    pub(super) async fn await_pass(
        &mut self,
        poller: &mut Poller,
        readings: &mut Readings,
        until: Instant,
    ) -> Result<(), Ended> {
        let mut until = until;
        loop {
            match self.wait(until.min(readings.due)).await {
                Wake::Due => {}
                Wake::PollNow => until = Instant::now(),
                Wake::Ended(ended) => return Err(ended),
            }
            let changed = readings.are_due(Instant::now() >= until) && self.reload(poller, readings).await?;
            if (changed && poller.is_failing()) || Instant::now() >= until {
                return Ok(());
            }
        }
    }

    /// Reads the credentials again, and tells whether they changed. Those that are gone end the polling, as the open would
    /// have; an API server that does not answer ends nothing, and holds up no handoff.
    async fn reload(&mut self, poller: &mut Poller, readings: &mut Readings) -> Result<bool, Ended> {
        let reloading = timeout(LIMIT, poller.reload_credentials());
        let Some(reloaded) = self.stop.run_until_cancelled(reloading).await else {
            return Err(Ended::Stopped);
        };
        let reporter = &self.context.reporter;
        let changed = match reloaded {
            Ok(Ok(changed)) => {
                reporter.credentials_read();
                changed
            }
            Ok(Err(error)) if error.revokes() => {
                reporter.not_opened(&error);
                return Err(Ended::Reopen);
            }
            Ok(Err(error)) => {
                reporter.credentials_unread(&error, error.reason().is_some());
                false
            }
            Err(_) => {
                reporter.credentials_unread(&format!("the API server did not answer within {LIMIT:?}"), false);
                false
            }
        };
        if changed {
            info!(stream = %self.context.stream, "credentials changed");
            reporter.tell(|report| report.credentials_reloads += 1);
        }
        readings.noted(changed, &mut self.rng);
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn sources_that_were_opened_together_do_not_read_their_credentials_together() {
        let opened = Instant::now();
        let mut due: Vec<_> = (0..1000).map(|seed| Readings::new(&mut StdRng::seed_from_u64(seed)).due).collect();
        due.sort_unstable();
        assert!(due.iter().all(|due| *due <= opened + EVERY && *due >= opened + EVERY / 2));
        let in_one_second =
            |from: &Instant| due.iter().filter(|due| (*from..*from + Duration::from_secs(1)).contains(due)).count();
        let most = due.iter().map(in_one_second).max();
        assert!(most.is_some_and(|most| most < 25), "of 1000 in 150 s: {most:?}");
    }
}
