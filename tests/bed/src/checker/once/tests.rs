use super::super::{
    Evidence, Nemesis, NemesisKind, Reset, Rule, SourceFindings, StoredStream, check,
    testing::{access, broken, check_log, killed, lost, paused, stored, stored_under},
};
use crate::{access_log::Access, source::FaultKind};

/// The first answer has this fault; the second, of the same replica, asks after `again` and brings 10 events.
fn asked_again_after(again: u64, first: Access) -> Vec<Access> {
    let second = access("orders").by("a").under("02").at_ms(300).after(again).delivering(again + 1, again + 10);
    vec![first, second.build()]
}

fn of_orders(accesses: Vec<Access>) -> SourceFindings {
    let mut findings = check_log(accesses);
    assert!(findings.clean(), "{:?}", findings.violations);
    findings.sources.remove("orders").unwrap()
}

#[test]
fn an_event_delivered_twice_is_found() {
    let first = access("orders").by("a").at_ms(0).after(0).delivering(1, 1000).build();
    assert_eq!(broken(&check_log(asked_again_after(0, first))), [Rule::I3]);
}

#[test]
fn a_kill_of_the_replica_that_took_it_explains_a_repeat() {
    let accesses = vec![
        access("orders").by("a_7f").at_ms(0).after(0).delivering(1, 1000).build(),
        access("orders").by("b_91").at_ms(6_000).after(400).delivering(401, 1400).build(),
    ];
    let findings = check(&Evidence { accesses, nemeses: vec![killed("a", 10)], ..Evidence::default() });
    assert!(findings.clean(), "{:?}", findings.violations);
    assert_eq!(findings.sources["orders"].repeats.after_a_kill, 600);
}

#[test]
fn a_request_that_was_on_its_way_when_its_sender_was_killed_is_explained_and_one_that_came_later_is_not() {
    for (killed_at, broken_rules) in [(1_999, vec![]), (1_300, vec![]), (1_000, vec![Rule::I3])] {
        let accesses = vec![
            access("orders").by("a_7f").at_ms(2_000).after(0).delivering(1, 10).build(),
            access("orders").by("a_80").at_ms(6_000).after(0).delivering(1, 10).build(),
        ];
        let findings = check(&Evidence { accesses, nemeses: vec![killed("a", killed_at)], ..Evidence::default() });
        assert_eq!(broken(&findings), broken_rules, "killed at {killed_at} ms");
    }
}

/// The first replica lost these lines, and another one loads the same events again.
fn loaded_again_after_losing(lines: &[NemesisKind]) -> Vec<Rule> {
    let accesses = vec![
        access("orders").by("a_7f").at_ms(0).after(0).delivering(1, 10).build(),
        access("orders").by("b_91").at_ms(9_000).after(0).delivering(1, 10).build(),
    ];
    let nemeses = lines.iter().map(|kind| lost(*kind, "a", 1, 8_000)).collect();
    broken(&check(&Evidence { accesses, nemeses, ..Evidence::default() }))
}

#[test]
fn an_answer_that_was_lost_on_its_way_explains_a_repeat() {
    assert_eq!(loaded_again_after_losing(&[NemesisKind::LostSources]), []);
}

#[test]
fn only_the_database_and_the_api_server_lost_together_explain_a_repeat() {
    assert_eq!(loaded_again_after_losing(&[NemesisKind::LostDatabase]), [Rule::I3]);
    assert_eq!(loaded_again_after_losing(&[NemesisKind::LostApiServer]), [Rule::I3]);
    assert_eq!(loaded_again_after_losing(&[NemesisKind::LostApiServer, NemesisKind::LostDatabase]), []);
}

#[test]
fn a_line_that_swallows_what_a_replica_sends_loses_no_answer() {
    assert_eq!(loaded_again_after_losing(&[NemesisKind::UnheardBySources]), [Rule::I3]);
}

/// a is answered at 0, within 3 ms, and the same events are asked for again at this many milliseconds.
fn loaded_again_at(at_ms: u64, nemeses: &[Nemesis]) -> Vec<Rule> {
    let accesses = vec![
        access("orders").by("a_7f").at_ms(0).after(0).delivering(1, 10).build(),
        access("orders").by("b_91").at_ms(at_ms).after(0).delivering(1, 10).build(),
    ];
    broken(&check(&Evidence { accesses, nemeses: nemeses.to_vec(), ..Evidence::default() }))
}

