//! What a person would type against the cluster, typed by the suite.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::narrate::say;
use crate::programs;

/// kubectl and helm, with the kubeconfig of one cluster. Lines are split at spaces: no argument of the suite has one.
pub(super) struct Terminal {
    pub(super) kubectl: PathBuf,
    pub(super) helm: PathBuf,
    pub(super) kubeconfig: PathBuf,
}

impl Terminal {
    pub(super) async fn kubectl(&self, line: &str) -> Result<String> {
        self.kubectl_fed(line, "").await
    }

    /// With a manifest on standard input.
    pub(super) async fn kubectl_fed(&self, line: &str, input: &str) -> Result<String> {
        say(format_args!("  $ kubectl {line}"));
        let kubeconfig = self.kubeconfig.to_str().context("the path of a kubeconfig is not plain text")?;
        let words: Vec<&str> = ["--kubeconfig", kubeconfig].into_iter().chain(line.split_whitespace()).collect();
        programs::fed(&self.kubectl, &words, input).await
    }

    pub(super) async fn helm(&self, line: &str) -> Result<String> {
        say(format_args!("  $ helm {line}"));
        let kubeconfig = self.kubeconfig.to_str().context("the path of a kubeconfig is not plain text")?;
        let words: Vec<&str> = ["--kubeconfig", kubeconfig].into_iter().chain(line.split_whitespace()).collect();
        programs::run(&self.helm, &words).await
    }
}
