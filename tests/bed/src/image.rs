//! The image of the operator, built with what this machine has: Docker, else Buildah.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::narrate::{Stopwatch, say};
use crate::programs::{find, require, run};

/// Whether a Docker daemon answers; the client alone builds nothing.
pub async fn docker_works() -> bool {
    match find("docker") {
        Some(docker) => run(docker, &["info", "--format", "{{.ServerVersion}}"]).await.is_ok(),
        None => false,
    }
}

/// The image of this clone, as chart and kustomize base name it. Under `localhost`, so that a node that was not given it
/// asks no registry for somebody else's of that name.
pub fn name() -> Result<String> {
    let manifest = std::fs::read_to_string(crate::repository().join("Cargo.toml")).context("read Cargo.toml")?;
    let version = manifest
        .split("[package]")
        .nth(1)
        .and_then(|package| package.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"')));
    Ok(format!("localhost/headgate:{}", version.context("find the version in Cargo.toml")?))
}

/// Builds the image of the operator around `dist/headgate`.
pub async fn of_the_operator(archive: &Path) -> Result<()> {
    build(&crate::repository(), &["--build-arg", "BINARY=prebuilt"], &name()?, archive).await
}

/// Builds the Dockerfile of `context` into an archive that containerd, `docker load` and `kind load` take.
pub async fn build(context: &Path, arguments: &[&str], image: &str, archive: &Path) -> Result<()> {
    let watch = Stopwatch::start();
    let _ = std::fs::remove_file(archive);
    let with = if docker_works().await {
        by_docker(context, arguments, image, archive).await.context("build an image with Docker")?;
        "Docker"
    } else {
        by_buildah(context, arguments, image, archive).await.context("build an image with Buildah")?;
        "Buildah"
    };
    let size = std::fs::metadata(archive)?.len() / 1024 / 1024;
    say(format_args!("image {image}: {} ({size} MiB), built with {with} in {watch}", archive.display()));
    Ok(())
}

async fn by_docker(context: &Path, arguments: &[&str], image: &str, archive: &Path) -> Result<()> {
    let (context, archive) = (text(context)?, text(archive)?);
    run("docker", &[&["build", "--quiet", "--tag", image], arguments, &[context]].concat()).await?;
    run("docker", &["save", "--output", archive, image]).await.map(drop)
}

/// Without a daemon and without a store that outlives the build.
async fn by_buildah(context: &Path, arguments: &[&str], image: &str, archive: &Path) -> Result<()> {
    require("an image without Docker", &[("buildah", "buildah")]).await?;
    let store = tempfile::Builder::new().prefix("headgate-buildah-").tempdir()?;
    let (root, state): (PathBuf, PathBuf) = (store.path().join("root"), store.path().join("state"));
    let options = ["--storage-driver", "vfs", "--root", text(&root)?, "--runroot", text(&state)?];
    let build = ["bud", "--quiet", "--tag", image];
    run("buildah", &[&options, &build[..], arguments, &[text(context)?]].concat()).await?;
    let target = format!("docker-archive:{}:{image}", text(archive)?);
    run("buildah", &[&options[..], &["push", "--quiet", image, &target]].concat()).await.map(drop)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not plain text", path.display()))
}
