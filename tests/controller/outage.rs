//! An API server without the CRD, with a CRD that lets through what we cannot read, and one that goes away.

use headgate::{api::EventSource, controller::WatchState, event::StreamName};
use headgate_bed::{control_plane::ControlPlane, repository};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::{CustomResourceExt, Resource},
};
use serde_json::{Value, json};

use crate::replica::{Replica, healthy, until};

fn stream(name: &str) -> StreamName {
    StreamName::new("default", name)
}

/// The CRD with a schema that takes anything: as if it were of a later version.
async fn apply_lax_crd(client: &Client) {
    let file = repository().join("crds/headgate.dev_eventsources.yaml");
    let text = std::fs::read_to_string(file).expect("the generated definition");
    let mut crd: Value = serde_saphyr::from_str(&text).expect("YAML");
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    for version in crd["spec"]["versions"].as_array_mut().expect("versions") {
        version["schema"] = json!({"openAPIV3Schema": anything.clone()});
        version.as_object_mut().expect("a version").remove("selectableFields");
    }
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = PatchParams::apply("test").force();
    api.patch(EventSource::crd_name(), &params, &Patch::Apply(&crd)).await.expect("the definition is taken");
}

async fn create(client: &Client, name: &str, spec: Value) {
    let resource = EventSource::api_resource();
    let api: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource);
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": EventSource::api_version(&()), "kind": EventSource::kind(&()),
        "metadata": {"name": name}, "spec": spec,
    }))
    .expect("an object");
    until("the object is taken", || async { api.create(&PostParams::default(), &object).await.ok() }).await;
}

fn readable() -> Value {
    json!({"http": {"url": "http://127.0.0.1:9/events"}})
}

fn unreadable() -> Value {
    json!({"http": {"url": "http://127.0.0.1:9/events", "headers": [{"name": "X-Key", "value": ["hunter2"]}]}})
}

async fn accepted(client: &Client, name: &str) -> Value {
    let resource = EventSource::api_resource();
    let api: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource);
    until(&format!("{name} is judged"), || async {
        let object = api.get(name).await.ok()?;
        let conditions = object.data["status"]["conditions"].as_array()?.clone();
        conditions.into_iter().find(|condition| condition["type"] == "Accepted")
    })
    .await
}

#[tokio::test]
async fn a_controller_waits_for_what_is_missing_and_goes_on_by_itself() {
    let mut control_plane = ControlPlane::temporary().await.expect("a control plane");
    let client = control_plane.client().await.expect("a client");
    let mut replicas = [Replica::start("a", client.clone()), Replica::start("b", client.clone())];

    // The CRD is missing: it waits, and says so.
    for replica in &mut replicas {
        replica.reaches(WatchState::CrdMissing).await;
        assert!(!replica.desired.is_complete(), "absence says nothing yet");
    }
    apply_lax_crd(&client).await;
    create(&client, "orders", readable()).await;
    for replica in &mut replicas {
        replica.watches().await;
    }

    // An object that nobody here can read stops nothing, and one replica tells its owner.
    create(&client, "broken", unreadable()).await;
    create(&client, "stock", readable()).await;
    for replica in &replicas {
        until("the next object is seen", || async { replica.desired.get(&stream("stock")) }).await;
        assert!(replica.desired.get(&stream("broken")).is_none(), "it is not run");
        assert_eq!(replica.metrics.unreadable_sources.get(), 1, "and whoever runs Headgate can see it");
    }
    let judged = accepted(&client, "broken").await;
    assert_eq!((&judged["status"], &judged["reason"]), (&json!("False"), &json!("InvalidSpec")));
    assert!(!judged["message"].to_string().contains("hunter2"), "{judged}");
    until("both have come to it", || async { replicas.iter().all(has_judged).then_some(()) }).await;
    assert_eq!(replicas.iter().map(|replica| replica.writes("invalid", "ok")).sum::<u64>(), 1, "one of them wrote");

    // The API server goes away: what is known stays known. It comes back: the next object is seen.
    control_plane.api_server.stop().await.expect("it stops");
    replicas[0].report(report_of(&replicas[0], "orders"));
    until("a write failed", || async { (replicas[0].writes("transition", "unavailable") > 0).then_some(()) }).await;
    for replica in &replicas {
        until("whoever runs it can see that no change is", || async {
            (replica.metrics.watch_failures.get() > 0).then_some(())
        })
        .await;
        assert!(replica.desired.is_complete() && replica.desired.get(&stream("orders")).is_some());
    }
    control_plane.start().await.expect("it starts");
    create(&client, "late", readable()).await;
    for replica in &replicas {
        until("the object after the outage is seen", || async { replica.desired.get(&stream("late")) }).await;
    }
    assert_eq!(accepted(&client, "orders").await["status"], "True", "the write was tried again");
}

/// A conflict with the other's mark is looked into.
fn has_judged(replica: &Replica) -> bool {
    ["ok", "unchanged"].into_iter().any(|result| replica.writes("invalid", result) > 0)
}

fn report_of(replica: &Replica, name: &str) -> headgate::loader::report::Report {
    let source = replica.desired.get(&stream(name)).expect("a desired source");
    let mut object = EventSource::new(name, source.spec.clone());
    object.metadata.namespace = Some("default".to_owned());
    object.metadata.uid = Some(source.uid.clone());
    object.metadata.generation = Some(source.generation);
    healthy(replica.held(&object), 7)
}
