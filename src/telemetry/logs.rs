//! Logs: one line per state change, JSON in a cluster, readable on a terminal. Always on standard error, so that
//! standard output belongs to what a command prints.
//!
//! A thread of their own writes them. Whoever reads them may stall, and the disk under them be full: that costs lines, which are
//! counted, and no request.

use std::{
    io::{self, IsTerminal, Write},
    sync::OnceLock,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::counter::ConstCounter,
};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, filter::ParseError};

/// Lines that wait for a reader that stalls: some megabytes at most.
const LINES_WAITING: usize = 8_192;

/// The one log of this process, once it was started.
static LOST: OnceLock<ErrorCounter> = OnceLock::new();

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// `json` in a pod, `text` elsewhere.
    Auto,
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// The log of the process. Dropped, it waits a second at most for the lines that are not written yet.
#[must_use]
#[derive(Debug)]
pub struct Log {
    writer: NonBlocking,
    _written_to_the_end: WorkerGuard,
}

impl Log {
    /// Writes a line that is for whoever called the program, after all others.
    pub fn last_line(mut self, line: &str) {
        // It is handed to the thread, which cannot fail.
        let _ = self.writer.write_all(format!("{line}\n").as_bytes());
    }
}

/// Starts the log of the process.
///
/// # Errors
/// When `filter` is not a list of `target=level`.
pub fn start(filter: &str, format: LogFormat) -> Result<Log, ParseError> {
    let filter = EnvFilter::builder().parse(filter)?;
    let (writer, guard) = written_aside(io::stderr());
    let _ = LOST.set(writer.error_counter());
    // What cannot be written must not be told of where it cannot be written.
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer.clone()).log_internal_errors(false);
    // Every pod has this variable, and hardly anything else does.
    let in_a_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    match format {
        LogFormat::Json => lines.json().flatten_event(true).init(),
        LogFormat::Auto if in_a_pod => lines.json().flatten_event(true).init(),
        LogFormat::Auto | LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).with_target(false).init(),
    }
    Ok(Log { writer, _written_to_the_end: guard })
}

fn written_aside(writer: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().buffered_lines_limit(LINES_WAITING).thread_name("headgate-log").finish(writer)
}

/// Lines that found no place, as a series.
#[derive(Debug)]
pub(super) struct LostLines;

impl Collector for LostLines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let lost = LOST.get().map_or(0, ErrorCounter::dropped_lines);
        let counter = ConstCounter::new(u64::try_from(lost).unwrap_or(u64::MAX));
        let about = "Lines of the log that were left out because whoever reads them stalls";
        counter.encode(encoder.encode_descriptor("log_lines_lost", about, None, counter.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        time::{Duration, Instant},
    };

    use super::*;

    /// A pipe that nobody empties.
    struct Stalled(mpsc::Receiver<()>);

    impl Write for Stalled {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_of_the_log_that_stalls_stops_nobody_and_what_it_costs_is_counted() {
        let (reads_again, stalled) = mpsc::channel();
        let (mut writer, guard) = written_aside(Stalled(stalled));
        let lines = LINES_WAITING + 100;
        let began = Instant::now();
        for _ in 0..lines {
            writer.write_all(b"a line\n").expect("it never fails");
        }
        let lost = writer.error_counter().dropped_lines();
        assert!((99..=100).contains(&lost), "{lost}");
        drop(guard);
        assert!(began.elapsed() < Duration::from_secs(10), "nor the end of the process");
        drop(reads_again);
    }
}
