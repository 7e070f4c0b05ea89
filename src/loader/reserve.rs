//! RESERVE and ABORT, and the waits of the row.

use std::time::Duration;

use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::{
    context::{Context, IN_FLIGHT, LOCKED_RETRY},
    guard::Owed,
    poll::Pass,
    row_lock::RowLock,
};
use crate::{
    backoff::{Backoff, jittered},
    event::Cursor,
    permit::{Attempt, Permit},
    store::{Abort, Answer, Ended, Fence, Patience, Reserve, Reserved, Row, StoreError},
};

/// A saturated source reserves this long before its slot, so that the round trip does not come on top of the gap. A few
/// times a healthy round trip; and it is added to what a crash costs the next holder, so not more.
pub(super) const LEAD: Duration = Duration::from_millis(40);

/// The slot may lie a little further ahead than the lead: the row counts from its commit, we from its answer.
const AT_MOST_AHEAD: Duration = Duration::from_millis(60);

/// Between two reservations while the database is away.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// RESERVE and ABORT of one adopted source.
pub(super) struct Reservations {
    fence: Fence,
    min_interval: Duration,
    failures: u32,
    /// Grants keep arriving after their send limit; cleared by the exchange.
    pub(super) keeps_expiring: bool,
    lock: RowLock,
    rng: StdRng,
}

/// A granted reservation.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) permit: Permit,
    pub(super) attempt: Attempt,
    /// The row is shut until then at the latest, if nothing more is heard.
    pub(super) busy_until: Instant,
}

/// What this process itself knows of its last request.
///
/// # Errors
/// No request may start yet.
pub(super) fn check_guard(context: &Context) -> Result<(), Pass> {
    let now = Instant::now();
    let opens = context.guard().opens(now);
    if opens > now + AT_MOST_AHEAD { Err(Pass::wait_for_gate(context, opens - LEAD)) } else { Ok(()) }
}

impl Reservations {
    pub(super) fn new(fence: Fence, min_interval: Duration, rng: StdRng) -> Self {
        Self { fence, min_interval, failures: 0, keeps_expiring: false, lock: RowLock::default(), rng }
    }

    /// Asks for the right to send one request, and closes the one before if that `ended` and is still open. `ahead` tells
    /// that the source is saturated: then a slot a little ahead is taken.
    ///
    /// # Errors
    /// What the pass comes to without a request.
    pub(super) async fn reserve(
        &mut self,
        context: &Context,
        cursor: &Cursor,
        ended: Option<Owed>,
        ahead: bool,
        mut patience: Patience,
    ) -> Result<Grant, Pass> {
        for _ in 0..self.lock.tries() {
            let send_within = context.shared.send_limit.current();
            let reserve = Reserve {
                stream: context.stream.clone(),
                holder: context.holder.clone(),
                fence: self.fence,
                cursor: cursor.clone(),
                attempt: Attempt::random(),
                send_within,
                in_flight: IN_FLIGHT,
                min_interval: self.min_interval,
                at_most_ahead: if ahead { AT_MOST_AHEAD } else { Duration::ZERO },
                ended: ended.map(|ended| Ended { attempt: ended.attempt, close: ended.close() }),
                // Once: who finds the row locked has waited.
                patience: std::mem::take(&mut patience),
            };
            let attempt = reserve.attempt;
            let answer = context.store().reserve(reserve).await;
            let answered = Instant::now();
            match answer {
                Ok(Answer::Applied(Reserved { wait, issued })) => {
                    self.answered(context);
                    context.shared.send_limit.observe(answered - issued.at);
                    let permit = Permit::new(attempt, issued, answered, wait, send_within);
                    let busy_until = permit.opens() + send_within + IN_FLIGHT;
                    return Ok(Grant { permit, attempt, busy_until });
                }
                Ok(Answer::Locked) => sleep(LOCKED_RETRY).await,
                Ok(Answer::Refused(row)) => return Err(self.refused(context, cursor, row)),
                Err(error) => {
                    if !matches!(error, StoreError::NotBegun { .. }) {
                        // It may have been granted: then nothing was sent for it. The slot was at most this far ahead.
                        context.guard().owe(Owed { attempt, next_start: answered + AT_MOST_AHEAD });
                    }
                    context.reporter.database_unavailable(&error);
                    self.failures = self.failures.saturating_add(1);
                    return Err(Pass::Again(Instant::now() + self.retry_in()));
                }
            }
        }
        self.lock.met(&context.reporter);
        Err(Pass::Again(Instant::now() + self.lock.retry_in()))
    }

