//! A real Kubernetes API: etcd and kube-apiserver as two processes, without nodes and without controllers.
//!
//! So nothing acts on what is written there but the operator under test: no garbage collector, no namespace ever ends,
//! no pod starts.

mod binaries;
mod credentials;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use kube::Client;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use self::binaries::{Binaries, built};
use self::credentials::Credentials;
pub(crate) use self::credentials::kubeconfig as kubeconfig_text;
use crate::narrate::{Stopwatch, say};
use crate::place::{Place, write_secret};
use crate::ports::free_port;
use crate::process::Signal;
use crate::server::{Recipe, Server};

/// A start takes 3 s alone and a few times that on a machine that compiles beside it.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// What a control plane is for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where kube-apiserver listens; a control plane with nodes needs an address that pods reach.
    pub address: IpAddr,
    /// Whether a controller manager will run beside it: then every pod gets the token of its ServiceAccount.
    pub with_controllers: bool,
    /// Further arguments for kube-apiserver.
    pub arguments: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { address: Ipv4Addr::LOCALHOST.into(), with_controllers: false, arguments: Vec::new() }
    }
}

/// What stays the same over restarts.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Facts {
    etcd_port: u16,
    peer_port: u16,
    api_port: u16,
    admin_token: String,
}

impl Facts {
    fn new() -> Result<Self> {
        let admin_token = format!("{:032x}", rand::rng().random::<u128>());
        Ok(Self { etcd_port: free_port()?, peer_port: free_port()?, api_port: free_port()?, admin_token })
    }
}

/// etcd and kube-apiserver.
#[derive(Debug)]
pub struct ControlPlane {
    /// kube-apiserver.
    pub api_server: Server,
    /// etcd.
    pub etcd: Server,
    facts: Facts,
    credentials: Credentials,
    server_url: String,
    kubeconfig: PathBuf,
    place: Arc<Place>,
}

impl ControlPlane {
    /// A control plane of this process, that ends with it.
    pub async fn temporary() -> Result<Self> {
        Self::up(&Arc::new(Place::temporary("control-plane")?), &Settings::default()).await
    }

    /// The control plane of this place: what does not run is started, with the data and credentials it had.
    pub async fn up(place: &Arc<Place>, settings: &Settings) -> Result<Self> {
        let watch = Stopwatch::start();
        let mut control_plane = Self::in_place(place, settings)?;
        if control_plane.is_running() && control_plane.ready().await.is_ok() {
            say(format_args!("control plane: runs already at {}", control_plane.server_url));
            return Ok(control_plane);
        }
        control_plane.start().await?;
        say(format_args!(
            "control plane: etcd (pid {}) and kube-apiserver (pid {}) at {}, logs and data in {}; ready after {watch}",
            control_plane.etcd.id().unwrap_or_default(),
            control_plane.api_server.id().unwrap_or_default(),
            control_plane.server_url,
            place.path().display(),
        ));
        Ok(control_plane)
    }

    fn in_place(place: &Arc<Place>, settings: &Settings) -> Result<Self> {
        const FACTS: &str = "control-plane.json";
        let binaries = Binaries::locate()?;
        say(format_args!("control plane: {} ({})", binaries.kube_apiserver.display(), binaries.origin));
        let known = place.recall::<Facts>(FACTS);
        let running = ["etcd", "kube-apiserver"].into_iter().any(|name| place.running(name).is_some());
        let facts = match known {
            Some(facts) if running || is_free(settings.address, facts.api_port) => facts,
            // The ports were taken while it was down. The token stays: it is in the file that holds the tokens.
            Some(facts) => Facts { admin_token: facts.admin_token, ..Facts::new()? },
            None => Facts::new()?,
        };
        place.remember(FACTS, &facts)?;

        let directory = place.directory_of("kubernetes", None)?;
        let credentials =
            Credentials::in_directory(&directory, &[settings.address, SERVICE_ADDRESS], &facts.admin_token)?;
        let server_url = format!("https://{}", SocketAddr::new(settings.address, facts.api_port));
        let kubeconfig = place.path().join("kubeconfig");
        write_secret(&kubeconfig, &kubeconfig_text(&server_url, &credentials.authority, &facts.admin_token))?;
        let data = place.directory_of("etcd", None)?;
        let etcd = Server::in_place(place, etcd(&binaries.etcd, &facts, &data));
        let api_server = api_server(&binaries.kube_apiserver, &facts, &credentials, settings, &directory);
        let api_server = Server::in_place(place, api_server);
        Ok(Self { api_server, etcd, facts, credentials, server_url, kubeconfig, place: Arc::clone(place) })
    }

