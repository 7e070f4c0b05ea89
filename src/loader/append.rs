use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::{
    context::{Cause, Context, LOCKED_RETRY, LOCKED_TRIES},
    prefix::Batch,
};
use crate::{
    api::StoredReason,
    event::{Cursor, IdKind},
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
    /// The most events of one statement: what the database was too slow for is sent in parts.
    most_events: usize,
}

/// Why a batch was given up.
#[derive(Debug)]
pub(super) enum NotAppended {
    /// The row has moved on: somebody else has reserved, or the stream was reset. What was held is of no use any more.
    Superseded { row: Option<Row> },
    /// Events of it are stored: the page does not begin after the cursor. Nothing was changed.
    StoredBefore,
}

/// What became of one statement.
enum Sent {
    Stored {
        row_opens: Option<Instant>,
    },
    /// Nothing was done, and never will be.
    TooSlow(Append),
}

impl<'a> Appender<'a> {
    pub(super) fn new(context: &'a Context, attempt: Attempt) -> Self {
        Self { context, attempt, part: 0, most_events: usize::MAX }
    }

    /// Commits one batch, and repeats the same append until the row has answered: through an outage of any length the
    /// batch is held, and the source is never asked again for it (P5). With `next_start` it closes the attempt, and
    /// returns when the row opens again at the latest.
    pub(super) async fn append(
        &mut self,
        batch: Batch,
        not_ascending: bool,
        next_start: Option<Instant>,
    ) -> Result<Option<Instant>, NotAppended> {
        let mut hold = Hold { context: self.context, holds: false };
        if self.was_stored(&batch, &mut hold).await {
            return Err(NotAppended::StoredBefore);
        }
        // The next one to be sent is the last of them.
        let mut left = vec![self.statement(batch, not_ascending)];
        let mut row_opens = None;
        while let Some(append) = left.pop() {
            if append.events.len() > self.most_events {
                let (first, second) = halves(&append);
                left.extend([second, first]);
                continue;
            }
            let closes = next_start.filter(|_| left.is_empty());
            let items = append.events.len() + append.set_aside.len();
            match self.send(append, closes, &mut hold).await {
                Ok(Sent::Stored { row_opens: opens }) => row_opens = opens,
                Ok(Sent::TooSlow(append)) => {
                    self.most_events = append.events.len().div_ceil(2);
                    left.push(append);
                }
                Err(superseded) => {
                    let lost = items + left.iter().map(|it| it.events.len() + it.set_aside.len()).sum::<usize>();
                    self.context.count_retransported(Cause::Superseded, lost as u64);
                    return Err(superseded);
                }
            }
        }
        Ok(row_opens)
    }

    /// Repeats one statement until the row has answered.
    async fn send(
        &mut self,
        mut append: Append,
        next_start: Option<Instant>,
        hold: &mut Hold<'_>,
    ) -> Result<Sent, NotAppended> {
        append.part = self.part;
        let mut retry = FIRST_RETRY;
        loop {
            append.close = next_start.map(close_at);
            let asked = Instant::now();
            match self.context.store().append(&append).await {
                Ok(Answer::Applied(appended)) => {
                    self.applied(&append, &appended, asked.elapsed());
                    return Ok(Sent::Stored { row_opens: opens(&append) });
                }
                Ok(Answer::Locked) => sleep(LOCKED_RETRY).await,
                // An earlier try was applied and its answer lost: cursor and events only move together.
                Ok(Answer::Refused(Some(row))) if hold.holds && row.cursor == append.cursor_after => {
                    self.part += 1;
                    return Ok(Sent::Stored { row_opens: None });
                }
                Ok(Answer::Refused(row)) => return Err(NotAppended::Superseded { row }),
                Err(StoreError::TooSlow { .. }) if append.events.len() > 1 => return Ok(Sent::TooSlow(append)),
                Err(error) => hold.until_retry(&error, &mut retry).await,
            }
        }
    }

    /// Opaque ids have no order, so only the store can tell that a page does not begin after its cursor, as from a source
    /// that does not know the cursor and begins anew. In the order of the feed what is stored ends at the cursor, which
    /// `Prefix` looks for: a batch that holds any of it holds it at one of its ends.
    async fn was_stored(&self, batch: &Batch, hold: &mut Hold<'_>) -> bool {
        let ends: Vec<_> = batch.events.first().into_iter().chain(batch.events.last()).map(|event| &event.id).collect();
        if batch.cursor_before == Cursor::Start || ends.first().is_none_or(|id| id.kind() == IdKind::Number) {
            return false;
        }
        let mut retry = FIRST_RETRY;
        loop {
            match self.context.store().was_stored(&self.context.stream, &ends).await {
                Ok(stored) => return stored,
                Err(error) => hold.until_retry(&error, &mut retry).await,
            }
        }
    }

    /// Closes the attempt of a page that brought nothing. Returns when the row opens again at the latest, if it is closed
    /// for certain: an answer that was lost is not worth holding up a handoff for. A `patient` one may wait for company.
    pub(super) async fn append_nothing(
        &mut self,
        cursor: Cursor,
        not_ascending: bool,
        next_start: Option<Instant>,
        patient: bool,
    ) -> Option<Instant> {
        let nothing = Batch {
            cursor_before: cursor.clone(),
            cursor_after: cursor,
            events: Arc::default(),
            set_aside: Arc::default(),
            bytes: 0,
        };
        let mut append = Append { patient, ..self.statement(nothing, not_ascending) };
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
            patient: false,
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

/// Tells ownership that this source holds a batch which the database does not take. Ends with it, however that ends: a
/// source that seems to hold one is not handed off.
struct Hold<'a> {
    context: &'a Context,
    holds: bool,
}

impl Hold<'_> {
    async fn until_retry(&mut self, error: &StoreError, retry: &mut Duration) {
        self.context.reporter.database_unavailable(error);
        if !self.holds {
            self.holds = true;
            self.context.shared.ownership.holds_batch(&self.context.stream, true);
        }
        sleep(*retry).await;
        *retry = (*retry * 2).min(LAST_RETRY);
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if self.holds {
            self.context.shared.ownership.holds_batch(&self.context.stream, false);
        }
    }
}

/// The two halves of an append. Items set aside go first, also those beyond the cursor that the first half leaves: if it is
/// the last one that is stored, they come again and are kept once; behind the cursor they would be lost.
fn halves(append: &Append) -> (Append, Append) {
    let (first, second) = append.events.split_at(append.events.len() / 2);
    let before = &append.cursor_before;
    let middle = first.last().map_or_else(|| before.clone(), |event| before.moved_to(&event.id));
    (
        Append { events: first.into(), cursor_after: middle.clone(), ..append.clone() },
        Append { events: second.into(), cursor_before: middle, set_aside: Arc::default(), ..append.clone() },
    )
}

fn close_at(next_start: Instant) -> Close {
    Close { next_start_in: next_start.saturating_duration_since(Instant::now()) }
}

/// The row counted from a moment before its answer.
fn opens(append: &Append) -> Option<Instant> {
    append.close.map(|close| Instant::now() + close.next_start_in)
}

#[cfg(test)]
mod tests;