    /// The row gave an answer: what was said for want of one is over.
    fn answered(&mut self, context: &Context) {
        if !self.keeps_expiring {
            context.reporter.database_answers();
        }
        self.failures = 0;
        self.lock.opened();
    }

    /// Whether it was said that the row stays locked.
    pub(super) fn row_stays_locked(&self) -> bool {
        self.lock.lasts()
    }

    /// The row said no. What it shows tells why.
    fn refused(&mut self, context: &Context, cursor: &Cursor, row: Option<Row>) -> Pass {
        let Some(row) = row else { return Pass::Readopt };
        if !self.is_mine(context, &row) {
            return Pass::FencedOff;
        }
        self.answered(context);
        if row.cursor != *cursor {
            return Pass::Readopt;
        }
        debug!(stream = %context.stream, in_flight_for = ?row.in_flight_for, starts_in = ?row.starts_in, "waits for the gate");
        let now = Instant::now();
        // An open attempt is waited out; a start is reserved a little ahead.
        let wait = row.in_flight_for.max(row.starts_in.saturating_sub(LEAD)).max(Duration::from_millis(1));
        Pass::wait_for_gate(context, now + wait)
    }

    pub(super) fn is_mine(&self, context: &Context, row: &Row) -> bool {
        row.fence == self.fence && row.holder.as_ref() == Some(&context.holder)
    }

    /// ABORT of what is owed. Returns false when it is still owed: the row was locked or the database is away. What is
    /// owed outlives an adoption, which does not close an attempt either.
    pub(super) async fn settle(&mut self, context: &Context) -> bool {
        let Some(owed) = context.guard().owed() else { return true };
        for _ in 0..self.lock.tries() {
            let abort = Abort { stream: context.stream.clone(), attempt: owed.attempt, close: owed.close() };
            match context.store().abort(abort).await {
                // Refused: the attempt is not the row's, so there is nothing to close.
                Ok(Answer::Applied(()) | Answer::Refused(_)) => {
                    context.guard().settled();
                    if self.lock.lasts() {
                        self.answered(context);
                    }
                    // ABORT has connections of its own: that it is answered says nothing of a RESERVE that was not.
                    self.failures = 0;
                    self.lock.opened();
                    return true;
                }
                Ok(Answer::Locked) => sleep(LOCKED_RETRY).await,
                Err(error) => {
                    context.reporter.database_unavailable(&error);
                    self.failures = self.failures.saturating_add(1);
                    return false;
                }
            }
        }
        self.lock.met(&context.reporter);
        false
    }

    /// Between two tries while the row does not answer; with jitter while the database is away, so that not all sources come back to
    /// it in step.
    pub(super) fn retry_in(&mut self) -> Duration {
        match self.failures {
            0 => self.lock.retry_in(),
            failures => jittered(RETRY.after(failures - 1), &mut self.rng),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn sources_that_fail_together_do_not_come_back_together() {
        let retries: Vec<Duration> = (0..100)
            .map(|seed| {
                let rng = StdRng::seed_from_u64(seed);
                let mut reservations = Reservations::new(Fence(1), Duration::from_millis(200), rng);
                reservations.failures = 20;
                reservations.retry_in()
            })
            .collect();
        let (first, last) = (retries.iter().min().expect("many"), retries.iter().max().expect("many"));
        let spread = last.abs_diff(*first);
        assert!(spread > RETRY.longest() / 4, "{spread:?}");
        assert!(retries.iter().all(|retry| (RETRY.longest() / 2..=RETRY.longest()).contains(retry)));
    }
}
