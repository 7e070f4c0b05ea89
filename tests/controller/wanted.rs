//! From EventSources to the desired set.

use std::sync::Arc;

use headgate::{
    api::{FINALIZER, event_source::DeletionPolicy},
    controller::ControllerError,
    event::StreamName,
};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

use crate::{
    cluster::Cluster,
    replica::{Replica, healthy, stream_of, until},
};

async fn desired(replica: &Replica, stream: &StreamName) -> Arc<headgate::api::Source> {
    until(&format!("{stream} is desired"), || async { replica.desired.get(stream) }).await
}

#[tokio::test]
async fn every_replica_desires_what_is_applied_until_it_is_deleted() {
    let cluster = Cluster::with_the_crd().await;
    let before = stream_of(&cluster.create("before").await);
    let mut replicas = [Replica::start("a", cluster.client()), Replica::start("b", cluster.client())];
    for replica in &mut replicas {
        replica.watches().await;
        assert!(replica.desired.is_complete() && replica.desired.get(&before).is_some(), "the first list is complete");
    }
    let after = stream_of(&cluster.create("after").await);
    cluster.delete("before").await;
    for replica in &replicas {
        desired(replica, &after).await;
        until("the deleted object is not desired", || async { replica.desired.get(&before).is_none().then_some(()) })
            .await;
    }
}

#[tokio::test]
async fn a_status_write_is_not_reconciled_and_an_edit_is() {
    let cluster = Cluster::with_the_crd().await;
    let object = cluster.create("orders").await;
    let mut replica = Replica::start("a", cluster.client());
    replica.watches().await;
    let known = desired(&replica, &stream_of(&object)).await;
    replica.report(healthy(replica.held(&object), 7));
    cluster.condition("orders", "Ready", "CaughtUp").await;
    // Watch events come in order: when this one is seen, that of the status was.
    let marker = stream_of(&cluster.create("marker").await);
    desired(&replica, &marker).await;
    assert!(Arc::ptr_eq(&known, &desired(&replica, &stream_of(&object)).await));

    cluster.edit("orders", json!({"spec": {"suspend": true}})).await;
    until("the edit is seen", || async { desired(&replica, &stream_of(&object)).await.spec.suspend.then_some(()) })
        .await;
}

