//! SEND, and reading the response to its end, or to where it is given up.

use tokio::{select, time::Instant};

use super::End;
use crate::{
    deadline::{self, TimeOver},
    fetch::{Failure, FetchError, Fetcher, PageRequest, Progress, Reply},
    loader::{
        buffer::Share,
        context::{Cause, Context, IN_FLIGHT},
        intake::Intake,
        lapse::Lapse,
    },
    mutation::{self, Mutation},
    permit::Permit,
};

/// SEND, then reads the response to its end, within `http.timeout` in all.
pub(super) async fn read(
    context: &Context,
    fetcher: &mut dyn Fetcher,
    permit: Permit,
    request: &PageRequest,
    intake: &Intake,
    share: &mut Share,
    lapse: &Lapse,
) -> End {
    let (limit, budget) = (fetcher.timeout(), share.budget());
    let reading = read_page(context, fetcher, permit, request, intake, share);
    let reading = deadline::before(Instant::now() + limit, reading);
    let end = select! {
        biased;
        end = reading => end.unwrap_or_else(|TimeOver| {
            let progress = Progress::MayBeServed { first_byte: intake.first_byte() };
            // The source is not to blame for what nobody read.
            let error = if intake.waits_for_others() {
                FetchError::NoRoomInTime { budget, after: limit }
            } else {
                FetchError::Timeout { after: limit }
            };
            End::Failed(Failure { error, progress })
        }),
        row = intake.superseded() => End::Superseded(row),
        () = lapse.comes(context) => {
            // As after a timeout: who has not answered yet may be about to.
            End::Lapsed { first_byte: intake.first_byte(), served_for: IN_FLIGHT.max(limit) }
        }
    };
    intake.end();
    if mutation::is(Mutation::AbortFreesTheRow) { as_if_answered(end) } else { end }
}

/// What [`Mutation::AbortFreesTheRow`] makes of a request that was given up.
fn as_if_answered(end: End) -> End {
    match end {
        End::Failed(Failure { error, progress: Progress::MayBeServed { .. } }) => {
            End::Failed(Failure { error, progress: Progress::ReadToEnd { first_byte: Instant::now() } })
        }
        end => end,
    }
}

async fn read_page(
    context: &Context,
    fetcher: &mut dyn Fetcher,
    permit: Permit,
    request: &PageRequest,
    intake: &Intake,
    share: &mut Share,
) -> End {
    let slot = permit.opens();
    // A source that sends a large page while commits are slow is not to be kept from the end of its time.
    let mut patience = fetcher.timeout() / 4;
    let mut page = match fetcher.send(permit, request).await {
        Ok(Reply::Page(page)) => page,
        Ok(Reply::Prepared { first_byte }) => return End::Prepared { first_byte },
        Err(failure) => return End::Failed(failure),
    };
    let first_byte = if mutation::is(Mutation::AnchorAtTheGrant) { slot } else { page.first_byte() };
    intake.note_first_byte(first_byte);
    let given_up =
        |error| End::Failed(Failure { error, progress: Progress::MayBeServed { first_byte: Some(first_byte) } });
    loop {
        if let Err(error) = intake.wait_for_room(page.held(), share, context).await {
            return given_up(error);
        }
        if !mutation::is(Mutation::WholeBodies) {
            intake.wait_for_commit(&mut patience).await;
        }
        match page.next().await {
            Ok(Some(items)) => {
                if let Err((error, unusable)) = intake.push(items) {
                    context.count_retransported(Cause::Unusable, unusable);
                    return given_up(error);
                }
            }
            Ok(None) => {
                if !page.end_is_proven() {
                    intake.end_proves_nothing();
                }
                return End::Page { first_byte };
            }
            Err(failure) => return End::Failed(failure),
        }
    }
}
