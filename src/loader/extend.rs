//! EXTEND: the row stays shut for as long as a request may be served, and a little longer.

use std::time::Duration;

use futures::FutureExt;
use tokio::{
    select,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    context::{Context, IN_FLIGHT},
    intake::Intake,
    lapse::Lapse,
    row_lock::WHILE_LOCKED,
};
use crate::{
    permit::Attempt,
    store::{Answer, Extend},
};

/// How often a running request extends its deadline: three times per D.
const EXTEND_EVERY: Duration = Duration::from_secs(1);

/// Between two tries of an extension that failed.
const EXTEND_RETRY: Duration = Duration::from_millis(200);

/// EXTEND, first byte or not, until the response is over. An extension under way is let finish: one that is refused tells
/// that the row has moved on, which what is left of the page must know. What it gained is of no use to the guard then: the
/// request is over, or was given up for as long as the guard knows already.
pub(super) async fn keep_extending(context: &Context, attempt: Attempt, intake: &Intake, lapse: &Lapse) {
    let mut wait = EXTEND_EVERY;
    let mut locked = WHILE_LOCKED.waits();
    loop {
        select! {
            biased;
            () = intake.ended() => return,
            () = sleep(wait) => {}
        }
        let extend = Extend { stream: context.stream.clone(), attempt, by: IN_FLIGHT };
        let issued = Instant::now();
        wait = match context.store().extend(extend).await {
            Ok(Answer::Applied(())) => {
                lapse.extended(issued);
                if intake.ended().now_or_never().is_none() {
                    context.guard().busy_until(Instant::now() + IN_FLIGHT);
                }
                locked = WHILE_LOCKED.waits();
                EXTEND_EVERY
            }
            Ok(Answer::Locked) => locked.failed(),
            Ok(Answer::Refused(row)) => {
                intake.supersede(row);
                return;
            }
            Err(_) => EXTEND_RETRY,
        };
    }
}

/// The EXTEND of a request that was given up: the row stays shut for as long as the source may go on serving it.
/// Repeated until the row has answered or that time is over, which may be a day where the source asked for it. A stop
/// ends it only where the database does not answer or somebody else holds the row's lock, and not before the row has
/// opened by itself: until then the one try that gets through keeps the next holder away. This process keeps to it in
/// any case.
pub(super) async fn extend_given_up(context: &Context, attempt: Attempt, by: Duration, stop: &CancellationToken) {
    let given_up = Instant::now();
    let until = given_up + by;
    let mut locked = WHILE_LOCKED.waits();
    loop {
        let by = until.saturating_duration_since(Instant::now());
        if by.is_zero() {
            return;
        }
        let extend = Extend { stream: context.stream.clone(), attempt, by };
        let wait = match context.store().extend(extend).await {
            Ok(Answer::Applied(()) | Answer::Refused(_)) => return,
            Ok(Answer::Locked) => locked.failed(),
            Err(_) => EXTEND_RETRY,
        };
        if given_up.elapsed() < IN_FLIGHT {
            sleep(wait).await;
        } else if stop.run_until_cancelled(sleep(wait)).await.is_none() {
            return;
        }
    }
}
