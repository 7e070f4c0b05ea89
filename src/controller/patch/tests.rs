//! The requests of single jobs, against an API server that is played by the test.

use http_body_util::BodyExt;
use hyper::{Request, Response, StatusCode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::client::Body;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower_test::mock::{self, Handle};

use super::*;
use crate::{
    controller::{
        board::Trigger,
        fixtures::{Story, held, object, source, stream},
        sample::Sample,
    },
    loader::report::Report,
};

/// The API server as one test plays it.
struct ApiServer(Handle<Request<Body>, Response<Body>>);

/// What was asked of it.
struct Asked {
    method: String,
    path: String,
    query: String,
    body: Value,
}

impl ApiServer {
    /// Plays `scenario`; a request that does not come fails the test instead of hanging it.
    fn plays<F: Future<Output = ()> + Send + 'static>(
        scenario: impl FnOnce(Self) -> F + Send + 'static,
    ) -> (Client, JoinHandle<()>) {
        let (service, handle) = mock::pair();
        let scenario = scenario(Self(handle));
        let played = tokio::spawn(async move {
            timeout(Duration::from_secs(5), scenario).await.expect("all expected requests came");
        });
        (Client::new(service, "default"), played)
    }

    /// Answers the next request.
    async fn answers(&mut self, status: StatusCode, answer: &Value) -> Asked {
        let (request, send) = self.0.next_request().await.expect("a request");
        let (parts, body) = request.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let answer = serde_json::to_vec(answer).expect("JSON");
        send.send_response(Response::builder().status(status).body(Body::from(answer)).expect("a response"));
        Asked {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        }
    }

    async fn refuses(&mut self, code: StatusCode, reason: &str) -> Asked {
        let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason,
            "message": reason, "code": code.as_u16()});
        self.answers(code, &status).await
    }
}

fn stored(object: &EventSource) -> Value {
    serde_json::to_value(object).expect("JSON")
}

fn status_of(report: Report) -> JobKind {
    let (mut sample, report) = (Sample::new(), Arc::new(report));
    sample.observe(&report, Instant::now());
    let view = sample.view(report, Some(Arc::new(source("orders"))), false);
    JobKind::Status { trigger: Trigger::Transition, view: Box::new(view), base: None }
}

async fn does(client: &Client, kind: JobKind) -> Performed {
    perform(client, Job::of(stream("orders"), "uid-of-orders", kind)).await
}

const PATH: &str = "/apis/headgate.dev/v1alpha1/namespaces/shop/eventsources/orders";

#[tokio::test]
async fn a_status_is_applied_onto_the_object_that_was_read() {
    let (client, played) = ApiServer::plays(|mut server| async move {
        let read = server.answers(StatusCode::OK, &stored(&object("orders"))).await;
        assert_eq!((read.method.as_str(), read.path.as_str()), ("GET", PATH));
        let mut written = object("orders");
        written.metadata.resource_version = Some("2".to_owned());
        let patch = server.answers(StatusCode::OK, &stored(&written)).await;
        assert_eq!((patch.method.as_str(), patch.path), ("PATCH", format!("{PATH}/status")));
        assert!(patch.query.contains("fieldManager=headgate") && patch.query.contains("force=true"), "{}", patch.query);
        assert_eq!(patch.body["metadata"], json!({"resourceVersion": "1"}), "guarded, and nothing else of the object");
        assert_eq!(patch.body["status"]["holder"]["identity"], "headgate-0#a1");
        assert_eq!(patch.body["status"]["cursor"], "7");
        assert!(patch.body.get("spec").is_none());
    });
    let performed = does(&client, status_of(held("orders").polled_at(1).after_id(7))).await;
    let Done::Settled(base) = performed.done else { panic!("written, not {}", performed.result) };
    assert_eq!((base.resource_version.as_str(), base.status.events_loaded), ("2", Some(7)));
    played.await.expect("the scenario");
}

#[tokio::test]
async fn a_status_that_says_the_same_is_not_written() {
    let report = held("orders").polled_at(1).after_id(7);
    let JobKind::Status { view, .. } = status_of(report.clone()) else { unreachable!() };
    let mut unchanged = object("orders");
    unchanged.status = Some(compose(&view, &crate::api::EventSourceStatus::default(), Timestamp::now(), Moment::now()));
    let (client, played) = ApiServer::plays(|mut server| async move {
        server.answers(StatusCode::OK, &stored(&unchanged)).await;
    });
    assert_eq!(does(&client, status_of(report)).await.result, "unchanged");
    played.await.expect("the scenario");
}

#[tokio::test]
async fn a_lost_lease_is_not_written_over_the_status_of_the_next_holder() {
    let mut lost = held("orders").polled_at(1);
    lost.assigned.reason = crate::api::AssignedReason::LeaseLost;
    for (holder, expected) in [("headgate-1#b1", "superseded"), ("headgate-0#a1", "ok")] {
        let mut next = held("orders").polled_at(2);
        next.holding.holder = crate::store::Holder::new(holder);
        let JobKind::Status { view, .. } = status_of(next) else { unreachable!() };
        let mut object = object("orders");
        object.status =
            Some(compose(&view, &crate::api::EventSourceStatus::default(), Timestamp::now(), Moment::now()));
        let (client, played) = ApiServer::plays(move |mut server| async move {
            server.answers(StatusCode::OK, &stored(&object)).await;
            if expected == "ok" {
                let patch = server.answers(StatusCode::OK, &stored(&object)).await;
                let conditions = patch.body["status"]["conditions"].as_array().expect("conditions").clone();
                assert!(conditions.iter().any(|condition| condition["reason"] == "LeaseLost"));
            }
        });
        assert_eq!(does(&client, status_of(lost.clone())).await.result, expected);
        played.await.expect("the scenario");
    }
}

