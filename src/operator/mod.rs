//! Puts the parts together: the only place that names the adapters behind the ports.
//!
//! | file | what it is |
//! |---|---|
//! | `life` | the order of a life: what starts when, and what ends what |
//! | `cluster` | how the API server is reached |
//! | `admission`, `claimed_store` | the way to the store, and the store for those who start before its end |
//! | `files` | how many files the process may have open |
//! | `startup` | a step that is repeated until it works |
//! | `load` | the working life: watch, hold, load; then hand off |
//! | `readiness`, `upkeep` | what runs beside |

mod admission;
mod claimed_store;
mod cluster;
mod files;
mod life;
mod load;
mod readiness;
mod startup;
mod upkeep;

use std::{net::SocketAddr, pin::pin};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    cli::{DatabaseArgs, RunArgs},
    controller::ControllerError,
    fetch::http::SetupError,
    store::postgres::{InstallationError, InvalidUrl, MigrateError},
};

/// What ends a replica that was not told to end.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error("{0}")]
    Flags(String),
    #[error("{flag} is not valid")]
    DatabaseUrl {
        flag: &'static str,
        #[source]
        source: InvalidUrl,
    },
    #[error("cannot bring the database schema to this release")]
    Schema(#[from] MigrateError),
    #[error(transparent)]
    Installation(#[from] InstallationError),
    #[error("cannot listen on --admin-listen {address}")]
    AdminPort {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("no cluster is configured: run in a pod, or point KUBECONFIG at a kubeconfig file")]
    NoCluster(#[source] cluster::NotConfigured),
    #[error("cannot use the cluster's configuration")]
    Client(#[source] Box<kube::Error>),
    #[error("this replica may not work with Leases in its namespace; grant what the chart's Role *-leases grants")]
    Leases(#[source] Box<kube::Error>),
    #[error(transparent)]
    Controller(#[from] ControllerError),
    #[error(transparent)]
    Transports(#[from] SetupError),
    #[error("cannot wait for signals")]
    Signals(#[source] std::io::Error),
    #[error("a part of the operator ended by itself: {part}")]
    Ended { part: &'static str },
    #[error("told to end a second time")]
    Aborted,
}

/// `headgate migrate`, however long it takes.
///
/// # Errors
/// When the database cannot be reached, or the schema not be changed.
pub async fn migrate(args: &DatabaseArgs) -> Result<(), OperatorError> {
    admission::migrated(args, None).await?;
    info!("the schema is that of this release");
    Ok(())
}

/// `headgate run`: one replica, until it is told to end.
///
/// # Errors
/// What waiting does not mend.
pub async fn run(args: RunArgs) -> Result<(), OperatorError> {
    args.check().map_err(OperatorError::Flags)?;
    files::open_as_many_as_allowed();
    let mut terminate = signal(SignalKind::terminate()).map_err(OperatorError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(OperatorError::Signals)?;
    let mut told = async move || tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} };

    let drain = CancellationToken::new();
    let mut life = pin!(life::live(args, drain.clone()));
    tokio::select! {
        ended = &mut life => return ended,
        () = told() => info!("told to end: hands its sources off"),
    }
    drain.cancel();
    tokio::select! {
        ended = &mut life => ended,
        () = told() => Err(OperatorError::Aborted),
    }
}
