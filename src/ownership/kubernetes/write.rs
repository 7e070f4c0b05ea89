//! One compare-and-set on a Lease, carried through until its outcome is known.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::coordination::v1::Lease;
use tokio::sync::Semaphore;

use super::client::{LeaseApi, LeaseError, within};
use crate::{backoff::Backoff, ownership::lease::Version};

/// One call waits this long for its answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// A claim is given up after this, and made again: a call that fails at once is repeated a few times, one that hangs is not.
const CLAIM_TIMEOUT: Duration = CALL_TIMEOUT;
/// So many deletions that were not answered are repeated at once.
const REPEATED_AT_ONCE: usize = 8;
const RETRY: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(3));

/// What became of a write.
#[derive(Debug)]
pub(super) enum Written {
    /// The Lease is as I wanted it.
    Done(Lease),
    /// Somebody else was first; this is how it stands, if it is there at all.
    Refused(Option<Lease>),
    /// No answer in the time that was given: it may have landed, and the watch will show it.
    Unanswered,
    /// The API server does not allow it. Unless a call before that went without an answer, nothing was written.
    Denied(LeaseError),
}

/// What follows when a write is denied, by a missing permission, a quota or a policy. All of these may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnDenial {
    Repeat,
    End,
}

/// Creates the Lease, or replaces the version it carries. A write without an answer may have landed, and the same
/// compare-and-set is safe to repeat; so it is repeated until there is an answer, and a refusal is looked into, because
/// the one who was first may have been me.
pub(super) async fn write(api: Arc<dyn LeaseApi>, lease: Lease, on_denial: OnDenial) -> Written {
    let wanted = holder_identity(&lease);
    let put = || async {
        if lease.metadata.resource_version.is_some() { api.replace(&lease).await } else { api.create(&lease).await }
    };
    match until_answered(put, on_denial).await {
        Ok(lease) => return Written::Done(lease),
        Err(error @ LeaseError::Denied { .. }) => return Written::Denied(error),
        Err(_) => {}
    }
    let name = lease.metadata.name.as_deref().unwrap_or_default();
    match until_answered(|| api.get(name), on_denial).await {
        Ok(current) if holder_identity(&current) == wanted => Written::Done(current),
        Ok(current) => Written::Refused(Some(current)),
        Err(error @ LeaseError::Denied { .. }) => Written::Denied(error),
        Err(_) => Written::Refused(None),
    }
}

/// As [`write()`], for a Lease that nobody runs on yet: it gives up when it is denied, and after a while, so that what cannot be
/// claimed takes no place from what can.
pub(super) async fn claim(api: Arc<dyn LeaseApi>, lease: Lease) -> Written {
    tokio::time::timeout(CLAIM_TIMEOUT, write(api, lease, OnDenial::End)).await.unwrap_or(Written::Unanswered)
}

/// As [`write()`], but without an answer after `patience` it gives up.
pub(super) async fn write_within(patience: Duration, api: Arc<dyn LeaseApi>, lease: Lease) -> Written {
    tokio::time::timeout(patience, write(api, lease, OnDenial::Repeat)).await.unwrap_or(Written::Unanswered)
}

/// What became of a deletion.
#[derive(Debug)]
pub(super) enum Deletion {
    /// This version is gone.
    Done,
    /// It has changed since, and stands like this.
    Changed(Box<Lease>),
    /// The API server does not allow it. Nothing was done.
    Denied,
}

/// The turns of deletions. Each call waits for one: it has a connection of its own, and a namespace may go with thousands of objects.
#[derive(Debug, Clone)]
pub(super) struct DeletionTurns {
    first: Arc<Semaphore>,
    again: Arc<Semaphore>,
}

impl DeletionTurns {
    pub(super) fn new(at_once: usize) -> Self {
        Self { first: Arc::new(Semaphore::new(at_once)), again: Arc::new(Semaphore::new(REPEATED_AT_ONCE)) }
    }
}

/// Deletes this version of the Lease. A call that is repeated waits for one of few turns, and keeps it for a pause if it fails again:
/// so an API server that refuses thousands is called no more often than for a few, and one that does not any more at once.
/// Between two calls others have theirs: some may be refused for as long as a policy is down.
pub(super) async fn delete(
    api: Arc<dyn LeaseApi>,
    turns: DeletionTurns,
    name: String,
    version: Version,
    on_denial: OnDenial,
) -> Deletion {
    let call = || within(CALL_TIMEOUT, "wait for the API server", api.delete(&name, &version));
    // They are never closed.
    let turn = turns.first.acquire().await;
    let mut answer = call().await;
    drop(turn);
    let mut retry = RETRY.waits();
    while is_to_be_repeated(&answer, on_denial) {
        let _turn = turns.again.acquire().await;
        answer = call().await;
        if is_to_be_repeated(&answer, on_denial) {
            tokio::time::sleep(retry.failed()).await;
        }
    }
    match answer {
        Err(LeaseError::Conflict) => until_answered(|| api.get(&name), OnDenial::Repeat)
            .await
            .map_or(Deletion::Done, |lease| Deletion::Changed(Box::new(lease))),
        Err(LeaseError::Denied { .. }) => Deletion::Denied,
        _ => Deletion::Done,
    }
}

/// Repeats a call until the answer says something of the Lease.
async fn until_answered<T, F>(call: impl Fn() -> F, on_denial: OnDenial) -> Result<T, LeaseError>
where
    F: Future<Output = Result<T, LeaseError>>,
{
    let mut retry = RETRY.waits();
    loop {
        let answer = within(CALL_TIMEOUT, "wait for the API server", call()).await;
        if !is_to_be_repeated(&answer, on_denial) {
            return answer;
        }
        tokio::time::sleep(retry.failed()).await;
    }
}

/// Whether an answer says nothing of the Lease.
fn is_to_be_repeated<T>(answer: &Result<T, LeaseError>, on_denial: OnDenial) -> bool {
    let Err(error @ (LeaseError::Unanswered { .. } | LeaseError::Denied { .. })) = answer else { return false };
    tracing::debug!(error = error as &dyn std::error::Error, "a Lease call was not answered, or denied");
    on_denial == OnDenial::Repeat || matches!(error, LeaseError::Unanswered { .. })
}

fn holder_identity(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref()
}
