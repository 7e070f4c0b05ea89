//! The test bed of Headgate: real servers, a fake source, and the checker of what it really sent.
//!
//! | module | gives |
//! |---|---|
//! | [`postgres`] | a PostgreSQL server, and a database per test |
//! | [`pgbouncer`] | a pooler in transaction mode before it |
//! | [`control_plane`] | etcd and kube-apiserver |
//! | [`test_api`] | a client and a namespace per test, with the CRDs applied |
//! | [`parts`] | both servers together: for `make test`, `make parts` |
//! | [`place`] | the directory of a set of servers, and its end without a trace |
//! | [`process`], [`server`] | processes that are started, stopped, killed and frozen; the mark by which each is found again |
//! | [`wall_clock`] | the clock of one replica, which jumps |
//! | [`forwarder`], [`lines`] | pieces of network that can be cut, slowed down and swallow; those of one replica |
//! | [`source`], [`access_log`] | sources that misbehave on request, and the log of what they really sent |
//! | [`fleet`], [`nemesis`], [`chaos`] | replicas as processes, the seeded plan of what is done to everything, and the doing |
//! | [`campaign`] | `make chaos`: all of that for as long as one likes, and the report |
//! | [`mutants`] | `make mutants`: rules left out on purpose, and whether the campaign notices |
//! | [`checker`], [`stored`], [`leases`], [`proof`] | whether the promises held, by the log, the store and the Leases |
//! | [`stage`], [`demo`], [`playground`] | all of it together |
//! | [`image`], [`node`], [`e2e`] | the operator as an image, in pods of a real cluster |
//! | [`programs`], [`packages`] | other programs: found, installed or unpacked from Debian, run to their end |
//! | [`mod@bench`] | the figures of the README |
//! | [`evidence`] | what is kept of a run that broke a promise |

use std::env;
use std::path::{Path, PathBuf};

pub mod access_log;
pub mod account;
pub mod bench;
pub mod cache;
pub mod campaign;
pub mod chaos;
pub mod checker;
pub mod clock;
pub mod control_plane;
pub mod demo;
pub mod e2e;
pub mod evidence;
pub mod fleet;
pub mod forwarder;
pub mod image;
pub mod leases;
pub mod lines;
mod mark;
pub mod mutants;
pub mod narrate;
pub mod nemesis;
pub mod node;
pub mod packages;
pub mod parts;
pub mod pgbouncer;
pub mod place;
pub mod playground;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod proof;
pub mod server;
pub mod source;
pub mod stage;
pub mod stored;
pub mod test_api;
pub mod wall_clock;

/// The root of this clone.
#[must_use]
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map_or_else(|| here.to_owned(), Path::to_owned)
}

/// The value of a variable that a test cannot do without.
///
/// # Panics
///
/// When it is not set.
#[must_use]
pub fn required(variable: &str) -> String {
    match env::var(variable) {
        Ok(value) if !value.is_empty() => value,
        _ => panic!("{variable} is not set: run `make test`, or `make parts` and export the variables it prints"),
    }
}
