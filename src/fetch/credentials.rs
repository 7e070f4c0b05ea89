//! The port to Secrets and ConfigMaps. Read with `get` alone: at task start, after a refusal and every five minutes.

pub mod kubernetes;

use std::collections::BTreeMap;

use async_trait::async_trait;
use secrecy::SecretSlice;

/// The data of one Secret, or of one ConfigMap.
pub type Keys = BTreeMap<String, SecretSlice<u8>>;

/// Why an object could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    #[error("no such object")]
    NotFound,
    #[error("the API server does not let the operator read it")]
    Forbidden,
    #[error("the API server did not answer")]
    Unavailable,
}

/// Reads Secrets and ConfigMaps of one namespace, that of the EventSource.
#[async_trait]
pub trait Credentials: Send + Sync {
    async fn secret(&self, namespace: &str, name: &str) -> Result<Keys, CredentialsError>;
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Keys, CredentialsError>;
}
