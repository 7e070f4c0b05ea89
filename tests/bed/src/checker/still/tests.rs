use super::{
    super::{
        Findings, Named, check as check_all,
        testing::{access, broken, killed, lost, paused},
    },
    *,
};

#[test]
fn i8_a_source_that_waits_too_long_is_found() {
    let accesses = vec![access("orders").by("a").at_ms(0).build(), access("orders").by("b").at_ms(8_004).build()];
    let findings = check_all(&Evidence { accesses, longest_wait: Some(8_000_000), ..Evidence::default() });
    assert_eq!(broken(&findings), [Rule::I8]);
}

/// Two requests to `orders`, and what I8 says when these sources were to be asked until these moments.
fn asked_until<const N: usize>(until_ms: [(&str, u64); N]) -> Findings {
    let accesses = vec![access("orders").by("a").at_ms(0).build(), access("orders").by("a").at_ms(200).build()];
    let asked_until = until_ms.map(|(source, at)| (source.to_owned(), at * 1000)).into();
    check_all(&Evidence { accesses, longest_wait: Some(8_000_000), asked_until, ..Evidence::default() })
}

#[test]
fn i8_a_source_that_is_never_asked_again_after_a_kill_is_found() {
    let findings = asked_until([("orders", 8_204)]);
    assert_eq!(broken(&findings), [Rule::I8]);
    assert_eq!(findings.sources["orders"].longest_wait_us, Some(8_004_000));
}

#[test]
fn i8_a_source_that_was_never_asked_at_all_is_found() {
    let findings = asked_until([("orders", 8_200), ("bills", 8_200)]);
    assert_eq!(broken(&findings), [Rule::I8]);
    assert_eq!(findings.violations[0].source, "bills");
}

#[test]
fn i8_a_source_that_nobody_was_to_ask_any_more_may_stand_still() {
    assert!(asked_until([]).clean());
    assert!(asked_until([("orders", 100)]).clean());
}

/// A source of a that is asked by b after this long, with what was done meanwhile.
fn asked_by_b(at_ms: u64, evidence: Evidence) -> Findings {
    let accesses =
        vec![access("orders").by("a_1").at_ms(0).build(), access("orders").by("b_1").under("02").at_ms(at_ms).build()];
    check_all(&Evidence { accesses, longest_wait: Some(15_000_000), ..evidence })
}

fn struck_by(nemeses: Vec<Nemesis>) -> Evidence {
    Evidence { nemeses, ..Evidence::default() }
}

fn there(replica: &str, from_ms: u64, until_ms: u64) -> Presence {
    Presence { replica: replica.to_owned(), from: from_ms * 1000, until: until_ms * 1000 }
}

/// The Lease names a, and from these moments on others.
fn named<const N: usize>(others: [(&str, u64); N]) -> LeaseHistory {
    let named = |(holder, at_ms): (&str, u64)| Named {
        source: "orders".to_owned(),
        holder: Some(holder.to_owned()),
        at: at_ms * 1000,
    };
    LeaseHistory { named: [("a_x", 0)].into_iter().chain(others).map(named).collect(), blind: Vec::new() }
}

#[test]
fn i8_a_takeover_that_takes_a_minute_is_found_whatever_becomes_of_the_dead_replicas_name() {
    assert_eq!(broken(&asked_by_b(60_000, struck_by(vec![killed("a", 10)]))), [Rule::I8]);
    let again = [10, 12_000, 24_000, 36_000, 48_000].map(|at| killed("a", at)).to_vec();
    let findings = asked_by_b(60_000, Evidence { leases: Some(named([("b_x", 59_900)])), ..struck_by(again) });
    assert_eq!(broken(&findings), [Rule::I8]);
    let left = findings.sources["orders"].longest_unexplained_us;
    assert_eq!(left, Some(44_997_000), "all but 3 ms of the request, and 15 s after the kill");
}

#[test]
fn i8_a_takeover_within_the_lease_and_what_follows_a_strike_is_none() {
    let findings = asked_by_b(30_000, struck_by(vec![killed("a", 10)]));
    assert!(findings.clean(), "{:?}", findings.violations);
}

#[test]
fn i8_a_frozen_holder_or_one_without_an_api_server_is_replaced() {
    for nemesis in [paused("a", 10, 50_000), lost(NemesisKind::LostApiServer, "a", 10, 50_000)] {
        assert_eq!(broken(&asked_by_b(50_000, struck_by(vec![nemesis]))), [Rule::I8]);
    }
}

#[test]
fn i8_a_holder_that_keeps_its_lease_and_cannot_ask_explains_a_wait() {
    for kind in [NemesisKind::LostSources, NemesisKind::LostDatabase, NemesisKind::WrongClock] {
        let findings = asked_by_b(60_000, struck_by(vec![lost(kind, "a", 10, 40_000)]));
        assert!(findings.clean(), "{kind:?}: {:?}", findings.violations);
        assert_eq!(broken(&asked_by_b(60_000, struck_by(vec![lost(kind, "b", 10, 40_000)]))), [Rule::I8], "{kind:?}");
    }
}

#[test]
fn i8_what_is_done_to_the_next_one_that_the_lease_names_counts_from_then_on() {
    let nemeses = vec![killed("a", 10), lost(NemesisKind::LostSources, "b", 6_000, 40_000)];
    let findings = asked_by_b(60_000, Evidence { leases: Some(named([("b_x", 5_000)])), ..struck_by(nemeses.clone()) });
    assert!(findings.clean(), "{:?}", findings.violations);
    assert_eq!(
        broken(&asked_by_b(60_000, Evidence { leases: Some(named([("b_x", 59_900)])), ..struck_by(nemeses) })),
        [Rule::I8]
    );
}

#[test]
fn i8_a_wait_without_an_api_server_is_explained_until_it_is_back() {
    let away = |until_ms: u64| Evidence { api_away: vec![(10_000, until_ms * 1000)], ..Evidence::default() };
    assert!(asked_by_b(60_000, away(40_000)).clean());
    assert_eq!(broken(&asked_by_b(60_000, away(30_000))), [Rule::I8]);
}

#[test]
fn i8_a_wait_is_explained_while_no_replica_is_there_that_is_well() {
    let nemeses = vec![killed("a", 10), lost(NemesisKind::LostSources, "b", 5_000, 40_000)];
    let others = |presences| asked_by_b(60_000, Evidence { presences, ..struck_by(nemeses.clone()) });
    let gone = there("a", 0, 10);
    let findings = others(vec![gone.clone(), there("b", 0, 70_000)]);
    assert!(findings.clean(), "{:?}", findings.violations);
    assert_eq!(broken(&others(vec![gone.clone(), there("b", 0, 70_000), there("c", 0, 70_000)])), [Rule::I8]);
    assert!(others(vec![gone, there("b", 0, 70_000), there("c", 0, 5_000)]).clean());
}

#[test]
fn i8_a_source_that_is_busy_or_asked_for_a_wait_is_left_alone() {
    let asked = |first: Access| {
        let accesses = vec![first, access("orders").under("02").at_ms(28_000).build()];
        broken(&check_all(&Evidence { accesses, longest_wait: Some(15_000_000), ..Evidence::default() }))
    };
    assert_eq!(asked(access("orders").at_ms(0).limited(12).build()), [Rule::I8]);
    assert_eq!(asked(access("orders").at_ms(0).limited(13).build()), []);
    assert_eq!(asked(access("orders").at_ms(0).lasting_ms(8_000).build()), [Rule::I8]);
    assert_eq!(asked(access("orders").at_ms(0).lasting_ms(8_000).incomplete().build()), []);
}
