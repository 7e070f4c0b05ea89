//! Rules left out on purpose, to see that the chaos run notices: `make mutants`. Nothing of it is in a normal build.
//!
//! With the cargo feature `mutations`, `HEADGATE_MUTATION` names the one rule that this process leaves out. Each switch is
//! one line where the rule is; those in SQL stand in `store::postgres::mutant`.

#[cfg(feature = "mutations")]
mod chosen;
#[cfg(any(test, feature = "mutations"))]
mod name;

#[cfg(feature = "mutations")]
pub use chosen::{VARIABLE, choose, chosen, is};
#[cfg(any(test, feature = "mutations"))]
pub use name::Unknown;

/// What can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// RESERVE looks at the gap alone, and not at a request in flight; nor does ADOPT tell of one.
    DropTheDeadline,
    /// The gap counts from the slot of the grant and not from the first byte of the answer.
    AnchorAtTheGrant,
    /// COMMIT compares the cursor and not the attempt.
    CommitWithoutAttempt,
    /// A request that the client gives up is closed in the row, as if it had been answered.
    AbortFreesTheRow,
    /// Whoever believes in its Lease sends: the row knows no fence, no attempt and no gap.
    LeaseAlone,
    /// No prefix is committed before a body has ended. Breaks no promise: it is what progressive commit is measured
    /// against. A body must fit the free part of `--buffer-bytes` then.
    WholeBodies,
}

/// What stands behind `--version` and in the first line of the log.
pub const VERSION: &str = if cfg!(feature = "mutations") {
    concat!(env!("CARGO_PKG_VERSION"), " (built with mutations: only for the check of the chaos run)")
} else {
    env!("CARGO_PKG_VERSION")
};

/// Whether this rule is left out.
#[cfg(not(feature = "mutations"))]
#[must_use]
pub const fn is(_: Mutation) -> bool {
    false
}
