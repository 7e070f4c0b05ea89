use proptest::prelude::*;
use rstest::rstest;

use super::*;

const GENERATION: i64 = 3;

/// A source that is fine: held, answering, stored, caught up.
fn fine() -> Facts<'static> {
    Facts {
        accepted: Some((AcceptedReason::Valid, "the spec is valid")),
        assigned: Some((AssignedReason::LeaseHeld, "held by headgate-a")),
        stored: Some((StoredReason::AppendSucceeded, "events reach the store")),
        reachable: Some((ReachableReason::PollSucceeded, "the last poll succeeded")),
        caught_up: Some(true),
        ..Facts::unknown(GENERATION)
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn first(facts: &Facts<'_>) -> Vec<Condition> {
    conditions(facts, &[], at(0))
}

fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// `(status, reason)` of one condition.
fn says<'a>(conditions: &'a [Condition], kind: &str) -> Option<(&'a str, &'a str)> {
    find(conditions, kind).map(|condition| (condition.status.as_str(), condition.reason.as_str()))
}

/// What kstatus, and with it `helm --wait` and `kubectl wait`, makes of the conditions.
fn kstatus(conditions: &[Condition]) -> &'static str {
    let is = |kind, status| find(conditions, kind).is_some_and(|condition| condition.status == status);
    if is(STALLED, "True") {
        "Failed"
    } else if is(RECONCILING, "True") || !is(READY, "True") {
        "InProgress"
    } else {
        "Current"
    }
}

#[test]
fn a_source_of_which_nothing_is_known_says_so_in_every_type() {
    let conditions = first(&Facts::unknown(GENERATION));
    let says: Vec<_> = conditions
        .iter()
        .map(|condition| (condition.type_.as_str(), condition.status.as_str(), condition.reason.as_str()))
        .collect();
    assert_eq!(
        says,
        [
            ("Ready", "Unknown", "Pending"),
            ("Accepted", "Unknown", "Pending"),
            ("Assigned", "Unknown", "AwaitingReplica"),
            ("Reachable", "Unknown", "Pending"),
            ("Stored", "Unknown", "Pending"),
            ("CaughtUp", "Unknown", "Pending"),
            ("Reconciling", "True", "Progressing"),
        ]
    );
    assert_eq!(kstatus(&conditions), "InProgress");
}

#[test]
fn a_source_that_has_nothing_more_is_ready_and_says_its_pace() {
    let poll = Poll::default();
    let conditions = first(&Facts { poll: Some(&poll), ..fine() });
    assert_eq!(says(&conditions, READY), Some(("True", "CaughtUp")));
    assert_eq!(find(&conditions, READY).expect("Ready").message, "polling every 200ms to 5s");
    assert_eq!(says(&conditions, CAUGHT_UP), Some(("True", "NoMoreEvents")));
    assert_eq!(kstatus(&conditions), "Current");
    assert_eq!((find(&conditions, RECONCILING), find(&conditions, STALLED)), (None, None));
}

#[test]
fn a_source_that_backfills_is_healthy() {
    let conditions = first(&Facts { caught_up: Some(false), ..fine() });
    assert_eq!(says(&conditions, READY), Some(("True", "Backfilling")));
    assert_eq!(says(&conditions, CAUGHT_UP), Some(("False", "Backfilling")));
    assert_eq!(kstatus(&conditions), "Current");
}

#[rstest]
#[case::accepted_comes_first("1111", "InvalidSpec", "Failed")]
#[case::then_assigned("0111", "LeaseLost", "InProgress")]
#[case::then_stored("0011", "DatabaseUnavailable", "InProgress")]
#[case::then_reachable("0001", "Timeout", "InProgress")]
fn ready_names_the_first_failure(#[case] failing: &str, #[case] reason: &str, #[case] means: &str) {
    let mut facts = fine();
    let failing: Vec<bool> = failing.chars().map(|flag| flag == '1').collect();
    if failing[0] {
        facts.accepted = Some((AcceptedReason::InvalidSpec, "because of InvalidSpec"));
    }
    if failing[1] {
        facts.assigned = Some((AssignedReason::LeaseLost, "because of LeaseLost"));
    }
    if failing[2] {
        facts.stored = Some((StoredReason::DatabaseUnavailable, "because of DatabaseUnavailable"));
    }
    if failing[3] {
        facts.reachable = Some((ReachableReason::Timeout, "because of Timeout"));
    }
    let conditions = first(&facts);
    assert_eq!(says(&conditions, READY), Some(("False", reason)));
    assert_eq!(find(&conditions, READY).expect("Ready").message, format!("because of {reason}"));
    assert_eq!(kstatus(&conditions), means);
}

