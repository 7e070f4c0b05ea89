//! FORGET of a deleted object.

use std::time::Duration;

use tokio::time::sleep;
use tracing::info;

use super::{reporter::Reporter, row_lock::RowLock};
use crate::{
    api::{Source, event_source::DeletionPolicy},
    backoff::{Backoff, jittered},
    store::{Answer, Forget, Store},
};

/// Between two tries to forget a stream while the database is away, with jitter: a namespace may go with thousands of sources.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));

/// Events and cursor go only when the user asked for it, and only while our finalizer keeps the object.
pub(super) fn must_forget(source: &Source) -> bool {
    source.has_finalizer && source.spec.deletion_policy == DeletionPolicy::Delete
}

/// FORGET, until the row has answered, and says what it waits for. Refused means that the row belongs to another object: then
/// nothing of ours is left.
pub(super) async fn forget_stream(store: &dyn Store, forget: Forget, reporter: &Reporter) {
    let (mut retry, mut lock) = (RETRY.waits(), RowLock::default());
    loop {
        match store.forget(forget.clone()).await {
            Ok(Answer::Applied(()) | Answer::Refused(_)) => {
                info!(stream = %forget.stream, "events and cursor are deleted");
                return;
            }
            Ok(Answer::Locked) => {
                lock.met(reporter);
                sleep(lock.retry_in()).await;
            }
            Err(error) => {
                reporter.database_unavailable(&error);
                let wait = jittered(retry.failed(), &mut rand::rng());
                sleep(wait).await;
            }
        }
    }
}
