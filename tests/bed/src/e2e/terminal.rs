//! What a person would type against the cluster, typed by the suite.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tokio::process::Command;

use crate::narrate::say;
use crate::programs::finish;

/// kubectl and helm, with the kubeconfig of one cluster. Lines are split at spaces: no argument of the suite has one.
pub(super) struct Terminal {
    pub(super) kubectl: PathBuf,
    pub(super) helm: PathBuf,
    pub(super) kubeconfig: PathBuf,
    /// What they keep for the next time goes here, and not into the home of a person.
    pub(super) caches: PathBuf,
}

impl Terminal {
    pub(super) async fn kubectl(&self, line: &str) -> Result<String> {
        self.kubectl_fed(line, "").await
    }

    /// With a manifest on standard input.
    pub(super) async fn kubectl_fed(&self, line: &str, input: &str) -> Result<String> {
        say(format_args!("  $ kubectl {line}"));
        finish(&mut self.command(&self.kubectl, line), input).await
    }

    pub(super) async fn helm(&self, line: &str) -> Result<String> {
        say(format_args!("  $ helm {line}"));
        finish(&mut self.command(&self.helm, line), "").await
    }

    fn command(&self, program: &Path, line: &str) -> Command {
        let mut command = Command::new(program);
        command.args(line.split_whitespace()).env("KUBECONFIG", &self.kubeconfig);
        for variable in ["KUBECACHEDIR", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(variable, self.caches.join(variable));
        }
        command
    }
}
