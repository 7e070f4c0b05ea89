//! What an exchange means for the next pass, and what is reported of it.

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{Pass, Poller};
use crate::{
    fetch::{Failure, FetchError, Progress},
    loader::{
        exchange::{AttemptLeft, End, Outcome},
        pace::{Fill, IdleGrowth},
        prefix::Prefix,
        report::BlockedBy,
        reserve::LEAD,
    },
    store::Row,
};

impl Poller {
    pub(super) fn judge(&mut self, outcome: Outcome) -> Pass {
        if let End::Failed(Failure { error, progress: Progress::NeverLeft }) = &outcome.end {
            match error {
                FetchError::ClosedWhileIdle if !self.asks_again => return self.ask_again(),
                FetchError::PermitExpired => return self.expire(),
                _ => {}
            }
        }
        if asked_for_events(&outcome.end) {
            self.polls += 1;
            self.context.reporter.note(|report| report.last_poll = Some(Timestamp::now()));
        }
        // Not what could not keep the row: the database may have gone away since.
        if self.pace.keeps_expiring() && !matches!(outcome.end, End::Lapsed { .. } | End::Superseded(_)) {
            self.context.reporter.database_answers();
        }
        let moved = outcome.page.cursor() != self.cursor;
        self.cursor = outcome.page.cursor();
        if moved {
            self.kind = outcome.page.kind();
        }
        if outcome.page.is_out_of_order() {
            self.progressive = false;
            self.context.guard().saw_disorder();
        }
        self.page_size.observe(outcome.size);
        self.note_evidence(&outcome.page);
        debug!(stream = %self.context.stream, cursor = %self.cursor, items = outcome.page.seen(), "polled");
        match outcome.end {
            End::Superseded(row) => {
                self.context.count_request("superseded");
                self.superseded(row)
            }
            End::Lapsed { .. } => self.lapse(),
            End::Prepared { first_byte } => {
                self.context.count_request("prepared");
                Pass::Again(first_byte + self.settings.min_interval - LEAD)
            }
            End::Page { first_byte } => match outcome.finish.rejected {
                None => self.succeed(outcome.page.fill(), first_byte, outcome.left),
                Some(error) => {
                    self.pace.ask_for_all();
                    self.fail_request(&error, moved)
                }
            },
            End::Failed(Failure { error, progress }) => {
                self.ask_for_less(&error, progress, moved);
                self.fail_request(&error, moved)
            }
        }
    }

    fn succeed(&mut self, fill: Fill, first_byte: Instant, left: AttemptLeft) -> Pass {
        self.context.count_request("page");
        self.asks_again = false;
        let leases_wait = self.context.shared.ownership.leases_wait();
        let growth = if leases_wait { IdleGrowth::WhileLeasesWait } else { IdleGrowth::Usual };
        let wait = self.pace.after_page(fill, growth, &mut self.rng);
        self.context.reporter.polled(fill != Fill::Full);
        let opens = if let AttemptLeft::Closed { opens } = left { opens } else { first_byte };
        let due = (first_byte + wait).max(opens);
        self.due = due;
        // An idle source comes sooner by what it may then wait for others.
        self.patience = self.pace.patience();
        let soonest = opens.max(first_byte + self.settings.min_interval);
        Pass::Again(if self.pace.is_saturated() { due - LEAD } else { (due - self.patience).max(soonest) })
    }

    fn fail_request(&mut self, error: &FetchError, moved: bool) -> Pass {
        self.context.count_request(error.label());
        if moved {
            // Another cursor, so not the same failure again.
            self.pace.forgive();
        }
        self.fail(error)
    }

    pub(super) fn fail(&mut self, error: &FetchError) -> Pass {
        self.asks_again = false;
        let wait = self.pace.after_failure(error.retry_after(), &mut self.rng);
        self.context.reporter.failed(error, self.pace.failures(), wait);
        self.context.reporter.blocked_by(Some(BlockedBy::Backoff));
        self.due = Instant::now() + wait;
        match error {
            // Certificates and authorities come from Secrets too.
            FetchError::AuthenticationFailed { .. } | FetchError::Forbidden { .. } | FetchError::TlsFailed { .. } => {
                Pass::Refused(self.due)
            }
            _ => Pass::Again(self.due),
        }
    }

    /// Asks for one event where a page could not be used, so that the next failure costs one event. Not where ids do
    /// not ascend: one event out of an unsorted page would jump over the others.
    fn ask_for_less(&mut self, error: &FetchError, progress: Progress, moved: bool) {
        let content = matches!(
            error,
            FetchError::DecodeFailed { .. }
                | FetchError::MappingFailed { .. }
                | FetchError::ResponseTooLarge { .. }
                | FetchError::LargerThanBudget { .. }
        );
        // A gateway that stopped waiting tells nothing of a page.
        let is_page = !matches!(error, FetchError::GatewayTimeout { .. });
        let cut = is_page && matches!(progress, Progress::MayBeServed { first_byte: Some(_) }) && !moved;
        if self.progressive && self.settings.limit_is_sent && (content || cut) {
            self.pace.ask_for_one();
        }
    }

    /// The source had closed the kept connection when the gate opened, as any server may. The next pass makes another one; what
    /// is wrong then is a failure, so this does not go round. The guard keeps its `minInterval` all the same.
    fn ask_again(&mut self) -> Pass {
        self.asks_again = true;
        self.context.count_request("closed_while_idle");
        self.due = Instant::now();
        Pass::Again(self.due)
    }

    /// The grant came too late to be spent. The source is not to blame, and the send limit has already grown.
    fn expire(&mut self) -> Pass {
        self.context.count_request("permit_expired");
        self.due = Instant::now() + self.pace.after_expiry(&mut self.rng);
        if self.pace.keeps_expiring() {
            self.context.reporter.database_too_slow(self.context.shared.send_limit.current());
        }
        Pass::Again(self.due)
    }

    /// The source is not to blame, and may still be serving: the guard keeps the next pass waiting for that.
    fn lapse(&mut self) -> Pass {
        warn!(
            stream = %self.context.stream,
            "gave a response up: neither the row nor the member Lease could be kept, so another replica may be next"
        );
        self.context.count_request("lapsed");
        self.due = Instant::now() + self.settings.min_interval;
        Pass::Again(self.due)
    }

    fn superseded(&self, row: Option<Row>) -> Pass {
        match row {
            Some(row) if !self.reservations.is_mine(&self.context, &row) => Pass::FencedOff,
            _ => Pass::Readopt,
        }
    }

    fn note_evidence(&self, page: &Prefix) {
        let mut notes = Vec::new();
        if !self.progressive {
            notes.push("the ids were seen not to ascend, so whole pages are held before they are stored".to_owned());
        }
        if page.repeats() > 0 {
            notes.push(format!("{} items at or below the cursor were dropped", page.repeats()));
        }
        if page.more_than_asked() {
            notes.push(format!("the source sent {} items, more than it was asked for", page.seen()));
        }
        let note = (!notes.is_empty()).then(|| notes.join("; "));
        self.context.reporter.note(|report| report.note = note);
    }
}

/// By how far the request came, and not by how it ended: it left, and was none that had to come first.
fn asked_for_events(end: &End) -> bool {
    !matches!(end, End::Prepared { .. } | End::Failed(Failure { progress: Progress::NeverLeft, .. }))
}