/// Each strike that may cost a commit, from this many milliseconds on.
fn struck_from(from_ms: u64) -> [Nemesis; 3] {
    [killed("a", from_ms), paused("a", from_ms, 6_000), lost(NemesisKind::LostSources, "a", from_ms, from_ms + 50)]
}

#[test]
fn a_strike_after_the_answer_was_to_be_committed_explains_nothing() {
    for (from_ms, expected) in [(1_003, vec![]), (1_004, vec![Rule::I3])] {
        for nemesis in struck_from(from_ms) {
            assert_eq!(loaded_again_at(7_000, std::slice::from_ref(&nemesis)), expected, "{nemesis:?}");
        }
    }
}

#[test]
fn what_the_database_or_a_freeze_holds_up_may_be_lost_later() {
    let database = |from_ms, until_ms| lost(NemesisKind::LostDatabase, "a", from_ms, until_ms);
    for (held_up, from_ms, expected) in [
        (database(500, 2_000), 8_000, vec![]),
        (database(500, 2_000), 8_001, vec![Rule::I3]),
        (database(1_004, 2_000), 2_000, vec![Rule::I3]),
        (paused("a", 500, 1_500), 2_500, vec![]),
        (paused("a", 500, 1_500), 2_501, vec![Rule::I3]),
    ] {
        let nemeses = [held_up, killed("a", from_ms)];
        assert_eq!(loaded_again_at(12_000, &nemeses), expected, "{nemeses:?}");
    }
    let one_after_the_other = [database(500, 2_000), database(8_000, 9_000), killed("a", 15_000)];
    assert_eq!(loaded_again_at(20_000, &one_after_the_other), []);
}

#[test]
fn no_strike_explains_a_repeat_that_was_asked_for_before_the_row_can_have_opened() {
    for nemesis in struck_from(2) {
        let nemesis = std::slice::from_ref(&nemesis);
        assert_eq!(loaded_again_at(2_199, nemesis), [Rule::I3], "{nemesis:?}");
        assert_eq!(loaded_again_at(2_200, nemesis), [], "{nemesis:?}");
    }
}

#[test]
fn two_losses_that_are_short_or_do_not_meet_cut_nobody_off() {
    for (api_server, database, expected) in [
        ((0, 6_000), (1, 7_000), vec![]),
        ((0, 1_999), (1, 7_000), vec![Rule::I3]),
        ((0, 6_000), (1, 1_000), vec![Rule::I3]),
        // It is in flight for 5 s, and what has failed is tried again for 6 s, while others have what they took over.
        ((-2_000, 900), (5_900, 8_000), vec![]),
        ((-2_000, 899), (5_900, 8_000), vec![Rule::I3]),
        ((13_000, 15_000), (5_000, 7_000), vec![]),
        ((13_001, 15_001), (5_000, 7_000), vec![Rule::I3]),
    ] {
        let of = |kind, (from_ms, until_ms): (i64, i64)| {
            let ms = |at: i64| u64::try_from(at + 10_000).unwrap();
            lost(kind, "a", ms(from_ms), ms(until_ms))
        };
        let nemeses = vec![of(NemesisKind::LostApiServer, api_server), of(NemesisKind::LostDatabase, database)];
        let accesses = vec![
            access("orders").by("a_7f").at_ms(10_000).lasting_ms(4_999).after(0).delivering(1, 10).build(),
            access("orders").by("b_91").at_ms(30_000).after(0).delivering(1, 10).build(),
        ];
        let found = broken(&check(&Evidence { accesses, nemeses, ..Evidence::default() }));
        assert_eq!(found, expected, "{api_server:?} {database:?}");
    }
}

#[test]
fn a_kill_or_a_freeze_explains_no_repeat_of_what_was_committed() {
    for nemesis in [killed("a", 10), paused("a", 10, 5_000)] {
        let log = |again: u64| {
            vec![
                access("orders").by("a").under("01").at_ms(0).after(0).delivering(1, 10).build(),
                access("orders").by("b").under("02").at_ms(6_000).after(again).delivering(again + 1, 20).build(),
            ]
        };
        let findings = |again: u64| {
            let mut stream = stored_under("02", 20);
            stream.events[..4].clone_from_slice(&stored_under("01", 4).events);
            let (nemeses, stored) = (vec![nemesis.clone()], vec![stream]);
            check(&Evidence { accesses: log(again), nemeses, stored, ..Evidence::default() })
        };
        assert!(findings(4).clean(), "the uncommitted tail");
        let violations = findings(3).violations;
        assert_eq!(violations.iter().map(|violation| violation.rule).collect::<Vec<_>>(), [Rule::I3]);
        assert_eq!(violations[0].what, "events 4 to 4 were delivered twice");
    }
}

