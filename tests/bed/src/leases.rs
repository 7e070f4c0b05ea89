//! The history of the source Leases, as a watch shows it.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinHandle;

use crate::checker::{LeaseHistory, Named};
use crate::clock;
use crate::stage::SYSTEM;

const KIND: &str = "headgate.dev/kind=EventSource";
const NAME: &str = "headgate.dev/name";
/// How soon a watch that broke off is begun again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// A watch may have been dead for this long before it says so.
const UNNOTICED_US: u64 = 1_000_000;

/// Watches until it is asked for what it saw, or dropped.
#[derive(Debug)]
pub struct LeaseWatch {
    seen: Arc<Mutex<Seen>>,
    watching: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    history: LeaseHistory,
    blind_since: Option<u64>,
}

impl LeaseWatch {
    /// Begins.
    #[must_use]
    pub fn begin(client: &Client) -> Self {
        let seen = Arc::new(Mutex::new(Seen { blind_since: Some(clock::now_us()), ..Seen::default() }));
        let watching = tokio::spawn(watch(Api::namespaced(client.clone(), SYSTEM), Arc::clone(&seen)));
        Self { seen, watching }
    }

    /// What it saw.
    ///
    /// # Panics
    /// Never: no holder of the lock panics.
    #[must_use]
    pub fn end(self) -> LeaseHistory {
        let mut seen = self.seen.lock().expect("no holder panics");
        seen.sees_again();
        std::mem::take(&mut seen.history)
    }
}

impl Drop for LeaseWatch {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// Each time from a complete list: what a broken watch has missed is blind time, not guesswork.
async fn watch(leases: Api<Lease>, seen: Arc<Mutex<Seen>>) {
    loop {
        let mut events = pin!(watcher(leases.clone(), watcher::Config::default().labels(KIND)));
        while let Some(event) = events.next().await {
            let mut seen = seen.lock().expect("no holder panics");
            match event {
                Ok(Event::Apply(lease) | Event::InitApply(lease)) => seen.is_named(&lease, holder(&lease)),
                Ok(Event::Delete(lease)) => seen.is_named(&lease, None),
                Ok(Event::Init) => {}
                Ok(Event::InitDone) => seen.sees_again(),
                Err(_) => {
                    seen.blind_since.get_or_insert(clock::now_us().saturating_sub(UNNOTICED_US));
                    break;
                }
            }
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

fn holder(lease: &Lease) -> Option<String> {
    lease.spec.as_ref()?.holder_identity.clone().filter(|holder| !holder.is_empty())
}

impl Seen {
    fn is_named(&mut self, lease: &Lease, holder: Option<String>) {
        let Some(source) = lease.labels().get(NAME).cloned() else { return };
        let last = self.history.named.iter().rev().find(|named| named.source == source);
        if last.is_none_or(|last| last.holder != holder) {
            self.history.named.push(Named { source, holder, at: clock::now_us() });
        }
    }

    fn sees_again(&mut self) {
        if let Some(since) = self.blind_since.take() {
            self.history.blind.push((since, clock::now_us()));
        }
    }
}
