use rstest::rstest;

use super::*;
use crate::{
    controller::fixtures::{Story, held, source, stream, verdict},
    store::{Epoch, Holder},
};

/// Sees the reports one after the other and returns the reasons told at the last one.
fn told(history: impl IntoIterator<Item = Report>) -> Vec<&'static str> {
    let mut seen: Option<Seen> = None;
    let mut last = Vec::new();
    for report in history {
        let next = Seen::after(seen.as_ref(), Arc::new(report), None);
        last = announcements(seen.as_ref(), Some(&next)).into_iter().map(|told| told.reason).collect();
        seen = Some(next);
    }
    last
}

fn suspended(mut report: Report) -> Report {
    report.suspended = true;
    report
}

fn in_epoch(mut report: Report, epoch: i64) -> Report {
    report.epoch = Some(Epoch(epoch));
    report
}

fn held_by(mut report: Report, holder: &str) -> Report {
    report.holding.holder = Holder::new(holder);
    report
}

fn lost(mut report: Report) -> Report {
    report.assigned = verdict(AssignedReason::LeaseLost, "this incarnation ended");
    report
}

fn with_reloads(mut report: Report, reloads: u32) -> Report {
    report.credentials_reloads = reloads;
    report
}

fn orders() -> Report {
    held("orders").polled_at(1).after_id(7)
}

#[rstest]
#[case::nothing_new([orders(), orders().polled_at(2).after_id(9)], &[])]
#[case::another_incarnation([orders(), held_by(orders(), "headgate-0#b2")], &["SourceAssigned"])]
#[case::lease_lost([orders(), lost(orders())], &["LeaseLost"])]
#[case::lease_lost_is_told_once([lost(orders()), lost(orders())], &[])]
#[case::lease_regained([lost(orders()), orders()], &["SourceAssigned"])]
#[case::suspended([orders(), suspended(orders())], &["SourceSuspended"])]
#[case::resumed([suspended(orders()), orders()], &["SourceResumed"])]
#[case::reset([orders(), in_epoch(orders(), 1)], &["CursorReset"])]
#[case::secret_missing([orders(), orders().not_accepted(AcceptedReason::SecretNotFound)], &["SecretNotFound"])]
#[case::key_missing([orders(), orders().not_accepted(AcceptedReason::SecretKeyMissing)], &["SecretKeyMissing"])]
#[case::finalizer_on_its_way([orders(), orders().not_accepted(AcceptedReason::FinalizerPending)], &[])]
#[case::finalizer_is_there([orders().not_accepted(AcceptedReason::FinalizerPending), orders()], &[])]
#[case::secret_is_there_again([orders().not_accepted(AcceptedReason::SecretNotFound), orders()], &["CredentialsReloaded"])]
#[case::secret_rotated([with_reloads(orders(), 1), with_reloads(orders(), 2)], &["CredentialsReloaded"])]
#[case::task_began_again([with_reloads(orders(), 2), with_reloads(orders(), 0)], &[])]
#[case::spec_corrected([orders().not_accepted(AcceptedReason::InvalidSpec), orders()], &[])]
#[case::one_failure_is_weather([orders(), orders().failing(1, ReachableReason::Timeout)], &[])]
#[case::three_are_news([orders().failing(2, ReachableReason::Timeout), orders().failing(3, ReachableReason::Timeout)], &["PollFailing"])]
#[case::a_fourth_is_not([orders().failing(3, ReachableReason::Timeout), orders().failing(4, ReachableReason::Timeout)], &[])]
#[case::twice_as_many_are([orders().failing(5, ReachableReason::Timeout), orders().failing(6, ReachableReason::Timeout)], &["PollFailing"])]
#[case::some_seen_together([orders(), orders().failing(40, ReachableReason::Timeout)], &["PollFailing"])]
#[case::recovered([orders().failing(3, ReachableReason::Timeout), orders()], &["PollRecovered"])]
#[case::recovered_from_weather([orders().failing(2, ReachableReason::Timeout), orders()], &[])]
#[case::refused_at_once([orders(), orders().failing(1, ReachableReason::AuthenticationFailed)], &["AuthenticationFailed"])]
#[case::refused_is_told_once(
    [orders().failing(2, ReachableReason::AuthenticationFailed), orders().failing(3, ReachableReason::AuthenticationFailed)],
    &[]
)]
#[case::task_panicked([orders(), orders().failing(0, ReachableReason::InternalError)], &["InternalError"])]
#[case::task_panics_again([orders().failing(0, ReachableReason::InternalError), orders().failing(0, ReachableReason::InternalError)], &[])]
#[case::database_gone([orders(), orders().stored(StoredReason::DatabaseUnavailable)], &["StorageUnavailable"])]
#[case::database_back([orders().stored(StoredReason::DatabaseUnavailable), orders()], &[])]
#[case::conflicting_event([orders(), orders().stored(StoredReason::ConflictingEvent)], &["ConflictingEvent"])]
#[case::fenced_off([orders(), orders().stored(StoredReason::FencedOff)], &[])]
fn a_state_change_is_told(#[case] history: [Report; 2], #[case] expected: &[&str]) {
    assert_eq!(told(history), expected);
}

