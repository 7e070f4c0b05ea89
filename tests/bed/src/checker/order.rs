//! I1, I2, I4: what can be seen on neighbours in the order of their starts.

use std::collections::HashMap;

use super::{Evidence, GAP_US, Rule, SourceFindings, Violation, excuse};
use crate::access_log::Access;

pub(super) fn check(
    source: &str,
    accesses: &[&Access],
    lives: &[usize],
    evidence: &Evidence,
    found: &mut SourceFindings,
) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut broken = |rule, what, lines: &[&Access]| {
        let lines = lines.iter().map(|&access| access.clone()).collect();
        violations.push(Violation { rule, source: source.to_owned(), what, lines });
    };
    let min_interval = evidence.min_intervals.get(source).map_or(GAP_US, |interval| GAP_US.max(*interval));
    let (mut delivered, mut attempts) = (0, HashMap::new());
    for (place, &access) in accesses.iter().enumerate() {
        let begins_again = place > 0 && lives[place] > lives[place - 1];
        if begins_again {
            delivered = access.after;
        }
        if access.after > delivered && place > 0 {
            broken(
                Rule::I4,
                format!("asked after {}, but only {delivered} was ever delivered", access.after),
                &[access],
            );
        }
        delivered = delivered.max(access.after).max(access.delivered.iter().map(|run| run.last).max().unwrap_or(0));
        if let Some(first) = attempts.insert(&access.attempt, access) {
            broken(
                Rule::I1,
                "two requests under one attempt, which the row grants for one".to_owned(),
                &[first, access],
            );
        }
        let Some(&before) = place.checked_sub(1).and_then(|place| accesses.get(place)) else { continue };

        let gap = access.started - before.started;
        found.smallest_gap_us = Some(found.smallest_gap_us.map_or(gap, |smallest| smallest.min(gap)));
        if gap < min_interval {
            broken(Rule::I1, format!("{gap} us between two starts, not {min_interval}"), &[before, access]);
        }
        if access.after < before.after && !begins_again {
            broken(
                Rule::I4,
                format!("the cursor went back from {} to {}", before.after, access.after),
                &[before, access],
            );
        }
        // Not only the neighbour: a request that is never answered may outlast many.
        for &earlier in accesses[..place].iter().filter(|earlier| earlier.ended > access.started) {
            if excuse::overlap(&evidence.nemeses, earlier, access) {
                found.explained_overlaps += 1;
            } else {
                broken(Rule::I2, "a request started before an earlier one had ended".to_owned(), &[earlier, access]);
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{
        super::{
            Nemesis, NemesisKind, check as check_all,
            testing::{access, broken, check_log, killed, lost, paused},
        },
        *,
    };

    #[test]
    fn i1_a_gap_below_200_ms_is_found() {
        let findings =
            check_log(vec![access("orders").by("a").at_ms(0).build(), access("orders").by("b").at_us(199_999).build()]);
        assert_eq!(broken(&findings), [Rule::I1]);
    }

    #[test]
    fn i1_a_gap_below_the_min_interval_of_the_source_is_found() {
        let gaps_of = |source: &str| [access(source).at_ms(0).build(), access(source).at_ms(900).build()];
        let accesses = [gaps_of("orders"), gaps_of("bills")].concat();
        let min_intervals = BTreeMap::from([("orders".to_owned(), 1_000_000), ("bills".to_owned(), 900_000)]);
        let findings = check_all(&Evidence { accesses, min_intervals, ..Evidence::default() });
        assert_eq!(broken(&findings), [Rule::I1]);
        assert_eq!(findings.violations[0].source, "orders");
    }

    #[test]
    fn i1_a_min_interval_below_200_ms_allows_no_smaller_gap() {
        let accesses = vec![access("orders").at_ms(0).build(), access("orders").at_ms(199).build()];
        let min_intervals = BTreeMap::from([("orders".to_owned(), 100_000)]);
        let findings = check_all(&Evidence { accesses, min_intervals, ..Evidence::default() });
        assert_eq!(broken(&findings), [Rule::I1]);
    }

    #[test]
    fn i1_two_requests_under_one_attempt_are_found() {
        let of = |attempt: &str, at_ms| access("orders").under(attempt).at_ms(at_ms).build();
        assert_eq!(broken(&check_log(vec![of("01", 0), of("02", 300), of("01", 600)])), [Rule::I1]);
        assert!(check_log(vec![of("01", 0), of("02", 300)]).clean());
    }

    #[test]
    fn i2_an_overlap_is_found() {
        let findings = check_log(vec![
            access("orders").by("a").at_ms(0).lasting_ms(400).build(),
            access("orders").by("b").at_ms(300).build(),
        ]);
        assert_eq!(broken(&findings), [Rule::I2]);
    }

    #[test]
    fn i2_an_overlap_with_a_frozen_peer_is_explained_and_counted() {
        let accesses = vec![
            access("orders").by("a").at_ms(0).lasting_ms(9_000).build(),
            access("orders").by("b").at_ms(5_000).build(),
        ];
        let findings = check_all(&Evidence { accesses, nemeses: vec![paused("a", 100, 9_500)], ..Evidence::default() });
        assert!(findings.clean());
        assert_eq!(findings.sources["orders"].explained_overlaps, 1);
    }

    #[test]
    fn i2_a_short_pause_explains_nothing() {
        let accesses = vec![
            access("orders").by("a").at_ms(0).lasting_ms(400).build(),
            access("orders").by("b").at_ms(300).build(),
        ];
        let findings = check_all(&Evidence { accesses, nemeses: vec![paused("a", 100, 250)], ..Evidence::default() });
        assert_eq!(broken(&findings), [Rule::I2]);
    }

    #[test]
    fn i2_only_a_lost_line_to_the_sources_explains_an_overlap() {
        for (kind, expected) in [
            (NemesisKind::LostSources, vec![]),
            (NemesisKind::UnheardBySources, vec![]),
            (NemesisKind::LostDatabase, vec![Rule::I2]),
            (NemesisKind::LostApiServer, vec![Rule::I2]),
        ] {
            let accesses = vec![
                access("orders").by("a").at_ms(0).lasting_ms(9_000).build(),
                access("orders").by("b").at_ms(6_000).build(),
            ];
            let nemeses = vec![lost(kind, "a", 100, 9_500)];
            assert_eq!(
                broken(&check_all(&Evidence { accesses, nemeses, ..Evidence::default() })),
                expected,
                "{kind:?}"
            );
        }
    }

    /// a asks at 0 and is served for 9 s; b asks at this many milliseconds.
    fn beside(at_ms: u64, nemeses: &[Nemesis]) -> Vec<Rule> {
        let accesses = vec![
            access("orders").by("a_1").at_ms(0).lasting_ms(9_000).build(),
            access("orders").by("b_1").at_ms(at_ms).build(),
        ];
        broken(&check_all(&Evidence { accesses, nemeses: nemeses.to_vec(), ..Evidence::default() }))
    }

    #[test]
    fn i2_nothing_explains_a_start_before_the_row_can_have_opened() {
        use NemesisKind::{LostSources, UnheardBySources};
        let always = [killed("a", 0), paused("a", 0, 9_500)];
        for nemesis in always.into_iter().chain([LostSources, UnheardBySources].map(|line| lost(line, "a", 0, 9_500))) {
            let nemeses = [nemesis, lost(NemesisKind::LostDatabase, "a", 0, 9_500)];
            assert_eq!(beside(2_199, &nemeses), [Rule::I2], "{nemeses:?}");
            assert_eq!(beside(2_200, &nemeses), [], "{nemeses:?}");
        }
    }

    #[test]
    fn i2_a_strike_explains_an_overlap_when_the_last_extension_before_it_is_over() {
        for (from_ms, expected) in [(3_500, vec![]), (3_501, vec![Rule::I2])] {
            for nemesis in [killed("a", from_ms), paused("a", from_ms, 9_500)] {
                assert_eq!(beside(5_000, std::slice::from_ref(&nemesis)), expected, "{nemesis:?}");
                let without_extensions = lost(NemesisKind::LostDatabase, "a", 1_000, 4_000);
                assert_eq!(beside(5_000, &[nemesis, without_extensions]), []);
            }
        }
    }

    #[test]
    fn i2_a_freeze_or_a_lost_line_that_was_over_long_before_explains_nothing() {
        for (until_ms, expected) in [(2_999, vec![Rule::I2]), (3_000, vec![])] {
            for nemesis in [paused("a", 0, until_ms), lost(NemesisKind::LostSources, "a", 0, until_ms)] {
                assert_eq!(beside(5_000, std::slice::from_ref(&nemesis)), expected, "{nemesis:?}");
            }
        }
        assert_eq!(beside(8_900, &[paused("a", 0, 2_000)]), [Rule::I2]);
    }

    #[test]
    fn i4_a_cursor_that_goes_back_is_found() {
        let findings = check_log(vec![
            access("orders").by("a").at_ms(0).after(0).delivering(1, 10).build(),
            access("orders").by("a").at_ms(300).after(10).build(),
            access("orders").by("b").at_ms(600).after(9).build(),
        ]);
        assert_eq!(broken(&findings), [Rule::I4]);
    }

    #[test]
    fn i4_a_cursor_ahead_of_everything_delivered_is_found() {
        let findings = check_log(vec![
            access("orders").by("a").at_ms(0).after(0).delivering(1, 10).build(),
            access("orders").by("a").at_ms(300).after(11).build(),
        ]);
        assert_eq!(broken(&findings), [Rule::I4]);
    }
}
