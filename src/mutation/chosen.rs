use std::{env, sync::OnceLock};

use super::{Mutation, Unknown};

/// The variable that names the mutation.
pub const VARIABLE: &str = "HEADGATE_MUTATION";

static CHOSEN: OnceLock<Option<Mutation>> = OnceLock::new();

/// Reads the variable, once for the life of the process.
///
/// # Errors
/// When it names no mutation.
pub fn choose() -> Result<Option<Mutation>, Unknown> {
    let name = env::var(VARIABLE).unwrap_or_default();
    let mutation = if name.is_empty() { None } else { Some(Mutation::named(&name)?) };
    Ok(*CHOSEN.get_or_init(|| mutation))
}

/// The rule that is left out; none before [`choose`] was called.
#[must_use]
pub fn chosen() -> Option<Mutation> {
    CHOSEN.get().copied().flatten()
}

/// Whether this rule is left out.
#[must_use]
pub fn is(mutation: Mutation) -> bool {
    chosen() == Some(mutation)
}
