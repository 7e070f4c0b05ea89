//! From reports to what users see: status, conditions, Events.

use std::time::{Duration, Instant};

use headgate::{
    api::{AcceptedReason, AssignedReason, EventSource, ReachableReason, StoredReason, event_source::HolderStatus},
    loader::report::Report,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    cluster::Cluster,
    replica::{Replica, healthy, stream_of, until, verdict},
};

/// One way to be, and what is then seen: condition, reason and status.
type Case = (&'static str, Box<dyn Fn(&mut Report)>, &'static str, &'static str);

fn accepted(reason: AcceptedReason) -> Case {
    ("Accepted", Box::new(move |report| report.accepted = Some(verdict(reason))), reason.as_str(), "False")
}

fn reachable(reason: ReachableReason) -> Case {
    ("Reachable", Box::new(move |report| report.reachable = Some(verdict(reason))), reason.as_str(), "False")
}

fn stored(reason: StoredReason) -> Case {
    ("Stored", Box::new(move |report| report.stored = Some(verdict(reason))), reason.as_str(), "False")
}

fn every_failure() -> Vec<Case> {
    use ReachableReason as R;
    let mut cases = vec![
        accepted(AcceptedReason::InvalidSpec),
        accepted(AcceptedReason::SecretNotFound),
        accepted(AcceptedReason::SecretKeyMissing),
        accepted(AcceptedReason::CANotFound),
        accepted(AcceptedReason::CredentialsForbidden),
        stored(StoredReason::DatabaseUnavailable),
        stored(StoredReason::ConflictingEvent),
        stored(StoredReason::FencedOff),
    ];
    cases.extend(
        [
            R::AuthenticationFailed,
            R::Forbidden,
            R::RateLimited,
            R::Redirected,
            R::ServerError,
            R::ConnectionFailed,
            R::AddressRefused,
            R::Timeout,
            R::TLSFailed,
            R::ResponseTooLarge,
            R::DecodeFailed,
            R::MappingFailed,
            R::CursorRejected,
            R::InternalError,
        ]
        .map(reachable),
    );
    let lost = |report: &mut Report| report.assigned = verdict(AssignedReason::LeaseLost);
    cases.push(("Assigned", Box::new(lost), "LeaseLost", "False"));
    cases
}

fn every_good_state() -> Vec<Case> {
    let behind = |report: &mut Report| report.caught_up = Some(false);
    vec![
        ("Accepted", Box::new(|_| {}), "Valid", "True"),
        ("Assigned", Box::new(|_| {}), "LeaseHeld", "True"),
        ("Reachable", Box::new(|_| {}), "PollSucceeded", "True"),
        ("Stored", Box::new(|_| {}), "AppendSucceeded", "True"),
        ("CaughtUp", Box::new(|_| {}), "NoMoreEvents", "True"),
        ("CaughtUp", Box::new(behind), "Backfilling", "False"),
        ("Ready", Box::new(|_| {}), "CaughtUp", "True"),
        ("Ready", Box::new(behind), "Backfilling", "True"),
        ("Ready", Box::new(|report| report.suspended = true), "Suspended", "True"),
    ]
}

#[tokio::test]
async fn every_condition_and_reason_comes_about_in_the_object() {
    let cluster = Cluster::with_the_crd().await;
    let replica = Replica::start("a", cluster.client());
    let cases: Vec<_> = every_failure().into_iter().chain(every_good_state()).enumerate().collect();
    for (number, (_, change, ..)) in &cases {
        let mut report = healthy(replica.held(&cluster.create(&format!("case-{number}")).await), 7);
        change(&mut report);
        replica.report(report);
    }
    for (number, (kind, _, reason, status)) in &cases {
        let name = format!("case-{number}");
        let condition = cluster.condition(&name, kind, reason).await;
        assert_eq!((condition.status.as_str(), condition.observed_generation), (*status, Some(1)), "{kind} {reason}");
        if *status == "False" && *kind != "CaughtUp" {
            cluster.condition(&name, "Ready", reason).await;
        }
    }
}

#[tokio::test]
async fn a_source_without_a_first_answer_shows_all_its_conditions_as_unknown() {
    let cluster = Cluster::with_the_crd().await;
    let replica = Replica::start("a", cluster.client());
    let object = cluster.create("orders").await;
    assert_eq!(object.status.as_ref().map(|status| status.observed_generation), Some(-1), "not observed yet");
    replica.report(replica.held(&object));
    cluster.condition("orders", "Assigned", "LeaseHeld").await;
    let status = cluster.get("orders").await.status.expect("a status");
    assert_eq!(status.observed_generation, 1);
    let unknown = |kind: &str| status.conditions.iter().any(|it| it.type_ == kind && it.status == "Unknown");
    for kind in ["Reachable", "Stored", "CaughtUp", "Ready"] {
        assert!(unknown(kind), "{kind}: {:?}", status.conditions);
    }
}

#[tokio::test]
async fn the_status_holds_what_the_holder_knows() {
    let cluster = Cluster::with_the_crd().await;
    let replica = Replica::start("a", cluster.client());
    let object = cluster.create("orders").await;
    let mut report = healthy(replica.held(&object), 1_204_331);
    report.next_poll = Some(Timestamp::now() + SignedDuration::from_mins(4));
    report.consecutive_failures = 2;
    replica.report(report);
    cluster.condition("orders", "Ready", "CaughtUp").await;
    let status = cluster.get("orders").await.status.expect("a status");
    assert_eq!(status.stream, Some(stream_of(&object).to_string()));
    assert_eq!((status.cursor.as_deref(), status.events_loaded), (Some("1204331"), Some(1_204_331)));
    assert_eq!((status.consecutive_failures, status.lag_seconds), (Some(2), Some(0)));
    assert!(status.next_poll_time.is_some() && status.last_event_time.is_some() && status.sample_time.is_some());
    let holder = status.holder.expect("a holder");
    assert_eq!(
        (holder.identity, holder.lease_name),
        ("a#1".to_owned(), stream_of(&object).to_string().replace('/', "."))
    );
}

#[tokio::test]
async fn while_leases_wait_no_status_is_written_but_the_last() {
    let cluster = Cluster::with_the_crd().await;
    let replica = Replica::start("a", cluster.client());
    replica.leases_wait.send_replace(true);
    replica.report(healthy(replica.held(&cluster.create("orders").await), 7));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(replica.writes("transition", "ok"), 0);

    replica.leases_wait.send_replace(false);
    cluster.condition("orders", "Ready", "CaughtUp").await;

    replica.leases_wait.send_replace(true);
    replica.stop().await;
    cluster.condition("orders", "Assigned", "AwaitingReplica").await;
}

fn holder(object: EventSource) -> Option<HolderStatus> {
    object.status?.holder
}

#[tokio::test]
async fn after_a_handoff_the_status_is_that_of_the_new_holder_and_stays_so() {
    let cluster = Cluster::with_the_crd().await;
    let (old, new) = (Replica::start("old", cluster.client()), Replica::start("new", cluster.client()));
    let object = cluster.create("orders").await;
    old.report(healthy(old.held(&object), 7));
    let ready = cluster.condition("orders", "Ready", "CaughtUp").await;
    // The old holder has news in the moment in which it hands over.
    old.report(healthy(old.held(&object), 8));
    old.reports.remove(&stream_of(&object));
    new.report(healthy(new.held(&object), 9));
    until("the new holder has written", || async {
        (holder(cluster.get("orders").await)?.identity == "new#1").then_some(())
    })
    .await;
    old.stop().await;
    let status = cluster.get("orders").await;
    assert_eq!(holder(status.clone()).map(|holder| holder.identity).as_deref(), Some("new#1"));
    assert_eq!(status.status.and_then(|status| status.cursor).as_deref(), Some("9"));
    let still_ready = cluster.condition("orders", "Ready", "CaughtUp").await;
    assert_eq!(ready.last_transition_time, still_ready.last_transition_time, "nothing became of it");
}

#[tokio::test]
async fn a_lost_lease_shows_until_another_replica_holds_the_source() {
    let cluster = Cluster::with_the_crd().await;
    let (old, new) = (Replica::start("old", cluster.client()), Replica::start("new", cluster.client()));
    let object = cluster.create("orders").await;
    let held = healthy(old.held(&object), 7);
    old.report(held.clone());
    cluster.condition("orders", "Ready", "CaughtUp").await;
    // What the supervisor does with a source whose incarnation was declared dead.
    old.report(Report { assigned: verdict(AssignedReason::LeaseLost), ..held });
    old.reports.remove(&stream_of(&object));
    assert_eq!(cluster.condition("orders", "Assigned", "LeaseLost").await.status, "False");
    cluster.event("orders", "LeaseLost").await;
    new.report(healthy(new.held(&object), 8));
    cluster.condition("orders", "Assigned", "LeaseHeld").await;
    assert_eq!(holder(cluster.get("orders").await).map(|holder| holder.identity).as_deref(), Some("new#1"));
}

#[tokio::test]
async fn an_edit_between_two_writes_costs_no_status() {
    let cluster = Cluster::with_the_crd().await;
    let replica = Replica::start("a", cluster.client());
    let object = cluster.create("orders").await;
    replica.report(healthy(replica.held(&object), 7));
    cluster.condition("orders", "Ready", "CaughtUp").await;
    cluster.edit("orders", json!({"metadata": {"labels": {"team": "orders"}}})).await;
    let mut missing = healthy(replica.held(&object), 7);
    missing.accepted = Some(verdict(AcceptedReason::SecretNotFound));
    missing.holding = replica.reports.get(&stream_of(&object)).expect("the report").holding.clone();
    replica.report(missing);
    cluster.condition("orders", "Accepted", "SecretNotFound").await;
    assert_eq!(replica.writes("transition", "conflict"), 1, "the write was guarded");
    assert_eq!(
        cluster.get("orders").await.metadata.labels.and_then(|mut labels| labels.remove("team")).as_deref(),
        Some("orders")
    );
}

#[tokio::test]
async fn an_object_that_was_deleted_meanwhile_is_left_alone() {
    let cluster = Cluster::with_the_crd().await;
    let replica = Replica::start("a", cluster.client());
    let object = cluster.create("orders").await;
    cluster.delete("orders").await;
    replica.report(healthy(replica.held(&object), 7));
    until("it is seen to be gone", || async { (replica.writes("transition", "gone") == 1).then_some(()) }).await;
    // Another object of the name is none of this report's business.
    let successor = cluster.create("orders").await;
    let mut report = healthy(replica.held(&object), 8);
    report.holding.acquired_at = Timestamp::now();
    replica.report(report);
    until("it is seen to be another", || async { (replica.writes("transition", "gone") == 2).then_some(()) }).await;
    assert_eq!(cluster.get("orders").await.metadata.resource_version, successor.metadata.resource_version);
}

#[tokio::test]
async fn a_replica_that_stops_without_a_successor_says_that_its_sources_wait() {
    let cluster = Cluster::with_the_crd().await;
    let replica = Replica::start("a", cluster.client());
    let (kept, handed_off) = (cluster.create("kept").await, cluster.create("handed-off").await);
    for object in [&kept, &handed_off] {
        replica.report(healthy(replica.held(object), 7));
        cluster.condition(stream_of(object).name(), "Ready", "CaughtUp").await;
    }
    replica.reports.remove(&stream_of(&handed_off));
    replica.stop().await;
    let waits = cluster.condition("kept", "Assigned", "AwaitingReplica").await;
    assert_eq!(waits.status, "Unknown");
    assert_eq!(holder(cluster.get("kept").await), None);
    assert_eq!(cluster.get("kept").await.status.and_then(|status| status.cursor).as_deref(), Some("7"));
    cluster.condition("handed-off", "Assigned", "LeaseHeld").await;
    cluster.event("handed-off", "SourceReleased").await;
}

#[tokio::test]
async fn two_hundred_sources_taken_over_at_once_stay_within_the_write_budget() {
    const SOURCES: u32 = 200;
    let cluster = Cluster::with_the_crd().await;
    let replica = Replica::start("a", cluster.client());
    let objects = futures::future::join_all((0..SOURCES).map(|number| {
        let cluster = &cluster;
        async move { cluster.create(&format!("s{number}")).await }
    }))
    .await;
    let begun = Instant::now();
    for object in &objects {
        replica.report(healthy(replica.held(object), 7));
    }
    let results = ["ok", "unchanged", "conflict", "timeout", "refused", "unavailable"];
    let written = || results.iter().map(|result| replica.writes("transition", result)).sum::<u64>();
    until("all are written", || async {
        // Counted before the clock is read: what was written until now is within what is allowed until later.
        let written = written();
        let allowed = 100 + begun.elapsed().as_millis() / 50 + 1;
        assert!(u128::from(written) <= allowed, "{written} writes, {allowed} allowed");
        (replica.writes("transition", "ok") == u64::from(SOURCES)).then_some(())
    })
    .await;
    assert!(begun.elapsed() >= Duration::from_millis(4_900), "100 at once and 100 at 20 a second");
}

#[tokio::test]
async fn events_tell_of_changes_once_and_name_the_replica() {
    let cluster = Cluster::with_the_crd().await;
    let replica = Replica::start("a", cluster.client());
    let object = cluster.create("orders").await;
    let mut report = replica.held(&object);
    replica.report(report.clone());
    cluster.event("orders", "SourceAssigned").await;
    report = healthy(report, 7);
    replica.report(report.clone());
    cluster.event("orders", "CaughtUp").await;
    report.stored = Some(verdict(StoredReason::DatabaseUnavailable));
    replica.report(report.clone());
    let unavailable = cluster.event("orders", "StorageUnavailable").await;
    assert_eq!(unavailable.type_.as_deref(), Some("Warning"));
    assert_eq!(unavailable.reporting_instance.as_deref(), Some("a"));
    let regarding = unavailable.regarding.expect("an object");
    assert_eq!((regarding.kind.as_deref(), regarding.uid), (Some("EventSource"), object.metadata.uid.clone()));
    for failures in 1..=5 {
        report.consecutive_failures = failures;
        report.reachable = Some(verdict(ReachableReason::Timeout));
        replica.report(report.clone());
    }
    cluster.event("orders", "PollFailing").await;
    replica.reports.remove(&stream_of(&object));
    cluster.event("orders", "SourceReleased").await;
    let mut reasons: Vec<_> = cluster.events("orders").await.into_iter().filter_map(|event| event.reason).collect();
    reasons.sort();
    assert_eq!(reasons, ["CaughtUp", "PollFailing", "SourceAssigned", "SourceReleased", "StorageUnavailable"]);
}

#[tokio::test]
async fn the_younger_of_two_objects_with_one_url_says_so() {
    let cluster = Cluster::with_the_crd().await;
    let replica = Replica::start("a", cluster.client());
    let same_url = |spec: &mut headgate::api::EventSourceSpec| {
        spec.http.as_mut().expect("http").url = "http://127.0.0.1:9/shared".to_owned();
    };
    // The name breaks the tie when both are of one second.
    let elder = cluster.create_with("a-elder", same_url).await;
    let younger = cluster.create_with("b-younger", same_url).await;
    for object in [&elder, &younger] {
        replica.report(healthy(replica.held(object), 7));
    }
    let event = cluster.event("b-younger", "SharedEndpoint").await;
    assert!(event.note.expect("a note").contains(stream_of(&elder).as_str()));
    until("Accepted warns", || async {
        let accepted = cluster.condition("b-younger", "Accepted", "Valid").await;
        accepted.message.contains(stream_of(&elder).as_str()).then_some(())
    })
    .await;
    assert!(cluster.events("a-elder").await.iter().all(|event| event.reason.as_deref() != Some("SharedEndpoint")));
}
