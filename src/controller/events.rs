//! Publishes Kubernetes Events, beside everything else: a slow API server or a storm of news delays nothing and no one.

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
    board::News, budget::Budget, leases_first::LeasesFirst, patch::REQUEST_TIMEOUT, writer::LAST_WORDS_WITHIN,
};
use crate::{
    api::EventSource,
    telemetry::metrics::{Metrics, ResultLabels},
};

/// News beyond this are dropped and counted: when a database goes away, every source has the same to say.
const WAITING_AT_MOST: usize = 1_000;

/// Events are for people; the API server gets at most this many per second from one replica, and so many at once.
const EVENTS_PER_SECOND: u32 = 10;
const EVENTS_AT_ONCE: u32 = 100;

/// The API server refuses longer notes.
const LONGEST_NOTE: usize = 1_024;

/// The end that takes news. It never waits.
#[derive(Clone)]
pub(super) struct Herald {
    news: mpsc::Sender<News>,
    metrics: Arc<Metrics>,
}

/// The end that publishes them.
pub(super) struct Publisher {
    /// One per process: it aggregates what repeats into series.
    recorder: Recorder,
    news: mpsc::Receiver<News>,
    leases_first: LeasesFirst,
    metrics: Arc<Metrics>,
}

/// Both ends. `instance` is the name of the pod.
pub(super) fn herald(
    client: Client,
    instance: &str,
    leases_first: LeasesFirst,
    metrics: Arc<Metrics>,
) -> (Herald, Publisher) {
    let reporter = Reporter { controller: "headgate".to_owned(), instance: Some(instance.to_owned()) };
    let (sender, receiver) = mpsc::channel(WAITING_AT_MOST);
    let recorder = Recorder::new(client, reporter);
    let publisher = Publisher { recorder, news: receiver, leases_first, metrics: metrics.clone() };
    (Herald { news: sender, metrics }, publisher)
}

impl Herald {
    pub(super) fn tell(&self, news: News) {
        if self.news.try_send(news).is_err() {
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
        let mut budget = Budget::new(EVENTS_PER_SECOND, EVENTS_AT_ONCE);
        while let Some(news) = self.news.recv().await {
            // Last words wait for nobody.
            shutdown.run_until_cancelled(self.leases_first.passed()).await;
            while let Err(next) = budget.take(Instant::now()) {
                sleep_until(next).await;
            }
            self.publish(&news).await;
        }
    }

    async fn publish(&self, news: &News) {
        let announcement = &news.announcement;
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
            namespace: Some(news.stream.namespace().to_owned()),
            name: Some(news.stream.name().to_owned()),
            uid: Some(news.uid.clone()),
            ..ObjectReference::default()
        };
        let result = match timeout(REQUEST_TIMEOUT, self.recorder.publish(&event, &reference)).await {
            Ok(Ok(())) => "ok",
            Ok(Err(error)) => {
                debug!(source = %news.stream, reason = announcement.reason, %error, "an Event was not published");
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
