//! COMMIT, repeated until the row has answered.

mod beginning;

use std::{collections::HashSet, time::Duration};

use beginning::{AtTheCursor, Beginning};

use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::{
    context::{Cause, Context, IN_FLIGHT, LOCKED_RETRY, LOCKED_TRIES},
    prefix::{Batch, Overlap},
    row_lock::{RowLock, WHILE_LOCKED},
};
use crate::{
    api::StoredReason,
    backoff::{Backoff, Waits, jittered},
    event::{Cursor, EventId, IdKind},
    permit::Attempt,
    store::{Answer, Append, Appended, Close, Row, StoreError, Then},
};

/// Between two tries to commit while the database is away: quick at first, for a failover; then easy on a server that
/// is starting.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// COMMIT: the appends of one attempt, in order.
pub(super) struct Appender<'a> {
    context: &'a Context,
    attempt: Attempt,
    part: i32,
    /// The most events of one statement: what the database was too slow for is sent in parts.
    most_events: usize,
}

/// A batch is in the store.
#[derive(Debug)]
pub(super) struct Committed {
    /// Where it leaves the cursor.
    pub(super) cursor: Cursor,
    /// When the row opens again at the latest, if the attempt was closed for certain.
    pub(super) row_opens: Option<Instant>,
}

/// Why a batch was given up.
#[derive(Debug)]
pub(super) enum NotAppended {
    Superseded(Superseded),
    /// The page does not begin after the cursor. Nothing was changed.
    Overlaps(Batch, Overlap),
    /// What has come of the page does not tell yet where it begins: not before more has come, or its end. Nothing was changed.
    Undecided(Batch),
}

/// The row has moved on: somebody else has reserved, or the stream was reset. What was held is of no use any more.
#[derive(Debug)]
pub(super) struct Superseded {
    pub(super) row: Option<Row>,
}

/// What became of one statement.
enum Sent {
    Stored {
        row_opens: Option<Instant>,
    },
    /// Nothing was done, and never will be.
    TooSlow,
}

impl<'a> Appender<'a> {
    pub(super) fn new(context: &'a Context, attempt: Attempt) -> Self {
        Self { context, attempt, part: 0, most_events: usize::MAX }
    }

    /// Commits a part of a response that goes on: the attempt stays open.
    pub(super) async fn append_prefix(&mut self, batch: Batch) -> Result<Committed, NotAppended> {
        self.append(batch, None).await
    }

    /// Commits one batch, and repeats the same append until the row has answered: through an outage of any length the
    /// batch is held, and the source is never asked again for it (P5). With `next_start` it closes the attempt.
    pub(super) async fn append(
        &mut self,
        mut batch: Batch,
        next_start: Option<Instant>,
    ) -> Result<Committed, NotAppended> {
        let mut hold = Hold { context: self.context, holds: false };
        let known = self.find_known(&batch, &mut hold).await;
        match self.beginning(&batch, &known, &mut hold).await {
            Beginning::AfterTheCursor => {}
            Beginning::Before(overlap) => return Err(NotAppended::Overlaps(batch, overlap)),
            Beginning::Undecided => return Err(NotAppended::Undecided(batch)),
        }
        batch.stop_before_trailing(&known);
        let cursor = batch.cursor_after.clone();
        // The next one to be sent is the last of them.
        let (mut left, mut is_split) = (vec![batch], false);
        let mut row_opens = None;
        while let Some(part) = left.pop() {
            if part.events.len() > self.most_events {
                let (first, second) = part.halves(&known);
                left.extend([second, first]);
                is_split = true;
                continue;
            }
            let closes = next_start.filter(|_| left.is_empty());
            // The part before may have ended a re-read, in which the store did not tell what it knew.
            let looks_up = (is_split && part.kind == Some(IdKind::Opaque))
                || part.events.iter().any(|event| known.contains(&event.id));
            let append = Append { looks_up, ..self.statement(part.clone()) };
            match self.send(append, closes, &mut hold).await {
                Ok(Sent::Stored { row_opens: opens }) => row_opens = opens,
                Ok(Sent::TooSlow) => {
                    self.most_events = part.events.len().div_ceil(2);
                    left.push(part);
                }
                Err(superseded) => {
                    let lost = part.len() + left.iter().map(Batch::len).sum::<u64>();
                    self.context.count_retransported(Cause::Superseded, lost);
                    return Err(NotAppended::Superseded(superseded));
                }
            }
        }
        Ok(Committed { cursor, row_opens })
    }

    /// Repeats one statement until the row has answered.
    async fn send(
        &mut self,
        mut append: Append,
        next_start: Option<Instant>,
        hold: &mut Hold<'_>,
    ) -> Result<Sent, Superseded> {
        append.part = self.part;
        let (mut retry, mut while_locked, mut lock) = (RETRY.waits(), WHILE_LOCKED.waits(), RowLock::default());
        loop {
            append.then = then(next_start);
            let asked = Instant::now();
            match self.context.store().append(&append).await {
                Ok(Answer::Applied(appended)) => {
                    self.applied(&append, &appended, asked.elapsed());
                    return Ok(Sent::Stored { row_opens: opens(&append) });
                }
                Ok(Answer::Locked) => {
                    lock.met(&self.context.reporter);
                    let wait = jittered(while_locked.failed(), &mut rand::rng());
                    sleep(wait).await;
                }
                // An earlier try was applied and its answer lost: a cursor that moved from there to here moved with these
                // events. Events below a cursor that has passed them leave it where it is, and it proves nothing for them.
                Ok(Answer::Refused(Some(row)))
                    if hold.holds
                        && row.cursor == append.cursor_after
                        && append.cursor_before != append.cursor_after =>
                {
                    self.part += 1;
                    return Ok(Sent::Stored { row_opens: None });
                }
                Ok(Answer::Refused(row)) => return Err(Superseded { row }),
                Err(StoreError::TooSlow { .. }) if append.events.len() > 1 => return Ok(Sent::TooSlow),
                Err(error) => hold.until_retry(&error, &mut retry).await,
            }
        }
    }

