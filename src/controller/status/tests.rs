use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use tokio::time::Instant;

use super::*;
use crate::{
    api::{AcceptedReason, ReachableReason, StoredReason},
    controller::{
        fixtures::{Story, held, moment_of, noon_plus, source, verdict},
        sample::Sample,
    },
    loader::report::Report,
};

/// The view of a source of which only this was seen.
fn view(report: Report) -> View {
    view_leaving(report, false)
}

fn view_leaving(report: Report, leaving: bool) -> View {
    let (mut sample, report) = (Sample::new(), Arc::new(report));
    sample.observe(&report, Instant::now());
    sample.view(report, Some(Arc::new(source("orders"))), leaving)
}

/// The view of a source that a replica took this late, and has not seen at its end.
fn view_held_from(second: i64) -> View {
    let mut report = held("orders").polled_at(second).after_id(7).backfilling();
    report.holding.acquired_at = noon_plus(second);
    view(report)
}

/// By two clocks that go alike.
fn compose(view: &View, previous: &EventSourceStatus, now: Timestamp) -> EventSourceStatus {
    super::compose(view, previous, now, moment_of(now))
}

fn nothing() -> EventSourceStatus {
    EventSourceStatus::default()
}

fn condition<'a>(status: &'a EventSourceStatus, kind: &str) -> &'a Condition {
    status.conditions.iter().find(|condition| condition.type_ == kind).expect("a condition of this type")
}

fn orders() -> Report {
    held("orders").polled_at(10).after_id(7).caught_up()
}

#[test]
fn a_status_says_who_holds_the_source_and_how_far_it_is() {
    let status = compose(&view(orders()), &nothing(), noon_plus(20));
    let holder = status.holder.expect("a holder");
    assert_eq!((holder.identity.as_str(), holder.lease_name.as_str()), ("headgate-0#a1", "shop.orders"));
    assert_eq!(status.stream.as_deref(), Some("shop/orders"));
    assert_eq!((status.cursor.as_deref(), status.events_loaded), (Some("7"), Some(7)));
    assert_eq!((status.observed_generation, status.observed_epoch), (1, Some(0)));
    assert_eq!(status.last_poll_time, Some(Time(noon_plus(10))));
    assert_eq!(status.sample_time, Some(Time(noon_plus(20))));
}

#[test]
fn a_new_holder_keeps_what_it_does_not_know_yet() {
    let before = compose(&view(orders()), &nothing(), noon_plus(20));
    let mut fresh = held("orders");
    (fresh.epoch, fresh.cursor, fresh.accepted) = (None, None, None);
    let after = compose(&view(fresh), &before, noon_plus(60));
    assert_eq!((after.cursor, after.events_loaded), (before.cursor.clone(), before.events_loaded));
    assert_eq!((after.last_poll_time, after.observed_epoch), (before.last_poll_time.clone(), before.observed_epoch));
    for kind in ["Ready", "Accepted", "Reachable", "Stored", "CaughtUp"] {
        assert_eq!(
            before.conditions.iter().find(|condition| condition.type_ == kind).map(|c| &c.status),
            after.conditions.iter().find(|condition| condition.type_ == kind).map(|c| &c.status),
            "{kind}"
        );
    }
}

#[test]
fn a_reset_drops_the_cursor() {
    let before = compose(&view(orders()), &nothing(), noon_plus(20));
    let reset = compose(&view(held("orders")), &before, noon_plus(30));
    assert_eq!(reset.cursor, None);
}

#[test]
fn the_lag_counts_from_when_the_source_last_held_nothing_more() {
    let caught_up = compose(&view(orders()), &nothing(), noon_plus(20));
    assert_eq!(caught_up.lag_seconds, Some(0));
    let behind = compose(&view(orders().backfilling()), &caught_up, noon_plus(50));
    assert_eq!(behind.lag_seconds, Some(40), "it last held nothing more at second 10");
}

#[test]
fn a_wall_clock_that_is_set_moves_no_lag() {
    let failing = view(orders().failing(3, ReachableReason::Timeout));
    for set_to in [noon_plus(-3_600), noon_plus(86_400)] {
        let behind = super::compose(&failing, &nothing(), set_to, moment_of(noon_plus(50)));
        assert_eq!(behind.lag_seconds, Some(40), "it last held nothing more at second 10");
        let next = view(held("orders").polled_at(10).after_id(7).backfilling());
        let earlier = super::compose(&next, &behind, noon_plus(-7_200), moment_of(noon_plus(50)));
        assert_eq!(
            earlier.lag_seconds,
            Some(40),
            "nor does a replica whose clock is behind take off what another knew"
        );
    }
}

