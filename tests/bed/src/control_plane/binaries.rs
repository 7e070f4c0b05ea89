//! Where etcd and kube-apiserver come from.
//!
//! In this order: `KUBEBUILDER_ASSETS`, `PATH`, this user's cache, a build from source (`tests/control-plane`) that goes into
//! the cache. Nothing is downloaded ready-made: that would need the name of a server, and the build needs only Go.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cache;
use crate::narrate::{Stopwatch, say};

/// Every command that the program of `tests/control-plane` can act as.
const COMMANDS: [&str; 7] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];

/// What builds them. Older ones do not know that go.mod asks for another release.
const GO: &str =
    "Go 1.21 or newer, which fetches the release that go.mod asks for by itself (but not with GOTOOLCHAIN=local)";

/// A pair of servers that can make up a control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// etcd.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub kube_apiserver: PathBuf,
    /// Which of the ways it was found, for the person at the terminal.
    pub origin: String,
}

impl Binaries {
    fn in_directory(directory: &Path, origin: &str) -> Option<Self> {
        let (etcd, kube_apiserver) = (directory.join("etcd"), directory.join("kube-apiserver"));
        (etcd.is_file() && kube_apiserver.is_file()).then(|| Self { etcd, kube_apiserver, origin: origin.to_owned() })
    }

    /// Finds them, and builds them when there are none.
    pub fn locate() -> Result<Self> {
        if let Some(found) =
            Self::installed(env::var_os("KUBEBUILDER_ASSETS").as_deref(), env::var_os("PATH").as_deref())?
        {
            return Ok(found);
        }
        let directory = built()?;
        Self::in_directory(&directory, "built from tests/control-plane").with_context(|| {
            format!("find etcd and kube-apiserver in {}: remove that directory to build it again", directory.display())
        })
    }

    fn installed(assets: Option<&OsStr>, path: Option<&OsStr>) -> Result<Option<Self>> {
        if let Some(assets) = assets.filter(|assets| !assets.is_empty()) {
            let found = Self::in_directory(Path::new(assets), "KUBEBUILDER_ASSETS");
            ensure!(
                found.is_some(),
                "KUBEBUILDER_ASSETS is {}, where etcd and kube-apiserver are not both to be found",
                assets.display()
            );
            return Ok(found);
        }
        let on_path =
            |name: &str| env::split_paths(path?).map(|directory| directory.join(name)).find(|file| file.is_file());
        Ok(on_path("etcd").zip(on_path("kube-apiserver")).map(|(etcd, kube_apiserver)| Self {
            etcd,
            kube_apiserver,
            origin: "PATH".to_owned(),
        }))
    }
}

/// A directory with etcd and every program of Kubernetes, kubectl and kubelet among them, built from `tests/control-plane` if this user's cache does not hold it yet.
pub fn built() -> Result<PathBuf> {
    let source = crate::repository().join("tests/control-plane");
    cache::get_or_make(&cache::directory(), &format!("control-plane-{}", key(&source)?), |into| build(&source, into))
}

/// What the program is built from, so that a change of any of it builds another one.
fn key(source: &Path) -> Result<String> {
    let read = |name| fs::read(source.join(name)).with_context(|| format!("read tests/control-plane/{name}"));
    Ok(cache::key([read("go.mod")?, read("go.sum")?, read("main.go")?]))
}

fn build(source: &Path, into: &Path) -> Result<()> {
    let go_mod = fs::read_to_string(source.join("go.mod"))?;
    let version = kubernetes_version(&go_mod)?;
    say(format_args!(
        "building etcd and Kubernetes {version} from source: about 6 minutes on 2 cores, once for this machine"
    ));
    let watch = Stopwatch::start();
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    // Without these the server calls itself v0.0.0, which clients cannot parse.
    let stamp = "k8s.io/component-base/version";
    let flags =
        format!("-s -w -X {stamp}.gitVersion={version} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}");
    let status = Command::new("go")
        .args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &flags, "-o"])
        .args([into.join("control-plane").as_os_str(), OsStr::new(".")])
        .current_dir(source)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => bail!(
            "build tests/control-plane: go {status}; {GO} is needed, unless KUBEBUILDER_ASSETS names a directory with both"
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
            "no etcd and kube-apiserver here, and no Go to build them with. Install {GO}, or set KUBEBUILDER_ASSETS to a \
             directory that holds both (setup-envtest use -p path)"
        ),
        Err(error) => return Err(error).context("start go"),
    }
    for name in COMMANDS {
        symlink("control-plane", into.join(name))?;
    }
    say(format_args!("built the control plane in {watch}"));
    Ok(())
}

fn kubernetes_version(go_mod: &str) -> Result<&str> {
    go_mod
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
        .context("find the version of k8s.io/kubernetes in tests/control-plane/go.mod")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_directory_with(names: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        for name in names {
            fs::write(directory.path().join(name), "").expect("a file");
        }
        directory
    }

    #[test]
    fn assets_that_were_named_come_before_the_path() {
        let assets = a_directory_with(&["etcd", "kube-apiserver"]);
        let path = a_directory_with(&["etcd", "kube-apiserver"]);
        let found = Binaries::installed(Some(assets.path().as_os_str()), Some(path.path().as_os_str()));
        assert_eq!(found.expect("no error").expect("found").etcd, assets.path().join("etcd"));
    }

    #[test]
    fn assets_that_are_incomplete_are_an_error_and_not_passed_over() {
        let assets = a_directory_with(&["kube-apiserver"]);
        let error = Binaries::installed(Some(assets.path().as_os_str()), None).expect_err("etcd is missing");
        assert!(error.to_string().contains("KUBEBUILDER_ASSETS"), "{error}");
    }

    #[test]
    fn one_of_the_two_on_the_path_is_not_enough() {
        let path = a_directory_with(&["etcd"]);
        assert_eq!(Binaries::installed(None, Some(path.path().as_os_str())).expect("no error"), None);
    }

    #[test]
    fn the_two_may_lie_in_two_directories_of_the_path() {
        let (one, two) = (a_directory_with(&["etcd"]), a_directory_with(&["kube-apiserver"]));
        let path = env::join_paths([one.path(), two.path()]).expect("a path");
        let found = Binaries::installed(None, Some(&path)).expect("no error").expect("found");
        assert_eq!((found.etcd, found.kube_apiserver), (one.path().join("etcd"), two.path().join("kube-apiserver")));
    }

    #[test]
    fn the_version_is_the_one_of_the_module() {
        assert_eq!(kubernetes_version("require (\n\tk8s.io/kubernetes v1.34.4\n)\n").expect("a version"), "v1.34.4");
    }
}
