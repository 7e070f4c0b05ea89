//! A supervisor that obeys: the tasks that it runs take time to stop, and that is all they do.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use super::super::KubernetesOwnership;
use crate::{
    event::StreamName,
    ownership::{Directive, Directives, Ownership},
    store::Holder,
};

/// The tasks of one replica.
#[derive(Default)]
pub(super) struct Running {
    pub(super) tasks: Mutex<HashMap<StreamName, Task>>,
    next: AtomicU64,
    /// Those that run in doubt.
    pub(super) doubted: Mutex<BTreeSet<StreamName>>,
    /// When each source stopped or began to run here last.
    pub(super) stopped: Mutex<HashMap<StreamName, Instant>>,
    pub(super) began: Mutex<HashMap<StreamName, Instant>>,
    /// How long the poll of a source takes that is to stop; of others it is a moment.
    pub(super) polls: Mutex<HashMap<StreamName, Duration>>,
}

pub(super) struct Task {
    id: u64,
    pub(super) holder: Holder,
}

impl Running {
    pub(super) fn runs(&self, stream: &StreamName, holder: Option<&Holder>) -> bool {
        self.tasks.lock().unwrap().get(stream).is_some_and(|task| Some(&task.holder) == holder)
    }

    /// Ends a task, unless a newer one of the same source has begun.
    fn end(&self, stream: &StreamName, id: u64) {
        let mut tasks = self.tasks.lock().unwrap();
        if tasks.get(stream).is_some_and(|task| task.id == id) {
            tasks.remove(stream);
            self.stopped.lock().unwrap().insert(stream.clone(), Instant::now());
        }
    }

    fn begin(&self, stream: StreamName, holder: Holder) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.began.lock().unwrap().insert(stream.clone(), Instant::now());
        self.tasks.lock().unwrap().insert(stream, Task { id, holder });
    }
}

/// Runs what it is told; a poll takes up to 300 ms to finish.
pub(super) async fn supervise(
    mut directives: Directives,
    ownership: Arc<KubernetesOwnership>,
    running: Arc<Running>,
    seed: u64,
) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut polls: FuturesUnordered<BoxFuture<'static, (StreamName, u64, bool)>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some((stream, id, yields)) = polls.next(), if !polls.is_empty() => {
                running.end(&stream, id);
                if yields {
                    ownership.yielded(&stream);
                }
            }
            directive = directives.recv() => {
                let (stream, yields) = match directive {
                    None => std::future::pending().await,
                    Some(Directive::Run(holding)) => {
                        running.doubted.lock().unwrap().remove(&holding.stream);
                        running.begin(holding.stream, holding.holder);
                        continue;
                    }
                    Some(Directive::RunInDoubt(holding)) => {
                        running.doubted.lock().unwrap().insert(holding.stream.clone());
                        running.begin(holding.stream, holding.holder);
                        continue;
                    }
                    Some(Directive::Confirmed(stream)) => {
                        running.doubted.lock().unwrap().remove(&stream);
                        continue;
                    }
                    Some(Directive::Yield(stream)) => (stream, true),
                    Some(Directive::Lost(stream, _)) => {
                        running.doubted.lock().unwrap().remove(&stream);
                        (stream, false)
                    }
                };
                let id = running.tasks.lock().unwrap().get(&stream).map_or(u64::MAX, |task| task.id);
                let poll = Duration::from_millis(rng.random_range(0..300));
                let poll = running.polls.lock().unwrap().get(&stream).copied().unwrap_or(poll);
                polls.push(Box::pin(async move {
                    tokio::time::sleep(poll).await;
                    (stream, id, yields)
                }));
            }
        }
    }
}
