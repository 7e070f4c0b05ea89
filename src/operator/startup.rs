//! What must be there before a replica can work, and the waiting for it.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use super::OperatorError;
use crate::telemetry::health::{Health, Part};

/// The longest pause: how late a part that came back is noticed.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a failed step means.
pub(super) enum Failed {
    /// It may work later.
    Wait(String),
    /// It will not, until somebody changes something.
    GiveUp(OperatorError),
}

/// Repeats a step until it works, and says in `/readyz` what it waits for. It may be dropped at any time.
///
/// # Errors
/// When the step gives up.
pub(super) async fn until_it_works<T>(
    part: Part,
    health: &Health,
    mut step: impl AsyncFnMut() -> Result<T, Failed>,
) -> Result<T, OperatorError> {
    let mut pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(LONGEST_PAUSE)
        .with_jitter()
        .without_max_times()
        .build();
    loop {
        match step().await {
            Ok(done) => {
                health.works(part);
                return Ok(done);
            }
            Err(Failed::GiveUp(error)) => return Err(error),
            Err(Failed::Wait(why)) => health.waits(part, why),
        }
        tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
    }
}
