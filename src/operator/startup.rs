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
    /// It may work later, and each try costs others something.
    Rest(String, Duration),
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
        let wait = match step().await {
            Ok(done) => {
                health.works(part);
                return Ok(done);
            }
            Err(Failed::GiveUp(error)) => return Err(error),
            Err(Failed::Wait(why)) => {
                health.waits(part, why);
                retry.failed()
            }
            Err(Failed::Rest(why, rest)) => {
                health.waits(part, why);
                rest
            }
        };
        // Replicas that start together do not ask in step.
        let wait = jittered(wait, &mut rand::rng());
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_each_try_costs_others_is_tried_seldom_and_what_costs_nothing_soon() {
        const REST: Duration = Duration::from_mins(2);
        let (health, begun) = (Health::default(), Instant::now());
        let mut tries = Vec::new();
        let step = async || {
            tries.push(begun.elapsed());
            match tries.len() {
                1 => Err(Failed::Rest("in use".to_owned(), REST)),
                2 => Err(Failed::Wait("away".to_owned())),
                _ => Ok(()),
            }
        };
        until_it_works(Part::Database, &health, step).await.expect("the third try works");
        assert!(tries[1] >= REST / 2 && tries[2] <= tries[1] + RETRY.after(0), "{tries:?}");
        assert!(health.pending().is_empty());
    }
}
