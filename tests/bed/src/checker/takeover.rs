//! How long sources stood still when their holder went: figures, judged by nobody here.

use std::collections::{BTreeMap, BTreeSet};

use super::{Evidence, Nemesis, NemesisKind, Presence};
use crate::access_log::Access;

/// The time from each kill to the next request of each source that the killed replica had asked last, by whoever asked then:
/// what the dead one had sent before comes after the kill, too. A kill within a drain is left out: what was handed off by
/// then is no takeover, and what was not cannot be told from it.
#[must_use]
pub fn takeovers(evidence: &Evidence) -> Vec<Takeover> {
    let mut takeovers = Vec::new();
    let sources: BTreeSet<&str> = evidence.accesses.iter().map(|a| a.source.as_str()).collect();
    let kills = evidence.nemeses.iter().filter(|nemesis| nemesis.kind == NemesisKind::Killed);
    for kill in kills.filter(|kill| !was_draining(kill, &evidence.presences)) {
        for source in &sources {
            let of_source = || evidence.accesses.iter().filter(|access| access.source == *source);
            let last = of_source().filter(|access| access.started < kill.from).max_by_key(|access| access.started);
            let Some(last) = last.filter(|last| kill.struck(&last.replica, kill.from, kill.from)) else { continue };
            let by_others = of_source().filter(|access| access.started > kill.from && access.replica != last.replica);
            let after_us = by_others.map(|access| access.started - kill.from).min();
            takeovers.push(Takeover { source: (*source).to_owned(), replica: kill.replica.clone(), after_us });
        }
    }
    takeovers
}

/// Whether it had been asked to end.
fn was_draining(kill: &Nemesis, presences: &[Presence]) -> bool {
    let life = presences.iter().rfind(|life| life.replica == kill.replica && life.from <= kill.from);
    life.is_some_and(|life| life.until < kill.from)
}

/// For each termination and each source that the replica held last: from the SIGTERM, or from the end of the old holder's
/// last request if that came later, to the first request of the next holder, in microseconds. A wait that began earlier,
/// of an idle source or after an error, is none of the termination's.
#[must_use]
pub fn handovers(accesses: &[Access], terminations: &[(String, u64)]) -> Vec<u64> {
    let mut by_source: BTreeMap<&str, Vec<&Access>> = BTreeMap::new();
    for access in accesses {
        by_source.entry(&access.source).or_default().push(access);
    }
    let mut handovers = Vec::new();
    for accesses in by_source.values_mut() {
        accesses.sort_by_key(|access| access.started);
        for (name, asked) in terminations {
            let ended = Nemesis { replica: name.clone(), kind: NemesisKind::Killed, from: *asked, until: *asked };
            let by_it = |access: &Access| ended.struck(&access.replica, *asked, *asked);
            let held =
                accesses.iter().rposition(|access| access.started < *asked).is_some_and(|place| by_it(accesses[place]));
            // Its next life has another nonce, so the first request of somebody else ends this one.
            let mut after = accesses.windows(2).filter(|pair| pair[1].started >= *asked);
            if held && let Some(pair) = after.find(|pair| by_it(pair[0]) && pair[0].replica != pair[1].replica) {
                handovers.push(pair[1].started.saturating_sub(pair[0].ended.max(*asked)));
            }
        }
    }
    handovers
}

/// One source that came to another holder because its own was killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Takeover {
    pub source: String,
    /// The replica that was killed.
    pub replica: String,
    /// From the kill to the next request of somebody else, in microseconds; none if there was none.
    pub after_us: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{access, killed},
        *,
    };

    #[test]
    fn a_handover_is_measured_from_the_end_of_the_old_holders_last_request_to_the_first_of_the_new_one() {
        let accesses = [
            access("orders").by("a_1").at_ms(1_000).build(),
            access("orders").by("a_1").at_ms(1_200).build(),
            access("orders").by("b_1").at_ms(1_450).build(),
            access("bills").by("b_1").at_ms(1_000).build(),
            access("bills").by("a_2").at_ms(9_000).build(),
        ];
        assert_eq!(handovers(&accesses, &[("a".to_owned(), 1_100_000)]), [247_000]);
    }

    #[test]
    fn a_source_that_waits_for_its_next_poll_when_its_holder_is_asked_to_end_is_handed_over_from_then_on() {
        let accesses =
            [access("orders").by("a_1").at_ms(1_000).build(), access("orders").by("b_1").at_ms(2_440).build()];
        assert_eq!(handovers(&accesses, &[("a".to_owned(), 2_400_000)]), [40_000]);
    }

    #[test]
    fn a_takeover_is_measured_from_the_kill_to_the_next_request() {
        let accesses = vec![
            access("orders").by("a_1").at_ms(1_000).build(),
            access("bills").by("b_1").at_ms(1_000).build(),
            access("orders").by("b_1").at_ms(7_500).build(),
            access("bills").by("b_1").at_ms(2_500).build(),
        ];
        let takeovers = takeovers(&Evidence { accesses, nemeses: vec![killed("a", 1_500)], ..Evidence::default() });
        assert_eq!(takeovers, [Takeover { source: "orders".into(), replica: "a".into(), after_us: Some(6_000_000) }]);
    }

    /// How long after a was killed at 1 s somebody else asked, for each source.
    fn after_the_kill(accesses: Vec<Access>, presences: Vec<Presence>) -> Vec<Option<u64>> {
        let nemeses = vec![killed("a", 1_000)];
        let takeovers = takeovers(&Evidence { accesses, nemeses, presences, ..Evidence::default() });
        takeovers.into_iter().map(|takeover| takeover.after_us).collect()
    }

    #[test]
    fn what_the_dead_replica_had_sent_is_no_takeover() {
        let accesses = vec![
            access("orders").by("a_1").at_ms(0).build(),
            access("orders").by("a_1").at_ms(1_005).build(),
            access("orders").by("a_2").at_ms(7_000).build(),
        ];
        assert_eq!(after_the_kill(accesses, Vec::new()), [Some(6_000_000)]);
    }

    #[test]
    fn a_source_that_nobody_asks_again_is_counted() {
        let accesses = vec![access("orders").by("a_1").at_ms(0).build()];
        assert_eq!(after_the_kill(accesses, Vec::new()), [None]);
    }

    #[test]
    fn a_kill_within_a_drain_is_no_takeover() {
        let accesses =
            vec![access("orders").by("a_1").at_ms(0).build(), access("orders").by("b_1").at_ms(1_010).build()];
        let life = |from, until| Presence { replica: "a".to_owned(), from, until };
        let (before, killed) = (life(0, 200_000), life(300_000, 1_000_000));
        assert_eq!(after_the_kill(accesses.clone(), vec![before.clone(), killed]), [Some(10_000)]);
        assert_eq!(after_the_kill(accesses, vec![before, life(300_000, 800_000)]), []);
    }
}