#[test]
fn a_kill_of_another_replica_explains_nothing() {
    let accesses = vec![
        access("orders").by("a").at_ms(0).after(0).delivering(1, 10).build(),
        access("orders").by("b").at_ms(6_000).after(0).delivering(1, 10).build(),
    ];
    let findings = check(&Evidence { accesses, nemeses: vec![killed("b", 10)], ..Evidence::default() });
    assert_eq!(broken(&findings), [Rule::I3]);
}

#[test]
fn a_kill_long_before_or_after_explains_nothing() {
    let accesses = vec![
        access("orders").by("a").at_ms(1_000).after(0).delivering(1, 10).build(),
        access("orders").by("b").at_ms(6_000).after(0).delivering(1, 10).build(),
    ];
    let nemeses = vec![killed("a", 10), killed("a", 7_000)];
    let findings = check(&Evidence { accesses, nemeses, ..Evidence::default() });
    assert_eq!(broken(&findings), [Rule::I3]);
}

#[test]
fn a_short_pause_explains_nothing() {
    let accesses = vec![
        access("orders").by("a").at_ms(0).after(0).delivering(1, 10).build(),
        access("orders").by("b").at_ms(6_000).after(0).delivering(1, 10).build(),
    ];
    let findings = check(&Evidence { accesses, nemeses: vec![paused("a", 10, 300)], ..Evidence::default() });
    assert_eq!(broken(&findings), [Rule::I3]);
}

#[test]
fn a_cut_body_explains_no_repeat_of_the_events_that_came_whole() {
    let cut = || access("orders").by("a").at_ms(0).after(0).delivering(1, 7).fault(FaultKind::CutBody).incomplete();
    assert_eq!(of_orders(asked_again_after(7, cut().build())).repeats.total(), 0);
    for again in [0, 5, 6] {
        let findings = check_log(asked_again_after(again, cut().build()));
        assert_eq!(broken(&findings), [Rule::I3]);
        assert_eq!(findings.sources["orders"].repeats.unexplained, 7 - again);
    }
}

#[test]
fn a_cut_body_of_a_source_whose_ids_do_not_ascend_explains_all_of_it() {
    let found = of_orders(vec![
        access("orders").by("a").at_ms(0).after(0).delivering_backwards(1, 3).fault(FaultKind::Unsorted).build(),
        access("orders").by("a").at_ms(300).after(3).delivering(4, 9).fault(FaultKind::CutBody).incomplete().build(),
        access("orders").by("a").at_ms(600).after(3).delivering(4, 13).build(),
    ]);
    assert_eq!(found.repeats.of_an_unusable_response, 6);
}

#[test]
fn an_item_that_cannot_be_used_explains_a_repeat_of_those_behind_it_alone() {
    let answer = || access("orders").by("a").at_ms(0).after(0).fault(FaultKind::BadItem);
    let middle = || answer().delivering(1, 4).delivering(6, 10).build();
    assert_eq!(of_orders(asked_again_after(4, middle())).repeats.of_an_unusable_response, 5);
    let findings = check_log(asked_again_after(3, middle()));
    assert_eq!(broken(&findings), [Rule::I3]);
    assert_eq!(findings.violations[0].what, "events 4 to 4 were delivered twice");

    let first = answer().delivering(2, 10).build();
    assert_eq!(of_orders(asked_again_after(0, first)).repeats.of_an_unusable_response, 9);
}

#[test]
fn a_page_out_of_order_explains_a_repeat_only_when_it_may_not_be_all_there_is() {
    let page = |limit| {
        let page = access("orders").by("a").at_ms(0).after(0).limit(limit).delivering_backwards(1, 5);
        asked_again_after(0, page.fault(FaultKind::Unsorted).build())
    };
    assert_eq!(of_orders(page(5)).repeats.of_an_unusable_response, 5);
    assert_eq!(broken(&check_log(page(6))), [Rule::I3]);
}

