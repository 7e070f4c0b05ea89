//! What each mutation leaves out of which statement.

use super::super::{
    append::{APPEND, APPEND_REREAD},
    gate::{ADOPT, EXTEND, RESERVE},
};
use crate::mutation::Mutation;

/// A statement, and what is replaced in it.
type Edits = (&'static str, &'static [(&'static str, &'static str)]);

const IS_HOLDER: &str = "s.holder = r.holder\n            AND s.fence = r.fence\n            AND ";
const NOTHING_IN_FLIGHT: &str = "AND d.free_at <= s.now";
const FREE_AT: &str = "CASE WHEN c.closes THEN s.now ELSE s.ends_at END AS free_at";
const TELLS_IN_FLIGHT: &str = "coalesce(s.in_flight_for, interval '0') AS in_flight_for";
const GAP_HAS_PASSED: &str = "AND d.opens_at <= s.now + r.ahead";
const SLOT: &str = "greatest(s.now, d.opens_at) AS slot";
const IS_MINE: &str =
    "(s.attempt = r.attempt AND s.cursor IS NOT DISTINCT FROM r.cursor_before AND s.parts <= r.part) IS TRUE AS mine";
const IS_THE_CURSOR: &str = "s.cursor IS NOT DISTINCT FROM r.cursor_before AS mine";
const IS_ATTEMPT: &str = "AND s.attempt = r.attempt";

fn edits(mutation: Mutation) -> &'static [Edits] {
    match mutation {
        // Nobody is told of it either: a replica that knows of a request in flight waits by itself.
        Mutation::DropTheDeadline => &[
            (RESERVE, &[(FREE_AT, "s.now AS free_at")]),
            (ADOPT, &[(TELLS_IN_FLIGHT, "interval '0' AS in_flight_for")]),
        ],
        Mutation::CommitWithoutAttempt => {
            &[(APPEND, &[(IS_MINE, IS_THE_CURSOR)]), (APPEND_REREAD, &[(IS_MINE, IS_THE_CURSOR)])]
        }
        Mutation::LeaseAlone => &[
            (RESERVE, &[(IS_HOLDER, ""), (NOTHING_IN_FLIGHT, ""), (GAP_HAS_PASSED, ""), (SLOT, "s.now AS slot")]),
            (EXTEND, &[(IS_ATTEMPT, "")]),
            (APPEND, &[(IS_MINE, IS_THE_CURSOR)]),
            (APPEND_REREAD, &[(IS_MINE, IS_THE_CURSOR)]),
        ],
        _ => &[],
    }
}

/// The statements that a mutation changes, each with its mutant.
///
/// # Panics
/// When the rule is not there as it is written here, or more than once: then this file is to follow it.
pub(super) fn mutants(mutation: Mutation) -> Vec<(&'static str, String)> {
    let mutant = |(statement, replaced): &Edits| {
        let mutant = replaced.iter().fold((*statement).to_owned(), |text, (rule, without)| {
            assert_eq!(text.matches(rule).count(), 1, "{mutation:?}: '{rule}' is to be left out of\n{statement}");
            text.replacen(rule, without, 1)
        });
        (*statement, mutant)
    };
    edits(mutation).iter().map(mutant).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_that_is_left_out_stands_in_its_statement_once() {
        assert_eq!(Mutation::ALL.map(|mutation| mutants(mutation).len()).iter().sum::<usize>(), 8);
    }
}
