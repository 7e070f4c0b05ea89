//! Puts the parts together: the only place that names the adapters behind the ports.
//!
//! The order of a life: admin port, database, API server, installation, watch, ownership, loader; on SIGTERM ownership
//! hands every source off while the loader goes on, then the last status is written, then the process ends.

mod startup;

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use kube::Client;
use prometheus_client::registry::Registry;
use secrecy::ExposeSecret;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::startup::{Failed, until_it_works};
use crate::{
    admin::{Admin, Sources},
    cli::{DatabaseArgs, RunArgs},
    controller::{self, ControllerConfig, ControllerError, KubernetesCredentials, WatchState},
    desired::Desired,
    fetch::http::{HttpTransports, SetupError},
    loader::{Ports, Supervisor, buffer::Buffer, report::Reports},
    ownership::kubernetes::{self, KubernetesLeases, KubernetesOwnership, OwnershipView, Stage, installation_uid},
    store::{
        StoreError,
        postgres::{InstallationError, InvalidUrl, MigrateError, PostgresStore, Upkeep, migrate as migrate_schema},
    },
    telemetry::{
        health::{Health, Part},
        metrics::Metrics,
    },
};

/// How often day partitions are made and expired ones dropped. They are made a week ahead, so a day of failures is none.
const UPKEEP_EVERY: Duration = Duration::from_hours(1);

/// What a handoff that came last may still need for its poll and its commit after the drain's limit.
const LAST_POLLS: Duration = Duration::from_secs(3);

/// What ends a replica that was not told to end.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error("{0}")]
    Flags(String),
    #[error("--database-url is not valid")]
    DatabaseUrl(#[from] InvalidUrl),
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
    NoCluster(#[source] Box<kube::config::InferConfigError>),
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
    /// Told to end before it had begun: not a failure.
    #[error("told to end")]
    ToldToEnd,
}

/// `headgate migrate`.
///
/// # Errors
/// When the database cannot be reached, or the schema not be changed.
pub async fn migrate(args: &DatabaseArgs) -> Result<(), OperatorError> {
    migrate_schema(args.database_url.expose_secret()).await?;
    info!("the schema is that of this release");
    Ok(())
}

/// `headgate run`: one replica, until it is told to end.
///
/// # Errors
/// What waiting does not mend.
pub async fn run(args: RunArgs) -> Result<(), OperatorError> {
    args.check().map_err(OperatorError::Flags)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(OperatorError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(OperatorError::Signals)?;
    let mut told = async move || tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} };

    let drain = CancellationToken::new();
    let mut life = pin!(live(args, drain.clone()));
    tokio::select! {
        ended = &mut life => return ended,
        () = told() => info!("told to end: hands its sources off"),
    }
    drain.cancel();
    tokio::select! {
        ended = &mut life => match ended {
            Err(OperatorError::ToldToEnd) => Ok(()),
            ended => ended,
        },
        () = told() => Err(OperatorError::Aborted),
    }
}

/// The shared boards of one replica.
struct Boards {
    health: Health,
    desired: Desired,
    reports: Reports,
    metrics: Arc<Metrics>,
}

/// From the first probe to the last status. `drain` is the order to end.
async fn live(args: RunArgs, drain: CancellationToken) -> Result<(), OperatorError> {
    let mut registry = Registry::default();
    let boards = Boards {
        health: Health::starting(),
        desired: Desired::default(),
        reports: Reports::default(),
        metrics: Metrics::register(&mut registry),
    };
    let pod = args.identity.clone().unwrap_or_else(host_name);
    info!(version = env!("CARGO_PKG_VERSION"), replica = pod, "starts");
    let store = connect_store(&args, &pod, &boards.health, &drain);
    let address = args.admin_listen;
    let listener = TcpListener::bind(address).await.map_err(|source| OperatorError::AdminPort { address, source })?;
    let sources = Sources { desired: boards.desired.clone(), reports: boards.reports.clone() };
    let admin = Admin { health: boards.health.clone(), registry: Arc::new(registry), sources };
    let stop_admin = CancellationToken::new();
    let serving = admin.serve(listener, stop_admin.clone());

    let work = async {
        let store = Arc::new(store.await?);
        let cluster = connect_cluster(&args, &boards.health, &drain).await?;
        claim(&args, &store, &cluster, &boards.health, &drain).await?;
        let done = load(&args, &pod, &boards, store.clone(), cluster, &drain).await;
        store.close().await;
        done
    };
    tokio::select! {
        done = work => done,
        _ = serving => Err(OperatorError::Ended { part: "admin" }),
    }
}

