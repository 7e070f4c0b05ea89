//! Tells the owner of an object that this version cannot read: Accepted=False, InvalidSpec.
//!
//! Nobody holds such an object, so every replica may write it; the resourceVersion lets one of them, and an object that
//! already says so, or that some replica runs (a newer one, which can read it), is left alone.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tracing::debug;

use super::{
    budget::Budget,
    intake::InvalidSource,
    patch::{FIELD_MANAGER, REQUEST_TIMEOUT},
};
use crate::{
    api::{
        AcceptedReason, AssignedReason, EventSource,
        conditions::{ACCEPTED, Facts, conditions},
    },
    telemetry::metrics::{Metrics, StatusWriteLabels},
};

/// Beside the writer's budget, and small: an object that passed the CRD and cannot be read is an accident.
const MARKS_PER_SECOND: u32 = 1;
const MARKS_AT_ONCE: u32 = 10;

/// Marks each object that comes in, until the watch ends.
pub(super) async fn mark_all(client: Client, mut invalid: mpsc::UnboundedReceiver<InvalidSource>, metrics: &Metrics) {
    let mut budget = Budget::new(MARKS_PER_SECOND, MARKS_AT_ONCE);
    while let Some(source) = invalid.recv().await {
        while let Err(next) = budget.take(Instant::now()) {
            sleep_until(next).await;
        }
        let result = match timeout(REQUEST_TIMEOUT, mark(&client, &source)).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => {
                debug!(source = %source.stream, %error, "could not mark an invalid EventSource");
                "failed"
            }
            Err(_) => "timeout",
        };
        metrics.status_writes.get_or_create(&StatusWriteLabels { trigger: "invalid", result }).inc();
    }
}

async fn mark(client: &Client, source: &InvalidSource) -> kube::Result<&'static str> {
    let resource = ApiResource::erase::<EventSource>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), source.stream.namespace(), &resource);
    let object = match api.get(source.stream.name()).await {
        Ok(object) => object,
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok("gone"),
        Err(error) => return Err(error),
    };
    let metadata = &object.metadata;
    let same = metadata.uid.as_deref() == Some(&source.uid) && metadata.generation == Some(source.generation);
    if !same || is_judged(&object.data, source.generation) {
        return Ok("unchanged");
    }
    let facts = Facts {
        accepted: Some((AcceptedReason::InvalidSpec, &source.message)),
        assigned: Some((AssignedReason::AwaitingReplica, "not run while the spec is invalid")),
        ..Facts::unknown(source.generation)
    };
    // The rest of the status stays: what our field manager leaves out of an apply is removed, the cursor among it.
    let mut status = object.data["status"].as_object().cloned().unwrap_or_default();
    status.retain(|field, _| field != "holder" && field != "nextPollTime");
    status.insert("observedGeneration".to_owned(), json!(source.generation));
    let conditions = conditions(&facts, &standing_conditions(&object.data), Timestamp::now());
    status.insert("conditions".to_owned(), json!(conditions));
    let patch = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"resourceVersion": metadata.resource_version},
        "status": status,
    });
    match api
        .patch_status(source.stream.name(), &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&patch))
        .await
    {
        Ok(_) => Ok("ok"),
        Err(kube::Error::Api(status)) if status.is_conflict() => Ok("conflict"),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok("gone"),
        Err(error) => Err(error),
    }
}

/// Somebody said so before, or runs it.
fn is_judged(object: &Value, generation: i64) -> bool {
    standing_conditions(object).iter().any(|condition| {
        condition.type_ == ACCEPTED
            && condition.observed_generation == Some(generation)
            && (condition.status == "True" || condition.reason == AcceptedReason::InvalidSpec.as_str())
    })
}

/// The conditions in the object; what cannot be read counts as none.
fn standing_conditions(object: &Value) -> Vec<Condition> {
    Vec::deserialize(&object["status"]["conditions"]).unwrap_or_default()
}
