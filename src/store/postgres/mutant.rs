//! The statements with one rule left out ([`crate::mutation`]); without the feature `mutations`, the statements as they are.

#[cfg(any(test, feature = "mutations"))]
mod rules;

#[cfg(not(feature = "mutations"))]
pub(super) const fn of(statement: &'static str) -> &'static str {
    statement
}

#[cfg(feature = "mutations")]
pub(super) fn of(statement: &'static str) -> &'static str {
    use std::sync::LazyLock;

    static MUTANTS: LazyLock<Vec<(&'static str, String)>> =
        LazyLock::new(|| crate::mutation::chosen().map(rules::mutants).unwrap_or_default());

    let mutant = MUTANTS.iter().find(|(of, _)| *of == statement);
    mutant.map_or(statement, |(_, mutant)| mutant.as_str())
}
