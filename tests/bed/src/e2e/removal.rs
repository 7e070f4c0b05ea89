//! `helm uninstall` keeps events and EventSources, and the kustomize base goes on from there.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::load::caught_up;
use super::outside::{GUARDED, SOURCES};
use super::scale::{never_restarted, pods, rolled_out};
use super::{SYSTEM, Suite, eventually};

/// A pod has a grace period of a minute; the kubelet adds a few seconds.
const GONE_WITHIN: Duration = Duration::from_secs(75);
/// One poll, with the longest idle interval before it.
const GROWS_WITHIN: Duration = Duration::from_secs(20);

pub(super) async fn check(suite: &Suite) -> Result<()> {
    let terminal = &suite.terminal;
    never_restarted(suite).await?;
    terminal.helm(&format!("uninstall headgate -n {SYSTEM} --wait --timeout 2m")).await?;
    all_gone(suite).await?;
    let kept = terminal.kubectl(&format!("get evsrc -n {SOURCES} -o name")).await?;
    let names: Vec<&str> = kept.lines().filter_map(|line| Some(line.rsplit_once('/')?.1)).collect();
    ensure!(names == suite.outside.names(), "after helm uninstall there are the EventSources {names:?}");
    let before = suite.outside.stored(GUARDED).await?;
    ensure!(before > 0, "after helm uninstall no event is stored");

    let base = crate::repository().join("config/default").display().to_string();
    terminal.kubectl(&format!("apply --server-side --force-conflicts -k {base}")).await?;
    rolled_out(suite).await?;
    caught_up(suite).await?;
    eventually(GROWS_WITHIN, async || {
        let now = suite.outside.stored(GUARDED).await?;
        ensure!(now > before, "{now} events are stored, {before} were when the release was removed");
        Ok(())
    })
    .await?;
    never_restarted(suite).await?;
    terminal.kubectl(&format!("delete deployment headgate -n {SYSTEM}")).await?;
    all_gone(suite).await
}

async fn all_gone(suite: &Suite) -> Result<()> {
    eventually(GONE_WITHIN, async || {
        let left = pods(suite).await?.len();
        ensure!(left == 0, "{left} pods are left");
        Ok(())
    })
    .await
}
