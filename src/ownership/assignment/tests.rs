use std::collections::{HashMap, HashSet};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use rstest::rstest;

use super::*;

const SOURCES: usize = 10_000;

/// A cluster in which every decision is carried out at once.
struct Cluster {
    members: Vec<String>,
    /// The holder of each stream, by name.
    holders: HashMap<StreamName, String>,
    streams: Vec<StreamName>,
    moves: usize,
}

impl Cluster {
    fn of(members: usize, sources: usize) -> Self {
        let mut streams: Vec<_> = (0..sources).map(|n| StreamName::new("shop", &format!("source-{n}"))).collect();
        streams.sort();
        let members = (0..members).map(|n| format!("headgate-7d9c6b5f4-{n:03}")).collect();
        Self { members, holders: HashMap::new(), streams, moves: 0 }
    }

    fn seats(&self) -> Vec<Seat> {
        let mut held: HashMap<&String, usize> = HashMap::new();
        for holder in self.holders.values() {
            *held.entry(holder).or_default() += 1;
        }
        self.members
            .iter()
            .map(|member| Seat {
                member: Key::of(member),
                held: held.get(member).copied().unwrap_or(0),
                newest: true,
                stuck: false,
            })
            .collect()
    }

    fn orphans(&self) -> Vec<StreamName> {
        let lives = |stream: &&StreamName| self.holders.get(stream).is_some_and(|holder| self.members.contains(holder));
        self.streams.iter().filter(|stream| !lives(stream)).cloned().collect()
    }

    fn claim_orphans(&mut self) {
        let (orphans, mut seats) = (self.orphans(), self.seats());
        let limit = bound(self.streams.len(), seats.len());
        for (stream, at) in orphans.iter().zip(deal(&orphans, &mut seats, limit, by_nobody)) {
            self.holders.insert(stream.clone(), self.members[at.unwrap()].clone());
            self.moves += 1;
        }
    }

    /// Moves surplus until nothing is left to move; at most `step` sources of each flow at a time.
    fn rebalance(&mut self, step: usize) {
        while let Some(flow) = flows(self.streams.len(), &self.seats(), false).first().copied() {
            let owned = self.streams.iter().filter(|stream| self.holders[*stream] == self.members[flow.from]).collect();
            let target = self.members[flow.to].clone();
            let picked = pick(owned, Key::of(&target), flow.count.min(step));
            let picked: Vec<StreamName> = picked.into_iter().cloned().collect();
            for stream in picked {
                self.holders.insert(stream, target.clone());
                self.moves += 1;
            }
            assert!(self.moves <= 10 * self.streams.len(), "it oscillates");
        }
    }

    fn settled(mut self) -> Self {
        self.claim_orphans();
        self.rebalance(usize::MAX);
        self.moves = 0;
        self
    }

    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    fn max_over_average(&self) -> f64 {
        let seats = self.seats();
        let most = seats.iter().map(|seat| seat.held).max().unwrap() as f64;
        most * seats.len() as f64 / self.streams.len() as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    fn moved_share(&self) -> f64 {
        self.moves as f64 / self.streams.len() as f64
    }
}

#[rstest]
#[case(3)]
#[case(10)]
#[case(30)]
fn a_start_is_balanced_within_the_bound(#[case] members: usize) {
    let mut cluster = Cluster::of(members, SOURCES);
    cluster.claim_orphans();
    assert!(cluster.max_over_average() <= 1.051, "{}", cluster.max_over_average());
}

#[rstest]
#[case(3)]
#[case(10)]
#[case(30)]
fn a_join_moves_the_ideal_share_and_leaves_all_even(#[case] members: usize) {
    let mut cluster = Cluster::of(members, SOURCES).settled();
    cluster.members.push("headgate-7d9c6b5f4-new".to_owned());
    assert!(out_of_band(SOURCES, &cluster.seats()));
    cluster.rebalance(usize::MAX);
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    let ideal = 1.0 / (members + 1) as f64;
    assert!(cluster.max_over_average() <= 1.003, "{}", cluster.max_over_average());
    assert!(cluster.moved_share() <= ideal, "{} of {ideal}", cluster.moved_share());
}

#[rstest]
#[case(3)]
#[case(10)]
#[case(30)]
fn a_death_moves_the_sources_of_the_dead_and_no_others(#[case] members: usize) {
    let mut cluster = Cluster::of(members, SOURCES).settled();
    let dead = cluster.members.remove(1);
    let before = cluster.holders.clone();
    let orphans = cluster.orphans().len();
    cluster.claim_orphans();
    assert_eq!(cluster.moves, orphans);
    assert!(before.iter().all(|(stream, holder)| *holder == dead || cluster.holders[stream] == *holder));
    assert!(cluster.max_over_average() <= 1.051, "{}", cluster.max_over_average());
    assert!(!out_of_band(SOURCES, &cluster.seats()), "the survivors trade nothing afterwards");
}

#[test]
fn few_sources_are_dealt_one_by_one() {
    for sources in 1..20 {
        for members in 1..8 {
            let mut cluster = Cluster::of(members, sources);
            cluster.claim_orphans();
            let most = cluster.seats().iter().map(|seat| seat.held).max().unwrap();
            assert!(most <= sources.div_ceil(members), "{sources} sources, {members} members");
        }
    }
}

/// From 20 sources each, one more or less moves nothing; below that the band is one source wide, and evenness wins.
#[test]
fn one_source_more_or_less_moves_nothing() {
    for sources in (200..2_000).step_by(37) {
        let seats = Cluster::of(10, sources).settled().seats();
        assert!(!out_of_band(sources - 1, &seats) && !out_of_band(sources + 1, &seats), "{sources}");
    }
}

#[test]
fn from_any_start_it_converges_and_then_nothing_moves() {
    for seed in 0..200 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut cluster = Cluster::of(rng.random_range(1..12), rng.random_range(1..300));
        for stream in cluster.streams.clone() {
            let holder =
                cluster.members[rng.random_range(0..cluster.members.len()).pow(2) % cluster.members.len()].clone();
            if rng.random_bool(0.7) {
                cluster.holders.insert(stream, holder);
            }
        }
        cluster.claim_orphans();
        cluster.moves = 0;
        cluster.rebalance(rng.random_range(1..10));
        assert!(cluster.moves <= cluster.streams.len(), "seed {seed}: no source moves twice");
        let held: Vec<usize> = cluster.seats().iter().map(|seat| seat.held).collect();
        let (least, most) = (held.iter().min().unwrap(), held.iter().max().unwrap());
        assert!(most - least <= 1, "seed {seed}: {held:?}");
        assert!(!out_of_band(cluster.streams.len(), &cluster.seats()), "seed {seed}: {held:?}");
    }
}

