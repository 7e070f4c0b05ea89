use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use headgate_bed::process::Process;
use rustix::process::{Pid, Signal, kill_process};

use crate::{TakenDown, eventually, headgate_bed};

const SERVERS: [&str; 3] = ["etcd", "kube-apiserver", "postgres"];

fn parts(command: &str, place: &Path) -> Output {
    let output = headgate_bed().args(["parts", command, "--place"]).arg(place).output().expect("it starts");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn server(name: &str, place: &Path) -> Process {
    Process::running(name, place).unwrap_or_else(|| panic!("{name} does not run"))
}

#[test]
fn up_again_brings_back_what_died_and_down_leaves_nothing() {
    let clone = tempfile::tempdir().expect("a directory");
    let place = clone.path().join(".headgate/test");
    let _taken_down = TakenDown(place.clone());

    let first = parts("up", &place);
    let variables = String::from_utf8(first.stdout).expect("text");
    assert!(variables.contains("export HEADGATE_TEST_DATABASE_URL='postgres://"), "{variables}");
    assert!(variables.contains("export HEADGATE_TEST_KUBECONFIG='/"), "{variables}");
    assert_eq!(fs::read_to_string(place.join("env")).expect("written down too"), variables);

    let untouched = server("kube-apiserver", &place).id();
    for victim in ["postgres", "etcd"] {
        let victim = server(victim, &place);
        victim.signal(Signal::KILL).expect("killed");
        eventually("a killed server is gone", || !victim.is_running());
    }
    let second = parts("up", &place);
    assert_eq!(
        String::from_utf8(second.stdout).expect("text"),
        variables,
        "the variables that were exported stay right"
    );
    assert_eq!(server("kube-apiserver", &place).id(), untouched, "what runs is left alone");

    let running = SERVERS.map(|name| server(name, &place));
    parts("down", &place);
    assert!(running.iter().all(|process| !process.is_running()));
    assert_eq!(fs::read_dir(place.parent().expect("a parent")).expect("readable").count(), 0, "files are left");
    parts("down", &place);
}

#[test]
fn a_command_gets_the_variables_and_its_exit_status_is_passed_on() {
    let script = "test -f \"$HEADGATE_TEST_KUBECONFIG\" && dirname \"$HEADGATE_TEST_KUBECONFIG\" && exit 7";
    let output = headgate_bed().args(["parts", "run", "--", "sh", "-c", script]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    let place = PathBuf::from(String::from_utf8(output.stdout).expect("text").trim());
    assert!(!place.exists(), "the servers' files are left");
}

#[test]
fn servers_of_a_run_that_was_killed_end_with_it() {
    let told = tempfile::NamedTempFile::new().expect("a file");
    let script = format!("dirname \"$HEADGATE_TEST_KUBECONFIG\" > {}; read forever", told.path().display());
    let mut run = headgate_bed();
    run.args(["parts", "run", "--", "sh", "-c", &script]).stdin(Stdio::piped()).stderr(Stdio::null());
    let mut run = run.spawn().expect("it starts");
    let place = || PathBuf::from(fs::read_to_string(told.path()).unwrap_or_default().trim());
    eventually("the command runs", || place().join("kubeconfig").is_file());
    let place = place();
    let running = SERVERS.map(|name| server(name, &place));

    kill_process(Pid::from_child(&run), Signal::KILL).expect("killed");
    run.wait().expect("it ended");
    eventually("the servers end too", || running.iter().all(|process| !process.is_running()));
    fs::remove_dir_all(place).expect("its files are left, for the next run to sweep or for us");
}
