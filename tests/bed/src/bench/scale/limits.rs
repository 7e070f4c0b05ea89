//! Open files: each source has a connection, and the process that serves them all has one for each.

use anyhow::{Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a process has open beside the connections of its sources.
const BESIDE: u64 = 500;

/// Lets this process, and those that it starts, open a file for each of so many sources.
///
/// # Errors
/// When the hard limit is lower; it says what to do.
pub(super) fn open_files_for(sources: usize) -> Result<()> {
    let needed = u64::try_from(sources)? + BESIDE;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    ensure!(
        maximum.is_none_or(|maximum| maximum >= needed),
        "{sources} sources need {needed} open files in one process, and the hard limit here is {}: raise it as root \
         (ulimit -Hn {needed}), or measure fewer with SIZES=1000",
        maximum.unwrap_or(u64::MAX),
    );
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hard_limit_that_is_too_low_is_told_with_what_to_do() {
        let Some(hard) = getrlimit(Resource::Nofile).maximum else { return };
        let sources = usize::try_from(hard).expect("a limit in range");
        let told = open_files_for(sources).expect_err("more than the limit").to_string();
        assert!(told.contains(&hard.to_string()) && told.contains("SIZES="), "{told}");
        open_files_for(1).expect("any limit is enough for one");
    }
}
