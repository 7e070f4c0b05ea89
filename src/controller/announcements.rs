//! What is worth a Kubernetes Event: the difference between two reports of a source. Pure.
//!
//! Notes are made of reasons and of the verdicts' messages, which never hold a secret, a header value or a body.

use std::sync::Arc;

use kube::runtime::events::EventType;

use crate::{
    api::{AcceptedReason, AssignedReason, ReachableReason, Source, StoredReason},
    loader::report::{Report, Verdict},
};

/// One failed poll is weather; from the third in a row on it is news.
const FAILURES_WORTH_TELLING: u32 = 3;

/// An Event to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Announcement {
    pub(super) severity: EventType,
    pub(super) reason: &'static str,
    /// What the replica did or tried: a closed set as well.
    pub(super) action: &'static str,
    pub(super) note: String,
}

/// A source as it was last seen while this replica held it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) report: Arc<Report>,
    pub(super) source: Option<Arc<Source>>,
    /// Catching up is news once per epoch, and not again because the source moved to another replica: it is owed by a
    /// stream that has no cursor, that was still behind when it was taken over, or whose epoch grew.
    owes_caught_up: bool,
}

impl Seen {
    /// What is seen now, after what was seen before in the same holding.
    pub(super) fn after(before: Option<&Self>, report: Arc<Report>, source: Option<Arc<Source>>) -> Self {
        let owes_caught_up = match before {
            // Until the row was adopted a report knows neither epoch nor cursor; the first that does decides.
            None => report.epoch.is_some() && is_behind(&report),
            Some(before) if before.report.epoch.is_none() => report.epoch.is_some() && is_behind(&report),
            Some(before) if epoch_grew(&before.report, &report) => true,
            Some(before) => before.owes_caught_up && before.report.caught_up != Some(true),
        };
        Self { report, source, owes_caught_up }
    }

    /// Nothing was written since: reports and sources are replaced, never changed.
    pub(super) fn is(&self, report: &Arc<Report>, source: Option<&Arc<Source>>) -> bool {
        Arc::ptr_eq(&self.report, report)
            && match (&self.source, source) {
                (Some(known), Some(source)) => Arc::ptr_eq(known, source),
                (None, None) => true,
                _ => false,
            }
    }

    fn shares_endpoint(&self) -> Option<&str> {
        self.source.as_ref()?.shares_endpoint_with.as_ref().map(crate::event::StreamName::as_str)
    }
}

/// What to announce when a source is seen as `new` after it was seen as `old`; `None`: it was not held, or is no longer.
pub(super) fn announcements(old: Option<&Seen>, new: Option<&Seen>) -> Vec<Announcement> {
    let mut told = Vec::new();
    match (old, new) {
        (None, None) => {}
        // Its release has been told.
        (None, Some(new)) if new.report.assigned.reason == AssignedReason::AwaitingReplica => {}
        (Some(old), None) => told.extend(released(&old.report)),
        (old, Some(new)) => {
            let before = old.map(|old| &*old.report);
            told.extend(assignment(before, &new.report));
            told.extend(suspension(before, &new.report));
            told.extend(before.and_then(|before| cursor_reset(before, &new.report)));
            told.extend(acceptance(before, &new.report));
            told.extend(before.and_then(|before| rotation(before, &new.report)));
            told.extend(reachability(before, &new.report));
            told.extend(storage(before, &new.report));
            told.extend(caught_up(before, new));
            told.extend(shared_endpoint(old, new));
        }
    }
    told
}

fn assignment(before: Option<&Report>, report: &Report) -> Option<Announcement> {
    if report.assigned.reason == AssignedReason::LeaseLost {
        let known = before.is_some_and(|before| before.assigned.reason == AssignedReason::LeaseLost);
        return (!known).then(|| warning("LeaseLost", "Run", report.assigned.message.clone()));
    }
    let same = before.is_some_and(|before| {
        before.holding.holder == report.holding.holder && before.assigned.reason != AssignedReason::LeaseLost
    });
    (!same).then(|| normal("SourceAssigned", "Assign", format!("{} runs this source", report.holding.holder)))
}

fn released(report: &Report) -> Option<Announcement> {
    (report.assigned.reason != AssignedReason::LeaseLost)
        .then(|| normal("SourceReleased", "Release", format!("{} no longer runs this source", report.holding.holder)))
}

fn suspension(before: Option<&Report>, report: &Report) -> Option<Announcement> {
    match (before?.suspended, report.suspended) {
        (false, true) => Some(normal(
            "SourceSuspended",
            "Suspend",
            "polling stopped; the cursor and the stored events stay".to_owned(),
        )),
        (true, false) => Some(normal("SourceResumed", "Resume", "polling goes on from the cursor".to_owned())),
        _ => None,
    }
}

fn cursor_reset(before: &Report, report: &Report) -> Option<Announcement> {
    let epoch = report.epoch.filter(|_| epoch_grew(before, report))?;
    Some(normal(
        "CursorReset",
        "Reset",
        format!("epoch {}: the cursor was dropped and loading begins again at `start`", epoch.0),
    ))
}