    /// Judged by each part of a page: the item at the cursor may come in any.
    async fn beginning(&self, batch: &Batch, known: &HashSet<EventId>, hold: &mut Hold<'_>) -> Beginning {
        let is_first = self.part == 0;
        if !batch.may_begin_anew() {
            return Beginning::AfterTheCursor;
        }
        match batch.at_the_cursor(known, is_first) {
            AtTheCursor::Nothing | AtTheCursor::Repeat => {}
            AtTheCursor::RepeatIfHasOlder(id) if self.has_older(id, hold).await => {}
            AtTheCursor::RepeatIfHasOlder(_) => return Beginning::Before(Overlap::Untold),
            AtTheCursor::Overlap(overlap) => return Beginning::Before(overlap),
        }
        if is_first { batch.beginning(known) } else { Beginning::AfterTheCursor }
    }

    async fn has_older(&self, id: &EventId, hold: &mut Hold<'_>) -> bool {
        let mut retry = RETRY.waits();
        loop {
            match self.context.store().has_older(&self.context.stream, id).await {
                Ok(has_older) => return has_older,
                Err(error) => hold.until_retry(&error, &mut retry).await,
            }
        }
    }

    /// Opaque ids have no order, so only the store can tell which of them came before the cursor. It takes longer with
    /// each day that is kept, so what takes too long is asked in parts; nobody else appends in between.
    async fn find_known(&self, batch: &Batch, hold: &mut Hold<'_>) -> HashSet<EventId> {
        if !batch.may_begin_anew() {
            return HashSet::new();
        }
        let ids: Vec<_> = batch.ids().collect();
        let (mut left, mut at_once) = (&ids[..], ids.len());
        let mut known = HashSet::new();
        let mut retry = RETRY.waits();
        while !left.is_empty() {
            let (asked, later) = left.split_at(at_once.min(left.len()));
            match self.context.store().find_stored(&self.context.stream, asked).await {
                Ok(found) => {
                    known.extend(found);
                    left = later;
                }
                Err(StoreError::TooSlow { .. }) if asked.len() > 1 => at_once = asked.len().div_ceil(2),
                Err(error) => hold.until_retry(&error, &mut retry).await,
            }
        }
        known
    }

    /// Closes the attempt of a page that has nothing to be stored, with a batch that is empty. Returns when the row opens again
    /// at the latest, if it is closed for certain: an answer that was lost is not worth holding up a handoff for.
    pub(super) async fn append_nothing(&mut self, nothing: Batch, next_start: Option<Instant>) -> Option<Instant> {
        let mut append = self.statement(nothing);
        for _ in 0..LOCKED_TRIES {
            append.then = then(next_start);
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

    /// After a page without an item, everything that came is stored.
    pub(super) fn nothing_came(&self) {
        self.judge(&Appended::default());
    }

    fn statement(&self, batch: Batch) -> Append {
        Append {
            stream: self.context.stream.clone(),
            attempt: self.attempt,
            part: self.part,
            cursor_before: batch.cursor_before,
            cursor_after: batch.cursor_after,
            id_kind: batch.kind,
            events: batch.events,
            set_aside: batch.set_aside,
            not_ascending: batch.not_ascending,
            looks_up: false,
            then: then(None),
        }
    }

    fn applied(&mut self, append: &Append, appended: &Appended, took: Duration) {
        self.part += 1;
        let context = self.context;
        context.metrics().append_duration.observe(took.as_secs_f64());
        context.count_retransported(Cause::StoredBefore, appended.repeated);
        let now = Timestamp::now();
        context.reporter.note(|report| {
            report.cursor = Some(append.cursor_after.clone());
            report.events_stored = appended.events_stored;
            report.events_appended += appended.stored;
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
    async fn until_retry(&mut self, error: &StoreError, retry: &mut Waits) {
        self.context.reporter.database_unavailable(error);
        if !self.holds {
            self.holds = true;
            self.context.shared.ownership.holds_batch(&self.context.stream, true);
        }
        let wait = jittered(retry.failed(), &mut rand::rng());
        sleep(wait).await;
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if self.holds {
            self.context.shared.ownership.holds_batch(&self.context.stream, false);
        }
    }
}

fn then(next_start: Option<Instant>) -> Then {
    match next_start {
        Some(at) => Then::Closes(Close { next_start_in: at.saturating_duration_since(Instant::now()) }),
        None => Then::GoesOn { in_flight: IN_FLIGHT },
    }
}

/// The row counted from a moment before its answer.
fn opens(append: &Append) -> Option<Instant> {
    append.then.close().map(|close| Instant::now() + close.next_start_in)
}

#[cfg(test)]
mod tests;
