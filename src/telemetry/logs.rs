//! Logs: one line per state change, JSON in a cluster, readable on a terminal. Always on standard error, so that
//! standard output belongs to what a command prints.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, filter::ParseError};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// `json` in a pod, `text` elsewhere.
    Auto,
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// Starts the log of the process.
///
/// # Errors
/// When `filter` is not a list of `target=level`.
pub fn start(filter: &str, format: LogFormat) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(filter)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Every pod has this variable, and hardly anything else does.
    let in_a_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    match format {
        LogFormat::Json => lines.json().flatten_event(true).init(),
        LogFormat::Auto if in_a_pod => lines.json().flatten_event(true).init(),
        LogFormat::Auto | LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
    }
    Ok(())
}
