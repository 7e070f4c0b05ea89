//! The working life of a replica: watch, hold, load; after the order to end hand off, and write the last status.

use std::{any::Any, convert::Infallible, future::pending, panic::resume_unwind, pin::pin, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    OperatorError,
    claimed_store::ClaimedStore,
    cluster::Cluster,
    life::Shared,
    readiness::{tell_membership, tell_of_peers, tell_sources, tell_whether_leases_wait},
    upkeep::keep_up,
};
use crate::{
    cli::RunArgs,
    controller::{self, ControllerConfig, Inputs, WatchState},
    fetch::{
        credentials::kubernetes::KubernetesCredentials,
        http::{Egress, HttpTransports},
    },
    loader::{Ports, Supervisor, buffer::Buffer},
    ownership::{
        Directives, Peers,
        kubernetes::{self, KubernetesOwnership, Started},
    },
    store::postgres::PostgresStore,
};

/// What a handoff that came last may still need for its poll and its commit after the drain's limit.
const LAST_POLLS: Duration = Duration::from_secs(3);

/// All that one replica works with.
pub(super) struct Load<'a> {
    pub(super) args: &'a RunArgs,
    pub(super) pod: &'a str,
    pub(super) shared: &'a Shared,
    pub(super) store: Arc<ClaimedStore<PostgresStore>>,
    pub(super) cluster: &'a Cluster,
}

impl Load<'_> {
    /// Works until `drain`, and then until all is handed off.
    ///
    /// # Errors
    /// When a part cannot work, or ends by itself.
    pub(super) async fn run(self, drain: &CancellationToken) -> Result<(), OperatorError> {
        let stop = CancellationToken::new();
        let _stop_all = stop.clone().drop_guard();
        let Started { ownership, directives, task } = self.start_ownership(&stop)?;
        let supervisor = self.supervisor(ownership.clone())?;
        let (watch_state, watched) = watch::channel(WatchState::Listing);
        // After the loader: by then it is known what found no successor.
        let stop_controller = CancellationToken::new();

        let health = &self.shared.health;
        let (leases_wait, waiting) = watch::channel(false);
        let (peers, others) = watch::channel(Peers::default());
        // Not spawned: a panic in one ends the replica, which begins anew, instead of a part that nobody misses.
        let beside = async {
            tokio::join!(
                tell_sources(health.clone(), watched),
                tell_membership(health.clone(), ownership.views()),
                tell_whether_leases_wait(leases_wait, ownership.views()),
                tell_of_peers(peers, ownership.views()),
                keep_up(self.store.clone(), self.args.retention_days, &self.shared.metrics),
            );
            pending::<Infallible>().await
        };

        let inputs = Inputs {
            desired: self.shared.desired.clone(),
            reports: self.shared.reports.clone(),
            leases_wait: waiting,
            peers: others,
        };

        let controlling = self.control(inputs, watch_state, stop_controller.clone());
        let loading = async {
            self.load(supervisor, directives, &ownership, &stop, drain).await?;
            stop_controller.cancel();
            Ok(())
        };
        tokio::select! {
            biased;
            // Without a drain: who renews no Lease any more is replaced, and must not look well meanwhile.
            panicked = panic_of(task) => resume_unwind(panicked),
            worked = async { tokio::try_join!(loading, controlling) } => worked.map(drop)?,
            never = beside => match never {},
        }
        info!("ended");
        Ok(())
    }

    fn start_ownership(&self, stop: &CancellationToken) -> Result<Started, OperatorError> {
        let mut config = kubernetes::Config::of_pod(self.pod, self.args.revision.clone());
        config.renew_interval = self.args.lease_renew_interval;
        config.lease_duration = self.args.lease_duration;
        config.drain_limit = self.args.drain_timeout;
        Ok(KubernetesOwnership::start(
            config,
            self.cluster.leases()?,
            self.cluster.leases()?,
            self.shared.desired.clone(),
            self.store.clone(),
            self.shared.metrics.clone(),
            stop.clone(),
        ))
    }

    fn supervisor(&self, ownership: Arc<KubernetesOwnership>) -> Result<Supervisor, OperatorError> {
        let credentials = Arc::new(KubernetesCredentials::new(self.cluster.client.clone()));
        let replica = format!("{}_{:08x}", self.pod, rand::random::<u32>());
        let egress = Egress::new(&self.args.allow_addresses, &self.args.deny_addresses);
        Ok(Supervisor::new(Ports {
            store: self.store.clone(),
            transports: Arc::new(HttpTransports::new(credentials, &replica, egress)?),
            ownership,
            desired: self.shared.desired.clone(),
            reports: self.shared.reports.clone(),
            metrics: self.shared.metrics.clone(),
            buffer: Buffer::new(self.args.buffer_bytes),
            health: self.shared.health.clone(),
        }))
    }

    async fn control(
        &self,
        inputs: Inputs,
        state: watch::Sender<WatchState>,
        shutdown: CancellationToken,
    ) -> Result<(), OperatorError> {
        let config = ControllerConfig {
            pod_name: self.pod.to_owned(),
            status_interval: self.args.status_interval,
            namespace: self.args.watch_namespace.clone(),
        };
        let (client, metrics) = (self.cluster.client.clone(), self.shared.metrics.clone());
        Ok(controller::run(config, client, inputs, metrics, state, shutdown).await?)
    }

    /// Runs what ownership directs; after `drain` until the last source is handed off, or until that takes too long.
    async fn load(
        &self,
        supervisor: Supervisor,
        directives: Directives,
        ownership: &KubernetesOwnership,
        stop: &CancellationToken,
        drain: &CancellationToken,
    ) -> Result<(), OperatorError> {
        let mut supervising = pin!(supervisor.run(directives, stop.clone()));
        tokio::select! {
            () = &mut supervising => return Err(OperatorError::Ended { part: "ownership" }),
            () = drain.cancelled() => {}
        }
        let handed_off = async { tokio::join!(supervising, ownership.drain()) };
        let Ok(((), left_to_nobody)) = tokio::time::timeout(self.args.drain_timeout + LAST_POLLS, handed_off).await
        else {
            warn!("ends with sources that were not handed off: their polls or commits did not end in time");
            return Ok(());
        };
        self.shared.reports.left_to_nobody(&left_to_nobody);
        Ok(())
    }
}

/// What a task panicked with; never, if it ends in another way.
async fn panic_of(task: JoinHandle<()>) -> Box<dyn Any + Send> {
    match task.await {
        Err(error) if error.is_panic() => error.into_panic(),
        _ => pending().await,
    }
}
