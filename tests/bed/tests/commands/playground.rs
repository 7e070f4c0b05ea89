use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use headgate_bed::process::Process;
use rustix::process::{Pid, Signal, kill_process};

use crate::{TakenDown, eventually, headgate_bed};

fn up(replicas: u16, place: &Path) -> Command {
    let operator = Path::new(env!("CARGO_BIN_EXE_headgate-bed")).with_file_name("headgate");
    assert!(operator.exists(), "there is no {}: run `make test`, or `cargo build` first", operator.display());
    let mut up = headgate_bed();
    up.args(["up", "--replicas", &replicas.to_string(), "--binary"]).arg(operator).arg("--place").arg(place);
    up
}

fn succeeds(mut command: Command) {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn down(place: &Path) {
    let mut down = headgate_bed();
    down.args(["down", "--place"]).arg(place);
    succeeds(down);
}

fn replica(number: u16, place: &Path) -> Option<Process> {
    Process::running(&format!("headgate-{number}"), place)
}

/// The processes that were told of this directory, in an argument or in a variable.
fn of(directory: &Path) -> Vec<String> {
    let told = |process: &PathBuf| {
        let text = |file| fs::read(process.join(file)).map(|text| String::from_utf8_lossy(&text).into_owned());
        let (line, environment) = (text("cmdline").unwrap_or_default(), text("environ").unwrap_or_default());
        let directory = directory.to_string_lossy();
        (line.contains(&*directory) || environment.contains(&*directory)).then(|| line.replace('\0', " "))
    };
    let processes = fs::read_dir("/proc").expect("a Linux").filter_map(|entry| Some(entry.ok()?.path()));
    processes.filter_map(|process| told(&process)).filter(|line| !line.is_empty()).collect()
}

/// Neither a process nor a file is left.
fn is_gone(place: &Path) {
    let beside = place.parent().expect("a parent");
    assert_eq!(of(beside), Vec::<String>::new());
    let left: Vec<_> = fs::read_dir(beside).expect("readable").map(|entry| entry.expect("readable").path()).collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}

#[test]
fn up_again_brings_back_a_replica_that_died_and_ends_one_too_many_and_down_leaves_nothing() {
    let clone = tempfile::tempdir().expect("a directory");
    let place = clone.path().join(".headgate/dev");
    let _taken_down = TakenDown(place.clone());
    succeeds(up(2, &place));
    let (victim, other) = (replica(1, &place).expect("it runs"), replica(2, &place).expect("it runs"));
    assert!(!of(place.parent().expect("a parent")).is_empty(), "what runs is found");

    victim.signal(Signal::KILL).expect("killed");
    eventually("a killed replica is gone", || !victim.is_running());
    succeeds(up(2, &place));
    assert_ne!(replica(1, &place).expect("it is back").id(), victim.id());
    assert_eq!(replica(2, &place).expect("it still runs").id(), other.id(), "what runs is left alone");

    succeeds(up(1, &place));
    assert!(replica(1, &place).is_some() && replica(2, &place).is_none());
    let last_words = other.log_tail();
    assert!(last_words.lines().last().is_some_and(|line| line.contains("ended")), "it was asked to: {last_words}");
    let listed = fs::read_to_string(place.with_file_name("replicas")).expect("the replicas are listed");
    assert_eq!(listed.lines().count(), 1, "{listed}");

    down(&place);
    is_gone(&place);
    down(&place);
}

/// A shell in which somebody plays. It is ended when this is dropped.
struct Player(Child);

impl Player {
    fn at(place: &Path) -> Self {
        let script = format!(". {} && read forever", place.with_file_name("dev.env").display());
        Self(Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().expect("it starts"))
    }

    fn still_plays(&mut self) -> bool {
        self.0.try_wait().expect("it is ours").is_none()
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Leaves everything as if `up` had been killed each time before it wrote down what it had started.
fn forget_all_pidfiles(place: &Path) {
    for entry in fs::read_dir(place).expect("readable") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "pid") {
            fs::remove_file(path).expect("removed");
        }
    }
}

#[test]
fn down_ends_what_no_pidfile_names_and_leaves_the_shell_of_the_player_alone() {
    let clone = tempfile::tempdir().expect("a directory");
    let place = clone.path().join(".headgate/dev");
    let _taken_down = TakenDown(place.clone());
    succeeds(up(1, &place));
    let mut player = Player::at(&place);
    forget_all_pidfiles(&place);
    down(&place);
    assert!(player.still_plays(), "the shell of the player was ended");
    drop(player);
    is_gone(&place);
}

#[test]
fn down_ends_what_runs_when_somebody_has_removed_the_directory() {
    let clone = tempfile::tempdir().expect("a directory");
    let place = clone.path().join(".headgate/dev");
    let _taken_down = TakenDown(place.clone());
    succeeds(up(1, &place));
    let data = place.join("postgres").canonicalize().expect("it is there");
    fs::remove_dir_all(clone.path().join(".headgate")).expect("removed");
    down(&place);
    assert_eq!(of(clone.path()), Vec::<String>::new());
    if data.exists() {
        fs::remove_dir_all(data).expect("what lay elsewhere, for an account of its own, nobody could know");
    }
}

/// A pidfile that is a pipe stops `up` exactly between the start of a process and the word of it.
#[test]
fn down_ends_a_process_that_was_started_and_not_written_down() {
    let clone = tempfile::tempdir().expect("a directory");
    let place = clone.path().join(".headgate/dev");
    let _taken_down = TakenDown(place.clone());
    fs::create_dir_all(&place).expect("a directory");
    let pidfile = place.join("source.pid");
    assert!(Command::new("mkfifo").arg(&pidfile).status().expect("it starts").success());

    let mut starting = up(1, &place).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    // It looks whether the sources are served already, and finds nothing written there.
    drop(OpenOptions::new().write(true).open(&pidfile).expect("it looks"));
    let serves = || of(clone.path()).iter().any(|line| line.contains("--listen"));
    eventually("the sources are served", serves);
    kill_process(Pid::from_child(&starting), Signal::KILL).expect("killed");
    starting.wait().expect("it ended");
    fs::remove_file(&pidfile).expect("removed");
    assert!(serves(), "it outlives the one that started it");

    down(&place);
    is_gone(&place);
}

#[test]
fn down_leaves_nothing_of_an_up_that_was_killed() {
    let clone = tempfile::tempdir().expect("a directory");
    let place = clone.path().join(".headgate/dev");
    let _taken_down = TakenDown(place.clone());
    let mut starting = up(2, &place).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    eventually("the first replica starts", || replica(1, &place).is_some());
    kill_process(Pid::from_child(&starting), Signal::KILL).expect("killed");
    starting.wait().expect("it ended");
    down(&place);
    is_gone(&place);
}
