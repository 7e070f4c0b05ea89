//! The command line of the test bed; the Makefile calls it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use headgate_bed::{bench, campaign, clock, control_plane, demo, e2e, image, mutants, parts, playground};

/// Real servers to test and try Headgate with.
#[derive(Parser)]
#[command(name = "headgate-bed")]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// PostgreSQL, etcd and kube-apiserver for tests.
    Parts {
        #[command(subcommand)]
        command: PartsCommand,
    },
    /// Shows three replicas under fire for a minute, and proves that the promises held.
    Demo {
        /// The `headgate` binary.
        #[arg(long)]
        binary: PathBuf,
        /// Where the evidence is left when a promise was broken.
        #[arg(long, default_value_os_t = headgate_bed::repository().join(".headgate/evidence"))]
        evidence: PathBuf,
    },
    /// Strikes replicas, servers and network by a seeded plan, and proves that the promises held.
    Chaos {
        /// The `headgate` binary.
        #[arg(long)]
        binary: PathBuf,
        /// How long, in minutes.
        #[arg(long, default_value_t = 30.0, value_parser = minutes)]
        minutes: f64,
        /// Of the plan: the same one gives the same schedule. Another one each time, if none is given.
        #[arg(long)]
        seed: Option<u64>,
        /// How many replicas run, but for the changes of their number.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=5))]
        replicas: u8,
        /// How many sources.
        #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(12..=200))]
        sources: u16,
        /// Where the evidence is left when a promise was broken.
        #[arg(long, default_value_os_t = campaign::default_evidence())]
        evidence: PathBuf,
    },
    /// Leaves one rule of the protocol out after the other, and sees the chaos run notice.
    Mutants {
        /// A `headgate` binary that was built with the feature `mutations`.
        #[arg(long)]
        binary: PathBuf,
        /// Try this mutant alone, or `none` for the binary as it is; may be given more than once.
        #[arg(long)]
        only: Vec<String>,
        /// Where the evidence is left when the binary as it is breaks a promise.
        #[arg(long, default_value_os_t = campaign::default_evidence())]
        evidence: PathBuf,
    },
    /// Measures the figures of the README. A broken promise is a failure, a missed goal is not.
    Bench {
        /// The `headgate` binary; a release build, or the figures mean nothing.
        #[arg(long)]
        binary: PathBuf,
        /// A build with the feature `mutations`, for what the figures compare with.
        #[arg(long)]
        mutated: PathBuf,
        /// Measure this figure alone; may be given more than once.
        #[arg(long)]
        only: Vec<bench::Name>,
        /// PostgreSQL writes through to the disk. For all figures but `crash`, so with --only.
        #[arg(long)]
        durable: bool,
        /// The report, as Markdown.
        #[arg(long, default_value_os_t = headgate_bed::repository().join(".headgate/bench.md"))]
        out: PathBuf,
    },
    /// Measures thousands of sources on three replicas. A broken promise is a failure, a missed goal is not.
    BenchScale {
        /// The `headgate` binary; a release build, or the figures mean nothing.
        #[arg(long)]
        binary: PathBuf,
        /// How many sources; may be given more than once.
        #[arg(long, default_values_t = [1_000, 10_000])]
        size: Vec<usize>,
        /// Measure this part alone; may be given more than once.
        #[arg(long)]
        only: Vec<bench::Part>,
        /// The report, as Markdown.
        #[arg(long, default_value_os_t = headgate_bed::repository().join(".headgate/bench-scale.md"))]
        out: PathBuf,
    },
    /// Measures the backfill of the operator beside what a user would pick instead, and beside a bare COPY.
    Peers {
        /// The `headgate` binary; a release build, or the figures mean nothing.
        #[arg(long)]
        binary: PathBuf,
        /// Where benches/peers/install has put the peers.
        #[arg(long)]
        tools: PathBuf,
        /// How often each of them runs.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// How many events.
        #[arg(long, default_value_t = 1_000_000)]
        events: u64,
        /// Measure this one alone; may be given more than once.
        #[arg(long)]
        only: Vec<bench::peers::Candidate>,
        /// The report, as Markdown.
        #[arg(long, default_value_os_t = headgate_bed::repository().join(".headgate/peers.md"))]
        out: PathBuf,
    },
    /// Starts what does not run of the playground (servers, sources, replicas), and ends replicas beyond the number.
    Up {
        /// The `headgate` binary.
        #[arg(long)]
        binary: PathBuf,
        /// How many replicas.
        #[arg(long, default_value_t = 3)]
        replicas: u16,
        /// The directory of its data, logs and pidfiles.
        #[arg(long, default_value_os_t = playground::default_place())]
        place: PathBuf,
    },
    /// Ends the playground and removes all it wrote.
    Down {
        /// The directory of its data, logs and pidfiles.
        #[arg(long, default_value_os_t = playground::default_place())]
        place: PathBuf,
    },
    /// Serves the sources of the playground.
    Source {
        /// The address to listen on.
        #[arg(long)]
        listen: String,
        /// The access log.
        #[arg(long)]
        log: PathBuf,
    },
    /// Builds the image of the operator from dist/headgate, with Docker where it works and else with Buildah.
    Image {
        /// Where the archive goes that `docker load`, `kind load` and containerd take.
        #[arg(long)]
        archive: PathBuf,
    },
    /// Installs the operator in a real cluster and proves what it does there.
    E2e {
        /// The archive with the image.
        #[arg(long)]
        archive: PathBuf,
        /// The cluster.
        #[arg(long, value_enum, default_value_t = e2e::On::Either)]
        on: e2e::On,
        /// Where the evidence is left when something fails.
        #[arg(long, default_value_os_t = headgate_bed::repository().join(".headgate/evidence"))]
        evidence: PathBuf,
        /// Set by this program when it runs itself in namespaces: the place of the outer process.
        #[arg(long, hide = true)]
        inside: Option<PathBuf>,
    },
    /// Finds, installs or builds the servers that tests need, and says what cannot be had.
    Prepare {
        /// Major versions of PostgreSQL beside the one of this machine.
        versions: Vec<u32>,
    },
    /// Builds etcd and all programs of Kubernetes from source if this machine has not yet, and prints their directory.
    Kubernetes,
}

