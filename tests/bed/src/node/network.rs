//! The network of a node: a bridge that pods hang on, and whose address is where everything outside of pods is reached.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::Result;
use serde_json::json;

use crate::place::Place;
use crate::programs::{find, run};

/// The address of the bridge: of the node, the API server, and whatever this process serves.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
const PODS: &str = "10.244.0.0/24";
const BRIDGE: &str = "headgate0";
/// The directory of the container network's configuration, in the place of the node.
pub(super) const CONFIGURATION: &str = "cni";

pub(super) async fn up(place: &Place) -> Result<()> {
    let address = format!("{GATEWAY}/24");
    let gateway = GATEWAY.to_string();
    ip("link set lo up").await?;
    ip(&format!("link add {BRIDGE} type bridge")).await?;
    ip(&format!("address add {address} dev {BRIDGE}")).await?;
    ip(&format!("link set {BRIDGE} up")).await?;
    // Nothing is out there, but Services need a route before kube-proxy can turn their addresses into others.
    ip(&format!("route add default via {gateway} dev {BRIDGE}")).await?;

    let directory = place.path().join(CONFIGURATION);
    fs::create_dir_all(&directory)?;
    let network = json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": BRIDGE,
            "isGateway": true,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni/addresses",
                "ranges": [[{ "subnet": PODS, "gateway": gateway }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    });
    fs::write(directory.join("pods.conflist"), network.to_string())?;
    Ok(())
}

async fn ip(line: &str) -> Result<()> {
    let program = find("ip").unwrap_or_else(|| "ip".into());
    run(program, &line.split_whitespace().collect::<Vec<_>>()).await.map(drop)
}
