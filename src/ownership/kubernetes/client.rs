//! The Lease verbs of the API server that ownership uses, and their client.

use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client, Config,
    api::{DeleteParams, PostParams, Preconditions},
    runtime::{WatchStreamExt, watcher, watcher::Event},
};

use crate::ownership::lease::{self, Version};

/// A connection that does not come about within this is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The API server ends a watch after so many seconds: no member, no renewal, and the connection may stay silent for as long.
const WATCH_SECONDS: u32 = 30;

/// Why a Lease call failed.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The resourceVersion was not the current one, or the Lease exists already.
    #[error("the Lease was written by somebody else")]
    Conflict,
    #[error("there is no such Lease")]
    NotFound,
    /// The permission is gone, the namespace is on its way out, a quota is used up, or a policy refuses it. It may pass.
    #[error("the API server does not let this replica {action}")]
    Denied {
        action: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer, or one that says nothing of the Lease. A write may have landed.
    #[error("failed to {action}")]
    Unanswered {
        action: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Leases of the operator's namespace. Every write is a creation or a compare-and-set.
#[async_trait]
pub trait LeaseApi: Send + Sync {
    async fn get(&self, name: &str) -> Result<Lease, LeaseError>;
    async fn create(&self, lease: &Lease) -> Result<Lease, LeaseError>;
    /// Replaces the Lease whose resourceVersion and UID `lease` carries. One that was deleted is a conflict.
    async fn replace(&self, lease: &Lease) -> Result<Lease, LeaseError>;
    /// Deletes the Lease if it still has this version.
    async fn delete(&self, name: &str, version: &Version) -> Result<(), LeaseError>;
    /// All member and source Leases, and then their changes. Mends itself after an error; never ends.
    fn watch(&self) -> BoxStream<'static, Result<Event<Lease>, LeaseError>>;
}

/// The real thing.
#[derive(Clone)]
pub struct KubernetesLeases {
    api: Api<Lease>,
}

impl KubernetesLeases {
    /// Makes a client of its own, with a connection of its own, that repeats nothing by itself: a renewal that waits
    /// behind other calls, or is retried for minutes, ends an incarnation.
    ///
    /// # Errors
    /// When the configuration does not make a client.
    pub fn connect(config: &Config, namespace: &str) -> Result<Self, kube::Error> {
        let mut config = config.clone();
        config.default_retry = false;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        Ok(Self { api: Api::namespaced(Client::try_from(config)?, namespace) })
    }
}

#[async_trait]
impl LeaseApi for KubernetesLeases {
    async fn get(&self, name: &str) -> Result<Lease, LeaseError> {
        self.api.get(name).await.map_err(|error| answered("read a Lease", error))
    }

    async fn create(&self, lease: &Lease) -> Result<Lease, LeaseError> {
        let created = self.api.create(&PostParams::default(), lease).await;
        created.map_err(|error| answered("create a Lease", error))
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, LeaseError> {
        let name = lease.metadata.name.as_deref().unwrap_or_default();
        let replaced = self.api.replace(name, &PostParams::default(), lease).await;
        replaced.map_err(|error| answered("write a Lease", error))
    }

    async fn delete(&self, name: &str, version: &Version) -> Result<(), LeaseError> {
        let preconditions = Preconditions {
            resource_version: Some(version.resource_version().to_owned()),
            uid: Some(version.uid().to_owned()),
        };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        self.api.delete(name, &params).await.map(drop).map_err(|error| answered("delete a Lease", error))
    }

    fn watch(&self) -> BoxStream<'static, Result<Event<Lease>, LeaseError>> {
        watcher(self.api.clone(), watcher::Config::default().labels(lease::WATCHED).timeout(WATCH_SECONDS))
            .default_backoff()
            .map(|event| event.map_err(|error| unanswered("watch Leases", error)))
            .boxed()
    }
}

fn answered(action: &'static str, error: kube::Error) -> LeaseError {
    match error {
        kube::Error::Api(status) if status.is_not_found() => LeaseError::NotFound,
        kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => LeaseError::Conflict,
        kube::Error::Api(status) if is_denial(status.code) => {
            LeaseError::Denied { action, source: Box::new(kube::Error::Api(status)) }
        }
        error => unanswered(action, error),
    }
}

/// Forbidden, or refused for what it is. 401 and 429 say nothing of the Lease.
fn is_denial(code: u16) -> bool {
    matches!(code, 400 | 403 | 422)
}

fn unanswered(action: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> LeaseError {
    LeaseError::Unanswered { action, source: Box::new(error) }
}

/// Gives a call up after `limit`. Its write may still land.
pub(super) async fn within<T>(
    limit: Duration,
    action: &'static str,
    call: impl Future<Output = Result<T, LeaseError>>,
) -> Result<T, LeaseError> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result,
        Err(elapsed) => Err(unanswered(action, elapsed)),
    }
}