#[test]
fn a_known_failure_outweighs_what_is_not_known_yet() {
    // The first poll fails: nothing was stored, and nobody needs to hear that first.
    let facts = Facts {
        stored: None,
        caught_up: None,
        reachable: Some((ReachableReason::AuthenticationFailed, "the source answered 401; next try in 40s")),
        ..fine()
    };
    let conditions = first(&facts);
    assert_eq!(says(&conditions, READY), Some(("False", "AuthenticationFailed")));
    assert_eq!(says(&conditions, RECONCILING), Some(("True", "ProgressingWithRetry")));
    assert_eq!(find(&conditions, READY).expect("Ready").message, "the source answered 401; next try in 40s");
}

#[test]
fn what_only_a_change_of_the_object_can_mend_is_stalled() {
    let conditions = first(&Facts { accepted: Some((AcceptedReason::InvalidSpec, "say what to change")), ..fine() });
    assert_eq!(says(&conditions, STALLED), Some(("True", "InvalidSpec")));
    assert_eq!(find(&conditions, RECONCILING), None, "not both");
    assert_eq!(find(&conditions, STALLED).expect("Stalled").message, "say what to change");
}

#[rstest]
#[case(AcceptedReason::SecretNotFound)]
#[case(AcceptedReason::SecretKeyMissing)]
#[case(AcceptedReason::CANotFound)]
#[case(AcceptedReason::CredentialsForbidden)]
fn what_may_be_applied_a_moment_later_is_waited_for(#[case] reason: AcceptedReason) {
    let conditions = first(&Facts { accepted: Some((reason, "say what is missing")), ..fine() });
    assert_eq!(says(&conditions, READY), Some(("False", reason.as_str())));
    assert_eq!(says(&conditions, RECONCILING), Some(("True", "ProgressingWithRetry")));
    assert_eq!(find(&conditions, STALLED), None);
}

#[test]
fn a_finalizer_that_is_on_its_way_is_no_failure() {
    let facts = Facts {
        accepted: Some((AcceptedReason::FinalizerPending, "asked as soon as the finalizer is there")),
        stored: None,
        reachable: None,
        caught_up: None,
        ..fine()
    };
    let conditions = first(&facts);
    assert_eq!(says(&conditions, READY), Some(("Unknown", "FinalizerPending")));
    assert_eq!(says(&conditions, RECONCILING), Some(("True", "Progressing")));
    assert_eq!(facts.problem(), None);
    assert_eq!(kstatus(&conditions), "InProgress");

    let arrived = super::conditions(&Facts { accepted: None, ..facts }, &conditions, at(1));
    assert_eq!(says(&arrived, ACCEPTED), Some(("Unknown", "Pending")));
}

#[test]
fn a_conflicting_event_is_stalled_and_other_store_failures_are_retried() {
    let stored = |reason| first(&Facts { stored: Some((reason, "why")), ..fine() });
    assert_eq!(says(&stored(StoredReason::ConflictingEvent), STALLED), Some(("True", "ConflictingEvent")));
    for reason in [StoredReason::DatabaseUnavailable, StoredReason::FencedOff] {
        assert_eq!(says(&stored(reason), STALLED), None);
        assert_eq!(says(&stored(reason), RECONCILING), Some(("True", "ProgressingWithRetry")));
    }
}

