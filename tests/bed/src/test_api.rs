//! What a test needs of a Kubernetes API server: a client, a namespace of its own, and the CRDs of this repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Config, ResourceExt};
use rand::RngExt;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::control_plane::kubeconfig_text;
use crate::place::write_secret;

/// The path of an administrator's kubeconfig for tests.
pub const KUBECONFIG: &str = "HEADGATE_TEST_KUBECONFIG";

/// A test's part of an API server. Nothing is removed at the end: no controller runs there that could end a namespace, and the
/// API server itself does not live longer than the tests.
#[derive(Clone)]
pub struct TestApi {
    client: Client,
    namespace: String,
    kubeconfig: PathBuf,
}

impl TestApi {
    /// A new namespace on the API server that `HEADGATE_TEST_KUBECONFIG` names, with the CRDs established. Panics when it names
    /// none: a test that needs a server must not pass without one.
    pub async fn create() -> Self {
        let kubeconfig = PathBuf::from(crate::required(KUBECONFIG));
        Self::on(&kubeconfig).await.unwrap_or_else(|error| panic!("prepare the API server for a test: {error:#}"))
    }

    /// The same on the API server of the given administrator's kubeconfig.
    pub async fn on(kubeconfig: &Path) -> Result<Self> {
        let client = client_of(kubeconfig).await?;
        apply_crds(&client, kubeconfig).await?;
        let namespace = new_namespace(&client).await?;
        Ok(Self { client, namespace, kubeconfig: kubeconfig.to_owned() })
    }

    /// An administrator's client, that tries each request once.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The namespace of this test.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The administrator's kubeconfig file, for processes.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// One more namespace.
    pub async fn another_namespace(&self) -> Result<String> {
        new_namespace(&self.client).await
    }

    /// Makes a ServiceAccount in this test's namespace and writes a kubeconfig with its token to `file`: its rights are those
    /// that the test binds to it, and no more.
    pub async fn service_account(&self, name: &str, file: &Path) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let account = ServiceAccount { metadata: named(name), ..ServiceAccount::default() };
        accounts.create(&PostParams::default(), &account).await.context("create a ServiceAccount")?;
        let request = TokenRequest {
            metadata: ObjectMeta::default(),
            spec: TokenRequestSpec { audiences: Vec::new(), expiration_seconds: Some(86_400), bound_object_ref: None },
            status: None,
        };
        let granted = accounts.create_token_request(name, &PostParams::default(), &request).await;
        let token = granted.context("ask for the token of a ServiceAccount")?.status.context("read the token")?.token;
        let admin = Kubeconfig::read_from(&self.kubeconfig)?;
        let cluster = admin.clusters.first().and_then(|named| named.cluster.as_ref()).context("read the cluster")?;
        let (server, authority) = (cluster.server.as_deref(), cluster.certificate_authority.as_deref());
        let text = kubeconfig_text(
            server.context("read the server's URL")?,
            Path::new(authority.context("read the path of the certificate authority")?),
            &token,
        );
        write_secret(file, &text)
    }
}

async fn new_namespace(client: &Client) -> Result<String> {
    let name = format!("test-{:016x}", rand::rng().random::<u64>());
    let namespace = Namespace { metadata: named(&name), ..Namespace::default() };
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await.context("create a namespace")?;
    Ok(name)
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

/// A client that tries each request once, so that a test sees every answer.
pub(crate) async fn client_of(kubeconfig: &Path) -> Result<Client> {
    Ok(Client::try_from(config_of(kubeconfig).await?)?)
}

/// The configuration of such a client.
pub async fn config_of(kubeconfig: &Path) -> Result<Config> {
    let file = Kubeconfig::read_from(kubeconfig).with_context(|| format!("read {}", kubeconfig.display()))?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    // The servers are on this machine; kube takes HTTPS_PROXY and no NO_PROXY.
    config.proxy_url = None;
    Ok(config)
}

/// Applies every file of `crds/` and waits until the API server serves them; once per process and API server.
pub async fn apply_crds(client: &Client, kubeconfig: &Path) -> Result<()> {
    static APPLIED: OnceCell<PathBuf> = OnceCell::const_new();
    let first = APPLIED
        .get_or_try_init(|| async {
            apply_crds_now(client).await?;
            anyhow::Ok(kubeconfig.to_owned())
        })
        .await?;
    if first == kubeconfig { Ok(()) } else { apply_crds_now(client).await }
}

async fn apply_crds_now(client: &Client) -> Result<()> {
    let directory = crate::repository().join("crds");
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut files: Vec<PathBuf> = fs::read_dir(&directory)
        .with_context(|| format!("read {}: run `make crds`", directory.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file)?;
        let crd: CustomResourceDefinition =
            serde_saphyr::from_str(&text).with_context(|| format!("parse {}", file.display()))?;
        let parameters = PatchParams::apply("headgate-tests").force();
        let name = crd.name_any();
        api.patch(&name, &parameters, &Patch::Apply(&crd))
            .await
            .with_context(|| format!("apply {}", file.display()))?;
        let established = await_condition(api.clone(), &name, conditions::is_crd_established());
        timeout(Duration::from_secs(20), established)
            .await
            .with_context(|| format!("wait for {}", file.display()))??;
    }
    Ok(())
}
