//! The operator in a real cluster, as its users install, feed, scale and remove it: `make e2e`.
//!
//! | chapter | shows |
//! |---|---|
//! | `packages` | chart and kustomize base are well-formed, alike, and taken by the API server in every variant |
//! | `install` | `helm install --wait` in a namespace of restricted pods, with no right too many |
//! | `load` | EventSources become `CaughtUp`, their events are rows, and `kubectl get` tells about it |
//! | `scale` | replicas come, go and are replaced while they load |
//! | `removal` | `helm uninstall` keeps events and EventSources, the kustomize base goes on from there |
//!
//! The checker of the access log has the last word over all of it.

mod cluster;
mod evidence;
mod install;
mod load;
mod logs;
mod outside;
mod packages;
mod removal;
mod scale;
mod terminal;

use std::ffi::OsStr;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use kube::Client;
use tokio::time::{Instant, sleep};

use self::cluster::{Cluster, Kind};
use self::outside::Outside;
use self::terminal::Terminal;
use crate::account::is_root;
use crate::image;
use crate::narrate::{Stopwatch, say};
use crate::node::{self, Node};
use crate::place::Place;
use crate::postgres;
use crate::programs::by_go;

/// The namespace of the operator, in the chart's examples and in `config/default`.
const SYSTEM: &str = "headgate";
/// Selects the pods of the operator.
const PODS: &str = "app.kubernetes.io/name=headgate";
/// Labels of a namespace whose pods must be restricted ones.
const RESTRICTED: &str = "pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/warn=restricted";
const POLL: Duration = Duration::from_millis(200);

/// Which cluster to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum On {
    /// kind where Docker answers and kind comes up, else a node of its own.
    Either,
    /// The nodes of `kind-config.yaml` as containers.
    Kind,
    /// A node of its own in namespaces of its own.
    Node,
}

/// What the suite is given.
#[derive(Clone, Debug)]
pub struct Given {
    /// The archive with the image.
    pub archive: PathBuf,
    /// Where the evidence is left when something fails.
    pub evidence: PathBuf,
}

/// Runs the suite on one of the clusters and says whether it passed.
pub async fn run(given: &Given, on: On) -> Result<bool> {
    ensure!(given.archive.is_file(), "{} is not there: make image", given.archive.display());
    // Everything that may need the network.
    helm()?;
    postgres::Binaries::locate()?;
    if on == On::Kind || (on == On::Either && image::docker_works().await) {
        let place = Arc::new(Place::temporary("kind")?);
        say(
            "e2e: three nodes of kind, called headgate-e2e; by hand they end with `kind delete cluster -n headgate-e2e`",
        );
        match Kind::up(&place).await {
            Ok(kind) => {
                on_kind(kind, &place, given).await?;
                return Ok(true);
            }
            // Its image comes from a registry that not every machine reaches.
            Err(error) if on == On::Either && is_root() => {
                say(format_args!("e2e: {error:#}\ne2e: without kind, then, and on a node of its own"));
            }
            Err(error) => return Err(error),
        }
    }
    Node::prepare().await?;
    let place = Place::temporary("cluster")?;
    say(format_args!("e2e: a node in namespaces of its own, its files in {}; Ctrl-C ends it", place.path().display()));
    let [e2e, archive, evidence, inside] = ["e2e", "--archive", "--evidence", "--inside"].map(OsStr::new);
    let (image, left) = (given.archive.as_os_str(), given.evidence.as_os_str());
    let arguments = [e2e, archive, image, evidence, left, inside, place.path().as_os_str()];
    Ok(node::isolated(&place, &arguments).await?.success())
}

/// Runs the suite in the namespaces that [`run`] made.
pub async fn inside(given: &Given, outer: &Path) -> Result<()> {
    node::settle().await?;
    let place = Arc::new(node::place_inside(outer)?);
    let node = Node::up(&place).await?;
    Suite::on(&Cluster::Node(Box::new(node)), &place, given).await
}

async fn on_kind(kind: Kind, place: &Arc<Place>, given: &Given) -> Result<()> {
    let cluster = Cluster::Kind(kind);
    let passed = Suite::on(&cluster, place, given).await;
    cluster.end().await?;
    passed
}

fn helm() -> Result<PathBuf> {
    by_go("helm", "helm.sh/helm/v4/cmd/helm", "v4.3.1")
}

/// The cluster, what stands around it, and the hands that work on it.
struct Suite {
    terminal: Terminal,
    client: Client,
    outside: Outside,
    place: Arc<Place>,
    /// Which pods were asked to end, and when (microseconds of the log's clock).
    terminations: Mutex<Vec<(String, u64)>>,
}

impl Suite {
    async fn on(cluster: &Cluster, place: &Arc<Place>, given: &Given) -> Result<()> {
        let outside = Outside::up(place, cluster.address()).await?;
        cluster.load(&given.archive).await.context("load the image into the cluster")?;
        let kubeconfig = cluster.kubeconfig().to_owned();
        let client = crate::test_api::client_of(&kubeconfig).await?;
        let terminal =
            Terminal { kubectl: cluster.kubectl()?, helm: helm()?, kubeconfig, caches: place.path().join("caches") };
        let suite = Self { terminal, client, outside, place: Arc::clone(place), terminations: Mutex::default() };
        let watch = Stopwatch::start();
        let _followed = logs::follow(&suite.client, place.path());
        let passed = suite.chapters().await;
        match &passed {
            Ok(()) => say(format_args!("e2e: passed in {watch}")),
            Err(failure) => evidence::leave(&suite, failure, &given.evidence).await,
        }
        passed
    }

    /// Notes that these pods were asked to end, at this time or soon after it.
    fn terminated(&self, pods: impl IntoIterator<Item = String>, asked: u64) {
        self.terminations.lock().expect("no holder panics").extend(pods.into_iter().map(|pod| (pod, asked)));
    }

    async fn chapters(&self) -> Result<()> {
        chapter("the packages", packages::check(self)).await?;
        chapter("install", install::check(self)).await?;
        chapter("load", load::check(self)).await?;
        chapter("scale", scale::check(self)).await?;
        chapter("remove", removal::check(self)).await?;
        self.prove().await
    }

    #[expect(clippy::print_stdout, reason = "the proof is what this command is for")]
    async fn prove(&self) -> Result<()> {
        let terminations = self.terminations.lock().expect("no holder panics").clone();
        let proof = self.outside.prove(&terminations).await?;
        println!("\n{proof}");
        let broken: Vec<String> = proof.findings.violations.iter().map(ToString::to_string).collect();
        ensure!(broken.is_empty(), "the access log and the store show broken promises:\n{}", broken.join("\n"));
        Ok(())
    }
}

async fn chapter(name: &str, checks: impl Future<Output = Result<()>>) -> Result<()> {
    say(format_args!("\n== {name}"));
    let watch = Stopwatch::start();
    checks.await.with_context(|| format!("chapter '{name}'"))?;
    say(format_args!("   {name}: {watch}"));
    Ok(())
}

/// Asks again and again until the answer is `Ok`, and fails with the last answer.
async fn eventually<T>(within: Duration, mut ask: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(why) if begun.elapsed() > within => bail!("not within {within:?}: {why:#}"),
            Err(_) => sleep(POLL).await,
        }
    }
}