#[tokio::test]
async fn a_poll_request_is_desired_and_echoed_when_it_was_served() {
    let cluster = Cluster::with_the_crd().await;
    let object = cluster.create("orders").await;
    let replica = Replica::start("a", cluster.client());
    cluster.edit("orders", json!({"metadata": {"annotations": {"headgate.dev/poll-requested-at": "noon"}}})).await;
    let requested = until("the request is seen", || async {
        desired(&replica, &stream_of(&object)).await.poll_requested_at.clone()
    })
    .await;
    let mut served = healthy(replica.held(&object), 7);
    served.handled_poll_request = Some(requested);
    replica.report(served);
    until("the request is echoed", || async {
        (cluster.get("orders").await.status?.last_handled_poll_request? == "noon").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_finalizer_comes_and_goes_with_the_policy() {
    let cluster = Cluster::with_the_crd().await;
    let object = cluster.create("orders").await;
    let replica = Replica::start("a", cluster.client());
    replica.report(healthy(replica.held(&object), 7));
    cluster.condition("orders", "Ready", "CaughtUp").await;
    assert!(cluster.get("orders").await.finalizers().is_empty(), "none for Retain");
    cluster.set_policy("orders", DeletionPolicy::Delete).await;
    until("the finalizer is there", || async {
        (cluster.get("orders").await.finalizers() == [FINALIZER]).then_some(())
    })
    .await;
    cluster.set_policy("orders", DeletionPolicy::Retain).await;
    until("the finalizer is gone", || async { cluster.get("orders").await.finalizers().is_empty().then_some(()) })
        .await;
}

#[tokio::test]
async fn a_deleted_object_stays_until_its_events_are_gone_and_then_goes() {
    let cluster = Cluster::with_the_crd().await;
    let object = cluster.create_with("orders", |spec| spec.deletion_policy = DeletionPolicy::Delete).await;
    let replica = Replica::start("a", cluster.client());
    replica.report(healthy(replica.held(&object), 7));
    until("the finalizer is there", || async {
        (cluster.get("orders").await.finalizers() == [FINALIZER]).then_some(())
    })
    .await;
    cluster.delete("orders").await;
    until("the deletion is desired", || async { desired(&replica, &stream_of(&object)).await.deleting.then_some(()) })
        .await;
    let mut forgotten = healthy(replica.held(&cluster.get("orders").await), 7);
    forgotten.forgotten = true;
    replica.report(forgotten);
    cluster.is_gone("orders").await;
    until("it is not desired", || async { replica.desired.get(&stream_of(&object)).is_none().then_some(()) }).await;
}

#[tokio::test]
async fn an_object_deleted_while_nobody_held_it_is_desired_by_who_comes_next() {
    let cluster = Cluster::with_the_crd().await;
    let object = cluster.create_with("orders", |spec| spec.deletion_policy = DeletionPolicy::Delete).await;
    cluster.edit("orders", json!({"metadata": {"finalizers": [FINALIZER]}})).await;
    cluster.delete("orders").await;
    let replica = Replica::start("a", cluster.client());
    assert!(desired(&replica, &stream_of(&object)).await.deleting);
    let mut forgotten = replica.held(&cluster.get("orders").await);
    forgotten.forgotten = true;
    replica.report(forgotten);
    cluster.is_gone("orders").await;
}

/// A client with the rights of a ServiceAccount of this test.
pub(crate) async fn service_account(cluster: &Cluster, name: &str) -> Client {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("kubeconfig");
    cluster.api.service_account(name, &file).await.expect("an account");
    client_of(Kubeconfig::read_from(&file).expect("a kubeconfig")).await
}

async fn client_of(kubeconfig: Kubeconfig) -> Client {
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a config");
    Client::try_from(config).expect("a client")
}

#[tokio::test]
async fn a_replica_without_the_right_to_list_ends_and_says_which_is_missing() {
    let cluster = Cluster::with_the_crd().await;
    let replica = Replica::start("a", service_account(&cluster, "nobody").await);
    let error = replica.end().await.expect_err("it may not list");
    assert_eq!(error, ControllerError::Forbidden);
    assert!(error.to_string().contains("get, list and watch on eventsources.headgate.dev"), "{error}");
}

#[tokio::test]
async fn a_replica_whom_the_api_server_does_not_know_ends_and_says_so() {
    let cluster = Cluster::with_the_crd().await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("kubeconfig");
    cluster.api.service_account("somebody", &file).await.expect("an account");
    let mut kubeconfig = Kubeconfig::read_from(&file).expect("a kubeconfig");
    for user in &mut kubeconfig.auth_infos {
        user.auth_info.as_mut().expect("a user").token = Some("not-a-token".to_owned().into());
    }
    let replica = Replica::start("a", client_of(kubeconfig).await);
    assert_eq!(replica.end().await, Err(ControllerError::Unauthorized));
}

/// The rights that the chart gives to the controller; this test is where they are known to suffice.
#[tokio::test]
async fn the_documented_rights_suffice() {
    let cluster = Cluster::with_the_crd().await;
    let client = service_account(&cluster, "headgate").await;
    let name = format!("{}-headgate", cluster.api.namespace());
    let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
    let rules = json!([
        {"apiGroups": ["headgate.dev"], "resources": ["eventsources"], "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": ["headgate.dev"], "resources": ["eventsources/status"], "verbs": ["patch"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
    ]);
    let role = ClusterRole {
        metadata: metadata.clone(),
        rules: Some(serde_json::from_value(rules).expect("rules")),
        aggregation_rule: None,
    };
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "headgate", "namespace": cluster.api.namespace()}],
    }))
    .expect("a binding");
    Api::all(cluster.client()).create(&PostParams::default(), &role).await.expect("the role");
    let bindings: Api<ClusterRoleBinding> = Api::all(cluster.client());
    bindings.patch(&name, &PatchParams::apply("test"), &Patch::Apply(&binding)).await.expect("the binding");

    // RBAC is effective when its own watch has seen it; until then a controller would end with 403.
    until("the rights are given", || async {
        Api::<headgate::api::EventSource>::all(client.clone()).list(&ListParams::default()).await.ok()
    })
    .await;
    let object = cluster.create_with("orders", |spec| spec.deletion_policy = DeletionPolicy::Delete).await;
    let replica = Replica::start("a", client);
    replica.report(healthy(replica.held(&object), 7));
    cluster.condition("orders", "Ready", "CaughtUp").await;
    cluster.event("orders", "SourceAssigned").await;
    until("the finalizer is there", || async {
        (cluster.get("orders").await.finalizers() == [FINALIZER]).then_some(())
    })
    .await;
}
