//! Open files: each source that is held keeps a connection.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Raises the soft limit of this process to the hard one. The soft one is often 1,024, for programs that still use
/// `select`; sources beyond it could not be connected to.
pub(super) fn open_as_many_as_allowed() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => info!(from = current, to = maximum, "may have more files open"),
        Err(error) => {
            warn!(limit = current, %error, "cannot have more files open: sources beyond the limit fail to connect");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_the_hard_one_afterwards() {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        // By one: other tests of this process open files meanwhile.
        let lower = current.map_or(1 << 20, |current| current - 1);
        setrlimit(Resource::Nofile, Rlimit { current: Some(lower), maximum }).expect("a soft limit may be lowered");
        open_as_many_as_allowed();
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }
}