/// The store, once its schema is that of this release.
async fn connect_store(
    args: &RunArgs,
    pod: &str,
    health: &Health,
    drain: &CancellationToken,
) -> Result<PostgresStore, OperatorError> {
    let url = args.database.database_url.expose_secret();
    let store = PostgresStore::new(url, &format!("headgate {pod}"), args.database.database_connections)?;
    let migrated = until_it_works(Part::Database, health, drain, async || match migrate_schema(url).await {
        Err(MigrateError::Store(StoreError::Unavailable { source, .. })) => Err(Failed::Wait(source.to_string())),
        Err(error) => Err(Failed::GiveUp(error.into())),
        Ok(()) => Ok(()),
    });
    migrated.await?;
    Ok(store)
}

/// How this replica reaches its cluster.
struct Cluster {
    config: kube::Config,
    client: Client,
    /// Of the Leases.
    namespace: String,
    /// The UID of the Lease `headgate-installation`.
    installation: String,
}

async fn connect_cluster(args: &RunArgs, health: &Health, drain: &CancellationToken) -> Result<Cluster, OperatorError> {
    let config = kube::Config::infer().await.map_err(|error| OperatorError::NoCluster(Box::new(error)))?;
    let failed = |error| OperatorError::Client(Box::new(error));
    let client = Client::try_from(config.clone()).map_err(failed)?;
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let installation = until_it_works(Part::Kubernetes, health, drain, async || {
        match installation_uid(client.clone(), &namespace).await {
            Ok(uid) => Ok(uid),
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403 | 404) => {
                Err(Failed::GiveUp(OperatorError::Leases(Box::new(kube::Error::Api(status)))))
            }
            Err(error) => Err(Failed::Wait(error.to_string())),
        }
    });
    let installation = installation.await?;
    Ok(Cluster { config, client, namespace, installation })
}

/// Makes sure that the database is ours.
async fn claim(
    args: &RunArgs,
    store: &PostgresStore,
    cluster: &Cluster,
    health: &Health,
    drain: &CancellationToken,
) -> Result<(), OperatorError> {
    until_it_works(Part::Installation, health, drain, async || {
        match store.claim_installation(&cluster.installation, args.take_over).await {
            Err(InstallationError::Store(StoreError::Unavailable { source, .. })) => {
                Err(Failed::Wait(source.to_string()))
            }
            Err(error) => Err(Failed::GiveUp(error.into())),
            Ok(()) => Ok(()),
        }
    })
    .await
}

