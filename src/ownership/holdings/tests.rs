use k8s_openapi::api::coordination::v1::Lease;

use super::*;

fn me() -> Holder {
    Holder::new("headgate-0_00000001")
}

fn orders() -> StreamName {
    StreamName::new("shop", "orders")
}

fn lease_of(holder: &Holder) -> SourceLease {
    SourceLease {
        stream: orders(),
        version: Version::default(),
        holder: Some(holder.clone()),
        acquired: None,
        transitions: 0,
    }
}

fn holding() -> Holdings {
    let mut holdings = Holdings::default();
    let run = holdings.align(&orders(), Some(&lease_of(&me())), &me(), true);
    assert!(matches!(run, Some(Directive::Run(_))));
    holdings
}

#[test]
fn a_lease_that_names_me_runs_once() {
    let mut holdings = holding();
    assert_eq!(holdings.align(&orders(), Some(&lease_of(&me())), &me(), true), None);
    assert_eq!(holdings.held(), 1);
}

#[test]
fn a_handoff_that_comes_before_its_object_waits_for_the_object() {
    let mut holdings = Holdings::default();
    assert_eq!(holdings.align(&orders(), Some(&lease_of(&me())), &me(), false), None);
    assert!(matches!(holdings.align(&orders(), Some(&lease_of(&me())), &me(), true), Some(Directive::Run(_))));
}

#[test]
fn a_lease_that_names_another_or_is_gone_is_lost_with_its_reason() {
    let other = Holder::new("headgate-1_00000002");
    let lost = holding().align(&orders(), Some(&lease_of(&other)), &me(), true);
    assert_eq!(lost, Some(Directive::Lost(orders(), LostReason::TakenOver)));
    let lost = holding().align(&orders(), None, &me(), true);
    assert_eq!(lost, Some(Directive::Lost(orders(), LostReason::LeaseDeleted)));
}

#[test]
fn a_source_is_handed_over_only_after_its_task_has_stopped() {
    let mut holdings = holding();
    assert_eq!(holdings.stopped(&orders()), None, "nobody asked it to");
    assert_eq!(holdings.begin_yield(&orders(), None, Instant::now()), Some(Directive::Yield(orders())));
    assert_eq!(holdings.begin_yield(&orders(), None, Instant::now()), None, "it is told once");
    assert_eq!(holdings.stopped(&orders()), Some(Yielded { to: None }));
    holdings.hand(&orders(), &Holder::new("b_2"));
    assert_eq!(holdings.align(&orders(), Some(&lease_of(&me())), &me(), true), None, "the answer decides");
    holdings.write_answered(&orders());
    assert!(!holdings.has(&orders()));
}

#[test]
fn a_source_whose_handoff_is_denied_stays_stopped_until_its_lease_names_another() {
    let mut holdings = holding();
    holdings.begin_yield(&orders(), None, Instant::now());
    holdings.stopped(&orders());
    let b = Holder::new("b_2");
    holdings.hand(&orders(), &b);
    assert!(!holdings.is_drained());
    holdings.stay_stopped(&orders());
    assert_eq!(holdings.stopped_sources().count(), 1);
    assert!(holdings.is_drained());
    assert_eq!(holdings.align(&orders(), Some(&lease_of(&me())), &me(), true), None, "it does not run");
    // A call before the denial has landed without an answer.
    assert_eq!(holdings.align(&orders(), Some(&lease_of(&b)), &me(), true), None);
    assert!(!holdings.has(&orders()));
}

#[test]
fn a_source_in_doubt_is_confirmed_once_and_only_while_it_runs_under_my_lease() {
    let mut holdings = holding();
    assert_eq!(holdings.end_doubt(&orders(), true), None, "nobody doubted it");
    assert_eq!(holdings.movable(true).count(), 1);
    holdings.doubt(&orders());
    assert!(holdings.is_doubted(&orders()));
    assert_eq!(holdings.movable(true).count(), 0, "the answer to this handoff is still to come");
    assert_eq!(holdings.end_doubt(&orders(), true), Some(Directive::Confirmed(orders())));
    assert_eq!(holdings.end_doubt(&orders(), true), None);
    holdings.doubt(&orders());
    assert_eq!(holdings.end_doubt(&orders(), false), None, "it names another");
    holdings.begin_yield(&orders(), None, Instant::now());
    holdings.stopped(&orders());
    holdings.doubt(&orders());
    assert_eq!(holdings.end_doubt(&orders(), true), None, "it does not run");
}

#[test]
fn a_lease_that_is_made_anew_before_its_deletion_was_seen_is_run() {
    let mut holdings = holding();
    let mut anew = Lease::default();
    anew.metadata.uid = Some("2".to_owned());
    let (old, new) = (lease_of(&me()), SourceLease { version: Version::of(&anew), ..lease_of(&me()) });
    assert!(holdings.delete(&orders()));
    assert_eq!(holdings.align(&orders(), Some(&new), &me(), true), None, "the answer may be that it was edited");
    holdings.deleted(&orders(), old.version.clone());
    assert_eq!(holdings.align(&orders(), Some(&old), &me(), true), None, "the watch lags behind");
    assert!(matches!(holdings.align(&orders(), Some(&new), &me(), true), Some(Directive::Run(_))));
}

#[test]
fn a_stopped_source_that_nobody_takes_runs_again_here() {
    let mut holdings = holding();
    holdings.begin_yield(&orders(), None, Instant::now());
    holdings.stopped(&orders());
    assert!(holdings.is_drained());
    assert!(matches!(holdings.resume(&lease_of(&me()), &me()), Some(Directive::Run(_))));
    assert!(!holdings.is_drained());
}

#[test]
fn a_finished_source_is_mine_until_its_lease_is_gone_and_is_not_lost_then() {
    let mut holdings = holding();
    assert!(holdings.delete(&orders()));
    assert_eq!(holdings.align(&orders(), Some(&lease_of(&me())), &me(), true), None, "a late event of the Lease");
    assert_eq!(holdings.align(&orders(), None, &me(), true), None);
    assert!(!holdings.has(&orders()));
    assert!(!holdings.delete(&orders()), "only what is mine");
}

#[test]
fn a_source_with_a_batch_moves_only_when_all_must() {
    let mut holdings = holding();
    holdings.holds_batch(&orders(), true);
    assert_eq!(holdings.movable(false).count(), 0);
    assert_eq!(holdings.movable(true).count(), 1);
}
