//! Secrets and ConfigMaps, read with plain `get`: no list and no watch, which would need the right to see every Secret of
//! a namespace.

use std::{fmt::Debug, future::Future, time::Duration};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use tracing::warn;

use super::{Credentials, CredentialsError, Keys};

/// A poll waits for its credentials; an API server that hangs is to count as one that does not answer.
const GET_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads from the API server.
#[derive(Clone)]
pub struct KubernetesCredentials {
    client: Client,
}

impl KubernetesCredentials {
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

#[async_trait]
impl Credentials for KubernetesCredentials {
    async fn secret(&self, namespace: &str, name: &str) -> Result<Keys, CredentialsError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let secret = get("secret", namespace, name, api.get(name)).await?;
        Ok(secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0.into())).collect())
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Keys, CredentialsError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let map = get("configmap", namespace, name, api.get(name)).await?;
        let text = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes().into()));
        let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0.into()));
        Ok(text.chain(binary).collect())
    }
}

async fn get<K: Debug>(
    kind: &'static str,
    namespace: &str,
    name: &str,
    get: impl Future<Output = kube::Result<K>>,
) -> Result<K, CredentialsError> {
    match tokio::time::timeout(GET_TIMEOUT, get).await {
        Ok(Ok(object)) => Ok(object),
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Err(CredentialsError::NotFound),
        Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => {
            warn!(kind, namespace, name, "the operator has no right to read an object that a source refers to");
            Err(CredentialsError::Forbidden)
        }
        Ok(Err(error)) => {
            // Only the status code: a decoding error could quote what it was given.
            let code = match &error {
                kube::Error::Api(status) => status.code,
                _ => 0,
            };
            warn!(kind, namespace, name, code, "the API server did not give an object that a source refers to");
            Err(CredentialsError::Unavailable)
        }
        Err(_) => {
            warn!(kind, namespace, name, "the API server did not answer in time for an object that a source refers to");
            Err(CredentialsError::Unavailable)
        }
    }
}
