//! `helm install --wait`: restricted pods, and no right too many.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::outside::SOURCES;
use super::packages::{DATABASE, chart};
use super::{SYSTEM, Suite};

/// What the operator may do in any namespace, beyond what everybody may.
const ANYWHERE: [&str; 9] = [
    "create events.events.k8s.io",
    "get configmaps",
    "get eventsources.headgate.dev",
    "get secrets",
    "list eventsources.headgate.dev",
    "patch events.events.k8s.io",
    "patch eventsources.headgate.dev",
    "patch eventsources/status.headgate.dev",
    "watch eventsources.headgate.dev",
];
/// And in its own namespace.
const AT_HOME: [&str; 6] = [
    "create leases.coordination.k8s.io",
    "delete leases.coordination.k8s.io",
    "get leases.coordination.k8s.io",
    "list leases.coordination.k8s.io",
    "update leases.coordination.k8s.io",
    "watch leases.coordination.k8s.io",
];

pub(super) async fn check(suite: &Suite) -> Result<()> {
    let terminal = &suite.terminal;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "headgate-database" },
        "stringData": { "uri": suite.outside.database_url },
    });
    terminal.kubectl_fed(&format!("apply -n {SYSTEM} -f -"), &secret.to_string()).await?;
    let chart = chart();
    let install = format!("install headgate {chart} -n {SYSTEM} {DATABASE} --set replicaCount=1 --wait --timeout 2m");
    terminal.helm(&install).await?;
    let everybody = rights(suite, "nobody", SOURCES).await?;
    let anywhere = rights(suite, "headgate", SOURCES).await?;
    let at_home = rights(suite, "headgate", SYSTEM).await?;
    exactly("any namespace", &anywhere, &everybody, &ANYWHERE)?;
    exactly("its own namespace", &at_home, &everybody, &[&ANYWHERE[..], &AT_HOME].concat())
}

/// Fails when the operator may do more in this namespace than everybody.
pub(super) async fn may_do_nothing_in(suite: &Suite, namespace: &str) -> Result<()> {
    let everybody = rights(suite, "nobody", namespace).await?;
    exactly(namespace, &rights(suite, "headgate", namespace).await?, &everybody, &[])
}

fn exactly(place: &str, granted: &BTreeSet<String>, everybody: &BTreeSet<String>, meant: &[&str]) -> Result<()> {
    let granted: BTreeSet<&str> = granted.difference(everybody).map(String::as_str).collect();
    let meant: BTreeSet<&str> = meant.iter().copied().collect();
    ensure!(granted == meant, "in {place} the operator may {granted:?}, and should {meant:?}");
    Ok(())
}

/// What a ServiceAccount of the operator's namespace may do in a namespace: `verb resource.group`.
async fn rights(suite: &Suite, account: &str, namespace: &str) -> Result<BTreeSet<String>> {
    let ask = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": { "namespace": namespace },
    });
    let line = format!("create --as=system:serviceaccount:{SYSTEM}:{account} --validate=false -o json -f -");
    let answer = suite.terminal.kubectl_fed(&line, &ask.to_string()).await?;
    let answer: Value = serde_json::from_str(&answer).context("read the rights of a ServiceAccount")?;
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in answer["status"]["resourceRules"].as_array().context("find the rules of a ServiceAccount")? {
        let narrowed = words(&rule["resourceNames"]);
        for (group, resource) in words(&rule["apiGroups"])
            .iter()
            .flat_map(|group| words(&rule["resources"]).into_iter().map(move |r| (group, r)))
        {
            let dot = if group.is_empty() { "" } else { "." };
            let named = if narrowed.is_empty() { String::new() } else { format!(" {}", narrowed.join(" ")) };
            rights.extend(words(&rule["verbs"]).iter().map(|verb| format!("{verb} {resource}{dot}{group}{named}")));
        }
    }
    Ok(rights)
}
