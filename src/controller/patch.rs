//! The requests that change an EventSource: its status, and our finalizer. Each is conditional on the object being the one
//! that was read, so a replica that was overtaken changes nothing.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::DeserializeGuard,
};
use serde_json::json;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{
    board::{Base, Done, Job, JobKind},
    finalizer::{FinalizerStep, still_needs},
    sample::View,
    status::{compose, says_the_same},
};
use crate::{
    api::{EventSource, FINALIZER},
    clock::Moment,
    event::StreamName,
};

/// The one field manager of all replicas: whoever holds a source owns the whole status.
pub(super) const FIELD_MANAGER: &str = "headgate";

/// A request to the API server that takes longer is given up and tried again later.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What came of a job, and what the metrics call it.
pub(super) struct Performed {
    pub(super) done: Done,
    pub(super) result: &'static str,
}

/// Does one job.
pub(super) async fn perform(client: &Client, job: Job) -> Performed {
    let api = Api::namespaced(client.clone(), job.stream.namespace());
    let written = match &job.kind {
        JobKind::Status { .. } => "status",
        JobKind::Finalizer(_) => "finalizers",
    };
    let work = async {
        match job.kind {
            JobKind::Status { view, base, .. } => write_status(&api, &job.stream, &job.uid, &view, base).await,
            JobKind::Finalizer(step) => write_finalizer(&api, &job.stream, &job.uid, step).await,
        }
    };
    match timeout(REQUEST_TIMEOUT, work).await {
        Ok(Ok(performed)) => performed,
        Ok(Err(error)) => failed(&job.stream, written, &error),
        Err(_) => Performed { done: Done::Failed, result: "timeout" },
    }
}

async fn write_status(
    api: &Api<DeserializeGuard<EventSource>>,
    stream: &StreamName,
    uid: &str,
    view: &View,
    base: Option<Base>,
) -> kube::Result<Performed> {
    let base = match base {
        Some(base) => base,
        None => match read(api, stream, uid).await? {
            Some(base) => base,
            None => return Ok(Performed { done: Done::Gone, result: "gone" }),
        },
    };
    if view.is_last_word() && base.status.holder.as_ref().is_some_and(|holder| holder.identity != view.holder()) {
        // Another replica runs it by now and has said so.
        return Ok(Performed { done: Done::Settled(base), result: "superseded" });
    }
    let status = compose(view, &base.status, Timestamp::now(), Moment::now());
    if says_the_same(&status, &base.status) {
        return Ok(Performed { done: Done::Settled(base), result: "unchanged" });
    }

    let patch = json!({
        "apiVersion": EventSource::api_version(&()),
        "kind": EventSource::kind(&()),
        // A write by anybody since ours was read is a conflict; so is another object of this name.
        "metadata": {"resourceVersion": base.resource_version},
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let written = api.patch_status(stream.name(), &params, &Patch::Apply(&patch)).await?;
    let resource_version = written.meta().resource_version.clone().unwrap_or_default();
    Ok(Performed { done: Done::Settled(Base { resource_version, status: Arc::new(status) }), result: "ok" })
}

async fn read(api: &Api<DeserializeGuard<EventSource>>, stream: &StreamName, uid: &str) -> kube::Result<Option<Base>> {
    let object = api.get(stream.name()).await?;
    if object.meta().uid.as_deref() != Some(uid) {
        return Ok(None);
    }
    let resource_version = object.meta().resource_version.clone().unwrap_or_default();
    // A status that cannot be read is replaced as a whole.
    let status = object.0.ok().and_then(|object| object.status).unwrap_or_default();
    Ok(Some(Base { resource_version, status: Arc::new(status) }))
}

async fn write_finalizer(
    api: &Api<DeserializeGuard<EventSource>>,
    stream: &StreamName,
    uid: &str,
    step: FinalizerStep,
) -> kube::Result<Performed> {
    let object = api.get(stream.name()).await?;
    if object.meta().uid.as_deref() != Some(uid) {
        return Ok(Performed { done: Done::Gone, result: "gone" });
    }
    let settled = |result| Performed { done: Done::FinalizerSettled, result };
    let Ok(object) = object.0 else { return Ok(settled("unchanged")) };
    if !still_needs(&object, step) {
        return Ok(settled("unchanged"));
    }
    let mut finalizers = object.finalizers().to_vec();
    match step {
        FinalizerStep::Add => finalizers.push(FINALIZER.to_owned()),
        FinalizerStep::RemoveForgotten | FinalizerStep::RemoveRetained => {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
    }
    // The list has other writers; with the resourceVersion the patch replaces exactly the list that was read.
    let patch = json!({
        "metadata": {"resourceVersion": object.resource_version(), "finalizers": finalizers},
    });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    api.patch(stream.name(), &params, &Patch::Merge(&patch)).await?;
    Ok(settled("ok"))
}

fn failed(stream: &StreamName, written: &'static str, error: &kube::Error) -> Performed {
    match error {
        kube::Error::Api(status) if status.is_not_found() => Performed { done: Done::Gone, result: "gone" },
        kube::Error::Api(status) if status.is_conflict() => {
            debug!(%stream, "the object was changed meanwhile; reading it again");
            Performed { done: Done::Conflict, result: "conflict" }
        }
        kube::Error::Api(status) => {
            warn!(%stream, written, code = status.code, reason = %status.reason, "the API server refused a write");
            Performed { done: Done::Failed, result: "refused" }
        }
        _ => Performed { done: Done::Failed, result: "unavailable" },
    }
}

#[cfg(test)]
mod tests;
