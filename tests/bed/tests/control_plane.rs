//! The control plane of the test bed is a real one, and survives what tests of outages do to it.

use std::collections::BTreeMap;
use std::time::Duration;

use headgate_bed::control_plane::ControlPlane;
use headgate_bed::test_api::TestApi;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::time::timeout;

fn config_map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([("kept".to_owned(), "yes".to_owned())])),
        ..ConfigMap::default()
    }
}

async fn a_control_plane_with(name: &str) -> (ControlPlane, Api<ConfigMap>) {
    let control_plane = ControlPlane::temporary().await.expect("a control plane");
    let api: Api<ConfigMap> = Api::namespaced(control_plane.client().await.expect("a client"), "default");
    api.create(&PostParams::default(), &config_map(name)).await.expect("an object");
    (control_plane, api)
}

#[tokio::test]
async fn objects_and_the_address_survive_a_restart_of_both_servers() {
    let (mut control_plane, api) = a_control_plane_with("a").await;
    let url = control_plane.url().to_owned();
    for kill in [false, true] {
        if kill {
            control_plane.api_server.kill().await.expect("killed");
            control_plane.etcd.kill().await.expect("killed");
        } else {
            control_plane.stop().await.expect("stopped");
        }
        assert!(!control_plane.is_running());
        api.get("a").await.expect_err("nobody answers");
        control_plane.start().await.expect("started again");
        assert_eq!(control_plane.url(), url);
        api.get("a").await.expect("it is still there");
    }
}

#[tokio::test]
async fn an_outage_of_etcd_alone_ends_by_itself() {
    let (mut control_plane, api) = a_control_plane_with("a").await;
    let server = control_plane.api_server.id();
    control_plane.etcd.kill().await.expect("killed");
    control_plane.start().await.expect("started again");
    assert_eq!(control_plane.api_server.id(), server, "the API server was left alone");
    api.create(&PostParams::default(), &config_map("b")).await.expect("writes go on");
}

#[tokio::test]
async fn a_frozen_api_server_answers_nothing_until_it_goes_on() {
    let (control_plane, api) = a_control_plane_with("a").await;
    control_plane.api_server.pause().expect("frozen");
    let answer = timeout(Duration::from_millis(300), api.get("a")).await;
    assert!(answer.is_err(), "a frozen server answered");
    control_plane.api_server.resume().expect("it goes on");
    control_plane.ready().await.expect("it is ready again");
    api.get("a").await.expect("it answers");
}

#[tokio::test]
async fn a_test_gets_the_crds_and_a_namespace_of_its_own() {
    let control_plane = ControlPlane::temporary().await.expect("a control plane");
    let first = TestApi::on(control_plane.kubeconfig()).await.expect("prepared");
    let second = TestApi::on(control_plane.kubeconfig()).await.expect("prepared");
    assert_ne!(first.namespace(), second.namespace());
    let crds: Api<CustomResourceDefinition> = Api::all(first.client());
    crds.get("eventsources.headgate.dev").await.expect("the CRD is there");
}

#[tokio::test]
async fn a_service_account_may_only_do_what_was_bound_to_it() {
    let control_plane = ControlPlane::temporary().await.expect("a control plane");
    let test = TestApi::on(control_plane.kubeconfig()).await.expect("prepared");
    let file = control_plane.directory().join("operator.kubeconfig");
    test.service_account("operator", &file).await.expect("an account");
    let config = Kubeconfig::read_from(&file).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.expect("a config");
    let api: Api<ConfigMap> = Api::namespaced(Client::try_from(config).expect("a client"), test.namespace());
    let refused = api.get("anything").await.expect_err("no role was bound");
    let kube::Error::Api(status) = refused else { panic!("not an answer of the API server: {refused}") };
    assert!(status.is_forbidden(), "{status:?}");
    assert!(status.message.contains(&format!("system:serviceaccount:{}:operator", test.namespace())), "{status:?}");
}
