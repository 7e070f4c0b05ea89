//! `make parts`, `make test` and `make up` start what is missing, and end without a trace, also after a crash.

mod parts;
mod playground;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

fn headgate_bed() -> Command {
    Command::new(env!("CARGO_BIN_EXE_headgate-bed"))
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let asked = Instant::now();
    while !condition() {
        assert!(asked.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ends the servers of a place also when the test fails.
struct TakenDown(PathBuf);

impl Drop for TakenDown {
    fn drop(&mut self) {
        let _ = headgate_bed().args(["parts", "down", "--place"]).arg(&self.0).output();
    }
}
