use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use super::context::LOCKED_RETRY;
use crate::{
    api::{Source, event_source::DeletionPolicy},
    store::{Answer, Forget, Store},
};

/// Between two tries to forget a stream while the database is away.
const FORGET_RETRY: Duration = Duration::from_secs(1);

/// Events and cursor go only when the user asked for it, and only while our finalizer keeps the object.
pub(super) fn must_forget(source: &Source) -> bool {
    source.has_finalizer && source.spec.deletion_policy == DeletionPolicy::Delete
}

/// FORGET, until the row has answered. Refused means that the row belongs to another object: then nothing of ours is left.
pub(super) async fn forget_stream(store: &dyn Store, forget: Forget) {
    loop {
        match store.forget(forget.clone()).await {
            Ok(Answer::Applied(()) | Answer::Refused(_)) => {
                info!(stream = %forget.stream, "events and cursor are deleted");
                return;
            }
            Ok(Answer::Locked) => sleep(LOCKED_RETRY).await,
            Err(error) => {
                warn!(stream = %forget.stream, %error, "cannot delete events and cursor yet");
                sleep(FORGET_RETRY).await;
            }
        }
    }
}
