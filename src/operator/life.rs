//! The order of a life. First what waiting does not mend; then the admin port; then everything at once: the way to the
//! store, and all that works with it.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use prometheus_client::registry::Registry;
use secrecy::ExposeSecret;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    OperatorError,
    admission::{self, Admission},
    claimed_store::ClaimedStore,
    cluster::Cluster,
    load::Load,
};
use crate::{
    admin::{Admin, Sources},
    cli::RunArgs,
    desired::Desired,
    loader::reports::Reports,
    mutation,
    store::postgres::PostgresStore,
    telemetry::{cause::in_one_line, health::Health, metrics::Metrics},
};

/// What the parts of one replica share.
pub(super) struct Shared {
    pub(super) health: Health,
    pub(super) desired: Desired,
    pub(super) reports: Reports,
    pub(super) metrics: Arc<Metrics>,
}

impl Shared {
    fn new(registry: &mut Registry) -> Self {
        Self {
            health: Health::starting(),
            desired: Desired::default(),
            reports: Reports::default(),
            metrics: Metrics::register(registry),
        }
    }
}

/// From the first probe to the last status. `drain` is the order to end.
pub(super) async fn live(args: RunArgs, drain: CancellationToken) -> Result<(), OperatorError> {
    let pod = args.identity.clone().unwrap_or_else(host_name);
    info!(version = mutation::VERSION, replica = pod, "starts");
    let cluster = Cluster::configured(args.namespace.clone()).await?;
    let store = connect_lazily(&args, &pod)?;
    admission::check(&args.database)?;
    let address = args.admin_listen;
    let listener = listen(address).await.map_err(|source| OperatorError::AdminPort { address, source })?;

    let mut registry = Registry::default();
    let shared = Shared::new(&mut registry);
    let store = store.counting(&shared.metrics);
    let sources = Sources { desired: shared.desired.clone(), reports: shared.reports.clone() };
    let admin = Admin { health: shared.health.clone(), registry: Arc::new(registry), sources };
    let (claim, claimed) = watch::channel(admission::AT_FIRST);
    let admission = Admission { args: &args, store: &store, cluster: &cluster, health: &shared.health, claim };
    let claimed = Arc::new(ClaimedStore::new(store.clone(), claimed));
    let load = Load { args: &args, pod: &pod, shared: &shared, store: claimed, cluster: &cluster };
    let working = async {
        let done = work(admission, load, &drain).await;
        store.close().await;
        done
    };
    tokio::select! {
        done = working => done,
        never = admin.serve(listener) => match never {},
    }
}

/// `[::]` takes connections of both families, so that the probes of a node find it in each kind of cluster. Where the kernel
/// has no IPv6, there is only the other one.
async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        listening => listening,
    }
}

/// The way to the store, and beside it all that works with it. Each ends the other.
async fn work(admission: Admission<'_>, load: Load<'_>, drain: &CancellationToken) -> Result<(), OperatorError> {
    let admitting = async {
        let admitted = drain.run_until_cancelled(admission.run()).await.unwrap_or(Ok(()));
        if let Err(error) = &admitted {
            warn!(error = in_one_line(error), "cannot use the store; hands off what it holds, and ends");
            // In good order: a member that just disappears is declared dead, and fencing a holder off needs the store.
            drain.cancel();
        }
        admitted
    };
    let loading = async {
        let loaded = load.run(drain).await;
        // Nobody is left to be admitted.
        drain.cancel();
        loaded
    };
    let (admitted, loaded) = tokio::join!(admitting, loading);
    admitted.and(loaded)
}

fn connect_lazily(args: &RunArgs, pod: &str) -> Result<PostgresStore, OperatorError> {
    let (url, connections) = (args.database.database_url.expose_secret(), args.database.database_connections);
    let application = format!("headgate {pod}");
    let store = PostgresStore::new(url, &application, connections)
        .map_err(|source| OperatorError::DatabaseUrl { flag: "--database-url", source })?;
    let (flag, url) = admission::direct_url(&args.database);
    store.upkeep_over(url, &application).map_err(|source| OperatorError::DatabaseUrl { flag, source })
}

/// The name of this machine, for a replica that was not given one.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "headgate".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn the_default_address_is_found_over_either_family() {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let listener = listen(any).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).await.expect("IPv4");
        if address.is_ipv6() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, address.port())).await.expect("IPv6");
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_error() {
        let taken = listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).await.expect("a free port");
        assert!(listen(taken.local_addr().expect("an address")).await.is_err());
    }
}
