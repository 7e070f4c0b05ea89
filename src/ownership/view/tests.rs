use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::ownership::lease::Standing;

fn versioned(mut lease: Lease, version: u32) -> Lease {
    lease.metadata.resource_version = Some(version.to_string());
    lease
}

fn orders() -> StreamName {
    StreamName::new("shop", "orders")
}

fn held_by(pod: &str, version: u32) -> Lease {
    versioned(SourceLease::give(&orders(), None, &Holder::new(pod), pod, Timestamp::UNIX_EPOCH), version)
}

fn member() -> MemberLease {
    MemberLease::begin("headgate-0", 1, "", Duration::from_secs(5))
}

fn another(name: &str, version: u32) -> Lease {
    let stream = StreamName::new("shop", name);
    versioned(SourceLease::give(&stream, None, &Holder::new("z"), "z", Timestamp::UNIX_EPOCH), version)
}

fn holder_in(view: &View) -> Option<&str> {
    view.source(&orders())?.holder.as_ref().map(Holder::as_str)
}

#[test]
fn an_answer_that_comes_late_does_not_bring_back_what_the_watch_has_shown_deleted() {
    let mut view = View::default();
    view.apply(&held_by("a", 1));
    view.delete(&held_by("me", 3));
    assert_eq!(view.apply_answer(&held_by("me", 2)), None);
    assert_eq!(holder_in(&view), None);
    assert!(view.apply_answer(&held_by("me", 4)).is_some(), "one that the watch has not come to is news");

    let member = member();
    view.delete(&versioned(member.write(Timestamp::UNIX_EPOCH), 6));
    assert_eq!(view.apply_answer(&versioned(member.write(Timestamp::UNIX_EPOCH), 5)), None);
    assert!(!view.is_live(member.holder().unwrap()));
}

#[test]
fn a_late_event_does_not_undo_what_an_answer_has_shown() {
    let mut view = View::default();
    view.apply(&held_by("a", 1));
    view.apply(&held_by("b", 5));
    assert_eq!(view.apply(&held_by("c", 3)), []);
    assert_eq!(view.delete(&held_by("c", 4)), [], "the Lease was created anew since");
    assert_eq!(holder_in(&view), Some("b"));
    assert_eq!(view.delete(&held_by("b", 6)).len(), 1);
    assert_eq!(holder_in(&view), None);
}

#[test]
fn what_a_complete_list_does_not_show_is_gone_unless_it_was_written_meanwhile() {
    let mut view = View::default();
    view.apply(&held_by("a", 1));
    view.begin_list();
    assert!(!view.is_synced());
    assert_eq!(view.end_list().len(), 1);
    assert!(view.is_synced());
    assert_eq!(holder_in(&view), None);

    view.begin_list();
    view.apply_answer(&held_by("me", 7));
    assert_eq!(view.end_list(), []);
    assert_eq!(holder_in(&view), Some("me"));
}

#[test]
fn an_answer_is_heard_while_a_list_is_read_and_what_the_list_says_of_an_older_version_is_not() {
    let mut view = View::default();
    view.apply(&held_by("me", 100));
    view.begin_list();
    view.apply_listed(&another("a-before-orders", 200));
    view.apply_answer(&held_by("b", 150));
    assert_eq!(holder_in(&view), Some("b"), "I gave it away, and was told so, before the list has come to it");
    view.apply_listed(&held_by("b", 150));

    view.apply_answer(&held_by("c", 250));
    view.apply_listed(&held_by("b", 150));
    view.end_list();
    assert_eq!(holder_in(&view), Some("c"), "it was written when the list had been taken");
}

#[test]
fn a_list_that_begins_again_is_about_what_answers_had_told_before_too() {
    let mut view = View::default();
    view.begin_list();
    view.apply_listed(&another("stock", 5));
    view.apply_answer(&held_by("me", 9));
    view.begin_list();
    view.apply_listed(&another("stock", 5));
    view.end_list();
    assert_eq!(holder_in(&view), None, "it went before the second list was asked for");
    assert_eq!(view.sources().count(), 1);
}

#[test]
fn a_list_of_an_api_server_that_was_restored_from_a_backup_is_believed_and_so_are_answers_from_then_on() {
    let mut view = View::default();
    view.apply(&another("stock", 99));
    view.apply(&held_by("a", 100));
    view.begin_list();
    view.apply_listed(&held_by("b", 7));
    view.apply_listed(&another("stock", 3));
    view.end_list();
    assert_eq!(holder_in(&view), Some("b"));
    view.apply_answer(&held_by("c", 8));
    assert_eq!(holder_in(&view), Some("c"));
    assert_eq!(view.apply(&held_by("c", 8)), []);
    assert_eq!(view.apply(&another("stock", 9)).len(), 1);
}

