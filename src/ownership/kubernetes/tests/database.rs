//! Whether its database answers a replica.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, atomic::Ordering},
};

use tokio::time::sleep;
use tracing_subscriber::fmt::MakeWriter;

use super::{SECOND, cluster_of};
use crate::ownership::lease::MemberLease;

#[tokio::test(start_paused = true)]
async fn the_log_says_when_the_database_is_lost_and_when_it_is_back() {
    let log = Log::default();
    let _logging =
        tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish());
    let cluster = cluster_of(&["a", "b"], 20, 1).await;
    cluster.pods["a"].database.store(true, Ordering::Relaxed);
    sleep(30 * SECOND).await;
    assert_eq!(log.lines_about_the_database(), ["WARN my database does not answer while another replica's does"]);
    cluster.pods["a"].database.store(false, Ordering::Relaxed);
    sleep(30 * SECOND).await;
    assert_eq!(log.lines_about_the_database()[1..], ["INFO my database answers again"]);
}

#[tokio::test(start_paused = true)]
async fn the_first_word_of_a_replica_to_the_others_says_that_its_database_answers() {
    let cluster = cluster_of(&["a"], 1, 1).await;
    let log = cluster.api.log();
    let first = log.iter().find_map(|entry| entry.after.as_ref().and_then(MemberLease::read)).unwrap();
    assert!(first.state.has_database());
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// The level and the words of each.
    fn lines_about_the_database(&self) -> Vec<String> {
        let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let about_the_database = log.lines().filter(|line| line.contains("kubernetes::database:"));
        about_the_database
            .map(|line| {
                let (level, words) = line.split_once(" headgate::ownership::kubernetes::database: ").unwrap();
                format!("{} {words}", level.split(' ').next_back().unwrap())
            })
            .collect()
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
