//! Who says what one source does: in its report, and in the log.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::{
    report::{BlockedBy, LastCaughtUp, Report, Unread, Verdict},
    reports::ReportWriter,
};
use crate::{
    api::{AcceptedReason, FINALIZER, ReachableReason, StoredReason},
    clock::Moment,
    event::StreamName,
    fetch::{FetchError, OpenError},
    store::StoreError,
    telemetry::cause::in_one_line,
};

/// Says what one source does: in its report, and one log line for each change of state.
#[derive(Clone)]
pub(super) struct Reporter {
    stream: StreamName,
    writer: ReportWriter,
}

/// Changes a verdict and tells whether its reason did.
fn replace_verdict<R: PartialEq + Copy>(slot: &mut Option<Verdict<R>>, reason: R, message: String) -> bool {
    let turned = slot.as_ref().is_none_or(|verdict| verdict.reason != reason);
    let told = turned || slot.as_ref().is_some_and(|verdict| verdict.message != message);
    if told {
        *slot = Some(Verdict { reason, message });
    }
    turned
}

impl Reporter {
    pub(super) fn new(stream: StreamName, writer: ReportWriter) -> Self {
        Self { stream, writer }
    }

    /// Notes counters and times, which nobody waits for.
    pub(super) fn note(&self, change: impl FnOnce(&mut Report)) {
        self.writer.write(|report| {
            change(report);
            false
        });
    }

    /// Notes what readers are to see at once.
    pub(super) fn tell(&self, change: impl FnOnce(&mut Report)) {
        self.writer.write(|report| {
            change(report);
            true
        });
    }

    pub(super) fn blocked_by(&self, blocked_by: Option<BlockedBy>) {
        self.writer.write(|report| {
            let changed = report.blocked_by != blocked_by;
            report.blocked_by = blocked_by;
            changed
        });
    }

    pub(super) fn accepted(&self, message: String) {
        if self.turn(|report| replace_verdict(&mut report.accepted, AcceptedReason::Valid, message)) {
            info!(stream = %self.stream, reason = %AcceptedReason::Valid, "accepted");
        }
    }

    pub(super) fn not_accepted(&self, reason: AcceptedReason, message: &dyn fmt::Display) {
        let message = message.to_string();
        if self.turn(|report| replace_verdict(&mut report.accepted, reason, message.clone())) {
            warn!(stream = %self.stream, %reason, why = message, "not accepted");
        }
    }

    /// Nothing is asked before the object has the finalizer. It takes a moment, and is no failure of anybody.
    pub(super) fn awaits_finalizer(&self) {
        let message = format!(
            "`deletionPolicy` is Delete: the source is asked as soon as the finalizer {FINALIZER} keeps the object until its events are \
             gone; the holder adds it, and logs if the API server refuses"
        );
        let turned = self.turn(|report| {
            report.blocked_by = Some(BlockedBy::Finalizer);
            replace_verdict(&mut report.accepted, AcceptedReason::FinalizerPending, message)
        });
        if turned {
            debug!(stream = %self.stream, reason = %AcceptedReason::FinalizerPending, "not accepted yet");
        }
    }

    /// The fetcher could not be opened. Without a reason nothing is known and the condition keeps its value.
    pub(super) fn not_opened(&self, error: &OpenError) {
        if let Some(reason) = error.reason() {
            self.not_accepted(reason, error);
        } else {
            debug!(stream = %self.stream, %error, "waits for its credentials");
        }
    }

    /// What the source refers to could not be read again; it goes on with what was read before.
    pub(super) fn credentials_unread(&self, why: &dyn fmt::Display, is_denied: bool) {
        let message = format!("it goes on with the credentials it has, for they could not be read again: {why}");
        let unread = Some(Unread { message, is_denied });
        let turned = self.turn(|report| {
            let turned = report.unread != unread;
            report.unread = unread;
            turned
        });
        if turned {
            warn!(stream = %self.stream, %why, "credentials not read again");
        }
    }

    pub(super) fn credentials_read(&self) {
        if self.writer.read().unread.is_some() {
            self.tell(|report| report.unread = None);
            info!(stream = %self.stream, "credentials read again");
        }
    }

    /// A poll brought a usable answer.
    pub(super) fn polled(&self, caught_up: bool) {
        let now = Timestamp::now();
        let turned = self.turn(|report| {
            report.last_success = Some(now);
            report.consecutive_failures = 0;
            let turned = report.caught_up != Some(caught_up);
            report.caught_up = Some(caught_up);
            if caught_up {
                report.last_caught_up = Some(LastCaughtUp::before(Moment::now(), Duration::ZERO));
            }
            replace_verdict(&mut report.reachable, ReachableReason::PollSucceeded, "the last poll succeeded".to_owned())
                || turned
        });
        if turned {
            info!(stream = %self.stream, reason = %ReachableReason::PollSucceeded, caught_up, "polls");
        }
    }

