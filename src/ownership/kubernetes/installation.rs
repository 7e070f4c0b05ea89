use kube::{Api, Client, api::PostParams};

use crate::ownership::lease::{self, INSTALLATION_LEASE};

/// The UID of the Lease `headgate-installation` of a namespace, which is made when it is missing. It names this
/// installation: a database that carries another UID belongs to another one.
///
/// # Errors
/// When the API server does not answer, or refuses.
pub async fn installation_uid(client: Client, namespace: &str) -> Result<String, kube::Error> {
    let api = Api::namespaced(client, namespace);
    let found = match api.get_opt(INSTALLATION_LEASE).await? {
        Some(found) => found,
        None => match api.create(&PostParams::default(), &lease::installation()).await {
            // Another replica was first.
            Err(kube::Error::Api(status)) if status.is_already_exists() => api.get(INSTALLATION_LEASE).await?,
            created => created?,
        },
    };
    Ok(found.metadata.uid.unwrap_or_default())
}
