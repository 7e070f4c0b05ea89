//! Follows the log of every pod of the operator, because it is gone with the pod.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use futures::io::{AllowStdIo, copy};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams};
use kube::{Api, Client, ResourceExt};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::{PODS, SYSTEM};

const POLL: Duration = Duration::from_millis(500);

/// Follows until it is dropped.
pub(super) struct Followed(JoinHandle<()>);

impl Drop for Followed {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Writes `<directory>/<pod>.log` for each pod that comes.
pub(super) fn follow(client: &Client, directory: &Path) -> Followed {
    let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM);
    let directory = directory.to_owned();
    Followed(tokio::spawn(async move {
        let (mut known, mut following) = (HashSet::new(), JoinSet::new());
        loop {
            for pod in pods.list(&ListParams::default().labels(PODS)).await.into_iter().flatten() {
                let name = pod.name_any();
                if runs(&pod) && known.insert(name.clone()) {
                    following.spawn(write(pods.clone(), name.clone(), directory.join(format!("{name}.log"))));
                }
            }
            sleep(POLL).await;
        }
    }))
}

fn runs(pod: &Pod) -> bool {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers.filter_map(|container| container.state.as_ref()).any(|state| state.waiting.is_none())
}

async fn write(pods: Api<Pod>, name: String, file: PathBuf) -> Result<()> {
    let log = pods.log_stream(&name, &LogParams { follow: true, ..LogParams::default() }).await?;
    copy(log, &mut AllowStdIo::new(File::create(file)?)).await?;
    Ok(())
}
