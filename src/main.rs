//! The command line: parse, start telemetry, call one function.

use std::{io::Write as _, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use headgate::{
    api,
    cli::{Cli, Command},
    operator,
    telemetry::{cause::in_one_line, logs},
};
use tokio::runtime::{Builder, Runtime};

/// Many small allocations of short life on many threads; it needs no settings, also in a static binary. Its version 2 gives
/// freed memory back after about 0.1 s; version 3 keeps it for a second, which a memory limit counts like memory in use.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let Cli { log, command } = Cli::parse();
    let started = logs::start(&log.filter, log.log_format);
    let log = match started.context("--log is not a filter such as info or headgate=debug") {
        Ok(log) => log,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "headgate: {}", in_one_line(error.as_ref()));
            return ExitCode::FAILURE;
        }
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.last_line(&format!("headgate: {}", in_one_line(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    #[cfg(feature = "mutations")]
    if let Some(mutation) = headgate::mutation::choose()? {
        tracing::warn!(mutation = mutation.name(), "BREAKS ITS PROMISES: a rule is left out on purpose");
    } else {
        tracing::warn!("built with mutations, for tests of the tests alone");
    }
    // Before any client exists: with one provider for all of them, none can bring its own.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok()
        .context("another TLS provider was installed before ours")?;
    let runtime = Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let runtime = Unawaited(Some(runtime));
    runtime.block_on(async {
        match command {
            Command::Run(args) => Ok(operator::run(*args).await?),
            Command::Migrate(args) => Ok(operator::migrate(&args).await?),
            Command::Crd => {
                let mut out = std::io::stdout();
                out.write_all(api::crd_yaml().as_bytes()).context("cannot print")
            }
        }
    })
}

/// A runtime whose end, also by a panic, waits for no thread: one may still ask a DNS server that does not answer.
struct Unawaited(Option<Runtime>);

impl Unawaited {
    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.0.as_ref().expect("it is taken by its end alone").block_on(work)
    }
}

impl Drop for Unawaited {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
