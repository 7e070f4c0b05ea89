//! EventSources become `CaughtUp`, their events are rows, and `kubectl get` tells about it.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::outside::{FLAKY, GUARDED, HEADER, SOURCES};
use super::{Suite, eventually};
use crate::narrate::say;

/// The columns of `kubectl get`, as the custom resource promises them.
const COLUMNS: &str = "NAME READY STATUS EVENTS LAST EVENT LAST POLL AGE";
const WIDE_COLUMNS: &str = "URL CURSOR HOLDER MESSAGE";
/// A source that answers one request in five with 500 is ready again after a few of them.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

pub(super) async fn check(suite: &Suite) -> Result<()> {
    suite.terminal.kubectl_fed(&format!("apply -n {SOURCES} -f -"), &manifests(suite).to_string()).await?;
    caught_up(suite).await?;
    for feed in suite.outside.source.feeds() {
        let stored = suite.outside.stored(&feed.name).await?;
        ensure!(stored >= feed.initial, "{} is CaughtUp with {stored} of {} events stored", feed.name, feed.initial);
    }
    eventually(SETTLED_WITHIN, async || columns(suite).await).await?;
    let table = suite.terminal.kubectl(&format!("get evsrc -n {SOURCES}")).await?;
    say(table.trim_end());
    Ok(())
}

/// The line that users wait with, for all sources.
pub(super) async fn caught_up(suite: &Suite) -> Result<()> {
    suite
        .terminal
        .kubectl(&format!("wait --for=condition=CaughtUp evsrc --all -n {SOURCES} --timeout=90s"))
        .await
        .map(drop)
}

/// The Secret of the guarded source, and an EventSource for each.
fn manifests(suite: &Suite) -> Value {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "orders-api" },
        "stringData": { "key": suite.outside.key },
    });
    let sources = suite.outside.names().into_iter().map(|name| {
        let mut spec = json!({ "http": { "url": suite.outside.source.url(&name) } });
        if name == GUARDED {
            spec["http"]["headers"] =
                json!([{ "name": HEADER, "valueFrom": { "secretKeyRef": { "name": "orders-api", "key": "key" } } }]);
            // The fake source speaks no TLS.
            spec["http"]["plaintextCredentials"] = json!("Allow");
        }
        if name == FLAKY {
            spec["poll"] = json!({ "maxErrorInterval": "1s" });
        }
        json!({
            "apiVersion": "headgate.dev/v1alpha1", "kind": "EventSource", "metadata": { "name": name }, "spec": spec,
        })
    });
    let items: Vec<Value> = std::iter::once(secret).chain(sources).collect();
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

async fn columns(suite: &Suite) -> Result<()> {
    let table = suite.terminal.kubectl(&format!("get evsrc -n {SOURCES} -o wide")).await?;
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut lines = table.lines();
    let head = words(lines.next().unwrap_or_default()).join(" ");
    ensure!(head == format!("{COLUMNS} {WIDE_COLUMNS}"), "the columns are {head}");
    let mut names = Vec::new();
    for row in lines.map(words) {
        let [name, ready, status, events, ..] = row.as_slice() else {
            anyhow::bail!("a row has too few columns: {row:?}");
        };
        // What is shown first of one that fails now and then stays as long as it comes back.
        let as_it_is = if name == FLAKY { ("False", "ServerError") } else { ("True", "CaughtUp") };
        let shown = (ready.as_str(), status.as_str());
        ensure!(shown == ("True", "CaughtUp") || shown == as_it_is, "{name} is {ready}, {status}");
        ensure!(events.parse::<u64>().is_ok_and(|count| count > 0), "{name} tells of {events} events");
        let url = suite.outside.source.url(name);
        ensure!(row.contains(&url), "the row of {name} does not show {url}: {row:?}");
        names.push(name.clone());
    }
    ensure!(names == suite.outside.names(), "the rows are those of {names:?}");
    Ok(())
}
