//! What must be there before a replica can work, and the waiting for it.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

use super::OperatorError;
use crate::telemetry::health::{Health, Part};

/// What a failed step means.
pub(super) enum Failed {
    /// It may work later.
    Wait(String),
    /// It will not, until somebody changes something.
    GiveUp(OperatorError),
}

/// Repeats a step until it works, and says in `/readyz` what it waits for.
///
/// # Errors
/// When the step gives up, or the process is told to end.
pub(super) async fn until_it_works<T>(
    part: Part,
    health: &Health,
    stop: &CancellationToken,
    mut step: impl AsyncFnMut() -> Result<T, Failed>,
) -> Result<T, OperatorError> {
    let pauses = || {
        let (least, most) = (Duration::from_millis(200), Duration::from_secs(5));
        ExponentialBuilder::default()
            .with_min_delay(least)
            .with_max_delay(most)
            .with_jitter()
            .without_max_times()
            .build()
    };
    let mut pauses = pauses();
    loop {
        match step().await {
            Ok(done) => {
                health.works(part);
                return Ok(done);
            }
            Err(Failed::GiveUp(error)) => return Err(error),
            Err(Failed::Wait(why)) => health.waits(part, why),
        }
        let pause = pauses.next().unwrap_or(Duration::from_secs(5));
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Err(OperatorError::ToldToEnd);
        }
    }
}
