//! What must be there before a replica can work, and the waiting for it.

use std::time::Duration;

use super::OperatorError;
use crate::{
    backoff::{Backoff, jittered},
    telemetry::health::{Health, Part},
};

/// The longest wait is how late a part that came back is noticed.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));

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
    let mut retry = RETRY.waits();
    loop {
        match step().await {
            Ok(done) => {
                health.works(part);
                return Ok(done);
            }
            Err(Failed::GiveUp(error)) => return Err(error),
            Err(Failed::Wait(why)) => health.waits(part, why),
        }
        // Replicas that start together do not ask in step.
        let wait = jittered(retry.failed(), &mut rand::rng());
        tokio::time::sleep(wait).await;
    }
}
