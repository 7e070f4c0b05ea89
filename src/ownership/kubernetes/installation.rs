use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};

use crate::ownership::lease::{self, INSTALLATION_LEASE, MemberLease};

/// The Lease `headgate-installation` of a namespace, in one version. Its UID names this installation: a database that carries
/// another UID belongs to another one. And it names the database that the Leases beside it belong to: a replica with another
/// one would find neither the cursors nor the waits of what it takes over.
#[derive(Debug, Clone)]
pub struct Installation(Lease);

impl Installation {
    /// Finds it, or makes it where it is missing.
    ///
    /// # Errors
    /// When the API server does not answer, or refuses.
    pub async fn of_namespace(client: Client, namespace: &str) -> Result<Self, kube::Error> {
        let api = Api::namespaced(client, namespace);
        if let Some(found) = api.get_opt(INSTALLATION_LEASE).await? {
            return Ok(Self(found));
        }
        match api.create(&PostParams::default(), &lease::installation()).await {
            // Another replica was first.
            Err(kube::Error::Api(status)) if status.is_already_exists() => api.get(INSTALLATION_LEASE).await.map(Self),
            created => created.map(Self),
        }
    }

    #[must_use]
    pub fn uid(&self) -> &str {
        self.0.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The database that it is bound to; none before the first was claimed.
    #[must_use]
    pub fn database(&self) -> Option<&str> {
        lease::database(&self.0)
    }

    /// Whether a member of it says that its database answers.
    ///
    /// # Errors
    /// When the API server does not answer, or refuses.
    pub async fn has_database_in_use(&self, client: Client) -> Result<bool, kube::Error> {
        let members = self.leases(client).list(&ListParams::default().labels(lease::OF_MEMBERS)).await?;
        Ok(members.iter().filter_map(MemberLease::read).any(|member| member.state.has_database()))
    }

    /// Binds it to a database.
    ///
    /// # Errors
    /// When the API server does not answer, or refuses: with a conflict when it has changed since it was read.
    pub async fn bind(&self, client: Client, database: &str) -> Result<(), kube::Error> {
        if self.database() == Some(database) {
            return Ok(());
        }
        let bound = lease::bound_to(&self.0, database);
        self.leases(client).replace(INSTALLATION_LEASE, &PostParams::default(), &bound).await.map(drop)
    }

    fn leases(&self, client: Client) -> Api<Lease> {
        Api::namespaced(client, self.0.metadata.namespace.as_deref().unwrap_or_default())
    }
}