/// The working life of a replica: watch, hold, load; after `drain` hand off, and write the last status.
async fn load(
    args: &RunArgs,
    pod: &str,
    boards: &Boards,
    store: Arc<PostgresStore>,
    cluster: Cluster,
    drain: &CancellationToken,
) -> Result<(), OperatorError> {
    let Boards { health, desired, reports, metrics } = boards;
    let stop = CancellationToken::new();
    let _stop_all = stop.clone().drop_guard();
    let lease_client = || {
        let connected = KubernetesLeases::connect(&cluster.config, &cluster.namespace);
        connected.map(Arc::new).map_err(|error| OperatorError::Client(Box::new(error)))
    };
    let mut config = kubernetes::Config::of_pod(pod, args.revision.clone());
    config.renew_interval = args.lease_renew_interval;
    config.lease_duration = args.lease_duration;
    config.drain_limit = args.drain_timeout;
    let started = KubernetesOwnership::start(
        config,
        lease_client()?,
        lease_client()?,
        desired.clone(),
        store.clone(),
        metrics.clone(),
        stop.clone(),
    );
    let ownership = started.ownership.clone();

    let credentials = Arc::new(KubernetesCredentials::new(cluster.client.clone()));
    let supervisor = Supervisor::new(Ports {
        store: store.clone(),
        transports: Arc::new(HttpTransports::new(credentials, &format!("{pod}_{:08x}", rand::random::<u32>()))?),
        ownership: ownership.clone(),
        desired: desired.clone(),
        reports: reports.clone(),
        metrics: metrics.clone(),
        buffer: Buffer::new(args.buffer_bytes),
        health: health.clone(),
    });
    let (watch_state, watched) = watch::channel(WatchState::Listing);
    let config = ControllerConfig {
        pod_name: pod.to_owned(),
        status_interval: args.status_interval,
        namespace: args.watch_namespace.clone(),
    };
    // After the loader: what then still stands in the reports found no successor.
    let stop_controller = CancellationToken::new();
    let controlling = controller::run(
        config,
        cluster.client,
        desired.clone(),
        reports.clone(),
        metrics.clone(),
        watch_state,
        stop_controller.clone(),
    );
    let mut beside = JoinSet::new();
    beside.spawn(tell_sources(health.clone(), watched));
    beside.spawn(tell_membership(health.clone(), ownership.views()));
    beside.spawn(keep_up(store, args.retention_days));

    let loading = async {
        let mut supervising = pin!(supervisor.run(started.directives, stop.clone()));
        tokio::select! {
            () = &mut supervising => return Err(OperatorError::Ended { part: "ownership" }),
            () = drain.cancelled() => {}
        }
        let handed_off = async { tokio::join!(supervising, ownership.drain()) };
        if tokio::time::timeout(args.drain_timeout + LAST_POLLS, handed_off).await.is_err() {
            warn!("ends with sources that were not handed off: their polls or commits did not end in time");
        }
        stop_controller.cancel();
        Ok(())
    };
    let controlling = async { controlling.await.map_err(OperatorError::from) };
    tokio::try_join!(loading, controlling)?;
    info!("ended");
    Ok(())
}

/// Says in `/readyz` how far the watch of EventSources is.
async fn tell_sources(health: Health, mut state: watch::Receiver<WatchState>) {
    loop {
        match state.borrow_and_update().pending() {
            Some(why) => health.waits(Part::Sources, why),
            None => health.works(Part::Sources),
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// Says in `/readyz` whether this replica takes part.
async fn tell_membership(health: Health, mut views: watch::Receiver<OwnershipView>) {
    loop {
        let (stage, lives) = {
            let view = views.borrow_and_update();
            (view.stage, view.holder.is_some())
        };
        match stage {
            Stage::Listing => health.waits(Part::Membership, "the first list of Leases is under way"),
            Stage::TakingPart if lives => health.works(Part::Membership),
            Stage::TakingPart => health.waits(Part::Membership, "the member Lease of this replica is not written yet"),
            Stage::Draining | Stage::Ended => health.waits(Part::Membership, "this replica is ending"),
        }
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// Makes the partitions of the next days and drops the expired ones, again and again. Any replica may; they do not get
/// into each other's way.
async fn keep_up(store: Arc<PostgresStore>, retention_days: Option<u32>) {
    let retention = retention_days.map(|days| Duration::from_hours(24) * days);
    loop {
        match store.upkeep(retention).await {
            Ok(done) if done != Upkeep::default() => {
                info!(made = done.partitions_made, dropped = done.partitions_dropped, "partitions");
            }
            Ok(_) => {}
            Err(error) => warn!(error = &error as &dyn std::error::Error, "cannot keep the partitions up"),
        }
        tokio::time::sleep(UPKEEP_EVERY).await;
    }
}

/// The name of this machine, for a replica that was not given one.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "headgate".to_owned() } else { name.to_owned() }
}
