//! Publishes Kubernetes Events, beside everything else: a slow API server or a storm of Events delays nothing and no one.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource,
    runtime::events::{Event, Recorder, Reporter},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    board::PendingEvent, leases_first::LeasesFirst, patch::REQUEST_TIMEOUT, token_bucket::TokenBucket,
    writer::LAST_WORDS_WITHIN,
};
use crate::{
    api::EventSource,
    telemetry::metrics::{Metrics, ResultLabels},
};

/// Events beyond this are dropped and counted: when a database goes away, every source has the same to say.
const WAITING_AT_MOST: usize = 1_000;

/// Events are for people; the API server gets at most this many per second from one replica, and so many at once.
const EVENTS_PER_SECOND: u32 = 10;
const EVENTS_AT_ONCE: u32 = 100;

/// The API server refuses longer notes.
const LONGEST_NOTE: usize = 1_024;

/// The end that takes Events. It never waits.
#[derive(Clone)]
pub(super) struct EventSink {
    events: mpsc::Sender<PendingEvent>,
    metrics: Arc<Metrics>,
}

/// The end that publishes them.
pub(super) struct Publisher {
    client: Client,
    reporter: Reporter,
    events: mpsc::Receiver<PendingEvent>,
    leases_first: LeasesFirst,
    metrics: Arc<Metrics>,
}

/// Both ends. `instance` is the name of the pod.
pub(super) fn channel(
    client: Client,
    instance: &str,
    leases_first: LeasesFirst,
    metrics: Arc<Metrics>,
) -> (EventSink, Publisher) {
    let reporter = Reporter { controller: "headgate".to_owned(), instance: Some(instance.to_owned()) };
    let (sender, receiver) = mpsc::channel(WAITING_AT_MOST);
    let publisher = Publisher { client, reporter, events: receiver, leases_first, metrics: metrics.clone() };
    (EventSink { events: sender, metrics }, publisher)
}

impl EventSink {
    pub(super) fn tell(&self, event: PendingEvent) {
        if self.events.try_send(event).is_err() {
            count(&self.metrics, "dropped");
        }
    }
}

impl Publisher {
    /// Publishes until `shutdown`, and then what is left, for as long as last words may take.
    pub(super) async fn run(mut self, shutdown: &CancellationToken) {
        tokio::select! {
            () = self.publish_all(shutdown) => {}
            () = async { shutdown.cancelled().await; sleep(LAST_WORDS_WITHIN).await } => {}
        }
    }

    async fn publish_all(&mut self, shutdown: &CancellationToken) {
        let mut budget = TokenBucket::new(EVENTS_PER_SECOND, EVENTS_AT_ONCE);
        while let Some(event) = self.events.recv().await {
            // Last words wait for nobody.
            shutdown.run_until_cancelled(self.leases_first.passed()).await;
            while let Err(next) = budget.take(Instant::now()) {
                sleep_until(next).await;
            }
            self.publish(&event).await;
        }
    }

    async fn publish(&self, pending: &PendingEvent) {
        let announcement = &pending.announcement;
        let event = Event {
            type_: announcement.severity,
            reason: announcement.reason.to_owned(),
            note: Some(cut(&announcement.note).to_owned()),
            action: announcement.action.to_owned(),
            secondary: None,
        };
        let reference = ObjectReference {
            api_version: Some(EventSource::api_version(&()).into_owned()),
            kind: Some(EventSource::kind(&()).into_owned()),
            namespace: Some(pending.stream.namespace().to_owned()),
            name: Some(pending.stream.name().to_owned()),
            uid: Some(pending.uid.clone()),
            ..ObjectReference::default()
        };
        // A new one each time: one that knows the last Event of this reason counts it up, and leaves its note as it was.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        let result = match timeout(REQUEST_TIMEOUT, recorder.publish(&event, &reference)).await {
            Ok(Ok(())) => "ok",
            Ok(Err(error)) => {
                debug!(source = %pending.stream, reason = announcement.reason, %error, "an Event was not published");
                "failed"
            }
            Err(_) => "timeout",
        };
        count(&self.metrics, result);
    }
}

fn cut(note: &str) -> &str {
    &note[..note.floor_char_boundary(LONGEST_NOTE)]
}

fn count(metrics: &Metrics, result: &'static str) {
    metrics.kubernetes_events.get_or_create(&ResultLabels { result }).inc();
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper::{Method, Request, Response, StatusCode};
    use kube::{client::Body, runtime::events::EventType};
    use prometheus_client::registry::Registry;
    use serde_json::Value;
    use tokio::sync::watch;
    use tower_test::mock;

    use super::*;
    use crate::controller::{announcements::Announcement, fixtures::stream};

    #[tokio::test]
    async fn what_has_another_cause_by_now_is_told_with_it() {
        let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
        let metrics = Metrics::register(&mut Registry::default());
        let (_leases_wait, waiting) = watch::channel(false);
        let client = Client::new(service, "default");
        let (sink, publisher) = channel(client, "headgate-0", LeasesFirst::new(waiting), metrics);
        let shutdown = CancellationToken::new();
        let publishing = tokio::spawn(async move { publisher.run(&shutdown).await });
        for note in ["3 polls failed in a row, Timeout", "6 polls failed in a row, ServerError"] {
            let announcement = Announcement {
                severity: EventType::Warning,
                reason: "PollFailing",
                action: "Poll",
                note: note.to_owned(),
            };
            sink.tell(PendingEvent { stream: stream("orders"), uid: "uid".to_owned(), announcement });
            let (request, answer) = handle.next_request().await.expect("an Event");
            assert_eq!(request.method(), Method::POST);
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            let event: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(event["note"], note);
            let created = Response::builder().status(StatusCode::CREATED).body(Body::from(body.to_vec()));
            answer.send_response(created.expect("a response"));
        }
        publishing.abort();
    }
}