#[test]
fn a_source_that_fails_falls_behind_and_a_suspended_one_does_not() {
    let caught_up = compose(&view(orders()), &nothing(), noon_plus(20));
    let failing = view(orders().failing(3, ReachableReason::Timeout));
    let behind = compose(&failing, &caught_up, noon_plus(50));
    assert_eq!(behind.lag_seconds, Some(40), "it last held nothing more at second 10");
    let mut suspended = orders();
    suspended.suspended = true;
    assert_eq!(compose(&view(suspended), &caught_up, noon_plus(50)).lag_seconds, None);
}

#[test]
fn a_new_holder_counts_on_from_the_lag_of_the_old_one() {
    let never_caught_up = || view(held("orders").polled_at(10).after_id(7).backfilling());
    let caught_up = compose(&view(orders()), &nothing(), noon_plus(20));
    let behind = compose(&never_caught_up(), &caught_up, noon_plus(50));
    assert_eq!(behind.lag_seconds, Some(50), "it was well when it moved, at noon");
    assert_eq!(compose(&never_caught_up(), &behind, noon_plus(65)).lag_seconds, Some(65));
    let after_a_day = compose(&view_held_from(86_400), &caught_up, noon_plus(86_410));
    assert_eq!(after_a_day.lag_seconds, Some(86_390), "nobody had it for a day");
    assert_eq!(compose(&never_caught_up(), &nothing(), noon_plus(65)).lag_seconds, None, "nobody ever knew");
}

#[test]
fn what_another_replica_may_have_by_now_keeps_the_lag_that_the_next_holder_counts_on_from() {
    let failing = || orders().failing(3, ReachableReason::Timeout);
    let mut lost = failing();
    lost.assigned = verdict(AssignedReason::LeaseLost, "another replica holds the Lease");
    for parting in [lost, failing().stored(StoredReason::FencedOff)] {
        assert_eq!(parting.lag_seconds(moment_of(noon_plus(50))), None, "the replica itself leaves it to the other");
        let last = compose(&view(parting), &nothing(), noon_plus(50));
        let next = view(held("orders").failing(4, ReachableReason::Timeout));
        assert_eq!(
            compose(&next, &last, noon_plus(70)).lag_seconds,
            Some(60),
            "it last held nothing more at second 10"
        );
    }
}

#[test]
fn the_next_poll_is_told_when_it_is_worth_waiting_for() {
    let mut soon = orders();
    soon.next_poll = Some(noon_plus(49));
    assert_eq!(compose(&view(soon.clone()), &nothing(), noon_plus(20)).next_poll_time, None);
    soon.next_poll = Some(noon_plus(51));
    let told = compose(&view(soon), &nothing(), noon_plus(20)).next_poll_time;
    assert_eq!(told, Some(Time(noon_plus(51))));
}

#[test]
fn the_poll_request_that_was_served_is_echoed_and_stays() {
    let mut served = orders();
    served.handled_poll_request = Some("2026-11-22T12:00:00Z".to_owned());
    let status = compose(&view(served), &nothing(), noon_plus(20));
    assert_eq!(status.last_handled_poll_request.as_deref(), Some("2026-11-22T12:00:00Z"));
    let moved = compose(&view(orders()), &status, noon_plus(30));
    assert_eq!(moved.last_handled_poll_request, status.last_handled_poll_request);
}

#[test]
fn a_replica_that_leaves_names_no_holder_and_awaits_another() {
    let status = compose(&view_leaving(orders(), true), &nothing(), noon_plus(20));
    assert_eq!(status.holder, None);
    let assigned = condition(&status, "Assigned");
    assert_eq!((assigned.status.as_str(), assigned.reason.as_str()), ("Unknown", "AwaitingReplica"));
}

#[test]
fn a_failure_shows_in_its_condition_and_in_ready() {
    let failing = [
        ("Accepted", held("orders").not_accepted(AcceptedReason::SecretNotFound), "SecretNotFound"),
        ("Reachable", orders().failing(1, ReachableReason::RateLimited), "RateLimited"),
        ("Stored", orders().stored(StoredReason::DatabaseUnavailable), "DatabaseUnavailable"),
    ];
    for (kind, report, reason) in failing {
        let status = compose(&view(report), &nothing(), noon_plus(20));
        for kind in [kind, "Ready"] {
            let condition = condition(&status, kind);
            assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", reason), "{kind}");
        }
    }
}

#[test]
fn only_the_passing_of_time_is_the_same_status() {
    let view = view(orders().backfilling());
    let before = compose(&view, &nothing(), noon_plus(20));
    let later = compose(&view, &before, noon_plus(50));
    assert_ne!(before, later);
    assert!(says_the_same(&later, &before));
    let polled = compose(&self::view(orders().backfilling().polled_at(21)), &before, noon_plus(50));
    assert!(!says_the_same(&polled, &before));
}
