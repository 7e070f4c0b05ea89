//! Marks against an API server with one object, in paused time.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use hyper::{Method, Request, Response, StatusCode};
use kube::client::Body;
use prometheus_client::registry::Registry;
use tokio::time::sleep;

use super::*;
use crate::{
    controller::{fixtures::stream, unreadable::TIME_FOR_OTHERS},
    store::Holder,
};

const SECOND: Duration = Duration::from_secs(1);
const NEWER: &str = "headgate-newer_00000001";

/// One object and who writes it.
#[derive(Clone)]
struct Cluster {
    object: Arc<Mutex<Value>>,
    down: Arc<AtomicBool>,
    peers: watch::Sender<Peers>,
    unreadable: Unreadable,
}

impl Cluster {
    /// One whose object this replica cannot read.
    fn begin() -> Self {
        let object = json!({
            "apiVersion": "headgate.dev/v1alpha1", "kind": "EventSource", "spec": {"later": {}},
            "metadata": {"namespace": "shop", "name": "broken", "uid": "u", "generation": 1, "resourceVersion": "1"},
        });
        let cluster = Self {
            object: Arc::new(Mutex::new(object)),
            down: Arc::default(),
            peers: watch::Sender::new(Peers { holders: Some(BTreeSet::new()), of_another_template: false }),
            unreadable: Unreadable::default(),
        };
        let playing = cluster.clone();
        let service = tower::service_fn(move |request: Request<Body>| playing.clone().answer(request));
        let client = Client::new(service, "default");
        let (unreadable, peers) = (cluster.unreadable.clone(), cluster.peers.subscribe());
        tokio::spawn(async move {
            let metrics = Metrics::register(&mut Registry::default());
            Marks { client, unreadable, peers, metrics: &metrics }.run().await;
        });
        cluster
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
        if self.down.load(Ordering::Relaxed) {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        let (parts, body) = request.into_parts();
        let patch = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let mut object = self.object.lock().expect("no panic");
        let mut code = StatusCode::OK;
        if parts.method == Method::PATCH {
            let patch: Value = serde_json::from_slice(&patch).expect("JSON");
            if patch["metadata"]["resourceVersion"] == object["metadata"]["resourceVersion"] {
                write(&mut object, patch["status"].clone());
            } else {
                code = StatusCode::CONFLICT;
            }
        }
        let conflict = json!({"kind": "Status", "status": "Failure", "reason": "Conflict", "message": "", "code": 409});
        let answer = if code == StatusCode::OK { &*object } else { &conflict };
        let body = Body::from(serde_json::to_vec(answer).expect("JSON"));
        Ok(Response::builder().status(code).body(body).expect("a response"))
    }

    fn becomes_unreadable(&self) {
        let message = "a value has the wrong form".to_owned();
        let source = InvalidSource { stream: stream("broken"), uid: "u".to_owned(), generation: 1, message };
        assert!(self.unreadable.enter(source, Instant::now()));
    }

    /// A replica of another template joins, or the last one ends.
    fn newer_replica(&self, lives: bool) {
        let holders = lives.then(|| Holder::new(NEWER)).into_iter().collect();
        self.peers.send_replace(Peers { holders: Some(holders), of_another_template: lives });
    }

    /// The newer replica has read it and says so.
    fn is_accepted_by_the_newer_one(&self) {
        let accepted = json!({"type": "Accepted", "status": "True", "reason": "Valid", "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2026-11-22T12:00:00Z"});
        let status = json!({"holder": {"identity": NEWER}, "cursor": "7", "conditions": [accepted]});
        write(&mut self.object.lock().expect("no panic"), status);
    }

    fn accepted(&self) -> Option<String> {
        let object = self.object.lock().expect("no panic");
        let conditions = object["status"]["conditions"].as_array()?;
        let accepted = conditions.iter().find(|condition| condition["type"] == "Accepted")?;
        accepted["reason"].as_str().map(str::to_owned)
    }

    fn cursor(&self) -> Value {
        self.object.lock().expect("no panic")["status"]["cursor"].clone()
    }
}

fn write(object: &mut Value, status: Value) {
    let version: u64 = object["metadata"]["resourceVersion"].as_str().expect("one").parse().expect("a number");
    object["metadata"]["resourceVersion"] = json!((version + 1).to_string());
    object["status"] = status;
}

#[tokio::test(start_paused = true)]
async fn the_owner_is_told_when_the_api_server_is_back_however_long_it_was_away() {
    let cluster = Cluster::begin();
    cluster.down.store(true, Ordering::Relaxed);
    cluster.becomes_unreadable();
    sleep(700 * SECOND).await;
    cluster.down.store(false, Ordering::Relaxed);
    sleep(31 * SECOND).await;
    assert_eq!(cluster.accepted().as_deref(), Some("InvalidSpec"));
}

#[tokio::test(start_paused = true)]
async fn what_became_readable_before_the_owner_could_be_told_is_not_marked() {
    let cluster = Cluster::begin();
    cluster.down.store(true, Ordering::Relaxed);
    cluster.becomes_unreadable();
    sleep(10 * SECOND).await;
    cluster.unreadable.leave(&stream("broken"));
    cluster.down.store(false, Ordering::Relaxed);
    sleep(600 * SECOND).await;
    assert_eq!(cluster.accepted(), None);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_a_newer_replica_runs_is_its_own_to_judge_until_that_one_has_ended() {
    let cluster = Cluster::begin();
    cluster.newer_replica(true);
    cluster.becomes_unreadable();
    sleep(20 * SECOND).await;
    assert_eq!(cluster.accepted(), None, "it has its time");
    cluster.is_accepted_by_the_newer_one();
    sleep(3_600 * SECOND).await;
    assert_eq!(cluster.accepted().as_deref(), Some("Valid"), "an update that is paused does not make it invalid");
    cluster.newer_replica(false);
    sleep(TIME_FOR_OTHERS + SECOND).await;
    assert_eq!(cluster.accepted().as_deref(), Some("InvalidSpec"), "nobody who lives can read it");
    assert_eq!(cluster.cursor(), json!("7"), "the rest of the status stays");
}

#[tokio::test(start_paused = true)]
async fn what_a_newer_replica_writes_over_the_mark_stands() {
    let cluster = Cluster::begin();
    cluster.becomes_unreadable();
    sleep(SECOND).await;
    assert_eq!(cluster.accepted().as_deref(), Some("InvalidSpec"), "nobody else is there");
    cluster.newer_replica(true);
    cluster.is_accepted_by_the_newer_one();
    sleep(3_600 * SECOND).await;
    assert_eq!(cluster.accepted().as_deref(), Some("Valid"));
}

#[tokio::test(start_paused = true)]
async fn an_update_that_is_paused_keeps_nobody_from_hearing_that_no_release_can_read_it() {
    let cluster = Cluster::begin();
    cluster.newer_replica(true);
    cluster.becomes_unreadable();
    sleep(TIME_FOR_OTHERS + SECOND).await;
    assert_eq!(cluster.accepted().as_deref(), Some("InvalidSpec"));
}

#[tokio::test(start_paused = true)]
async fn as_long_as_nobody_knows_who_lives_a_judgement_stands() {
    let cluster = Cluster::begin();
    cluster.peers.send_replace(Peers::default());
    cluster.is_accepted_by_the_newer_one();
    cluster.becomes_unreadable();
    sleep(3_600 * SECOND).await;
    assert_eq!(cluster.accepted().as_deref(), Some("Valid"));
    cluster.newer_replica(false);
    sleep(TIME_FOR_OTHERS + SECOND).await;
    assert_eq!(cluster.accepted().as_deref(), Some("InvalidSpec"));
}
