//! What is kept of a run that broke a promise.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::narrate::say;

/// Writes what went wrong, and the logs of everything that ran in `place`, to `directory`.
///
/// # Errors
/// When a file cannot be written.
pub fn leave(what: &str, place: &Path, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let account = directory.join("violations.txt");
    fs::write(&account, what).with_context(|| format!("cannot write {}", account.display()))?;
    for entry in fs::read_dir(place)? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| ["log", "jsonl", "txt"].iter().any(|kept| kind == *kept))
            && let Some(name) = path.file_name()
        {
            fs::copy(&path, directory.join(name))?;
        }
    }
    say(format_args!("the evidence: {}", account.display()));
    Ok(())
}