#[test]
fn a_suspended_source_is_ready_whatever_else_is_wrong() {
    let facts = Facts {
        suspended: true,
        accepted: Some((AcceptedReason::SecretNotFound, "Secret `a` does not exist")),
        assigned: Some((AssignedReason::LeaseHeld, "held")),
        ..Facts::unknown(GENERATION)
    };
    let conditions = first(&facts);
    assert_eq!(says(&conditions, READY), Some(("True", "Suspended")));
    assert_eq!(says(&conditions, ACCEPTED), Some(("False", "SecretNotFound")), "the fault is still to be seen");
    assert_eq!(says(&conditions, REACHABLE), Some(("Unknown", "Suspended")));
    assert_eq!(kstatus(&conditions), "Current");
}

#[test]
fn the_younger_of_two_objects_with_one_url_says_so_and_runs() {
    let elder = StreamName::new("shop", "orders");
    let conditions = first(&Facts { shares_endpoint_with: Some(&elder), ..fine() });
    let accepted = find(&conditions, ACCEPTED).expect("Accepted");
    assert_eq!((accepted.status.as_str(), accepted.reason.as_str()), ("True", "Valid"));
    assert!(accepted.message.contains("SharedEndpoint") && accepted.message.contains("shop/orders"));
    assert_eq!(says(&conditions, READY), Some(("True", "CaughtUp")));
}

#[test]
fn what_a_source_does_beside_the_rules_is_said_where_one_looks_for_it() {
    let conditions = first(&Facts { note: Some("3 repeated events were dropped"), ..fine() });
    let reachable = find(&conditions, REACHABLE).expect("Reachable");
    assert_eq!(reachable.message, "the last poll succeeded; 3 repeated events were dropped");
}

#[test]
fn that_credentials_could_not_be_read_again_is_said_beside_whether_the_source_answers() {
    let unread = Some("the operator may not read Secret `orders-api`");
    let well = first(&Facts { note: Some("3 repeated events were dropped"), unread, ..fine() });
    let message = |conditions: &[Condition]| find(conditions, REACHABLE).map(|found| found.message.clone());
    let both = "the last poll succeeded; 3 repeated events were dropped; the operator may not read Secret `orders-api`";
    assert_eq!(message(&well).as_deref(), Some(both));
    assert_eq!(says(&well, READY), Some(("True", "CaughtUp")), "it runs on with what it has");
    let reachable = Some((ReachableReason::AuthenticationFailed, "authentication failed"));
    let refused = first(&Facts { reachable, unread, ..fine() });
    let ready = find(&refused, READY).map(|ready| ready.message.clone());
    assert_eq!(ready.as_deref(), Some("authentication failed; the operator may not read Secret `orders-api`"));
}

#[test]
fn a_new_holder_does_not_forget_what_the_old_one_knew() {
    let old = first(&Facts { reachable: Some((ReachableReason::ServerError, "the source answered 503")), ..fine() });
    let newly_held =
        Facts { assigned: Some((AssignedReason::LeaseHeld, "held by headgate-b")), ..Facts::unknown(GENERATION) };
    let new = conditions(&newly_held, &old, at(60));
    for kind in [READY, ACCEPTED, REACHABLE, STORED, CAUGHT_UP, RECONCILING] {
        assert_eq!(find(&new, kind), find(&old, kind));
    }
}

#[test]
fn a_new_spec_is_judged_anew() {
    let old = first(&fine());
    let new = conditions(&Facts { generation: GENERATION + 1, ..Facts::unknown(0) }, &old, at(60));
    assert_eq!(says(&new, REACHABLE), Some(("Unknown", "Pending")));
    assert_eq!(kstatus(&new), "InProgress");
}

#[test]
fn a_transition_has_the_time_of_its_change_and_no_other() {
    let failing = Facts { reachable: Some((ReachableReason::Timeout, "1")), ..fine() };
    let worse = Facts { reachable: Some((ReachableReason::ServerError, "2")), ..fine() };
    let history = [(fine(), 10), (fine(), 20), (failing, 30), (worse, 40), (fine(), 50)];
    let mut old = Vec::new();
    let mut times = Vec::new();
    for (facts, second) in history {
        old = conditions(&facts, &old, Timestamp::from_millisecond(second * 1000 + 999).expect("a time"));
        times.push(find(&old, REACHABLE).expect("Reachable").last_transition_time.0.as_second());
    }
    assert_eq!(times, [10, 10, 30, 30, 50]);
    assert_eq!(find(&old, ACCEPTED).expect("Accepted").last_transition_time.0, at(10), "whole seconds, as stored");
}