#[test]
fn an_untidy_answer_that_can_be_used_explains_nothing() {
    for fault in [FaultKind::Repeats, FaultKind::MoreThanAsked, FaultKind::SlowBody, FaultKind::IgnoresAfterId] {
        let first = access("orders").by("a").at_ms(0).after(0).delivering(1, 5).fault(fault).build();
        assert_eq!(broken(&check_log(asked_again_after(0, first))), [Rule::I3], "{fault:?}");
    }
}

#[test]
fn what_a_source_sends_unasked_is_its_own_repeat() {
    let unasked = access("orders").by("a").at_ms(300).after(5).delivering(1, 8).fault(FaultKind::IgnoresAfterId);
    let twice =
        access("orders").by("a").at_ms(600).after(8).delivering(9, 9).delivering(9, 9).fault(FaultKind::Repeats);
    let first = access("orders").by("a").at_ms(0).after(0).delivering(1, 5).build();
    assert_eq!(of_orders(vec![first, unasked.build(), twice.build()]).repeats.by_the_source, 6);
}

#[test]
fn an_answer_that_the_client_gave_up_without_a_fault_is_not_explained() {
    let given_up = access("orders").by("a").at_ms(0).after(0).delivering(1, 7).incomplete().build();
    assert_eq!(broken(&check_log(asked_again_after(5, given_up))), [Rule::I3]);
}

/// What the rules say of 10 events that were delivered at 0, of which the first `count` are stored.
fn stored_of_ten(count: u64, first: Access, nemeses: Vec<Nemesis>) -> Vec<String> {
    let mut stream = stored_under("01", count);
    stream.cursor = stream.events.last().map(|event| event.id.clone());
    let asked_again = access("orders").by("a_1").at_ms(9_000).after(count).fault(FaultKind::Status).build();
    let accesses = vec![first, asked_again];
    let findings = check(&Evidence { accesses, nemeses, stored: vec![stream], ..Evidence::default() });
    assert!(findings.violations.iter().all(|violation| violation.rule == Rule::I5));
    findings.violations.into_iter().map(|violation| violation.what).collect()
}

fn ten_delivered() -> Access {
    access("orders").by("a_1").under("01").at_ms(0).after(0).delivering(1, 10).build()
}

#[test]
fn i5_what_was_delivered_last_and_is_not_stored_is_found() {
    assert_eq!(stored_of_ten(10, ten_delivered(), vec![]), [] as [&str; 0]);
    let lost = |first: u64| [format!("of events {first} to 10 what this request delivered is not stored")];
    assert_eq!(stored_of_ten(5, ten_delivered(), vec![]), lost(6));
    assert_eq!(stored_of_ten(0, ten_delivered(), vec![]), lost(1));
    assert_eq!(stored_of_ten(5, ten_delivered(), vec![killed("a", 1_500)]), lost(6));
}

#[test]
fn i5_what_explains_a_repeat_explains_that_an_event_is_not_stored() {
    assert_eq!(stored_of_ten(5, ten_delivered(), vec![killed("a", 10)]), [] as [&str; 0]);
    let answer = || access("orders").by("a_1").under("01").at_ms(0).after(0).fault(FaultKind::BadItem);
    let unusable = answer().delivering(1, 5).delivering(7, 11).build();
    assert_eq!(stored_of_ten(5, unusable, vec![]), [] as [&str; 0]);
}

#[test]
fn i5_what_a_request_delivered_after_which_nobody_asked_is_stored_or_explained() {
    for (nemeses, expected) in [(vec![killed("a", 10)], vec![]), (vec![], vec![Rule::I5])] {
        let stream = StoredStream { cursor: None, ..stored(0) };
        let stored = vec![stream];
        let evidence = Evidence { accesses: vec![ten_delivered()], nemeses, stored, ..Evidence::default() };
        assert_eq!(broken(&check(&evidence)), expected);
    }
}

#[test]
fn i5_what_was_delivered_before_a_reset_may_be_gone() {
    let reset = Reset { source: "orders".to_owned(), to: 0, at: 5_000 };
    let stored = vec![StoredStream { cursor: None, ..stored(0) }];
    let evidence = Evidence { accesses: vec![ten_delivered()], resets: vec![reset], stored, ..Evidence::default() };
    assert_eq!(broken(&check(&evidence)), []);
}
