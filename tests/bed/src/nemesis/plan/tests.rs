use std::collections::HashSet;
use std::mem::{Discriminant, discriminant};

use super::*;
use crate::nemesis::schedule;

const SHORT_RUN: Duration = Duration::from_mins(2);
const LONG_RUN: Duration = Duration::from_mins(30);

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}-{number}")).collect()
}

fn planned(seed: u64, length: Duration) -> Vec<Planned> {
    let (replicas, further, sources) = (names("replica", 3), names("further", 2), names("source", 12));
    plan(seed, Cast { replicas: &replicas, further: &further, sources: &sources }, length)
}

#[test]
fn the_same_seed_gives_the_same_schedule_and_another_seed_another() {
    let schedule = |seed| schedule(seed, &planned(seed, LONG_RUN));
    assert_eq!(schedule(7), schedule(7));
    assert_ne!(schedule(7), schedule(8).replacen("seed 8", "seed 7", 1));
}

#[test]
fn long_runs_strike_in_every_way_and_every_short_one_kills_freezes_and_terminates() {
    let kinds = |plan: &[Planned]| -> HashSet<Discriminant<Strike>> {
        plan.iter().map(|planned| discriminant(&planned.strike)).collect()
    };
    let in_long_runs: HashSet<_> = (0..10).flat_map(|seed| kinds(&planned(seed, LONG_RUN))).collect();
    assert_eq!(in_long_runs.len(), 15);
    for seed in 0..200 {
        let plan = planned(seed, SHORT_RUN);
        for kind in [
            |strike: &Strike| matches!(strike, Strike::Kill { .. }),
            |strike: &Strike| matches!(strike, Strike::Freeze { .. }),
            |strike: &Strike| matches!(strike, Strike::Terminate { .. }),
        ] {
            assert!(plan.iter().any(|planned| kind(&planned.strike)), "seed {seed}");
        }
    }
}

#[test]
fn a_replica_is_left_alone_until_it_is_back() {
    for seed in 0..100 {
        let plan = planned(seed, LONG_RUN);
        for name in names("replica", 3).into_iter().chain(names("further", 2)).chain(["kube-apiserver".to_owned()]) {
            let of_it: Vec<_> = plan.iter().filter(|planned| planned.whom == name).collect();
            for pair in of_it.windows(2) {
                assert!(pair[0].until() < pair[1].at, "seed {seed}: {} and {}", pair[0], pair[1]);
            }
        }
    }
}

#[test]
fn nobody_is_terminated_while_no_lease_can_be_written() {
    for seed in 0..100 {
        let plan = planned(seed, LONG_RUN);
        for drained in plan.iter().filter(|planned| matches!(planned.strike, Strike::Terminate { .. })) {
            let outage =
                plan.iter().find(|it| it.strike.stops_the_api() && it.at <= drained.at && drained.at < it.until());
            assert!(outage.is_none(), "seed {seed}: {drained} during {}", outage.expect("there is one"));
        }
    }
}

#[test]
fn request_bytes_are_late_by_less_than_the_deadline_allows() {
    const D_MS: u64 = 3_000;
    for seed in 0..100 {
        for planned in planned(seed, LONG_RUN) {
            if let Strike::Lines { to, road: Road::Slow { up, .. }, .. } = planned.strike
                && to.contains(&Peer::Sources)
            {
                assert!(up < Duration::from_millis(D_MS - LONGEST_SERVING_MS));
            }
        }
    }
}