#[test]
fn a_message_always_fits_the_schema() {
    let long = "ü".repeat(100_000);
    let conditions = first(&Facts { reachable: Some((ReachableReason::DecodeFailed, &long)), ..fine() });
    assert!(conditions.iter().all(|condition| condition.message.chars().count() <= LONGEST_MESSAGE));
}

/// Any facts, with short messages that name their reason.
fn any_facts() -> impl Strategy<Value = Facts<'static>> {
    fn any_verdict<R: Copy + std::fmt::Debug + 'static>(
        reasons: &'static [R],
    ) -> impl Strategy<Value = Option<Verdict<'static, R>>> {
        prop::option::of(prop::sample::select(reasons).prop_map(|reason| (reason, "why")))
    }
    (
        1_i64..3,
        any::<bool>(),
        any_verdict(&[AcceptedReason::Valid, AcceptedReason::InvalidSpec, AcceptedReason::SecretNotFound]),
        any_verdict(&[AssignedReason::LeaseHeld, AssignedReason::AwaitingReplica, AssignedReason::LeaseLost]),
        any_verdict(&[
            StoredReason::AppendSucceeded,
            StoredReason::DatabaseUnavailable,
            StoredReason::ConflictingEvent,
        ]),
        any_verdict(&[ReachableReason::PollSucceeded, ReachableReason::Timeout, ReachableReason::MappingFailed]),
        any::<Option<bool>>(),
    )
        .prop_map(|(generation, suspended, accepted, assigned, stored, reachable, caught_up)| Facts {
            suspended,
            accepted,
            assigned,
            stored,
            reachable,
            caught_up,
            ..Facts::unknown(generation)
        })
}

proptest! {
    #[test]
    fn over_any_history_the_conditions_stay_sound(history in prop::collection::vec(any_facts(), 1..20)) {
        let mut old: Vec<Condition> = Vec::new();
        for (second, facts) in (1..).zip(&history) {
            let new = conditions(facts, &old, at(second));
            for kind in [READY, ACCEPTED, ASSIGNED, REACHABLE, STORED, CAUGHT_UP] {
                prop_assert_eq!(new.iter().filter(|condition| condition.type_ == kind).count(), 1);
            }
            let passing: Vec<_> = [RECONCILING, STALLED].iter().filter_map(|kind| find(&new, kind)).collect();
            prop_assert!(passing.len() <= 1 && passing.iter().all(|condition| condition.status == "True"));

            let dependents = [ACCEPTED, ASSIGNED, STORED, REACHABLE];
            let all_good = dependents.iter().all(|kind| says(&new, kind).is_some_and(|(status, _)| status == "True"));
            prop_assert_eq!(says(&new, READY).is_some_and(|(status, _)| status == "True"), all_good || facts.suspended);
            prop_assert_eq!(kstatus(&new) == "Current", all_good && says(&new, STORED) != Some(("False", "ConflictingEvent")) || facts.suspended);

            for condition in &new {
                prop_assert_eq!(condition.observed_generation, Some(facts.generation));
                prop_assert!(!condition.message.is_empty());
                prop_assert!(condition.reason.starts_with(|c: char| c.is_ascii_uppercase()));
                let before = find(&old, &condition.type_);
                let unchanged = before.is_some_and(|before| before.status == condition.status);
                let expected = if unchanged { before.map(|before| before.last_transition_time.clone()) } else { Some(Time(at(second))) };
                prop_assert_eq!(Some(&condition.last_transition_time), expected.as_ref());
            }
            prop_assert_eq!(&conditions(facts, &new, at(second + 100)), &new, "asked again, nothing changes");
            old = new;
        }
    }
}