    /// A poll failed; the next one comes after `wait`.
    pub(super) fn failed(&self, error: &FetchError, failures: u32, wait: Duration) {
        let reason = error.reason();
        // Whole seconds: nobody reads milliseconds of a sample.
        let next_try = Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
        let message = format!("{error}; next try in {}", crate::api::Duration::from(next_try));
        let turned = self.turn(|report| {
            report.consecutive_failures = failures;
            replace_verdict(&mut report.reachable, reason, message)
        });
        if turned {
            warn!(stream = %self.stream, %reason, %error, retry_in = ?wait, "poll failed");
        }
    }

    pub(super) fn next_poll_in(&self, wait: Duration) {
        self.note(|report| report.next_poll_in(wait));
    }

    pub(super) fn stored(&self) {
        let turned = self.turn(|report| {
            replace_verdict(&mut report.stored, StoredReason::AppendSucceeded, "events reach the store".to_owned())
        });
        if turned {
            info!(stream = %self.stream, reason = %StoredReason::AppendSucceeded, "stores");
        }
    }

    pub(super) fn not_stored(&self, reason: StoredReason, message: &str) {
        if self.turn(|report| replace_verdict(&mut report.stored, reason, message.to_owned())) {
            warn!(stream = %self.stream, %reason, why = message, "not stored");
        }
    }

    pub(super) fn database_unavailable(&self, error: &StoreError) {
        self.blocked_by(Some(BlockedBy::Database));
        self.not_stored(StoredReason::DatabaseUnavailable, &in_one_line(error));
    }

    /// It answers, but each reservation comes later than the request may start.
    pub(super) fn database_too_slow(&self, send_within: Duration) {
        self.blocked_by(Some(BlockedBy::Database));
        let limit = crate::api::Duration::from(send_within);
        let message =
            format!("the database takes longer for a reservation than the {limit} within which its request must start");
        self.not_stored(StoredReason::DatabaseUnavailable, &message);
    }

    /// It answers, but this row is not to be had.
    pub(super) fn row_stays_locked(&self) {
        self.blocked_by(Some(BlockedBy::Database));
        let message = "another session keeps the row of this source in headgate.source locked; look in pg_stat_activity for a \
                       transaction that was left open";
        self.not_stored(StoredReason::DatabaseUnavailable, message);
    }

    /// The database has granted something: what it was blamed for is over.
    pub(super) fn database_answers(&self) {
        let report = self.writer.read();
        if report.blocked_by == Some(BlockedBy::Database) {
            self.blocked_by(None);
        }
        let blamed = [StoredReason::DatabaseUnavailable, StoredReason::FencedOff];
        if report.stored.as_ref().is_some_and(|verdict| blamed.contains(&verdict.reason)) {
            self.stored();
        }
    }

    pub(super) fn report(&self) -> std::sync::Arc<Report> {
        self.writer.read()
    }

    fn turn(&self, change: impl FnOnce(&mut Report) -> bool) -> bool {
        let mut turned = false;
        self.writer.write(|report| {
            turned = change(report);
            turned
        });
        turned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        loader::{reports::Reports, testing::World},
        ownership::Holding,
        telemetry::logs::tests::Lines,
    };

    #[test]
    fn what_keeps_events_from_the_store_is_told_with_its_cause_in_a_line_that_has_each_field_once() {
        let world = World::new();
        let reports = Reports::default();
        let writer = reports.open(&world.stream, Report::of(world.holding("a"), 1, "uid".to_owned()));
        let reporter = Reporter::new(world.stream.clone(), writer);
        let error = StoreError::Unavailable { action: "append events", source: "all 8 connections were busy".into() };
        let lines = Lines::default();
        let written = lines.clone();
        let log = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || written.clone()).finish();
        tracing::subscriber::with_default(log, || reporter.database_unavailable(&error));
        let told = "the database is not reachable while trying to append events: all 8 connections were busy";
        let stored = reporter.report().stored.clone().expect("a verdict");
        assert_eq!((stored.reason, stored.message.as_str()), (StoredReason::DatabaseUnavailable, told));
        let line = lines.text();
        assert!(line.contains(told), "{line}");
        assert_eq!(line.matches("\"message\":").count(), 1, "{line}");
    }

    #[test]
    fn a_failure_names_its_next_try_in_whole_seconds_and_only_a_new_reason_is_news() {
        let world = World::new();
        let holding: Holding = world.holding("a");
        let reports = Reports::default();
        let reporter =
            Reporter::new(world.stream.clone(), reports.open(&world.stream, Report::of(holding, 1, "uid".to_owned())));
        let error = FetchError::ServerError { status: 503, retry_after: None };
        let message = |reports: &Reports| {
            let report = reports.get(&world.stream).expect("the report");
            report.reachable.as_ref().map(|verdict| verdict.message.clone()).expect("a verdict")
        };
        reporter.failed(&error, 1, Duration::from_millis(700));
        assert_eq!(message(&reports), "the source answered 503; next try in 1s");
        let changes = reports.changes();
        reporter.failed(&error, 9, Duration::from_millis(90_001));
        assert_eq!(message(&reports), "the source answered 503; next try in 1m31s");
        assert!(!changes.has_changed().expect("the reports live"), "counters carry it, at their own pace");
    }
}
