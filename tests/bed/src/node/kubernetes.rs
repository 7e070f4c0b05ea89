//! The programs of Kubernetes that make a control plane act and a machine a node.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use serde_json::{Value, json};

use super::network::GATEWAY;
use super::{NAME, isolation, runtime};
use crate::control_plane::{ControlPlane, built};
use crate::place::Place;
use crate::process::Process;

pub(super) const KUBELET: &str = "kubelet";
/// Sockets lie in it, and their paths may not be long.
const KUBELET_ROOT: &str = "/run/kubelet";
const PLUGINS: &str = "/run/kubelet-plugins";

/// Starts controllers, scheduler, kubelet and kube-proxy, all as administrators: nobody else is in here.
pub(super) fn start(place: &Arc<Place>, control_plane: &ControlPlane) -> Result<Vec<Process>> {
    let programs = built()?;
    let kubeconfig = format!("--kubeconfig={}", control_plane.kubeconfig().display());
    let configuration = place.path().join("kubelet.json");
    fs::write(&configuration, kubelet(place.path())?.to_string())?;
    let name = format!("--hostname-override={NAME}");

    let controllers = vec![
        format!("--service-account-private-key-file={}", control_plane.account_signing_key().display()),
        format!("--root-ca-file={}", control_plane.authority().display()),
        format!("--flex-volume-plugin-dir={PLUGINS}"),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
    ];
    let scheduler = vec!["--leader-elect=false".to_owned(), "--secure-port=0".to_owned()];
    let kubelet = vec![
        format!("--config={}", configuration.display()),
        format!("--root-dir={KUBELET_ROOT}"),
        format!("--node-ip={GATEWAY}"),
        name.clone(),
    ];
    let proxy = vec![
        name,
        "--proxy-mode=iptables".to_owned(),
        "--oom-score-adj=0".to_owned(),
        // These belong to the whole machine.
        "--conntrack-max-per-core=0".to_owned(),
        "--conntrack-min=0".to_owned(),
        "--conntrack-tcp-timeout-established=0".to_owned(),
        "--conntrack-tcp-timeout-close-wait=0".to_owned(),
    ];
    let start = |name: &str, arguments: &[String]| {
        place.launch(name, &programs.join(name)).arg(&kubeconfig).args(arguments).start()
    };
    Ok(vec![
        start("kube-controller-manager", &controllers)?,
        start("kube-scheduler", &scheduler)?,
        start(KUBELET, &kubelet)?,
        start("kube-proxy", &proxy)?,
    ])
}

fn kubelet(place: &Path) -> Result<Value> {
    Ok(json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}", runtime::SOCKET),
        // Only this network namespace reaches it, and the API server has no certificate to show.
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", isolation::control_group(place)?),
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "volumePluginDir": PLUGINS,
        "podLogsDir": "/run/pods",
        // A full disk of a developer is no reason to evict, nor to remove an image that cannot be pulled again.
        "evictionHard": { "nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%", "memory.available": "1Mi" },
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "24h",
        "localStorageCapacityIsolation": false,
        "shutdownGracePeriod": "0s",
    }))
}
