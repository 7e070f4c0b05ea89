use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::{
    context::{Cause, Context, LOCKED_RETRY, LOCKED_TRIES},
    prefix::Batch,
};
use crate::{
    api::StoredReason,
    event::Cursor,
    permit::Attempt,
    store::{Answer, Append, Appended, Close, Row, StoreError},
};

/// Between two tries to commit while the database is away: quick at first, for a failover; then easy on a server that
/// is starting.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// COMMIT: the appends of one attempt, in order.
pub(super) struct Appender<'a> {
    context: &'a Context,
    attempt: Attempt,
    part: i32,
}

/// The row has moved on: somebody else has reserved, or the stream was reset. What was held is of no use any more.
#[derive(Debug)]
pub(super) struct Superseded {
    pub(super) row: Option<Row>,
}

impl<'a> Appender<'a> {
    pub(super) fn new(context: &'a Context, attempt: Attempt) -> Self {
        Self { context, attempt, part: 0 }
    }

    /// Commits one batch, and repeats the same append until the row has answered: through an outage of any length the
    /// batch is held, and the source is never asked again for it (P5). With `next_start` it closes the attempt, and
    /// returns when the row opens again at the latest.
    pub(super) async fn append(
        &mut self,
        batch: Batch,
        not_ascending: bool,
        next_start: Option<Instant>,
    ) -> Result<Option<Instant>, Superseded> {
        let events = batch.len();
        let mut append = self.statement(batch, not_ascending);
        let mut retry = FIRST_RETRY;
        let mut held = false;
        loop {
            append.close = next_start.map(close_at);
            let asked = Instant::now();
            match self.context.store().append(&append).await {
                Ok(Answer::Applied(appended)) => {
                    self.release(held);
                    self.applied(&append, &appended, asked.elapsed());
                    return Ok(opens(&append));
                }
                Ok(Answer::Locked) => sleep(LOCKED_RETRY).await,
                // An earlier try was applied and its answer lost: cursor and events only move together.
                Ok(Answer::Refused(Some(row))) if held && row.cursor == append.cursor_after => {
                    self.release(held);
                    self.part += 1;
                    return Ok(None);
                }
                Ok(Answer::Refused(row)) => {
                    self.release(held);
                    self.context.count_retransported(Cause::Superseded, events);
                    return Err(Superseded { row });
                }
                Err(error) => {
                    held = self.hold(held, &error);
                    sleep(retry).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
        }
    }

    /// Closes the attempt of a page that brought nothing. Returns when the row opens again at the latest, if it is closed
    /// for certain: an answer that was lost is not worth holding up a handoff for.
    pub(super) async fn append_nothing(
        &mut self,
        cursor: Cursor,
        not_ascending: bool,
        next_start: Option<Instant>,
    ) -> Option<Instant> {
        let nothing = Batch {
            cursor_before: cursor.clone(),
            cursor_after: cursor,
            events: Arc::default(),
            set_aside: Arc::default(),
            bytes: 0,
        };
        let mut append = self.statement(nothing, not_ascending);
        for _ in 0..LOCKED_TRIES {
            append.close = next_start.map(close_at);
            let asked = Instant::now();
            match self.context.store().append(&append).await {
                Ok(Answer::Applied(appended)) => {
                    self.applied(&append, &appended, asked.elapsed());
                    return opens(&append);
                }
                Ok(Answer::Locked) => sleep(LOCKED_RETRY).await,
                // The row is not this attempt's any more, and there was nothing to lose. RESERVE will tell.
                Ok(Answer::Refused(_)) => return None,
                Err(error) => {
                    self.context.reporter.database_unavailable(&error);
                    return None;
                }
            }
        }
        None
    }

    fn statement(&self, batch: Batch, not_ascending: bool) -> Append {
        Append {
            stream: self.context.stream.clone(),
            attempt: self.attempt,
            part: self.part,
            cursor_before: batch.cursor_before,
            cursor_after: batch.cursor_after,
            events: batch.events,
            set_aside: batch.set_aside,
            not_ascending,
            close: None,
        }
    }

    fn hold(&self, held: bool, error: &StoreError) -> bool {
        self.context.reporter.database_unavailable(error);
        if !held {
            self.context.shared.ownership.holds_batch(&self.context.stream, true);
        }
        true
    }

    fn release(&self, held: bool) {
        if held {
            self.context.shared.ownership.holds_batch(&self.context.stream, false);
        }
    }

    fn applied(&mut self, append: &Append, appended: &Appended, took: Duration) {
        self.part += 1;
        let context = self.context;
        context.metrics().append_duration.observe(took.as_secs_f64());
        if appended.stored > 0 {
            context.metrics().events_appended.get_or_create(&context.source_labels()).inc_by(appended.stored);
        }
        context.count_retransported(Cause::StoredBefore, appended.repeated);
        let now = Timestamp::now();
        context.reporter.note(|report| {
            report.cursor = Some(append.cursor_after.clone());
            report.events_stored = appended.events_stored;
            if appended.stored > 0 {
                report.last_event = Some(now);
            }
        });
        self.judge(appended);
    }

    /// A conflict stays visible until other events were stored.
    fn judge(&self, appended: &Appended) {
        let reporter = &self.context.reporter;
        reporter.database_answers();
        let conflict = reporter.report().stored.as_ref().is_some_and(|it| it.reason == StoredReason::ConflictingEvent);
        if appended.conflicting > 0 {
            let message = format!(
                "{} events came again with other content; the stored ones stay, the others are in headgate.set_aside",
                appended.conflicting
            );
            reporter.not_stored(StoredReason::ConflictingEvent, &message);
        } else if appended.stored > 0 || !conflict {
            reporter.stored();
        }
    }
}

fn close_at(next_start: Instant) -> Close {
    Close { next_start_in: next_start.saturating_duration_since(Instant::now()) }
}

/// The row counted from a moment before its answer.
fn opens(append: &Append) -> Option<Instant> {
    append.close.map(|close| Instant::now() + close.next_start_in)
}