#[test]
fn replicas_with_the_same_view_claim_disjoint_sets_even_halfway_through() {
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut cluster = Cluster::of(rng.random_range(2..9), rng.random_range(10..200));
        let (orphans, mut seats) = (cluster.orphans(), cluster.seats());
        let limit = bound(cluster.streams.len(), seats.len());
        let planned: HashMap<_, _> =
            orphans.iter().cloned().zip(deal(&orphans, &mut seats, limit, by_nobody)).collect();
        // Any part of the plan carried out, in any order: the rest is dealt as before.
        let mut order = orphans.clone();
        order.shuffle(&mut rng);
        for stream in order.iter().take(rng.random_range(0..order.len())) {
            cluster.holders.insert(stream.clone(), cluster.members[planned[stream].unwrap()].clone());
        }
        let (rest, mut seats) = (cluster.orphans(), cluster.seats());
        for (stream, at) in rest.iter().zip(deal(&rest, &mut seats, limit, by_nobody)) {
            assert_eq!(at, planned[stream], "seed {seed}");
        }
    }
}

#[test]
fn the_next_in_rank_claims_what_a_stuck_member_leaves() {
    let cluster = Cluster::of(4, 100);
    let (orphans, mut seats) = (cluster.orphans(), cluster.seats());
    seats[2].stuck = true;
    let dealt: HashSet<_> = deal(&orphans, &mut seats, 100, by_nobody).into_iter().flatten().collect();
    assert_eq!(dealt, HashSet::from([0, 1, 3]));
    for seat in &mut seats {
        seat.stuck = true;
    }
    assert!(deal(&orphans, &mut seats, 400, by_nobody).iter().all(Option::is_some), "when all are stuck, nobody is");
}

/// A rolling update with one pod more than wanted: a new pod joins, an old one drains, and so on.
#[test]
fn a_rolling_update_moves_each_source_once() {
    let mut cluster = Cluster::of(3, 3_000).settled();
    let old = cluster.members.clone();
    for (nth, leaving) in old.iter().enumerate() {
        cluster.members.push(format!("headgate-5c4f-{nth}"));
        cluster.members.retain(|member| member != leaving);
        let mut seats = cluster.seats();
        for (seat, member) in seats.iter_mut().zip(&cluster.members) {
            seat.newest = member.starts_with("headgate-5c4f");
        }
        let limit = bound(cluster.streams.len(), seats.len());
        for stream in cluster.streams.clone() {
            if cluster.holders[&stream] == *leaving {
                let at = hand(&stream, &mut seats, limit, |_| true).unwrap();
                cluster.holders.insert(stream, cluster.members[at].clone());
                cluster.moves += 1;
            }
        }
    }
    assert_eq!(cluster.moves, 3_000);
    assert!(cluster.max_over_average() <= 1.051, "{}", cluster.max_over_average());
}

#[test]
fn while_two_templates_live_only_the_older_gives_and_only_the_newest_takes() {
    let seat = |pod: &str, held, newest| Seat { member: Key::of(pod), held, newest, stuck: false };
    let seats = [seat("old-0", 0, false), seat("old-1", 60, false), seat("new-0", 0, true), seat("new-1", 60, true)];
    assert_eq!(flows(120, &seats, false), [Flow { from: 1, to: 2, count: 30 }]);
    let paused = [Flow { from: 1, to: 0, count: 30 }, Flow { from: 3, to: 2, count: 30 }];
    assert_eq!(flows(120, &seats, true), paused, "then each even out among themselves");
    let back = [seat("old-0", 0, false), seat("new-0", 120, true)];
    assert_eq!(flows(120, &back, true), [], "and nothing goes back to the older");
}

fn by_nobody(_: &StreamName, _: usize) -> bool {
    false
}

#[test]
fn an_orphan_that_a_seat_has_declined_is_dealt_to_another_unless_all_have() {
    let cluster = Cluster::of(3, 40);
    let orphans = cluster.orphans();
    let dealt = deal(&orphans, &mut cluster.seats(), 40, |_, at| at == 0);
    assert!(dealt.iter().all(|at| at.is_some_and(|at| at != 0)), "{dealt:?}");
    assert!(deal(&orphans, &mut cluster.seats(), 40, |_, _| true).iter().all(Option::is_some));
}
