//! Secrets and ConfigMaps, as a source reads them.

use std::collections::BTreeMap;

use headgate::fetch::credentials::{Credentials, CredentialsError, Keys, kubernetes::KubernetesCredentials};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use secrecy::ExposeSecret;
use serde_json::json;

use crate::{cluster::Cluster, wanted::service_account};

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn value<'a>(keys: &'a Keys, key: &str) -> &'a [u8] {
    keys[key].expose_secret()
}

#[tokio::test]
async fn a_rotated_secret_is_read_as_it_is_now() {
    let cluster = Cluster::with_the_crd().await;
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), cluster.api.namespace());
    let token = |token: &str| Some(BTreeMap::from([("token".to_owned(), token.to_owned())]));
    let secret = Secret { metadata: named("orders-api"), string_data: token("one"), ..Secret::default() };
    secrets.create(&PostParams::default(), &secret).await.expect("the Secret is taken");
    let credentials = KubernetesCredentials::new(cluster.client());
    let read = async || credentials.secret(cluster.api.namespace(), "orders-api").await.expect("the Secret");
    assert_eq!(value(&read().await, "token"), b"one");
    let rotated = Patch::Merge(json!({"stringData": {"token": "two"}}));
    secrets.patch("orders-api", &PatchParams::default(), &rotated).await.expect("the rotation is taken");
    assert_eq!(value(&read().await, "token"), b"two");
}

#[tokio::test]
async fn a_config_map_gives_its_text_and_its_bytes() {
    let cluster = Cluster::with_the_crd().await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), cluster.api.namespace());
    let map: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": "ca"}, "data": {"ca.crt": "text"}, "binaryData": {"ca.der": "AP8="},
    }))
    .expect("a ConfigMap");
    maps.create(&PostParams::default(), &map).await.expect("the ConfigMap is taken");
    let credentials = KubernetesCredentials::new(cluster.client());
    let keys = credentials.config_map(cluster.api.namespace(), "ca").await.expect("the ConfigMap");
    assert_eq!((value(&keys, "ca.crt"), value(&keys, "ca.der")), (&b"text"[..], &[0, 255][..]));
}

#[tokio::test]
async fn what_is_not_there_is_told_apart_from_what_may_not_be_read() {
    let cluster = Cluster::with_the_crd().await;
    let namespace = cluster.api.namespace();
    let missing = KubernetesCredentials::new(cluster.client()).secret(namespace, "orders-api").await;
    assert_eq!(missing.err(), Some(CredentialsError::NotFound));
    let powerless = KubernetesCredentials::new(service_account(&cluster, "nobody").await);
    assert_eq!(powerless.secret(namespace, "orders-api").await.err(), Some(CredentialsError::Forbidden));
}
