use std::{fmt::Debug, time::Duration};

use axum::body::{Body, to_bytes};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use prometheus_client::registry::Registry;
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::Service;

use super::*;
use crate::{
    api::{
        AcceptedReason, AssignedReason, EventSource, EventSourceSpec, ReachableReason, Source, StoredReason,
        conditions::{Facts, READY, conditions},
        event_source::Http,
    },
    desired::Desired,
    event::StreamName,
    loader::{
        report::{BlockedBy, LastCaughtUp, Report, Verdict},
        reports::Reports,
    },
    ownership::Holding,
    store::Holder,
    telemetry::{
        health::Part,
        metrics::{CauseLabels, Metrics},
    },
};

/// A replica that knows these sources and holds those that it has a report of.
struct Replica {
    admin: Admin,
    metrics: Arc<Metrics>,
}

impl Replica {
    fn knowing(names: &[&str]) -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let sources = Sources { desired: Desired::default(), reports: Reports::default() };
        for name in names {
            let mut object = EventSource::new(name, EventSourceSpec::over_http(Http::at("https://orders.test/events")));
            (object.metadata.namespace, object.metadata.uid) =
                (Some("shop".to_owned()), Some(format!("uid-of-{name}")));
            object.metadata.generation = Some(1);
            sources.desired.put(Arc::new(Source::from_object(&object).expect("a stored object")));
        }
        let admin = Admin { health: Health::starting(), registry: Arc::new(registry), sources };
        Self { admin, metrics }
    }

    fn holds(&self, name: &str, story: impl FnOnce(&mut Report)) {
        let mut report = Report::of(holding(name), 1, format!("uid-of-{name}"));
        story(&mut report);
        self.admin.sources.reports.put(&StreamName::new("shop", name), report);
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let request = axum::http::Request::get(path).body(Body::empty()).expect("a request");
        let answer = self.admin.clone().router().call(request).await.expect("a router never fails");
        let status = answer.status();
        let body = to_bytes(answer.into_body(), usize::MAX).await.expect("a body in memory");
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    async fn get_json(&self, path: &str) -> (StatusCode, Value) {
        let (status, body) = self.get(path).await;
        (status, serde_json::from_str(&body).expect("JSON"))
    }
}

fn holding(name: &str) -> Holding {
    Holding {
        stream: StreamName::new("shop", name),
        holder: Holder::new("headgate-0#a1"),
        lease_name: format!("shop.{name}"),
        acquired_at: Timestamp::UNIX_EPOCH,
    }
}

/// All is as it should be, as far as it was asked.
fn well(report: &mut Report, caught_up: bool) {
    report.accepted = Some(verdict(AcceptedReason::Valid));
    report.stored = Some(verdict(StoredReason::AppendSucceeded));
    report.reachable = Some(verdict(ReachableReason::PollSucceeded));
    report.caught_up = Some(caught_up);
}

fn unreachable(report: &mut Report) {
    report.consecutive_failures = 4;
    report.blocked_by = Some(BlockedBy::Backoff);
    report.reachable = Some(Verdict { reason: ReachableReason::Timeout, message: "no answer within 30s".to_owned() });
}

#[tokio::test]
async fn livez_answers_whatever_is_pending() {
    assert_eq!(Replica::knowing(&[]).get("/livez").await, (StatusCode::OK, "ok\n".to_owned()));
}

#[tokio::test]
async fn readyz_names_what_is_pending_until_nothing_is() {
    let replica = Replica::knowing(&[]);
    for part in &Part::ALL[1..] {
        replica.admin.health.works(*part);
    }
    replica.admin.health.waits(Part::Database, "connection refused");
    let expected = json!({ "ready": false, "pending": { "database": "connection refused" } });
    assert_eq!(replica.get_json("/readyz").await, (StatusCode::SERVICE_UNAVAILABLE, expected));
    let pending = async || {
        let (_, text) = replica.get("/metrics").await;
        Part::ALL.map(|part| text.contains(&format!("headgate_pending{{part=\"{}\"}} 1\n", part.as_str())))
    };
    assert_eq!(pending().await, [true, false, false, false, false]);
    replica.admin.health.works(Part::Database);
    assert_eq!(replica.get_json("/readyz").await, (StatusCode::OK, json!({ "ready": true, "pending": {} })));
    assert_eq!(pending().await, [false; 5]);
}

