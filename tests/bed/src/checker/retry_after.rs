//! I9: a source that asked to be left alone is, by whoever holds it then (DESIGN 4).
//!
//! The wait counts from the first byte of the answer: nobody can have read it earlier, and what the source notes as its end may
//! come later on a busy machine. Only the next request is judged: one beside the answer is I2's, and those after it come later.

use super::{Evidence, Nemesis, NemesisKind, Rule, SourceFindings, Violation, excuse::SHORTEST_TELLING};
use crate::access_log::Access;

/// From the grant of a request to its first byte at the source: the slot and S (up to a second together), and its way (0.8 s).
const GRANTED_BEFORE_US: u64 = 2_000_000;
/// From the end of an answer until the row says what it asked for: its way (0.5 s), and a statement on a busy machine.
const COMMITTED_WITHIN_US: u64 = 1_500_000;

pub(super) fn check(
    source: &str,
    accesses: &[&Access],
    evidence: &Evidence,
    found: &mut SourceFindings,
) -> Vec<Violation> {
    let mut violations = Vec::new();
    for pair in accesses.windows(2) {
        let [limited, next] = [pair[0], pair[1]];
        let Some((asked, said)) = limited.retry_after.filter(|_| limited.complete).zip(limited.first_byte) else {
            continue;
        };
        found.asked_to_wait.0 += 1;
        if next.started < limited.ended || next.started >= said.saturating_add(asked.least_us()) {
            continue;
        }
        if was_not_stored(limited, next, evidence) {
            found.asked_to_wait.1 += 1;
        } else {
            violations.push(Violation {
                rule: Rule::I9,
                source: source.to_owned(),
                what: format!("asked {} ms after {asked}", (next.started - said) / 1000),
                lines: vec![limited.clone(), next.clone()],
            });
        }
    }
    violations
}

/// Whether who took the answer was struck before the row had it. A kill or a freeze cost the answer, a lost line the way of it.
/// Without the database the holder keeps the wait to itself; only somebody else, or one that lost the source, can miss it.
fn was_not_stored(limited: &Access, next: &Access, evidence: &Evidence) -> bool {
    let from = limited.started.saturating_sub(GRANTED_BEFORE_US);
    let until = next.started.min(limited.ended + COMMITTED_WITHIN_US);
    let struck = |kind| {
        let mut of_kind = evidence.nemeses.iter().filter(|nemesis| nemesis.kind == kind);
        of_kind.any(|nemesis| nemesis.struck(&limited.replica, from, until))
    };
    let frozen = |nemesis: &Nemesis| {
        nemesis.kind == NemesisKind::Paused
            && nemesis.until - nemesis.from >= SHORTEST_TELLING
            && nemesis.struck(&limited.replica, from, until)
    };
    struck(NemesisKind::Killed)
        || evidence.nemeses.iter().any(frozen)
        || struck(NemesisKind::LostSources)
        || struck(NemesisKind::LostDatabase) && (limited.replica != next.replica || struck(NemesisKind::LostApiServer))
}

#[cfg(test)]
mod tests {
    use super::super::{
        check as check_all,
        testing::{access, broken, killed, lost, paused},
    };
    use super::*;

    /// A 429 with `Retry-After: 5` at 0, and the next request so much later.
    fn asked_again(by: &str, at_ms: u64, nemeses: Vec<Nemesis>) -> Vec<Rule> {
        let accesses = vec![
            access("orders").by("a_1").under("01").at_ms(0).limited(5).build(),
            access("orders").by(by).under("02").at_ms(at_ms).build(),
        ];
        broken(&check_all(&Evidence { accesses, nemeses, ..Evidence::default() }))
    }

    #[test]
    fn a_wait_that_the_source_asked_for_holds_for_every_replica() {
        for by in ["a_1", "b_1"] {
            assert_eq!(asked_again(by, 204, Vec::new()), [Rule::I9], "{by}");
            assert_eq!(asked_again(by, 5_000, Vec::new()), [Rule::I9], "{by}");
            assert_eq!(asked_again(by, 5_001, Vec::new()), [], "{by}");
        }
    }

    #[test]
    fn a_date_may_have_lost_a_part_of_its_second() {
        let asked_again = |at_ms| {
            let limited = access("orders").at_ms(0).limited_until_a_date(2).build();
            let next = access("orders").under("02").at_ms(at_ms).build();
            broken(&check_all(&Evidence { accesses: vec![limited, next], ..Evidence::default() }))
        };
        assert_eq!(asked_again(1_000), [Rule::I9]);
        assert_eq!(asked_again(1_001), []);
    }

    #[test]
    fn a_wait_that_its_receiver_could_not_store_is_not_known_to_the_next_one() {
        let nemeses = [
            killed("a", 500),
            paused("a", 1_000, 4_000),
            lost(NemesisKind::LostSources, "a", 0, 1),
            lost(NemesisKind::LostDatabase, "a", 1_000, 4_000),
        ];
        for nemesis in nemeses {
            assert_eq!(asked_again("b_1", 4_500, vec![nemesis.clone()]), [], "{nemesis:?}");
        }
    }

    #[test]
    fn a_wait_is_stored_soon_and_what_is_done_later_or_to_others_explains_nothing() {
        let nemeses = [
            killed("a", 1_600),
            killed("b", 500),
            paused("a", 1_000, 2_900),
            paused("a", 1_600, 4_000),
            lost(NemesisKind::LostDatabase, "a", 1_600, 4_000),
            lost(NemesisKind::LostApiServer, "a", 0, 4_000),
        ];
        for nemesis in nemeses {
            assert_eq!(asked_again("b_1", 4_500, vec![nemesis.clone()]), [Rule::I9], "{nemesis:?}");
        }
    }

    #[test]
    fn a_holder_knows_what_it_was_asked_for_without_the_database() {
        let database = lost(NemesisKind::LostDatabase, "a", 0, 4_000);
        assert_eq!(asked_again("a_1", 4_500, vec![database.clone()]), [Rule::I9]);
        let api_server = lost(NemesisKind::LostApiServer, "a", 0, 4_000);
        assert_eq!(asked_again("a_1", 4_500, vec![database, api_server]), []);
    }

    #[test]
    fn an_answer_that_was_not_written_whole_asks_for_nothing() {
        let accesses = vec![
            access("orders").at_ms(0).limited(5).incomplete().build(),
            access("orders").under("02").at_ms(204).build(),
        ];
        assert_eq!(broken(&check_all(&Evidence { accesses, ..Evidence::default() })), []);
    }
}
