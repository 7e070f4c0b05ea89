//! What no strike explains: a replica that ends by itself, panics, or counts a request that it has sent too early.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Fleet;
use crate::process::Signal;

impl Fleet {
    /// Waits for the end of a replica that ends by itself. Returns its exit code and the last line it wrote.
    ///
    /// # Errors
    /// When it goes on.
    pub async fn failed(&self, name: &str, patience: Duration) -> Result<(Option<i32>, String)> {
        let process = &self.replica(name)?.process;
        if tokio::time::timeout(patience, process.ended()).await.is_err() {
            return Err(process.failure().context(format!("{name} did not end within {patience:?}")));
        }
        let last = process.log_tail().lines().last().unwrap_or_default().to_owned();
        Ok((process.exit_status().and_then(|status| status.code()), last))
    }

    /// Sees that no replica has ended for another reason than a signal that it was sent here.
    ///
    /// # Errors
    /// With the end of its log, the first one that has.
    pub fn none_has_failed(&self) -> Result<()> {
        for (name, replica) in &self.replicas {
            let Some(status) = replica.process.exit_status() else { continue };
            let was_killed = replica.is_killed && status.signal() == Some(Signal::KILL.as_raw());
            let has_ended = replica.is_ending && status.success();
            if !was_killed && !has_ended {
                bail!("{name} ended by itself ({status}); the end of its log:\n{}", replica.process.log_tail());
            }
        }
        Ok(())
    }

    /// Sees that no replica has panicked in any of its lives.
    ///
    /// # Errors
    /// With the line that says so.
    pub fn none_has_panicked(&self) -> Result<()> {
        for (name, replica) in &self.replicas {
            let log = std::fs::read(replica.process.log()).with_context(|| format!("cannot read the log of {name}"))?;
            if let Some(line) = panic_in(&String::from_utf8_lossy(&log)) {
                bail!("{name} panicked: {line}");
            }
        }
        Ok(())
    }

    /// How many requests a replica says it has sent too early since it was started.
    ///
    /// # Errors
    /// When it does not tell.
    pub async fn gate_violations(&self, name: &str) -> Result<u64> {
        let metrics = self.shown(name, "/metrics").await.with_context(|| format!("{name} shows no metrics"))?;
        gate_violations(&metrics).with_context(|| format!("{name} counts no gate violations"))
    }
}

/// The first line that tells of a panic, of the process or of one task that was started again.
fn panic_in(log: &str) -> Option<&str> {
    log.lines().find(|line| line.contains("panicked"))
}

fn gate_violations(metrics: &str) -> Option<u64> {
    metrics.lines().find_map(|line| line.strip_prefix("headgate_gate_violations_total ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use super::super::Setting;
    use super::*;
    use crate::place::Place;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A fleet of one replica that does this.
    fn fleet(script: &str) -> (Fleet, Arc<Place>) {
        let place = Arc::new(Place::temporary("soundness").expect("a place"));
        let binary = place.path().join("replica");
        std::fs::write(&binary, format!("#!/bin/sh\n{script}\n")).expect("a script");
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).expect("it can be run");
        let setting = Setting {
            binary,
            kubeconfig: "none".into(),
            database_url: "none".to_owned(),
            namespace: "none".to_owned(),
            environment: Vec::new(),
        };
        let mut fleet = Fleet::new(&place, setting).expect("a fleet");
        fleet.start("a").expect("it starts");
        (fleet, place)
    }

    #[tokio::test]
    async fn a_replica_that_ends_by_itself_is_found() {
        for code in [0, 101] {
            let (fleet, _place) = fleet(&format!("exit {code}"));
            fleet.failed("a", PATIENCE).await.expect("it ends");
            assert!(fleet.none_has_failed().is_err(), "{code}");
        }
    }

    #[tokio::test]
    async fn a_replica_that_ends_before_it_is_killed_is_found() {
        let (mut fleet, _place) = fleet("exit 101");
        fleet.failed("a", PATIENCE).await.expect("it ends");
        fleet.kill("a").await.expect("there is such a replica");
        assert!(fleet.none_has_failed().is_err());
    }

    #[tokio::test]
    async fn a_replica_that_was_killed_or_ended_well_has_not_failed() {
        const WAITS: &str = "trap 'exit ${CODE:-0}' TERM; echo there; while :; do sleep 0.01; done";
        let (mut killed, _place) = fleet(WAITS);
        killed.none_has_failed().expect("it runs");
        killed.kill("a").await.expect("there is such a replica");
        killed.none_has_failed().expect("it was killed");
        for (script, ends_well) in [(WAITS.to_owned(), true), (format!("CODE=1; {WAITS}"), false)] {
            let (mut fleet, _place) = fleet(&script);
            while fleet.replicas["a"].process.log_tail().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            fleet.ask_to_end("a").expect("it runs");
            assert_eq!(fleet.ended("a", PATIENCE).await.is_ok(), ends_well);
            assert_eq!(fleet.none_has_failed().is_ok(), ends_well);
        }
    }

    #[tokio::test]
    async fn a_panic_in_the_log_of_a_replica_is_found_whatever_came_after_it() {
        for (said, sound) in [("ERROR headgate: panicked location=src/main.rs:1", false), ("INFO ended", true)] {
            let (mut fleet, _place) = fleet(&format!("echo '{said}'; echo more"));
            fleet.failed("a", PATIENCE).await.expect("it ends");
            fleet.start("a").expect("it starts again");
            assert_eq!(fleet.none_has_panicked().is_ok(), sound);
        }
    }

    #[test]
    fn gate_violations_are_read_from_the_metrics() {
        let metrics = "# TYPE headgate_gate_violations counter\nheadgate_gate_violations_total 3\n";
        assert_eq!(gate_violations(metrics), Some(3));
        assert_eq!(gate_violations("headgate_up 1\n"), None);
    }
}
