//! The test bed of Headgate: real servers, a fake source, and the checker of what it really sent.
//!
//! | module | gives |
//! |---|---|
//! | [`postgres`] | a PostgreSQL server, and a database per test |
//! | [`control_plane`] | etcd and kube-apiserver |
//! | [`test_api`] | a client and a namespace per test, with the CRDs applied |
//! | [`parts`] | both servers together: for `make test`, `make parts` |
//! | [`place`] | the directory of a set of servers, and its end without a trace |
//! | [`source`] | a source of events that lies, fails and dawdles as told |
//! | [`access_log`], [`checker`] | what that source really sent, and whether the promises held |
//! | [`process`], [`server`] | processes that are started, stopped, killed and frozen |

use std::env;
use std::path::{Path, PathBuf};

pub mod access_log;
pub mod account;
pub mod cache;
pub mod checker;
pub mod clock;
pub mod control_plane;
pub mod narrate;
pub mod parts;
pub mod place;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod server;
pub mod source;
pub mod test_api;

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
