//! A real node without Docker: containerd, kubelet and kube-proxy beside a control plane with its controllers, all of it
//! inside namespaces of its own. It is there in seconds, and ends without a trace when its first process ends.

mod control_group;
mod isolation;
mod kubernetes;
mod network;
mod runtime;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{Api, Client};
use tokio::time::sleep;

pub use self::isolation::{isolated, place_inside, settle};
pub use self::network::GATEWAY;
use self::runtime::Runtime;
use crate::control_plane::{self, ControlPlane, Settings};
use crate::narrate::{Stopwatch, say};
use crate::place::Place;
use crate::process::Process;
use crate::programs::require;

/// What the node is called.
const NAME: &str = "node";
/// Ready takes 5 s alone and a few times that on a machine that compiles beside it.
const READY_WITHIN: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(50);

/// The programs a node consists of, and the packages that bring them.
const PROGRAMS: [(&str, &str); 7] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
];

/// A cluster of one node.
#[derive(Debug)]
pub struct Node {
    control_plane: ControlPlane,
    runtime: Runtime,
}

impl Node {
    /// Everything that must be found, installed or built while there is still a network.
    pub async fn prepare() -> Result<()> {
        require("a node of its own", &PROGRAMS).await?;
        control_plane::built()?;
        runtime::pause_image().await.map(drop)
    }

    /// Starts it, inside of [`isolated`] and after [`settle`].
    pub async fn up(place: &Arc<Place>) -> Result<Self> {
        let watch = Stopwatch::start();
        network::up(place).await.context("set up the network of a node")?;
        let settings = Settings {
            address: GATEWAY.into(),
            with_controllers: true,
            // There is no DNS that knows the name of the node: `kubectl logs` needs its address.
            arguments: vec!["--kubelet-preferred-address-types=InternalIP".to_owned()],
        };
        let (runtime, control_plane) = tokio::join!(Runtime::up(place), ControlPlane::up(place, &settings));
        let (runtime, control_plane) = (runtime?, control_plane?);
        let processes = kubernetes::start(place, &control_plane)?;
        ready(&control_plane.client().await?, &processes).await?;
        say(format_args!("node: Ready after {watch}, in namespaces of its own; it ends with this command"));
        Ok(Self { control_plane, runtime })
    }

    /// The kubeconfig file of an administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        self.control_plane.kubeconfig()
    }

    /// Where pods reach this process.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        GATEWAY
    }

    /// Gives it the images of an archive.
    pub async fn load(&self, archive: &Path) -> Result<()> {
        self.runtime.import(archive).await
    }
}

async fn ready(client: &Client, processes: &[Process]) -> Result<()> {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let becomes_ready = async {
        loop {
            if let Ok(Some(node)) = nodes.get_opt(NAME).await
                && node.status.and_then(|status| status.conditions).is_some_and(|conditions| {
                    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
                })
            {
                return Ok(());
            }
            if let Some(ended) = processes.iter().find(|process| !process.is_running()) {
                return Err(ended.failure());
            }
            sleep(POLL).await;
        }
    };
    let kubelet = processes.iter().find(|process| process.name() == kubernetes::KUBELET);
    let late = || kubelet.map_or_else(|| anyhow::anyhow!("no kubelet was started"), Process::failure);
    tokio::time::timeout(READY_WITHIN, becomes_ready).await.unwrap_or_else(|_| Err(late()))
}