fn acceptance(before: Option<&Report>, report: &Report) -> Option<Announcement> {
    let accepted = report.accepted.as_ref()?;
    let known = before.and_then(|before| before.accepted.as_ref()).map(|verdict| verdict.reason);
    if known == Some(accepted.reason) {
        return None;
    }
    match accepted.reason {
        AcceptedReason::Valid => {}
        // Each new object passes through it.
        AcceptedReason::FinalizerPending => return None,
        reason => return Some(warning(reason.as_str(), "Accept", accepted.message.clone())),
    }
    let was_missing = matches!(
        known,
        Some(
            AcceptedReason::SecretNotFound
                | AcceptedReason::SecretKeyMissing
                | AcceptedReason::CANotFound
                | AcceptedReason::CredentialsForbidden
        )
    );
    was_missing.then(|| credentials_reloaded("what was missing is there now"))
}

/// Names no key and no value: which Secrets are meant stands in the spec.
fn rotation(before: &Report, report: &Report) -> Option<Announcement> {
    (report.credentials_reloads > before.credentials_reloads)
        .then(|| credentials_reloaded("what the spec refers to has changed, and is used from now on"))
}

fn credentials_reloaded(note: &str) -> Announcement {
    normal("CredentialsReloaded", "Accept", note.to_owned())
}

fn reachability(before: Option<&Report>, report: &Report) -> Option<Announcement> {
    let turned_into = |reason| {
        let was = reason_of(before.and_then(|before| before.reachable.as_ref()));
        report.reachable.as_ref().filter(|verdict| verdict.reason == reason && was != Some(reason))
    };
    if let Some(verdict) = turned_into(ReachableReason::InternalError) {
        return Some(warning("InternalError", "Poll", verdict.message.clone()));
    }
    let failures = report.consecutive_failures;
    let failures_before = before.map_or(0, |before| before.consecutive_failures);
    if failures == 0 {
        return (failures_before >= FAILURES_WORTH_TELLING).then(|| {
            normal("PollRecovered", "Poll", format!("the source answers again after {failures_before} failed polls"))
        });
    }
    let verdict = report.reachable.as_ref().filter(|verdict| verdict.reason != ReachableReason::PollSucceeded)?;
    // Only a person can mend it, so it is told at once.
    if verdict.reason == ReachableReason::AuthenticationFailed {
        let told = turned_into(ReachableReason::AuthenticationFailed)?;
        return Some(warning("AuthenticationFailed", "Poll", told.message.clone()));
    }
    (times_told(failures) > times_told(failures_before)).then(|| {
        warning(
            "PollFailing",
            "Poll",
            format!("{failures} polls failed in a row, {}: {}", verdict.reason, verdict.message),
        )
    })
}

/// At 3 failures in a row, at 6, at 12, …: a source that stays down does not fill the list of Events.
fn times_told(failures: u32) -> u32 {
    (failures / FAILURES_WORTH_TELLING).checked_ilog2().map_or(0, |doublings| doublings + 1)
}

fn storage(before: Option<&Report>, report: &Report) -> Option<Announcement> {
    let stored = report.stored.as_ref()?;
    if reason_of(before.and_then(|before| before.stored.as_ref())) == Some(stored.reason) {
        return None;
    }
    match stored.reason {
        StoredReason::DatabaseUnavailable => Some(warning("StorageUnavailable", "Append", stored.message.clone())),
        StoredReason::ConflictingEvent => Some(warning("ConflictingEvent", "Append", stored.message.clone())),
        StoredReason::AppendSucceeded | StoredReason::FencedOff => None,
    }
}

fn caught_up(before: Option<&Report>, new: &Seen) -> Option<Announcement> {
    let first = new.owes_caught_up
        && new.report.caught_up == Some(true)
        && before.and_then(|before| before.caught_up) != Some(true);
    first.then(|| {
        normal("CaughtUp", "Poll", format!("the source has nothing more; {} events stored", new.report.events_stored))
    })
}

fn shared_endpoint(old: Option<&Seen>, new: &Seen) -> Option<Announcement> {
    let elder = new.shares_endpoint()?;
    (old.and_then(Seen::shares_endpoint) != Some(elder)).then(|| {
        warning(
            "SharedEndpoint",
            "Accept",
            format!("{elder} has the same URL; each of the two keeps to its own gate, so the service sees the requests of both"),
        )
    })
}

fn is_behind(report: &Report) -> bool {
    report.cursor.as_ref().is_none_or(|cursor| cursor.id().is_none()) || report.caught_up == Some(false)
}

/// Epochs compare within one object.
fn epoch_grew(before: &Report, report: &Report) -> bool {
    before.uid == report.uid && before.epoch.is_some_and(|before| report.epoch.is_some_and(|epoch| epoch > before))
}

fn reason_of<R: Copy>(verdict: Option<&Verdict<R>>) -> Option<R> {
    verdict.map(|verdict| verdict.reason)
}

fn normal(reason: &'static str, action: &'static str, note: String) -> Announcement {
    Announcement { severity: EventType::Normal, reason, action, note }
}

fn warning(reason: &'static str, action: &'static str, note: String) -> Announcement {
    Announcement { severity: EventType::Warning, reason, action, note }
}

#[cfg(test)]
mod tests;
