//! How this replica reaches its cluster.

use std::{sync::Arc, time::Duration};

use kube::{
    Client,
    config::{InferConfigError, Kubeconfig, KubeconfigError},
};

use super::{OperatorError, startup::Failed};
use crate::{
    ownership::kubernetes::{Installation, KubernetesLeases},
    telemetry::cause::in_one_line,
};

/// kube's client repeats what failed for minutes; `/readyz` is to say so earlier.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// A connection of which an answer, or the next piece of a watch, is awaited, and that says nothing for so long, is given up: a
/// balancer whose backend has vanished acknowledges a list and never answers it, and kube's watcher would wait for ever. Longer
/// than the two watches live, and may so be silent.
const SILENT_FOR: Duration = Duration::from_secs(40);

/// The cluster's configuration and a client for all but Leases.
pub(super) struct Cluster {
    config: kube::Config,
    pub(super) client: Client,
    /// Of the Leases.
    namespace: String,
}

impl Cluster {
    /// The cluster of this pod, or of the kubeconfig. It need not be there yet.
    ///
    /// # Errors
    /// When none is configured, or nonsense.
    pub(super) async fn configured(namespace: Option<String>) -> Result<Self, OperatorError> {
        let mut config =
            kube::Config::infer().await.map_err(|error| OperatorError::NoCluster(not_configured(&error)))?;
        // kube takes HTTPS_PROXY for it too, without a look at NO_PROXY, and then makes no client. That one is for the sources.
        if !kubeconfig_names_a_proxy() {
            config.proxy_url = None;
        }
        config.read_timeout = Some(SILENT_FOR);
        config.reset_reader_on_write = true;
        let client = Client::try_from(config.clone()).map_err(|error| OperatorError::Client(Box::new(error)))?;
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        Ok(Self { config, client, namespace })
    }

    /// A client of its own for Leases.
    ///
    /// # Errors
    /// When the configuration does not make one.
    pub(super) fn leases(&self) -> Result<Arc<KubernetesLeases>, OperatorError> {
        let connected = KubernetesLeases::connect(&self.config, &self.namespace);
        connected.map(Arc::new).map_err(|error| OperatorError::Client(Box::new(error)))
    }

    /// The Lease `headgate-installation`, as a step of the start.
    pub(super) async fn installation(&self) -> Result<Installation, Failed> {
        answered(Installation::of_namespace(self.client.clone(), &self.namespace)).await
    }

    /// Whether a member of this installation says that its database answers, as a step of the start.
    pub(super) async fn has_database_in_use(&self, installation: &Installation) -> Result<bool, Failed> {
        answered(installation.has_database_in_use(self.client.clone())).await
    }

    /// Binds the Leases of this installation to a database, as a step of the start.
    pub(super) async fn bind(&self, installation: &Installation, database: &str) -> Result<(), Failed> {
        answered(installation.bind(self.client.clone(), database)).await
    }
}

async fn answered<T>(asked: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failed> {
    match tokio::time::timeout(ANSWERS_WITHIN, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403 | 404) => {
            Err(Failed::GiveUp(OperatorError::Leases(Box::new(kube::Error::Api(status)))))
        }
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() => {
            Err(Failed::Wait("another replica has written the Lease meanwhile".to_owned()))
        }
        Ok(Err(error @ kube::Error::Api(_))) => {
            Err(Failed::Wait(format!("the API server refuses: {}", in_one_line(&error))))
        }
        Ok(Err(error)) => Err(Failed::Wait(format!("the API server does not answer: {}", in_one_line(&error)))),
        Err(_elapsed) => Err(Failed::Wait(format!("the API server does not answer within {ANSWERS_WITHIN:?}"))),
    }
}

/// Whether the cluster of the current context is to be reached through a proxy.
fn kubeconfig_names_a_proxy() -> bool {
    Kubeconfig::read().is_ok_and(|file| proxy_of(&file).is_some())
}

fn proxy_of(file: &Kubeconfig) -> Option<&str> {
    let context = file.contexts.iter().find(|named| Some(&named.name) == file.current_context.as_ref())?;
    let cluster = &context.context.as_ref()?.cluster;
    let cluster = file.clusters.iter().find(|named| named.name == *cluster)?.cluster.as_ref()?;
    cluster.proxy_url.as_deref().filter(|url| !url.is_empty())
}

/// Why there is no cluster, without any line of the kubeconfig.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotConfigured(String);

fn not_configured(error: &InferConfigError) -> NotConfigured {
    let source = std::error::Error::source(error);
    let unreadable = source.and_then(|source| source.downcast_ref()).and_then(unreadable);
    NotConfigured(unreadable.unwrap_or_else(|| in_one_line(error)))
}

/// The parser quotes the line that it cannot read and those around it, and tokens stand there.
fn unreadable(error: &KubeconfigError) -> Option<String> {
    let KubeconfigError::Parse(error) = error else { return None };
    let at = error.location().map_or_else(String::new, |at| format!(", from line {} on", at.line()));
    Some(format!("the kubeconfig cannot be read as one{at}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy_with(current: &str) -> Option<String> {
        let text = format!(
            "{{current-context: {current}, \
              contexts: [{{name: far, context: {{cluster: far}}}}, {{name: near, context: {{cluster: near}}}}], \
              clusters: [{{name: far, cluster: {{server: 'https://far', proxy-url: 'http://proxy:3128'}}}}, \
                         {{name: near, cluster: {{server: 'https://near', proxy-url: ''}}}}]}}"
        );
        proxy_of(&Kubeconfig::from_yaml(&text).expect("a kubeconfig")).map(str::to_owned)
    }

    #[test]
    fn a_proxy_of_the_api_server_is_the_one_of_the_current_cluster() {
        assert_eq!(proxy_with("far").as_deref(), Some("http://proxy:3128"));
        assert_eq!(proxy_with("near"), None);
        assert_eq!(proxy_with("nobody"), None);
    }

    #[test]
    fn no_line_of_a_kubeconfig_that_cannot_be_read_is_repeated() {
        for nonsense in [
            "users:\n- name: me\n  user:\n    token: hush\n   client: {",
            "users:\n- name: me\n  user: hush",
            "users: hush\nclusters:\n  - {\n    cluster",
        ] {
            let error = Kubeconfig::from_yaml(nonsense).expect_err("it is nonsense");
            let said = unreadable(&error).expect("it is the parser that said no");
            assert!(said.starts_with("the kubeconfig cannot be read as one, from line "), "{said}");
            assert!(!said.contains("hush"), "{said}");
        }
    }
}
