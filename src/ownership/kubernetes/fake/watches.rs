//! The watch of the API server in memory.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher::Event;
use tokio::sync::watch;

use super::{Entry, FakeApi, Faults, unanswered};
use crate::ownership::kubernetes::client::LeaseError;

/// So many Leases are on one page of a list.
const PAGE: usize = 50;

/// One watch, over one replica's connection.
pub(super) struct Watch {
    api: Arc<FakeApi>,
    faults: Arc<Faults>,
    dropped: watch::Receiver<u64>,
    at: At,
    ready: VecDeque<Event<Lease>>,
}

/// How far a watch has come. As kube's watcher, it says that a list begins before it asks for it.
enum At {
    Start,
    Begun,
    /// What is left of the list, and how much of the log it shows.
    List(VecDeque<Lease>, usize),
    /// How much of the log was shown.
    Log(usize),
}

impl Watch {
    pub(super) fn open(api: Arc<FakeApi>, faults: Arc<Faults>) -> Self {
        let dropped = faults.watches_dropped.subscribe();
        Self { api, faults, dropped, at: At::Start, ready: VecDeque::new() }
    }

    pub(super) async fn next(&mut self) -> Result<Event<Lease>, LeaseError> {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.faults.healed().await;
            if self.faults.deaf.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            if self.dropped.has_changed().unwrap_or(false) {
                self.dropped.mark_unchanged();
                self.ready.clear();
                self.at = At::Start;
                return Err(unanswered());
            }
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            self.go_on().await;
        }
    }

    async fn go_on(&mut self) {
        match &mut self.at {
            At::Start => {
                self.ready.push_back(Event::Init);
                self.at = At::Begun;
            }
            At::Begun => {
                let state = self.api.lock();
                let all = state.leases.values().filter(|lease| is_watched(lease)).cloned().collect();
                self.at = At::List(all, state.log.len());
            }
            At::List(rest, at) => {
                let each = self.faults.page_ms.load(Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(each.into())).await;
                let page = rest.drain(..PAGE.min(rest.len()));
                self.ready.extend(page.map(Event::InitApply));
                if rest.is_empty() {
                    self.ready.push_back(Event::InitDone);
                    self.at = At::Log(*at);
                }
            }
            At::Log(at) => {
                let mut length = self.api.length.subscribe();
                tokio::select! {
                    _ = length.wait_for(|length| *length > *at) => {}
                    _ = self.dropped.changed() => {
                        self.dropped.mark_changed();
                        return;
                    }
                }
                let log = self.api.lock();
                let news = log.log[*at..].iter().enumerate();
                self.ready.extend(news.filter_map(|(nth, entry)| show(entry, *at + nth + 1)));
                *at = log.log.len();
            }
        }
    }
}

/// What a watch with the label selector shows of one write.
fn show(entry: &Entry, version: usize) -> Option<Event<Lease>> {
    if let Some(after) = entry.after.as_ref().filter(|lease| is_watched(lease)) {
        return Some(Event::Apply(after.clone()));
    }
    let mut gone = entry.before.clone().filter(is_watched)?;
    gone.metadata.resource_version = Some(version.to_string());
    Some(Event::Delete(gone))
}

fn is_watched(lease: &Lease) -> bool {
    let kind = lease.metadata.labels.as_ref().and_then(|labels| labels.get("headgate.dev/kind"));
    kind.is_some_and(|kind| kind == "Member" || kind == "EventSource")
}
