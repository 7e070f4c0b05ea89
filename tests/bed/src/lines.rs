//! The lines of one replica: to the API server, to PostgreSQL and to the sources, each a [`Forwarder`] of its own.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;

use crate::forwarder::{Forwarder, Road};
use crate::nemesis::Peer;
use crate::parts::Parts;
use crate::place::Place;

/// What one replica reaches its peers over.
#[derive(Debug)]
pub struct Lines {
    api_server: Forwarder,
    database: Forwarder,
    sources: Forwarder,
    kubeconfig: PathBuf,
    database_url: String,
}

impl Lines {
    /// Lines for the replica of this name.
    ///
    /// # Errors
    /// When there is no port, or the kubeconfig cannot be written.
    pub async fn of(replica: &str, place: &Place, parts: &Parts, sources: SocketAddr) -> Result<Self> {
        let kubeconfig = parts.control_plane.kubeconfig();
        let name = format!("{replica}.kubeconfig");
        let (api_server, kubeconfig) = Forwarder::to_api_server(kubeconfig, place, &name).await?;
        let port = parts.postgres.port();
        let database = Forwarder::to(([127, 0, 0, 1], port).into()).await?;
        let database_url = parts.postgres.url().replace(&format!("127.0.0.1:{port}"), &database.address().to_string());
        let sources = Forwarder::as_proxy_to(sources).await?;
        Ok(Self { api_server, database, sources, kubeconfig, database_url })
    }

    /// The variables that lead a replica onto them.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("KUBECONFIG", self.kubeconfig.clone().into()),
            ("DATABASE_URL", self.database_url.clone().into()),
            // Not HTTP_PROXY: kube would take it for the way to the API server.
            ("ALL_PROXY", format!("http://{}", self.sources.address()).into()),
            ("NO_PROXY", OsString::new()),
        ]
    }

    /// From now on these lines are like this.
    pub fn become_like(&self, road: Road, to: &[Peer]) {
        for peer in to {
            match peer {
                Peer::ApiServer => &self.api_server,
                Peer::Database => &self.database,
                Peer::Sources => &self.sources,
            }
            .becomes(road);
        }
    }
}