#[tokio::test]
async fn every_promise_has_a_series() {
    let replica = Replica::knowing(&["orders"]);
    replica.holds("orders", |report| {
        report.requests = [("page", 2), ("Timeout", 1)].into();
        report.events_appended = 7;
    });
    replica.metrics.retransported_events.get_or_create(&CauseLabels { cause: "superseded" }).inc_by(3);
    let (status, text) = replica.get("/metrics").await;
    assert_eq!(status, StatusCode::OK);
    for series in [
        "headgate_requests_total{stream=\"shop/orders\",outcome=\"page\"} 2",
        "headgate_requests_total{stream=\"shop/orders\",outcome=\"Timeout\"} 1",
        "headgate_events_appended_total{stream=\"shop/orders\"} 7",
        "headgate_request_interval_seconds_count 0",
        "headgate_gate_violations_total 0",
        "headgate_gate_wait_seconds_count 0",
        "headgate_retransported_events_total{cause=\"superseded\"} 3",
        "headgate_append_duration_seconds_count 0",
        "headgate_takeover_duration_seconds_count 0",
        "headgate_lease_takeover_duration_seconds_count 0",
        "headgate_lease_transitions_total 0",
        "headgate_orphans 0",
        "headgate_unreadable_sources 0",
        "headgate_pending{part=\"membership\"} 1",
        "headgate_sources{status=\"CaughtUp\"} 0",
    ] {
        assert!(text.lines().any(|line| line == series), "{series} is missing in\n{text}");
    }
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1, "one exposition: {text}");
}

#[tokio::test]
async fn the_sources_of_a_replica_are_counted_by_status_and_leave_no_series_when_they_go() {
    let replica = Replica::knowing(&["a", "b", "c", "d", "e"]);
    replica.holds("a", |report| well(report, true));
    replica.holds("b", |report| well(report, false));
    replica.holds("c", |report| report.suspended = true);
    replica.holds("d", unreachable);
    replica.holds("e", |report| report.blocked_by = Some(BlockedBy::Gate));
    let (_, text) = replica.get("/metrics").await;
    let count = |text: &str, status: &str| {
        let series = format!("headgate_sources{{status=\"{status}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series)?.parse::<u32>().ok())
    };
    for status in ["CaughtUp", "Backfilling", "Suspended", "Timeout", "Waiting"] {
        assert_eq!(count(&text, status), Some(1), "{status} in\n{text}");
    }
    assert_eq!(count(&text, "Pending"), Some(0));

    replica.admin.sources.reports.remove(&StreamName::new("shop", "d"));
    let (_, text) = replica.get("/metrics").await;
    assert_eq!(count(&text, "Timeout"), None);
}

/// Whatever a replica may know of a source that it holds.
fn any_report() -> impl Strategy<Value = Report> {
    fn any_verdict<R: Copy + Debug + 'static>(reasons: [R; 2]) -> impl Strategy<Value = Option<Verdict<R>>> {
        prop::option::of(prop::sample::select(reasons.to_vec()).prop_map(|reason| verdict(reason)))
    }
    let known = (
        any_verdict([AcceptedReason::Valid, AcceptedReason::InvalidSpec]),
        prop::sample::select(vec![AssignedReason::LeaseHeld, AssignedReason::LeaseLost]),
        any_verdict([StoredReason::AppendSucceeded, StoredReason::DatabaseUnavailable]),
        any_verdict([ReachableReason::PollSucceeded, ReachableReason::Timeout]),
        any::<Option<bool>>(),
        any::<bool>(),
    );
    known.prop_map(|(accepted, assigned, stored, reachable, caught_up, suspended)| Report {
        accepted,
        assigned: verdict(assigned),
        stored,
        reachable,
        caught_up,
        suspended,
        ..Report::of(holding("orders"), 1, "uid-of-orders".to_owned())
    })
}

fn verdict<R>(reason: R) -> Verdict<R> {
    Verdict { reason, message: "why".to_owned() }
}

fn ready(report: &Report) -> Condition {
    fn of<R: Copy>(verdict: &Verdict<R>) -> (R, &str) {
        (verdict.reason, &verdict.message)
    }
    let facts = Facts {
        suspended: report.suspended,
        accepted: report.accepted.as_ref().map(of),
        assigned: Some(of(&report.assigned)),
        stored: report.stored.as_ref().map(of),
        reachable: report.reachable.as_ref().map(of),
        caught_up: report.caught_up,
        ..Facts::unknown(1)
    };
    let conditions = conditions(&facts, &[], Timestamp::UNIX_EPOCH);
    conditions.into_iter().find(|condition| condition.type_ == READY).expect("always there")
}

proptest! {
    #[test]
    fn what_metrics_and_the_list_say_of_a_source_is_what_its_ready_condition_says(report in any_report()) {
        let ready = ready(&report);
        let replica = Replica::knowing(&["orders"]);
        replica.holds("orders", |held| *held = report);
        let text = replica.admin.metrics(Moment::now()).expect("a text");
        let series = format!("headgate_sources{{status=\"{}\"}} 1", ready.reason);
        prop_assert!(text.lines().any(|line| line == series), "{series} is missing in\n{text}");
        if ready.status == "False" {
            let problem = replica.admin.sources.list(true).remove(0).problem.map(|it| (it.reason, it.message));
            prop_assert_eq!(problem.as_ref().map(|it| (it.0, &it.1)), Some((&*ready.reason, &ready.message)));
        }
    }
}

