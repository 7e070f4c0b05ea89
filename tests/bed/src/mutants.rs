//! `make mutants`: leaves out one rule of the protocol after the other, and sees the chaos run notice each of them.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::campaign::{Campaign, KINDS};
use crate::checker::Violation;
use crate::narrate::say;

/// What the binary leaves out when `HEADGATE_MUTATION` says so, and must be caught at.
const MUTANTS: [&str; 5] =
    ["anchor-at-the-grant", "lease-alone", "abort-frees-the-row", "drop-the-deadline", "commit-without-attempt"];

/// Tried one after the other until a rule is seen broken. Fixed, so that the check does not depend on luck.
const SEEDS: [u64; 8] = [1, 7, 2, 3, 4, 5, 6, 8];

/// How long each seed has.
const LENGTH: Duration = Duration::from_secs(90);

/// How a mutant was caught.
struct Caught {
    seed: u64,
    after: Duration,
    violation: Violation,
}

/// Runs the binary as it is, which must stay clean, and then every mutant (or those named), which must not. Returns
/// whether it was so.
///
/// # Errors
/// When the servers do not come up.
pub async fn run(binary: &Path, evidence: &Path, only: &[String]) -> Result<bool> {
    let campaign = |seed, mutation| Campaign {
        binary: binary.to_owned(),
        length: LENGTH,
        seed,
        replicas: 3,
        sources: KINDS,
        evidence: evidence.to_owned(),
        mutation,
    };
    let named = |name: &&str| only.is_empty() || only.iter().any(|only| only == name);
    let mut table = Vec::new();
    let mut good = true;
    if named(&"none") {
        let clean = campaign(SEEDS[0], None).run().await?.findings.clean();
        good &= clean;
        let (after, what) = (LENGTH.as_secs(), if clean { "clean" } else { "NOT CLEAN" });
        table.push(format!("{:<24} {:>4} {after:>7}  {what}", "none (control)", SEEDS[0]));
    }
    for mutant in MUTANTS.into_iter().filter(named) {
        let mut caught = None;
        for seed in SEEDS {
            say(format_args!("\n{mutant}, seed {seed}"));
            match campaign(seed, Some(mutant)).run_until_broken().await {
                Ok(seen) => caught = seen.map(|(after, violation)| Caught { seed, after, violation }),
                Err(error) => say(format_args!("ended early, which catches nothing: {error:#}")),
            }
            if caught.is_some() {
                break;
            }
        }
        good &= caught.is_some();
        table.push(match caught {
            Some(Caught { seed, after, violation: Violation { rule, source, what, .. } }) => {
                format!("{mutant:<24} {seed:>4} {:>7.1}  {rule:?} {source}: {what}", after.as_secs_f64())
            }
            None => format!("{mutant:<24}    - {:>7}  NOT CAUGHT", "-"),
        });
    }
    say(format_args!("\n{:<24} {:>4} {:>7}  {}", "MUTANT", "SEED", "SECONDS", "FIRST BROKEN"));
    table.iter().for_each(say);
    Ok(good)
}
