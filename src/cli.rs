//! The command line. Every flag is also an environment variable.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use secrecy::SecretString;

use crate::{mutation, telemetry::logs::LogFormat};

/// A Lease counts whole seconds: below this, rounding would be most of it.
const SHORTEST_LEASE: Duration = Duration::from_secs(2);

/// Collects immutable events from remote, rate-limited sources into PostgreSQL, each transported once.
#[derive(Debug, Parser)]
#[command(name = "headgate", version = mutation::VERSION, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one replica of the operator.
    Run(Box<RunArgs>),
    /// Bring the database schema to this release, and exit. `run` does the same at its start, but begins a try anew after five minutes.
    Migrate(DatabaseArgs),
    /// Print the CustomResourceDefinition as YAML.
    Crd,
}

#[derive(Debug, Args)]
pub struct LogArgs {
    /// What is logged: a level, or `target=level` pairs separated by commas.
    #[arg(long = "log", env = "HEADGATE_LOG", default_value = "info", value_name = "FILTER", global = true)]
    pub filter: String,
    /// How log lines look.
    #[arg(long, env = "HEADGATE_LOG_FORMAT", default_value = "auto", global = true)]
    pub log_format: LogFormat,
}

#[derive(Debug, Args)]
pub struct DatabaseArgs {
    /// PostgreSQL, as `postgres://user:password@host:port/database?sslmode=…`.
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: SecretString,
    /// The same database, not through a pooler in transaction mode: for migrations, whose lock belongs to a session,
    /// and for dropping old days.
    /// [default: --database-url]
    #[arg(long, env = "MIGRATE_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub migrate_database_url: Option<SecretString>,
    /// Most database connections that one replica opens, not counting two that only extend or abort requests
    /// and ping, and two that drop old days.
    #[arg(long, env = "HEADGATE_DATABASE_CONNECTIONS", default_value_t = 8, value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(2..=200))]
    pub database_connections: u32,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// The name of this replica, unique among the running ones. In a pod: its name. [default: the host name]
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: Option<String>,
    /// The namespace of this installation's Leases. [default: that of the pod, or of the kubeconfig]
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The revision this replica runs (the label `pod-template-hash`): a rolling update hands sources to the newest.
    #[arg(long, env = "POD_TEMPLATE_HASH", default_value = "", value_name = "HASH")]
    pub revision: String,
    /// Load only the EventSources of this namespace. [default: all namespaces]
    #[arg(long, env = "HEADGATE_WATCH_NAMESPACE", value_name = "NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// Where probes, metrics and /v1 are served. The default takes IPv4 and IPv6.
    #[arg(long, env = "HEADGATE_ADMIN_LISTEN", default_value = "[::]:8080", value_name = "ADDRESS")]
    pub admin_listen: SocketAddr,
    /// Bytes of received events that may wait for the database, over all sources (units: KiB, MiB, GiB).
    #[arg(long, env = "HEADGATE_BUFFER_BYTES", default_value = "128MiB", value_name = "BYTES", value_parser = parse_bytes)]
    pub buffer_bytes: u64,
    /// Addresses that sources may have although they are refused otherwise (loopback, link-local, metadata services of clouds,
    /// and those of --deny-addresses): networks like 127.0.0.1/32 or fd00::/8, separated by commas.
    #[arg(long, env = "HEADGATE_ALLOW_ADDRESSES", value_name = "NETWORKS", value_delimiter = ',', value_parser = parse_network)]
    pub allow_addresses: Vec<IpNet>,
    /// Further addresses that sources may not have, such as those of nodes or Services; written as for --allow-addresses.
    #[arg(long, env = "HEADGATE_DENY_ADDRESSES", value_name = "NETWORKS", value_delimiter = ',', value_parser = parse_network)]
    pub deny_addresses: Vec<IpNet>,
    /// How long stored events are kept, in whole days; unset keeps them for ever. Cursors are always kept.
    #[arg(long, env = "HEADGATE_RETENTION_DAYS", value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    pub retention_days: Option<u32>,
    /// Least time between two writes of the counters in a source's status (units: ms, s, m, h).
    #[arg(long, env = "HEADGATE_STATUS_INTERVAL", default_value = "30s", value_name = "DURATION", value_parser = parse_duration)]
    pub status_interval: Duration,
    /// A replica that is silent for this long is declared dead: whole seconds, as a Lease has them, and at least 2s.
    #[arg(long, env = "HEADGATE_LEASE_DURATION", default_value = "5s", value_name = "DURATION",
          value_parser = parse_lease_duration)]
    pub lease_duration: Duration,
    /// How often a replica renews its member Lease (units: ms, s).
    #[arg(long, env = "HEADGATE_LEASE_RENEW_INTERVAL", default_value = "1500ms", value_name = "DURATION", value_parser = parse_duration)]
    pub lease_renew_interval: Duration,
    /// How long a terminating replica may take to hand its sources off (units: ms, s). At least 12 s less than the grace period of
    /// the pod.
    #[arg(long, env = "HEADGATE_DRAIN_TIMEOUT", default_value = "48s", value_name = "DURATION", value_parser = parse_duration)]
    pub drain_timeout: Duration,
    /// Take the database over from another installation. The other one must be stopped for good.
    #[arg(long, env = "HEADGATE_TAKE_OVER")]
    pub take_over: bool,
}

