//! EventSource -> what this replica should run; the status writer; Kubernetes Events.
//!
//! Every replica watches every EventSource and keeps [`Desired`] in line with it. Only the holder of a source writes its
//! status and its finalizer: what stands in the [`Reports`] of a replica is what it holds.

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::sync::watch::{Receiver, Sender};
use tokio_util::sync::CancellationToken;

use self::leases_first::LeasesFirst;
use crate::{desired::Desired, loader::reports::Reports, ownership::Peers, telemetry::metrics::Metrics};

mod announcements;
mod board;
mod endpoints;
mod events;
mod finalizer;
#[cfg(test)]
mod fixtures;
mod intake;
mod invalid;
mod leases_first;
mod patch;
mod sample;
mod status;
mod steady;
mod token_bucket;
mod unreadable;
mod watch;
mod writer;

pub use watch::WatchState;

/// What one replica's controller is told.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// The name of the pod; Events carry it.
    pub pod_name: String,
    /// Counters of one source are written at most this often (`--status-interval`).
    pub status_interval: Duration,
    /// Only the EventSources of this namespace; all namespaces when not given.
    pub namespace: Option<String>,
}

/// What one replica's controller goes by.
#[derive(Clone)]
pub struct Inputs {
    /// What should run; the controller itself keeps it in line with the EventSources.
    pub desired: Desired,
    /// What this replica holds, and how that goes.
    pub reports: Reports,
    /// Whether more sources wait for a holder than Leases are written at once. Statuses and Events wait meanwhile; the few
    /// marks of invalid objects do not.
    pub leases_wait: Receiver<bool>,
    /// Who else lives. One of another release may read what this one cannot.
    pub peers: Receiver<Peers>,
}

/// Why the controller cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControllerError {
    #[error("the API server does not know this replica's credentials (401); check its service account or kubeconfig")]
    Unauthorized,
    #[error(
        "this replica may not list EventSources (403); give its service account get, list and watch on \
         eventsources.headgate.dev, in all namespaces or in the one it is to watch"
    )]
    Forbidden,
}

/// Runs the controller of one replica until `shutdown`.
///
/// `shutdown` is to come after the drain, when the tasks of all sources have ended and whatever found a successor is out
/// of `reports`: what still stands there is written as AwaitingReplica.
///
/// # Errors
/// When this replica may not list EventSources. A missing CRD or an unreachable API server is waited for; `state` says so.
pub async fn run(
    config: ControllerConfig,
    client: Client,
    inputs: Inputs,
    metrics: Arc<Metrics>,
    state: Sender<WatchState>,
    shutdown: CancellationToken,
) -> Result<(), ControllerError> {
    let leases_first = LeasesFirst::new(inputs.leases_wait.clone());
    let (sink, publisher) = events::channel(client.clone(), &config.pod_name, leases_first, metrics.clone());
    let unreadable = unreadable::Unreadable::default();
    let watch = watch::Watch {
        client: client.clone(),
        namespace: config.namespace,
        intake: intake::Intake::new(inputs.desired.clone(), unreadable.clone()),
        state,
        unreadable: unreadable.clone(),
        metrics: &metrics,
    };
    let marks = invalid::Marks { client: client.clone(), unreadable, peers: inputs.peers.clone(), metrics: &metrics };
    let board = board::Board::new(config.status_interval, rand::random());
    let writer = writer::StatusWriter::new(client, board, inputs, sink, metrics.clone());
    let watching = watch.run(&shutdown);
    let telling = async {
        tokio::join!(writer.run(&shutdown), publisher.run(&shutdown), shutdown.run_until_cancelled(marks.run()),);
        Ok(())
    };
    // A watch that may not begin ends the others as well: they are dropped.
    tokio::try_join!(watching, telling)?;
    Ok(())
}
