//! Tells the owner of an object that this version cannot read: Accepted=False, InvalidSpec.
//!
//! No replica of this release holds such an object, so each may write it; the resourceVersion lets one of them. An object that
//! already says so, or that a replica of another release runs, which can read it, is left alone.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::warn;

use super::{
    patch::{FIELD_MANAGER, REQUEST_TIMEOUT},
    token_bucket::TokenBucket,
    unreadable::{InvalidSource, Next, Unreadable},
};
use crate::{
    api::{
        AcceptedReason, AssignedReason, EventSource,
        conditions::{ACCEPTED, Facts, conditions},
    },
    ownership::Peers,
    telemetry::metrics::{Metrics, StatusWriteLabels},
};

/// Beside the writer's budget, and small: an object that passed the CRD and cannot be read is an accident.
const MARKS_PER_SECOND: u32 = 1;
const MARKS_AT_ONCE: u32 = 10;

/// What marks the objects that this release cannot read.
pub(super) struct Marks<'a> {
    pub(super) client: Client,
    pub(super) unreadable: Unreadable,
    pub(super) peers: watch::Receiver<Peers>,
    pub(super) metrics: &'a Metrics,
}

impl Marks<'_> {
    /// Marks what is due, until it is dropped.
    pub(super) async fn run(mut self) {
        let mut budget = TokenBucket::new(MARKS_PER_SECOND, MARKS_AT_ONCE);
        let mut entered = self.unreadable.changes();
        let mut known = self.peers.borrow().clone();
        loop {
            let now = Instant::now();
            let peers = self.peers.borrow_and_update().clone();
            // Also those that changed while an owner was told.
            if known != peers {
                self.unreadable.others_changed(now);
                known = peers.clone();
            }
            let wake = match self.unreadable.next(peers.may_differ(), now) {
                Next::Mark(source) => match budget.take(now) {
                    Ok(()) => {
                        self.tell(&source, &peers).await;
                        continue;
                    }
                    Err(next) => Some(next),
                },
                Next::At(at) => Some(at),
                Next::Nothing => None,
            };
            tokio::select! {
                Ok(()) = entered.changed() => {}
                Ok(()) = self.peers.changed() => {}
                () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
                // Nothing can become due any more.
                else => return,
            }
        }
    }

    async fn tell(&self, source: &InvalidSource, peers: &Peers) {
        let (result, settled) = match timeout(REQUEST_TIMEOUT, mark(&self.client, source, peers)).await {
            Ok(Ok(Marked::Settled(result))) => (result, true),
            Ok(Ok(Marked::Conflict)) => ("conflict", false),
            Ok(Err(kube::Error::Api(_))) => ("refused", false),
            Ok(Err(_)) => ("unavailable", false),
            Err(_) => ("timeout", false),
        };
        if settled {
            self.unreadable.settle(source, Instant::now());
        } else if self.unreadable.fail(source, Instant::now()) && result != "conflict" {
            warn!(stream = %source.stream, result, "could not tell the owner of an invalid EventSource; trying again");
        }
        self.metrics.status_writes.get_or_create(&StatusWriteLabels { trigger: "invalid", result }).inc();
    }
}

/// What came of one look at an object.
#[derive(Debug, PartialEq, Eq)]
enum Marked {
    /// Nothing is left to say for now.
    Settled(&'static str),
    /// Somebody wrote it meanwhile.
    Conflict,
}

async fn mark(client: &Client, source: &InvalidSource, peers: &Peers) -> kube::Result<Marked> {
    let resource = ApiResource::erase::<EventSource>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), source.stream.namespace(), &resource);
    let object = match api.get(source.stream.name()).await {
        Ok(object) => object,
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(Marked::Settled("gone")),
        Err(error) => return Err(error),
    };
    let metadata = &object.metadata;
    let same = metadata.uid.as_deref() == Some(&source.uid) && metadata.generation == Some(source.generation);
    if !same || is_judged(&object.data, source.generation, peers) {
        return Ok(Marked::Settled("unchanged"));
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
        Ok(_) => Ok(Marked::Settled("ok")),
        Err(kube::Error::Api(status)) if status.is_conflict() => Ok(Marked::Conflict),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Marked::Settled("gone")),
        Err(error) => Err(error),
    }
}

/// Somebody said so before, or holds it and has read this generation of it. What was said by a holder that has ended since is
/// said of an object that nobody runs.
fn is_judged(object: &Value, generation: i64, peers: &Peers) -> bool {
    let is_held = object["status"]["holder"]["identity"].as_str().is_some_and(|identity| peers.may_include(identity));
    standing_conditions(object).iter().any(|condition| {
        condition.type_ == ACCEPTED
            && condition.observed_generation == Some(generation)
            && (condition.reason == AcceptedReason::InvalidSpec.as_str() || is_held)
    })
}

/// The conditions in the object; what cannot be read counts as none.
fn standing_conditions(object: &Value) -> Vec<Condition> {
    Vec::deserialize(&object["status"]["conditions"]).unwrap_or_default()
}

#[cfg(test)]
mod tests;