#[derive(Subcommand)]
enum PartsCommand {
    /// Starts those that do not run, and prints the variables for a shell.
    Up(At),
    /// Ends them and removes their files.
    Down(At),
    /// Runs a command with parts of its own, that end with it.
    Run {
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

#[derive(clap::Args)]
struct At {
    /// The directory of their data, logs and pidfiles.
    #[arg(long, default_value_os_t = parts::default_place())]
    place: PathBuf,
}

/// From half a minute to a day.
fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    (0.5..=1440.0).contains(&minutes).then_some(minutes).ok_or_else(|| "not between 0.5 and 1440".to_owned())
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "standard output is what shells and scripts read from this program")]
async fn main() -> Result<ExitCode> {
    match Line::parse().command {
        Command::Parts { command: PartsCommand::Up(at) } => print!("{}", parts::up(&at.place).await?),
        Command::Parts { command: PartsCommand::Down(at) } => parts::down(&at.place)?,
        Command::Parts { command: PartsCommand::Run { command } } => {
            let status = parts::run(&command).await?;
            let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
            return Ok(ExitCode::from(code));
        }
        Command::Demo { binary, evidence } => {
            if !demo::run(&binary, &evidence).await? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Chaos { binary, minutes, seed, replicas, sources, evidence } => {
            let campaign = campaign::Campaign {
                binary,
                length: Duration::from_secs_f64(minutes * 60.0),
                seed: seed.unwrap_or_else(clock::now_us),
                replicas: replicas.into(),
                sources: sources.into(),
                evidence,
                mutation: None,
            };
            if !campaign.run().await?.findings.clean() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Mutants { binary, only, evidence } => {
            if !mutants::run(&binary, &evidence, &only).await? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Bench { binary, mutated, only, durable, out } => {
            if !bench::run(&binary, &mutated, &only, durable, &out).await? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::BenchScale { binary, size, only, out } => {
            let scale = bench::Scale { binary: &binary, sizes: &size, only: &only, out: &out };
            if !scale.run().await? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Peers { binary, tools, rounds, events, only, out } => {
            bench::peers::Peers { binary, tools: tools.canonicalize()?, rounds, events, only, out }.run().await?;
        }
        Command::Up { binary, replicas, place } => playground::up(&place, &binary, replicas).await?,
        Command::Down { place } => playground::down(&place)?,
        Command::Source { listen, log } => playground::serve_sources(&listen, &log).await?,
        Command::Image { archive } => image::of_the_operator(&archive).await?,
        Command::E2e { archive, on, evidence, inside } => {
            let given = e2e::Given { archive, evidence };
            match inside {
                Some(outer) => e2e::inside(&given, &outer).await?,
                None if e2e::run(&given, on).await? => {}
                None => return Ok(ExitCode::FAILURE),
            }
        }
        Command::Prepare { versions } => parts::prepare(&versions)?,
        Command::Kubernetes => println!("{}", control_plane::built()?.display()),
    }
    Ok(ExitCode::SUCCESS)
}
