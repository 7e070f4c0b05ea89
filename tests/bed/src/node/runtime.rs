//! containerd, with everything it writes inside the place of the node or on the tmpfs of its namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::network;
use crate::cache;
use crate::image;
use crate::place::Place;
use crate::process::Process;
use crate::programs::{find, run};

/// Where kubelet finds it.
pub(super) const SOCKET: &str = "/run/containerd/containerd.sock";
/// What holds the namespaces of a pod.
const PAUSE: &str = "localhost/headgate-pause:1";
const PLUGINS: &str = "/usr/lib/cni";
const READY_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Runtime {
    process: Process,
}

impl Runtime {
    pub(super) async fn up(place: &Arc<Place>) -> Result<Self> {
        let file = place.path().join("containerd.toml");
        fs::write(&file, configuration(place.path()))?;
        let program = find("containerd").context("find containerd")?;
        let runtime = Self { process: place.launch("containerd", &program).arg("--config").arg(&file).start()? };
        runtime.process.ready(READY_WITHIN, async || ctr(&["version"]).await.is_ok()).await?;
        runtime.import(&pause_image().await?).await?;
        Ok(runtime)
    }

    pub(super) async fn import(&self, archive: &Path) -> Result<()> {
        let file = archive.to_str().context("import an image: its path is not plain text")?;
        ctr(&["--namespace", "k8s.io", "images", "import", "--snapshotter", "native", file]).await
    }
}

async fn ctr(arguments: &[&str]) -> Result<()> {
    let program = find("ctr").context("find ctr")?;
    run(program, &[&["--address", SOCKET], arguments].concat()).await.map(drop)
}

fn configuration(place: &Path) -> String {
    let (root, network) = (place.join("containerd"), place.join(network::CONFIGURATION));
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    format!(
        r#"version = 2
root = "{}"
state = "/run/containerd"
# It would make /opt/containerd.
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "{SOCKET}"
[{cri}]
sandbox_image = "{PAUSE}"
# Without CAP_SYS_RESOURCE a container that asks for less than this process has cannot start.
restrict_oom_score_adj = true
[{cri}.cni]
bin_dir = "{PLUGINS}"
conf_dir = "{}"
[{cri}.containerd]
# Copies: slower than overlayfs, and works on every file system, on an overlay too.
snapshotter = "native"
default_runtime_name = "runc"
[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{cri}.containerd.runtimes.runc.options]
SystemdCgroup = false
"#,
        root.display(),
        network.display()
    )
}

/// The archive of the pause image: made once for this machine from `tests/bed/pause`.
pub(super) async fn pause_image() -> Result<PathBuf> {
    let source = crate::repository().join("tests/bed/pause");
    let program = fs::read(source.join("pause.rs")).context("read the source of the pause program")?;
    // The archive holds the name too.
    let made = cache::directory().join(format!("pause-{}", cache::key([&program[..], PAUSE.as_bytes()])));
    let archive = made.join("pause.tar");
    if archive.exists() {
        return Ok(archive);
    }
    fs::create_dir_all(&made)?;
    let context = tempfile::tempdir()?;
    fs::copy(source.join("Dockerfile"), context.path().join("Dockerfile"))?;
    compile(&source.join("pause.rs"), &context.path().join("pause")).await?;
    let unfinished = made.join("pause.tar.new");
    image::build(context.path(), &[], PAUSE, &unfinished).await?;
    fs::rename(&unfinished, &archive)?;
    Ok(archive)
}

/// Static, because nothing else is in its image.
async fn compile(source: &Path, program: &Path) -> Result<()> {
    let version = run("rustc", &["-vV"]).await?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("read the host of rustc")?;
    let (source, program) = (source.display().to_string(), program.display().to_string());
    let options =
        ["--edition=2024", "-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols", "-Ctarget-feature=+crt-static"];
    run("rustc", &[&options[..], &["--target", host, "-o", &program, &source]].concat()).await.map(drop)
}