#[test]
fn a_source_taken_over_is_told_with_what_is_wrong_with_it() {
    assert_eq!(told([held("orders")]), ["SourceAssigned"]);
    assert_eq!(
        told([held("orders").not_accepted(AcceptedReason::SecretNotFound)]),
        ["SourceAssigned", "SecretNotFound"]
    );
}

#[test]
fn a_released_source_is_told_and_a_lost_one_was_told_before() {
    let seen = |report| Seen::after(None, Arc::new(report), None);
    let released = announcements(Some(&seen(orders())), None);
    assert_eq!(released.iter().map(|told| told.reason).collect::<Vec<_>>(), ["SourceReleased"]);
    assert_eq!(announcements(Some(&seen(lost(orders()))), None), []);
}

#[test]
fn catching_up_is_told_once_per_epoch() {
    let beginning = || [held("orders"), held("orders").backfilling(), orders().backfilling()];
    let caught_up = orders().caught_up();
    assert_eq!(told(beginning().into_iter().chain([caught_up.clone()])), ["CaughtUp"]);
    let again = [caught_up.clone(), orders().backfilling(), caught_up.clone()];
    assert_eq!(told(beginning().into_iter().chain(again.clone())), Vec::<&str>::new());
    let reset = [in_epoch(orders().backfilling(), 1), in_epoch(caught_up, 1)];
    assert_eq!(told(beginning().into_iter().chain(again).chain(reset)), ["CaughtUp"]);
}

#[test]
fn an_empty_source_is_caught_up_with_its_first_answer() {
    assert_eq!(told([held("orders"), held("orders").polled_at(1).caught_up()]), ["CaughtUp"]);
}

#[test]
fn a_caught_up_source_that_moves_to_another_replica_is_not_told_again() {
    assert_eq!(told([orders(), orders().caught_up()]), Vec::<&str>::new());
}

#[test]
fn a_source_seen_before_its_row_was_adopted_still_owes_its_catching_up() {
    let mut not_adopted = held("orders");
    (not_adopted.epoch, not_adopted.cursor) = (None, None);
    assert_eq!(told([not_adopted.clone(), held("orders"), orders().caught_up()]), ["CaughtUp"]);
    assert_eq!(told([not_adopted, orders(), orders().caught_up()]), Vec::<&str>::new());
}

#[test]
fn the_younger_of_two_with_one_url_is_told_once() {
    let alone = Arc::new(source("orders"));
    let mut sharing = source("orders");
    sharing.shares_endpoint_with = Some(stream("orders-v1"));
    let sharing = Arc::new(sharing);
    let report = Arc::new(orders());
    let seen = |source: &Arc<Source>| Seen::after(None, report.clone(), Some(source.clone()));
    let told = announcements(Some(&seen(&alone)), Some(&seen(&sharing)));
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].reason, "SharedEndpoint");
    assert!(told[0].note.contains("shop/orders-v1"), "it names the older one: {}", told[0].note);
    assert_eq!(announcements(Some(&seen(&sharing)), Some(&seen(&sharing))), []);
}