    /// Starts what does not run, and waits until it is ready.
    pub async fn start(&mut self) -> Result<()> {
        self.etcd.start()?;
        self.etcd_ready().await?;
        self.api_server.start()?;
        self.ready().await
    }

    /// Stops both.
    pub async fn stop(&mut self) -> Result<()> {
        self.api_server.stop().await?;
        self.etcd.stop().await
    }

    /// Whether both processes are there.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.etcd.is_running() && self.api_server.is_running()
    }

    /// The kubeconfig file of an administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The URL of the API server.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.server_url
    }

    /// The file with the certificate that signed the API server's.
    #[must_use]
    pub fn authority(&self) -> &Path {
        &self.credentials.authority
    }

    /// The file with the key that signs the tokens of ServiceAccounts; a controller manager needs it.
    #[must_use]
    pub fn account_signing_key(&self) -> &Path {
        &self.credentials.account_signing_key
    }

    /// The directory of data and logs.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.place.path()
    }

    /// A client with an administrator's rights, that tries each request once.
    pub async fn client(&self) -> Result<Client> {
        crate::test_api::client_of(&self.kubeconfig).await
    }

    /// Waits until the API server says that it is ready.
    pub async fn ready(&self) -> Result<()> {
        let client = self.client().await?;
        let says_so = async || {
            let request = hyper::Request::get("/readyz").body(Vec::new()).expect("a plain request");
            let answer = timeout(Duration::from_secs(2), client.request_text(request)).await;
            answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer == "ok"))
        };
        self.api_server.process()?.ready(READY_WITHIN, says_so).await
    }

    async fn etcd_ready(&self) -> Result<()> {
        let address = (Ipv4Addr::LOCALHOST, self.facts.etcd_port);
        self.etcd.process()?.ready(READY_WITHIN, async || TcpStream::connect(address).await.is_ok()).await
    }
}

/// The first address of the Services, which is the one of the `kubernetes` Service.
const SERVICE_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));

fn is_free(address: IpAddr, port: u16) -> bool {
    TcpListener::bind((address, port)).is_ok()
}

fn etcd(program: &Path, facts: &Facts, data: &Path) -> Recipe {
    let client = format!("http://127.0.0.1:{}", facts.etcd_port);
    let peer = format!("http://127.0.0.1:{}", facts.peer_port);
    let arguments = vec![
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        // Nothing here must outlive the machine, and syncing would make every write wait for the disk.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    let directory = data.to_owned();
    let (stop, end) = (Signal::TERM, Signal::KILL);
    Recipe { name: "etcd", program: program.to_owned(), arguments, directory, account: None, stop, end }
}

fn api_server(program: &Path, facts: &Facts, files: &Credentials, settings: &Settings, directory: &Path) -> Recipe {
    let mut arguments = vec![
        format!("--etcd-servers=http://127.0.0.1:{}", facts.etcd_port),
        format!("--bind-address={}", settings.address),
        format!("--advertise-address={}", settings.address),
        format!("--secure-port={}", facts.api_port),
        format!("--cert-dir={}", directory.display()),
        format!("--tls-cert-file={}", files.server_certificate.display()),
        format!("--tls-private-key-file={}", files.server_key.display()),
        format!("--service-account-key-file={}", files.account_public_key.display()),
        format!("--service-account-signing-key-file={}", files.account_signing_key.display()),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        format!("--token-auth-file={}", files.tokens.display()),
        "--allow-privileged=true".to_owned(),
    ];
    if settings.address.is_loopback() {
        // No pod will ask for the `kubernetes` Service, and its endpoints may not be on loopback.
        arguments.push("--endpoint-reconciler-type=none".to_owned());
    }
    if !settings.with_controllers {
        // It waits for a ServiceAccount that only a controller makes.
        arguments.push("--disable-admission-plugins=ServiceAccount".to_owned());
    }
    arguments.extend(settings.arguments.iter().cloned());
    let (stop, end) = (Signal::TERM, Signal::KILL);
    Recipe {
        name: "kube-apiserver",
        program: program.to_owned(),
        arguments,
        directory: directory.to_owned(),
        account: None,
        stop,
        end,
    }
}