impl RunArgs {
    /// What no single flag can say of itself.
    ///
    /// # Errors
    /// One line that names the flags and the fix.
    pub fn check(&self) -> Result<(), String> {
        if self.lease_renew_interval * 2 > self.lease_duration {
            return Err(format!(
                "--lease-renew-interval ({:?}) must be at most half of --lease-duration ({:?}), or one late renewal costs all sources",
                self.lease_renew_interval, self.lease_duration
            ));
        }
        if self.buffer_bytes < 1024 * 1024 {
            return Err("--buffer-bytes must be at least 1MiB".to_owned());
        }
        Ok(())
    }
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let one_address = text.parse().map(IpAddr::into);
    text.parse().or(one_address).map_err(|_| format!("'{text}' is not a network; write it like 10.0.0.0/8 or fd00::1"))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed: kube::core::Duration =
        text.parse().map_err(|_| format!("'{text}' is not a duration; write it like 500ms, 30s or 5m"))?;
    if parsed.is_negative() || Duration::from(parsed).is_zero() {
        return Err(format!("'{text}' must be longer than zero"));
    }
    Ok(parsed.into())
}

/// A Lease says its duration in whole seconds, and peers go by what it says: a replica that counted with a fraction would
/// renew by another duration than it is judged by.
fn parse_lease_duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration.subsec_nanos() > 0 || duration < SHORTEST_LEASE {
        let fitting = Duration::from_secs(duration.as_secs() + u64::from(duration.subsec_nanos() > 0));
        let fitting = crate::api::Duration::from(fitting.max(SHORTEST_LEASE));
        return Err(format!("a Lease lasts whole seconds, and at least 2s; write {fitting}"));
    }
    Ok(duration)
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor: u64 = match &text[digits.len()..] {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        unit => return Err(format!("'{unit}' is not a unit; use KiB, MiB or GiB")),
    };
    let count: u64 = digits.parse().map_err(|_| format!("'{text}' is not a size; write it like 64MiB"))?;
    count.checked_mul(factor).ok_or_else(|| format!("'{text}' is too large"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::ownership::kubernetes::Config;

    fn run(flags: &[&str]) -> Result<RunArgs, String> {
        let line = ["headgate", "run", "--database-url", "postgres://localhost/x"];
        match Cli::try_parse_from(line.iter().chain(flags)).map_err(|error| error.to_string())?.command {
            Command::Run(args) => args.check().map(|()| *args),
            _ => Err("not run".to_owned()),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_those_that_the_tests_of_ownership_run_with() {
        let (args, config) = (run(&[]).unwrap(), Config::of_pod("headgate-0", "v1"));
        assert_eq!(args.lease_duration, config.lease_duration);
        assert_eq!(args.lease_renew_interval, config.renew_interval);
        assert_eq!(args.drain_timeout, config.drain_limit);
    }

    #[test]
    fn every_flag_of_run_is_also_an_environment_variable() {
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        for flag in run.get_arguments().filter(|flag| !["help", "version"].contains(&flag.get_id().as_str())) {
            assert!(flag.get_env().is_some(), "--{} has no variable", flag.get_long().unwrap());
        }
    }

    #[test]
    fn chart_and_kustomize_base_set_only_variables_that_some_flag_reads() {
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        let read: Vec<_> =
            command.get_arguments().chain(run.get_arguments()).filter_map(|flag| flag.get_env()?.to_str()).collect();
        let chart = include_str!("../charts/headgate/templates/deployment.yaml");
        for manifest in [chart, include_str!("../config/manager/deployment.yaml")] {
            let words = manifest.split(|letter: char| !letter.is_ascii_uppercase() && letter != '_');
            for variable in words.filter(|word| word.contains('_') && word.len() > 1) {
                assert!(read.contains(&variable), "no flag reads {variable}");
            }
        }
    }

    #[test]
    fn sizes_and_durations_have_units() {
        let args = run(&["--buffer-bytes", "2GiB", "--status-interval", "1m30s"]).unwrap();
        assert_eq!((args.buffer_bytes, args.status_interval), (2 << 30, Duration::from_secs(90)));
    }

    #[test]
    fn networks_are_lists_of_prefixes_and_single_addresses() {
        let args = run(&["--allow-addresses", "127.0.0.0/8, ::1", "--deny-addresses", "10.0.0.0/8"]).unwrap();
        let written = |networks: &[IpNet]| networks.iter().map(IpNet::to_string).collect::<Vec<_>>();
        assert_eq!(written(&args.allow_addresses), ["127.0.0.0/8", "::1/128"]);
        assert_eq!(written(&args.deny_addresses), ["10.0.0.0/8"]);
    }

    #[test]
    fn a_wrong_flag_is_answered_with_the_fix() {
        assert!(run(&["--deny-addresses", "10.0.0.0/64"]).unwrap_err().contains("write it like"));
        assert!(run(&["--buffer-bytes", "12MB"]).unwrap_err().contains("use KiB, MiB or GiB"));
        assert!(run(&["--lease-duration", "soon"]).unwrap_err().contains("write it like"));
        assert!(run(&["--lease-duration", "2s"]).unwrap_err().contains("at most half"));
        assert!(run(&["--retention-days", "0"]).is_err());
    }

    #[test]
    fn a_lease_lasts_as_long_as_it_can_say() {
        for (refused, fix) in [("2500ms", "write 3s"), ("1s", "write 2s"), ("999ms", "write 2s")] {
            let said = run(&["--lease-duration", refused, "--lease-renew-interval", "100ms"]).unwrap_err();
            assert!(said.contains("--lease-duration") && said.contains(fix), "{said}");
        }
        let args = run(&["--lease-duration", "2000ms", "--lease-renew-interval", "500ms"]).unwrap();
        assert_eq!(args.lease_duration, Duration::from_secs(2));
    }

    #[test]
    fn the_database_url_is_never_shown() {
        let url = "postgres://me:marker@localhost/x";
        let line = ["headgate", "migrate", "--database-url", url, "--migrate-database-url", url];
        assert!(!format!("{:?}", Cli::try_parse_from(line).unwrap()).contains("marker"));
    }
}
