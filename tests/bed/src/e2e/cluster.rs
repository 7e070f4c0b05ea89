//! The two clusters that the suite runs on. It sees no difference.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::control_plane;
use crate::node::Node;
use crate::place::Place;
use crate::programs::{by_go, find, run};

const NAME: &str = "headgate-e2e";
/// kind pulls an image of 350 MB the first time, and starts three nodes from it.
const READY_WITHIN: &str = "5m";

/// A real cluster.
pub(super) enum Cluster {
    /// A node of its own in namespaces of its own, with no Docker.
    Node(Box<Node>),
    /// The nodes of `kind-config.yaml`, as containers of Docker.
    Kind(Kind),
}

pub(super) struct Kind {
    program: PathBuf,
    kubeconfig: PathBuf,
    gateway: Ipv4Addr,
}

impl Cluster {
    /// An administrator's kubeconfig.
    pub(super) fn kubeconfig(&self) -> &Path {
        match self {
            Self::Node(node) => node.kubeconfig(),
            Self::Kind(kind) => &kind.kubeconfig,
        }
    }

    /// Where pods reach this process.
    pub(super) fn address(&self) -> Ipv4Addr {
        match self {
            Self::Node(node) => node.address(),
            Self::Kind(kind) => kind.gateway,
        }
    }

    /// Gives its nodes the images of an archive.
    pub(super) async fn load(&self, archive: &Path) -> Result<()> {
        match self {
            Self::Node(node) => node.load(archive).await,
            Self::Kind(kind) => kind.load(archive).await,
        }
    }

    /// Removes what does not end with this process.
    pub(super) async fn end(&self) -> Result<()> {
        match self {
            Self::Node(_) => Ok(()),
            Self::Kind(kind) => Kind::delete(&kind.program).await,
        }
    }

    /// The kubectl that fits.
    pub(super) fn kubectl(&self) -> Result<PathBuf> {
        match (self, find("kubectl")) {
            (Self::Kind(_), Some(found)) => Ok(found),
            _ => Ok(control_plane::built()?.join("kubectl")),
        }
    }
}

impl Kind {
    pub(super) async fn up(place: &Place) -> Result<Self> {
        let program = by_go("kind", "sigs.k8s.io/kind", "v0.33.0")?;
        // What a run left that was killed.
        Self::delete(&program).await?;
        let kubeconfig = place.path().join("kubeconfig");
        let configuration = crate::repository().join("kind-config.yaml");
        let (shown, configuration) = (kubeconfig.display().to_string(), configuration.display().to_string());
        let create = ["create", "cluster", "--name", NAME, "--config", &configuration, "--kubeconfig", &shown];
        let created = async {
            let created = run(&program, &[&create[..], &["--wait", READY_WITHIN]].concat()).await;
            created.context("create a cluster with kind")?;
            gateway().await
        };
        match created.await {
            Ok(gateway) => Ok(Self { program, kubeconfig, gateway }),
            Err(error) => {
                let _ = Self::delete(&program).await;
                Err(error)
            }
        }
    }

    async fn load(&self, archive: &Path) -> Result<()> {
        let archive = archive.display().to_string();
        run(&self.program, &["load", "image-archive", &archive, "--name", NAME]).await.map(drop)
    }

    async fn delete(program: &Path) -> Result<()> {
        run(program, &["delete", "cluster", "--name", NAME]).await.map(drop)
    }
}

/// The address of this machine on the network of the nodes.
async fn gateway() -> Result<Ipv4Addr> {
    let template = "{{range .IPAM.Config}}{{.Gateway}} {{end}}";
    let told = run("docker", &["network", "inspect", "kind", "--format", template]).await?;
    let address = told.split_whitespace().find_map(|word| word.parse().ok());
    address.with_context(|| format!("find the IPv4 gateway of the Docker network kind in '{}'", told.trim()))
}
