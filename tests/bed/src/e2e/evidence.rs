//! What is left behind when the suite fails, for somebody who was not there.

use std::fs;
use std::path::Path;

use super::outside::SOURCES;
use super::{PODS, SYSTEM, Suite};
use crate::evidence;
use crate::narrate::say;

/// Writes down what the cluster looks like, and copies all logs. It says what it could not get, and never fails.
pub(super) async fn leave(suite: &Suite, failure: &anyhow::Error, directory: &Path) {
    say("\ne2e: failed");
    let questions = [
        ("pods.txt", format!("describe pods -n {SYSTEM}")),
        ("objects.txt", format!("get all,leases,pdb,sa,roles,rolebindings -n {SYSTEM} -o wide --show-labels")),
        ("operator.log", format!("logs -n {SYSTEM} -l {PODS} --prefix --tail=-1 --max-log-requests=20")),
        ("operator-before.log", format!("logs -n {SYSTEM} -l {PODS} --prefix --tail=-1 --previous")),
        ("events.txt", "get events -A --sort-by=.lastTimestamp".to_owned()),
        ("sources.yaml", format!("get evsrc -n {SOURCES} -o yaml")),
        ("leases.yaml", format!("get leases -n {SYSTEM} -o yaml")),
    ];
    if let Err(error) = evidence::leave(&format!("{failure:#}\n"), suite.place.path(), directory) {
        say(format_args!("{error:#}"));
        return;
    }
    for (file, line) in questions {
        let answer = suite.terminal.kubectl(&line).await.unwrap_or_else(|error| format!("{error:#}\n"));
        if let Err(error) = fs::write(directory.join(file), answer) {
            say(format_args!("cannot write {file}: {error}"));
        }
    }
}
