//! Replicas come, go and are replaced while they load: scaled, deleted, and updated one by one.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::load::caught_up;
use super::outside::SOURCES;
use super::packages::{DATABASE, chart};
use super::{PODS, SYSTEM, Suite, eventually, install};
use crate::clock;
use crate::narrate::say;

/// P7: balanced this long after a replica has joined.
const BALANCED_WITHIN: Duration = Duration::from_secs(30);
/// A pod has a grace period of a minute; the kubelet adds a few seconds.
const GONE_WITHIN: Duration = Duration::from_secs(75);

pub(super) async fn check(suite: &Suite) -> Result<()> {
    held_by(suite, 1).await?;
    scale(suite, 3).await?;
    held_by(suite, 3).await?;

    let victim = holdings(suite).await?.into_keys().next().context("nobody holds a source")?;
    suite.terminated([victim.clone()], clock::now_us());
    suite.terminal.kubectl(&format!("delete pod {victim} -n {SYSTEM}")).await?;
    rolled_out(suite).await?;
    held_by(suite, 3).await?;

    suite.terminated(holdings(suite).await?.into_keys(), clock::now_us());
    narrow(suite, 3).await?;
    held_by(suite, 3).await?;

    let (asked, mut ended) = (clock::now_us(), holdings(suite).await?);
    scale(suite, 1).await?;
    held_by(suite, 1).await?;
    let stays = holdings(suite).await?;
    ended.retain(|pod, _| !stays.contains_key(pod));
    suite.terminated(ended.into_keys(), asked);
    caught_up(suite).await
}

/// A rolling update, to a release that watches one namespace and has no right in others.
async fn narrow(suite: &Suite, replicas: u8) -> Result<()> {
    let values = format!("{DATABASE} --set replicaCount={replicas},watchNamespace={SOURCES}");
    let upgrade = format!("upgrade headgate {} -n {SYSTEM} {values} --wait --timeout 3m", chart());
    suite.terminal.helm(&upgrade).await?;
    install::may_do_nothing_in(suite, "default").await
}

async fn scale(suite: &Suite, replicas: u8) -> Result<()> {
    suite.terminal.kubectl(&format!("scale deployment/headgate -n {SYSTEM} --replicas={replicas}")).await?;
    rolled_out(suite).await
}

pub(super) async fn rolled_out(suite: &Suite) -> Result<()> {
    suite.terminal.kubectl(&format!("rollout status deployment/headgate -n {SYSTEM} --timeout=2m")).await.map(drop)
}

/// Waits until this many pods are left, and then until they share the sources.
async fn held_by(suite: &Suite, replicas: usize) -> Result<()> {
    eventually(GONE_WITHIN, async || {
        let pods = pods(suite).await?;
        ensure!(pods.len() == replicas, "{} pods are there", pods.len());
        Ok(())
    })
    .await?;
    let held = eventually(BALANCED_WITHIN, async || {
        let held = holdings(suite).await?;
        balanced(&held, replicas, suite.outside.names().len())?;
        Ok(held)
    })
    .await?;
    let shares = held.iter().map(|(pod, share)| format!("{pod} {share}")).collect::<Vec<_>>().join(", ");
    say(format_args!("   sources held: {shares}"));
    Ok(())
}

fn balanced(held: &BTreeMap<String, usize>, replicas: usize, sources: usize) -> Result<()> {
    let total: usize = held.values().sum();
    ensure!(total == sources, "{total} of {sources} sources are held: {held:?}");
    let most = held.values().max().copied().unwrap_or_default();
    // max/avg <= 1.10, or one more than the average where that is less than one source.
    let share = sources.div_ceil(replicas).max(sources * 11 / (replicas * 10));
    ensure!(held.len() == replicas && most <= share, "{sources} sources are not balanced over {replicas}: {held:?}");
    Ok(())
}

/// How many sources each pod holds, by the labels of their Leases.
async fn holdings(suite: &Suite) -> Result<BTreeMap<String, usize>> {
    let leases: Api<Lease> = Api::namespaced(suite.client.clone(), SYSTEM);
    let of_sources = ListParams::default().labels("headgate.dev/kind=EventSource");
    let mut held = BTreeMap::new();
    for lease in leases.list(&of_sources).await.context("list the Leases of the sources")? {
        if let Some(pod) = lease.labels().get("headgate.dev/holder") {
            *held.entry(pod.clone()).or_default() += 1;
        }
    }
    Ok(held)
}

/// The pods of the operator, also those that are ending. None of them may have ended by itself.
pub(super) async fn pods(suite: &Suite) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(suite.client.clone(), SYSTEM);
    Ok(pods.list(&ListParams::default().labels(PODS)).await.context("list the pods of the operator")?.items)
}

/// Fails when a container ended by itself and was started again.
pub(super) async fn never_restarted(suite: &Suite) -> Result<()> {
    for pod in pods(suite).await? {
        let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let restarts: i32 = containers.map(|container| container.restart_count).sum();
        ensure!(restarts == 0, "pod {} was restarted {restarts} times", pod.name_any());
    }
    Ok(())
}