#[test]
fn lag_is_told_per_source_once_it_is_known() {
    let replica = Replica::knowing(&["orders", "bills", "new"]);
    let then = Moment::now();
    let later = Moment { at: then.at + Duration::from_secs(30), slept: then.slept + Duration::from_mins(1) };
    for (name, caught_up) in [("orders", true), ("bills", false)] {
        replica.holds(name, |report| {
            well(report, caught_up);
            report.last_caught_up = Some(LastCaughtUp::before(then, Duration::ZERO));
        });
    }
    replica.holds("new", |report| well(report, false));
    let text = replica.admin.metrics(later).expect("a text");
    let lag = |name: &str| {
        let series = format!("headgate_lag_seconds{{stream=\"shop/{name}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series)?.parse::<u32>().ok())
    };
    assert_eq!([lag("orders"), lag("bills"), lag("new")], [Some(0), Some(90), None], "{text}");
}

#[test]
fn a_source_that_fails_falls_behind_and_one_that_is_suspended_or_another_s_by_now_does_not() {
    let replica = Replica::knowing(&["down", "suspended", "moved", "fenced-off"]);
    let then = Moment::now();
    let later = Moment { at: then.at + Duration::from_secs(30), slept: then.slept + Duration::from_mins(1) };
    replica.holds("down", |report| {
        unreachable(report);
        (report.caught_up, report.last_caught_up) = (Some(true), Some(LastCaughtUp::before(then, Duration::ZERO)));
    });
    replica.holds("suspended", |report| {
        (report.suspended, report.last_caught_up) = (true, Some(LastCaughtUp::before(then, Duration::ZERO)));
    });
    replica.holds("fenced-off", |report| {
        report.stored = Some(Verdict { reason: StoredReason::FencedOff, message: String::new() });
        (report.caught_up, report.last_caught_up) = (Some(true), Some(LastCaughtUp::before(then, Duration::ZERO)));
    });
    replica.holds("moved", |report| report.caught_up = Some(false));
    // As the status has it from the holder before.
    replica.admin.sources.reports.was_caught_up(
        &StreamName::new("shop", "moved"),
        "uid-of-moved",
        Duration::from_secs(10),
    );
    let text = replica.admin.metrics(later).expect("a text");
    let lag = |name: &str| {
        let series = format!("headgate_lag_seconds{{stream=\"shop/{name}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series)?.parse::<u32>().ok())
    };
    assert_eq!([lag("down"), lag("suspended")], [Some(90), None], "{text}");
    let moved = lag("moved").expect("as the status had it");
    assert!((90..=100).contains(&moved), "10 s when it was read, a moment after the others: {text}");
    assert_eq!(lag("fenced-off"), None, "whoever has it tells");
}

#[tokio::test]
async fn sources_tells_why_each_one_does_not_send() {
    let replica = Replica::knowing(&["bills", "orders", "refunds"]);
    replica.holds("orders", |report| (report.events_stored, report.caught_up) = (7, Some(true)));
    replica.holds("refunds", unreachable);
    let (status, body) = replica.get_json("/v1/sources").await;
    assert_eq!(status, StatusCode::OK);
    let rows = body["sources"].as_array().expect("a list");
    let told: Vec<_> = rows.iter().map(|row| (row["name"].as_str().unwrap(), row["blockedBy"].as_str())).collect();
    assert_eq!(told, [("bills", Some("lease")), ("orders", None), ("refunds", Some("backoff"))]);
    assert_eq!((&rows[0]["held"], &rows[0]["holder"]), (&json!(false), &Value::Null));
    assert_eq!((&rows[1]["holder"], &rows[1]["eventsLoaded"]), (&json!("headgate-0#a1"), &json!(7)));
    let problem = json!({ "reason": "Timeout", "message": "no answer within 30s" });
    assert_eq!((&rows[2]["problem"], &rows[2]["consecutiveFailures"]), (&problem, &json!(4)));

    let (_, held) = replica.get_json("/v1/sources?held=true").await;
    assert_eq!(held["sources"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn sources_knows_every_reason_for_not_sending() {
    let reasons = [
        (BlockedBy::Gate, "gate"),
        (BlockedBy::Backoff, "backoff"),
        (BlockedBy::Database, "database"),
        (BlockedBy::Memory, "memory"),
        (BlockedBy::Lease, "lease"),
        (BlockedBy::Suspended, "suspended"),
        (BlockedBy::Finalizer, "finalizer"),
    ];
    let replica = Replica::knowing(&["orders"]);
    for (blocked_by, word) in reasons {
        replica.holds("orders", |report| report.blocked_by = Some(blocked_by));
        let (_, body) = replica.get_json("/v1/sources").await;
        assert_eq!(body["sources"][0]["blockedBy"], word);
    }
}