#[tokio::test]
async fn an_object_of_the_same_name_with_another_uid_is_not_written() {
    let (client, played) = ApiServer::plays(|mut server| async move {
        let mut another = object("orders");
        another.metadata.uid = Some("another".to_owned());
        server.answers(StatusCode::OK, &stored(&another)).await;
    });
    assert!(matches!(does(&client, status_of(held("orders"))).await.done, Done::Gone));
    played.await.expect("the scenario");
}

#[tokio::test]
async fn an_object_that_is_gone_is_no_failure() {
    let (client, played) = ApiServer::plays(|mut server| async move {
        server.answers(StatusCode::OK, &stored(&object("orders"))).await;
        server.refuses(StatusCode::NOT_FOUND, "NotFound").await;
    });
    assert!(matches!(does(&client, status_of(held("orders"))).await.done, Done::Gone));
    played.await.expect("the scenario");
}

#[tokio::test]
async fn a_write_that_was_overtaken_is_a_conflict() {
    let (client, played) = ApiServer::plays(|mut server| async move {
        server.answers(StatusCode::OK, &stored(&object("orders"))).await;
        server.refuses(StatusCode::CONFLICT, "Conflict").await;
    });
    assert!(matches!(does(&client, status_of(held("orders"))).await.done, Done::Conflict));
    played.await.expect("the scenario");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_given_up() {
    let (service, _silent) = mock::pair::<Request<Body>, Response<Body>>();
    let performed = does(&Client::new(service, "default"), status_of(held("orders"))).await;
    assert!(matches!(performed.done, Done::Failed));
    assert_eq!(performed.result, "timeout");
}

fn with_finalizers(finalizers: &[&str]) -> EventSource {
    let mut object = object("orders");
    object.metadata.finalizers = Some(finalizers.iter().map(|name| (*name).to_owned()).collect());
    object
}

fn deleting_its_events(mut object: EventSource) -> EventSource {
    object.spec.deletion_policy = crate::api::event_source::DeletionPolicy::Delete;
    object
}

#[tokio::test]
async fn the_finalizer_joins_those_of_others_on_the_object_that_was_read() {
    let (client, played) = ApiServer::plays(|mut server| async move {
        let object = deleting_its_events(with_finalizers(&["example.com/other"]));
        server.answers(StatusCode::OK, &stored(&object)).await;
        let patch = server.answers(StatusCode::OK, &stored(&object)).await;
        assert_eq!((patch.method.as_str(), patch.path.as_str()), ("PATCH", PATH));
        let expected = json!({"metadata": {"resourceVersion": "1", "finalizers": ["example.com/other", FINALIZER]}});
        assert_eq!(patch.body, expected);
    });
    assert_eq!(does(&client, JobKind::Finalizer(FinalizerStep::Add)).await.result, "ok");
    played.await.expect("the scenario");
}

#[tokio::test]
async fn only_our_finalizer_is_removed() {
    let (client, played) = ApiServer::plays(|mut server| async move {
        let object = with_finalizers(&["example.com/other", FINALIZER]);
        server.answers(StatusCode::OK, &stored(&object)).await;
        let patch = server.answers(StatusCode::OK, &stored(&object)).await;
        assert_eq!(patch.body["metadata"]["finalizers"], json!(["example.com/other"]));
    });
    assert_eq!(does(&client, JobKind::Finalizer(FinalizerStep::RemoveRetained)).await.result, "ok");
    played.await.expect("the scenario");
}

/// With its events, which are not gone yet.
fn being_deleted() -> EventSource {
    let mut object = deleting_its_events(with_finalizers(&[FINALIZER]));
    object.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    object
}

#[tokio::test]
async fn a_finalizer_is_neither_added_nor_removed_when_the_object_has_changed_its_mind() {
    let cases = [
        ("the policy is Retain by now", FinalizerStep::Add, object("orders")),
        ("it is there already", FinalizerStep::Add, deleting_its_events(with_finalizers(&[FINALIZER]))),
        (
            "the policy is Delete again",
            FinalizerStep::RemoveRetained,
            deleting_its_events(with_finalizers(&[FINALIZER])),
        ),
        ("and it is being deleted", FinalizerStep::RemoveRetained, being_deleted()),
        ("it is not being deleted", FinalizerStep::RemoveForgotten, deleting_its_events(with_finalizers(&[FINALIZER]))),
        ("it is gone already", FinalizerStep::RemoveForgotten, object("orders")),
    ];
    for (case, step, object) in cases {
        let (client, played) = ApiServer::plays(|mut server| async move {
            server.answers(StatusCode::OK, &stored(&object)).await;
        });
        let performed = does(&client, JobKind::Finalizer(step)).await;
        assert_eq!(performed.result, "unchanged", "{case}");
        played.await.expect("the scenario");
    }
}
