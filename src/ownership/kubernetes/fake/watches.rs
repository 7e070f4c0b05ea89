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

/// One watch, over one replica's connection.
pub(super) struct Watch {
    api: Arc<FakeApi>,
    faults: Arc<Faults>,
    dropped: watch::Receiver<u64>,
    /// How much of the log was shown; `None` before the list.
    at: Option<usize>,
    ready: VecDeque<Event<Lease>>,
}

impl Watch {
    pub(super) fn open(api: Arc<FakeApi>, faults: Arc<Faults>) -> Self {
        let dropped = faults.watches_dropped.subscribe();
        Self { api, faults, dropped, at: None, ready: VecDeque::new() }
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
                self.at = None;
                return Err(unanswered());
            }
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let Some(at) = self.at else {
                self.list();
                continue;
            };
            let mut length = self.api.length.subscribe();
            tokio::select! {
                _ = length.wait_for(|length| *length > at) => {}
                _ = self.dropped.changed() => {
                    self.dropped.mark_changed();
                    continue;
                }
            }
            let log = self.api.lock();
            self.ready.extend(log.log[at..].iter().enumerate().filter_map(|(nth, entry)| show(entry, at + nth + 1)));
            self.at = Some(log.log.len());
        }
    }

    fn list(&mut self) {
        let state = self.api.lock();
        self.at = Some(state.log.len());
        self.ready.push_back(Event::Init);
        self.ready.extend(state.leases.values().filter(|lease| is_watched(lease)).cloned().map(Event::InitApply));
        self.ready.push_back(Event::InitDone);
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
