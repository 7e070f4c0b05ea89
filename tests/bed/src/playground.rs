//! The same parts, kept running for playing: `make up` and `make down`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpStream;

use crate::access_log::AccessLog;
use crate::fleet::Fleet;
use crate::narrate::say;
use crate::parts::Parts;
use crate::place::Place;
use crate::ports::free_port;
use crate::programs::find;
use crate::source::{FakeSource, Fault, SourceConfig};
use crate::stage::{LOOPBACK, SOURCES, apply_source, prepare, setting};

/// The name of the process that serves the sources.
const SOURCE: &str = "source";
/// How the names of the replicas begin.
const REPLICA: &str = "headgate-";
/// A replica hands its sources off in half a second each, and waits for the polls under way.
const HANDS_OFF_WITHIN: Duration = Duration::from_mins(1);
/// A source listens at once.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// Where everything of the playground lies.
#[must_use]
pub fn default_place() -> PathBuf {
    crate::repository().join(".headgate/dev")
}

/// Starts what does not run: servers, sources, and `replicas` replicas of `binary`; ends those above that number, as a
/// scale down would. Prints what to try next.
///
/// # Errors
/// When something does not come up.
pub async fn up(root: &Path, binary: &Path, replicas: u16) -> Result<()> {
    let place = Arc::new(Place::kept(root)?);
    let parts = Parts::up(&place).await?;
    let client = prepare(&parts).await?;
    let address = source_up(&place).await?;
    for config in sources() {
        let name = &config.feed.name;
        apply_source(&client, name, &format!("http://{address}/{name}/events")).await?;
    }
    let mut fleet = Fleet::new(&place, setting(&parts, binary))?;
    let names: Vec<String> = (1..=replicas).map(|number| format!("{REPLICA}{number}")).collect();
    for name in &names {
        if !fleet.adopt(name) {
            fleet.start(name)?;
        }
        fleet.ready(name).await?;
    }
    for process in place.all_running()? {
        let name = process.name();
        if name.starts_with(REPLICA) && !names.iter().any(|wanted| wanted == name) && fleet.adopt(name) {
            fleet.ask_to_end(name)?;
            fleet.ended(name, HANDS_OFF_WITHIN).await?;
        }
    }
    tell(root, &parts, &fleet)
}

/// Ends everything and removes all that was written. Works after a crash too, and when there is nothing.
///
/// # Errors
/// When a file cannot be removed.
pub fn down(root: &Path) -> Result<()> {
    crate::parts::down(root)?;
    for file in [beside(root, "dev.env")?, beside(root, "replicas")?] {
        if file.exists() {
            fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
    }
    Ok(())
}

/// Serves the playground's sources until the process is ended.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve_sources(listen: &str, log: &Path) -> Result<()> {
    let source = FakeSource::start(listen, sources(), 1, AccessLog::to_file(log)?).await?;
    say(format_args!("sources at http://{}", source.address()));
    std::future::pending().await
}

fn sources() -> Vec<SourceConfig> {
    vec![
        SourceConfig::new("orders", 5_000).growing_by(20.0),
        SourceConfig::new("flaky", 5_000).growing_by(20.0).sometimes(0.2, Fault::Status(500)),
        SourceConfig::new("backlog", 1_000_000),
    ]
}

/// Finds the process that serves the sources, or starts it; it always has the same address.
async fn source_up(place: &Arc<Place>) -> Result<String> {
    const PORT: &str = "source.port.json";
    let port: u16 = match place.recall(PORT) {
        Some(port) => port,
        None => free_port()?,
    };
    place.remember(PORT, &port)?;
    let address = format!("127.0.0.1:{port}");
    let process = match place.running(SOURCE) {
        Some(process) => process,
        None => place
            .launch(SOURCE, &std::env::current_exe()?)
            .args(["source", "--listen", &address, "--log"])
            .arg(place.path().join("access.jsonl"))
            .start()?,
    };
    process.ready(LISTENS_WITHIN, async || TcpStream::connect(&address).await.is_ok()).await?;
    Ok(address)
}

#[expect(clippy::print_stdout, reason = "the next commands are what this command is for")]
fn tell(root: &Path, parts: &Parts, fleet: &Fleet) -> Result<()> {
    let environment = beside(root, "dev.env")?;
    let kubeconfig = parts.control_plane.kubeconfig().display();
    let mut lines = format!("export KUBECONFIG='{kubeconfig}'\nexport DATABASE_URL='{}'\n", parts.postgres.url());
    // For a replica that is started by hand beside the others.
    writeln!(lines, "export HEADGATE_ALLOW_ADDRESSES='{LOOPBACK}'")?;
    // What was built for the control plane has a kubectl beside it.
    let beside_server =
        parts.control_plane.api_server.program().parent().filter(|folder| folder.join("kubectl").exists());
    if let (None, Some(folder)) = (find("kubectl"), beside_server) {
        writeln!(lines, "export PATH=\"$PATH:{}\"", folder.display())?;
    }
    crate::place::write_secret(&environment, &lines)?;
    let mut replicas = String::new();
    for (name, id, url) in fleet.addresses() {
        writeln!(replicas, "{name} {id} {url}")?;
    }
    let list = beside(root, "replicas")?;
    fs::write(&list, replicas).with_context(|| format!("cannot write {}", list.display()))?;
    println!("\nTry next:");
    println!("  . {}", environment.display());
    println!("  kubectl get evsrc -n {SOURCES} -w");
    println!("  kill -9 $(awk 'NR==1 {{print $2}}' {}); make up   # and watch the holder change", list.display());
    Ok(())
}

fn beside(root: &Path, name: &str) -> Result<PathBuf> {
    Ok(root.parent().context("the place of the playground needs a parent directory")?.join(name))
}