#[test]
fn what_an_answer_told_and_neither_list_nor_watch_show_has_gone() {
    let mut view = View::default();
    view.begin_list();
    view.apply_answer(&held_by("me", 7));
    // Deleted as 8; the list is taken at 9.
    view.apply_listed(&another("stock", 9));
    assert_eq!(view.end_list().len(), 1);
    assert_eq!(holder_in(&view), None);

    // The list is taken after its deletion, and shows nothing as new as that.
    view.begin_list();
    view.apply_answer(&held_by("me", 11));
    view.apply_listed(&another("stock", 9));
    view.end_list();
    assert_eq!(holder_in(&view), Some("me"), "it may have been written since");
    assert_eq!(view.apply(&another("stock", 13)).len(), 2);
    assert_eq!(holder_in(&view), None, "the watch has passed it by");
}

#[test]
fn a_member_lives_from_its_lease_to_its_deletion_or_its_certificate() {
    let mut view = View::default();
    let mut lease = member();
    let holder = lease.holder().cloned().unwrap();
    let joined = view.apply(&versioned(lease.write(Timestamp::UNIX_EPOCH), 1));
    assert!(matches!(*joined, [Change::Joined(_)]));
    assert!(view.is_live(&holder));

    let renewed = view.apply(&versioned(lease.write(Timestamp::UNIX_EPOCH), 2));
    assert!(matches!(*renewed, [Change::Renewed { altered: false, .. }]));
    lease.state.draining = true;
    let drains = view.apply(&versioned(lease.write(Timestamp::UNIX_EPOCH), 3));
    assert!(matches!(*drains, [Change::Renewed { altered: true, .. }]));

    let certificate = lease.declared_dead(&Holder::new("b_2")).unwrap();
    let died = view.apply(&versioned(certificate.write(Timestamp::UNIX_EPOCH), 4));
    assert!(matches!(*died, [Change::Ended { by: End::Declared, .. }]));
    assert!(!view.is_live(&holder));
    let removed = view.delete(&versioned(certificate.write(Timestamp::UNIX_EPOCH), 5));
    assert_eq!(removed, [Change::Certificate], "nobody dies twice");
}

#[test]
fn a_deleted_member_lease_ends_its_incarnation() {
    let mut view = View::default();
    let lease = member();
    view.apply(&versioned(lease.write(Timestamp::UNIX_EPOCH), 1));
    let ended = view.delete(&versioned(lease.write(Timestamp::UNIX_EPOCH), 2));
    assert!(matches!(*ended, [Change::Ended { by: End::Deleted, .. }]));
    assert!(!view.is_live(lease.holder().unwrap()));
}

#[test]
fn a_member_lease_that_names_another_or_nobody_any_more_ends_its_incarnation() {
    let lease = member();
    let after = |standing| {
        let mut view = View::default();
        view.apply(&versioned(lease.write(Timestamp::UNIX_EPOCH), 1));
        let edited = MemberLease { standing, ..lease.clone() };
        let ended = view.apply(&versioned(edited.write(Timestamp::UNIX_EPOCH), 2));
        assert!(!view.is_live(lease.holder().unwrap()));
        (view, ended)
    };
    let bob = Holder::new("bob");
    let (view, ended) = after(Standing::Alive(bob.clone()));
    let [Change::Ended { by: End::Renamed(now), .. }] = &*ended else { panic!("{ended:?}") };
    assert_eq!((now.holder(), view.is_live(&bob)), (Some(&bob), true));
    let (_, ended) = after(Standing::Released);
    assert!(matches!(*ended, [Change::Ended { by: End::Released, .. }]));
}

#[test]
fn peers_are_the_others_that_live_and_nobody_knows_them_before_the_first_list() {
    let mut view = View::default();
    let me = member();
    let newer = MemberLease::begin("headgate-1", 2, "v2", Duration::from_secs(5));
    view.begin_list();
    view.apply_listed(&versioned(me.write(Timestamp::UNIX_EPOCH), 1));
    assert!(view.peers(me.holder(), "").may_include("headgate-1_00000002"));
    view.end_list();
    let alone = view.peers(me.holder(), "");
    assert!(!alone.may_differ() && !alone.may_include("headgate-0_00000001"), "I am not my own peer");

    view.apply(&versioned(newer.write(Timestamp::UNIX_EPOCH), 2));
    let peers = view.peers(me.holder(), "");
    assert!(peers.may_differ() && peers.may_include("headgate-1_00000002"));
    let certificate = newer.declared_dead(me.holder().unwrap()).unwrap();
    view.apply(&versioned(certificate.write(Timestamp::UNIX_EPOCH), 3));
    assert_eq!(view.peers(me.holder(), ""), alone);
}

mod histories;
