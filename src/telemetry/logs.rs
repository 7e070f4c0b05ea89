//! Logs: one line per state change, JSON in a cluster, readable on a terminal. Always on standard error, so that
//! standard output belongs to what a command prints.
//!
//! A thread of their own writes them. A disk that is full, and a reader that stalls, cost lines and no request; those that a reader
//! costs are counted.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal, Write},
    panic::PanicHookInfo,
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

/// What two libraries say of every call that fails, without saying which: Headgate says it of each, with what was tried. Whoever
/// wants these too names the same targets.
const SAID_BY_US: &str = "kube_client::client=error,kube_client::client::builder=off,sqlx_core::pool=error";

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
    /// Writes to the end when it is dropped.
    thread: Option<WorkerGuard>,
}

impl Drop for Log {
    fn drop(&mut self) {
        let lost = self.writer.error_counter();
        let before = lost.dropped_lines();
        let _ = self.writer.write_all(b"");
        // No place even for nothing: the reader stalls, and might as well stall what the guard has to say about that.
        if lost.dropped_lines() > before {
            std::mem::forget(self.thread.take());
        }
    }
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
    let filter = filtered(filter)?;
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
    let aside = writer.clone();
    std::panic::set_hook(Box::new(move |panic| tell_of_panic(panic, &aside)));
    Ok(Log { writer, thread: Some(guard) })
}

/// Lets through what is asked for. Of two levels for one target the later counts.
fn filtered(asked: &str) -> Result<EnvFilter, ParseError> {
    let builder = EnvFilter::builder();
    builder.parse(asked)?;
    builder.parse(format!("{SAID_BY_US},{asked}"))
}

/// A panic is a line like any other, which no filter keeps back: what the standard hook writes goes to standard error itself, and
/// waits for its reader.
fn tell_of_panic(panic: &PanicHookInfo<'_>, writer: &NonBlocking) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let said = panic.payload_as_str().unwrap_or_default();
    if !tracing::enabled!(tracing::Level::ERROR) {
        let _ = writer.clone().write_all(format!("headgate: panicked at {location}: {said}\n").as_bytes());
        return;
    }
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(location, said, backtrace, "panicked");
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
pub(crate) mod tests {
    use std::{
        sync::{Arc, Mutex, mpsc},
        time::{Duration, Instant},
    };

    use super::*;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("no writer panics").clone()).expect("a log is text")
        }
    }

    impl Write for Lines {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no writer panics").write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

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

    /// What is written of one failed call that the library and Headgate tell of.
    fn written(filter: &str) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_env_filter(filtered(filter).expect("a filter")).with_ansi(false);
        tracing::subscriber::with_default(log.with_writer(move || writer.clone()).finish(), || {
            tracing::error!(target: "kube_client::client::builder", "failed with error client error (Connect)");
            tracing::warn!(target: "kube_client::client", "eof in poll");
            tracing::warn!(target: "sqlx_core::pool::connection", "error from `before_acquire`");
            tracing::warn!("failed to renew; trying again");
        });
        lines.text()
    }

    #[test]
    fn a_call_that_fails_is_told_of_once_and_by_who_knows_what_was_tried() {
        let text = written("info");
        assert!(text.contains("failed to renew") && text.lines().count() == 1, "{text}");
        assert_eq!(written("info,kube_client::client::builder=info").lines().count(), 2, "unless somebody asks for it");
        assert_eq!(written("off"), "");
        assert!(filtered("headgate=loud").is_err());
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
