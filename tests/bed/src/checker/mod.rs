//! The access-log checker: does what a source saw keep to the promises?
//!
//! | rule | promise | what must hold |
//! |---|---|---|
//! | I1 | P2 | starts of two requests to one source are at least 200 ms apart |
//! | I2 | P1 | a request starts after the one before has ended; an overlap is explained only by a frozen or dead peer (R3) |
//! | I3 | P3 | no event is delivered twice, but for a fault on the replica that took it first, or a response nobody could use |
//! | I4 | P4 | the cursor that is sent goes back only when a user set it back, and never runs ahead of what was delivered |
//! | I5 | P4 | the store holds exactly the events 1 to cursor, byte for byte |
//! | I8 | P7 | no source waits longer than the bound for its next request |
//!
//! Everything here is pure: it takes the log, the faults that were done, and the rows that were found.

mod once;
mod order;
mod store;
#[cfg(test)]
pub(crate) mod testing;

use std::{collections::BTreeMap, fmt};

use crate::access_log::Access;

pub use once::Repeats;
pub use store::{StoredEvent, StoredStream};

/// The promised gap in microseconds.
pub const GAP_US: u64 = 200_000;

/// A fault that was done to a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nemesis {
    /// The name of the replica; its holders are called `<name>_<nonce>`.
    pub replica: String,
    pub kind: NemesisKind,
    /// When it began and when it was over, in microseconds of the same clock as the log.
    pub from: u64,
    pub until: u64,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NemesisKind {
    /// SIGKILL.
    Killed,
    /// SIGSTOP, then SIGCONT.
    Paused,
}

/// A pause shorter than the in-flight deadline (D is at least 2 s) takes no row from its holder, so it explains nothing.
const SHORTEST_TELLING_PAUSE_US: u64 = 2_000_000;

impl Nemesis {
    /// Whether it can explain anything at all.
    fn is_telling(&self) -> bool {
        self.kind == NemesisKind::Killed || self.until - self.from >= SHORTEST_TELLING_PAUSE_US
    }

    /// Whether it struck this replica at some time between the two moments.
    fn struck(&self, replica: &str, from: u64, until: u64) -> bool {
        let named =
            replica == self.replica || replica.strip_prefix(&self.replica).is_some_and(|nonce| nonce.starts_with('_'));
        named && self.from <= until && self.until >= from
    }
}

/// A user set the cursor of a source back: the epoch grew, or the events were deleted with their object. It explains one
/// step back, and that what came before comes again after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    pub source: String,
    /// Loading begins again after this event; 0 is the start.
    pub to: u64,
    /// When it was asked for, on the clock of the log.
    pub at: u64,
}

/// For each request, how many resets of the source it comes after. A reset is done with the first request that begins
/// again: one that was in flight, or that nobody could stop any more, still belongs to what was before.
fn lives(source: &str, accesses: &[&Access], resets: &[Reset]) -> Vec<usize> {
    let mut resets: Vec<&Reset> = resets.iter().filter(|reset| reset.source == source).collect();
    resets.sort_by_key(|reset| reset.at);
    let mut done = 0;
    let life_of = |access: &&Access| {
        while resets.get(done).is_some_and(|reset| access.started > reset.at && access.after == reset.to) {
            done += 1;
        }
        done
    };
    accesses.iter().map(life_of).collect()
}

/// What the checker looks at.
#[derive(Debug, Default)]
pub struct Evidence {
    pub accesses: Vec<Access>,
    pub nemeses: Vec<Nemesis>,
    pub resets: Vec<Reset>,
    /// The rows, where they were read.
    pub stored: Vec<StoredStream>,
    /// I8: no two starts of a source further apart than this many microseconds. Not checked when not given.
    pub longest_wait: Option<u64>,
}

/// The rules, as they are named in the design.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    I1,
    I2,
    I3,
    I4,
    I5,
    I8,
}

/// A rule that was broken, with the lines that show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub source: String,
    pub what: String,
    pub lines: Vec<Access>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {}", self.rule, self.source, self.what)?;
        for line in &self.lines {
            write!(f, "\n    {}", serde_json::to_string(line).map_err(|_| fmt::Error)?)?;
        }
        Ok(())
    }
}

/// What was found about one source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceFindings {
    pub requests: usize,
    pub smallest_gap_us: Option<u64>,
    pub explained_overlaps: usize,
    pub delivered_events: u64,
    /// Events delivered more than once, by what explains it.
    pub repeats: Repeats,
    pub stored_events: Option<u64>,
    pub longest_wait_us: Option<u64>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    pub sources: BTreeMap<String, SourceFindings>,
    pub violations: Vec<Violation>,
}

impl Findings {
    /// Whether every rule held.
    #[must_use]
    pub fn clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// How often a rule was broken.
    #[must_use]
    pub fn count(&self, rule: Rule) -> usize {
        self.violations.iter().filter(|violation| violation.rule == rule).count()
    }
}

/// Checks the evidence against all rules.
#[must_use]
pub fn check(evidence: &Evidence) -> Findings {
    let mut by_source: BTreeMap<&str, Vec<&Access>> = BTreeMap::new();
    for access in &evidence.accesses {
        by_source.entry(&access.source).or_default().push(access);
    }
    let mut findings = Findings::default();
    for (source, mut accesses) in by_source {
        accesses.sort_by_key(|access| access.started);
        let mut found = SourceFindings { requests: accesses.len(), ..SourceFindings::default() };
        let lives = lives(source, &accesses, &evidence.resets);
        findings.violations.extend(order::check(source, &accesses, &lives, evidence, &mut found));
        findings.violations.extend(once::check(source, &accesses, &lives, &evidence.nemeses, &mut found));
        findings.sources.insert(source.to_owned(), found);
    }
    for stored in &evidence.stored {
        let found = findings.sources.entry(stored.source.clone()).or_default();
        found.stored_events = Some(stored.events.len() as u64);
        findings.violations.extend(store::check(stored));
    }
    findings
}

/// The time from each kill to the next request of each source that the killed replica had asked last.
///
/// A kill whose source was never asked again is left out here: I8 and the stored rows show it.
#[must_use]
pub fn takeovers(evidence: &Evidence) -> Vec<Takeover> {
    let mut takeovers = Vec::new();
    let sources: std::collections::BTreeSet<&str> = evidence.accesses.iter().map(|a| a.source.as_str()).collect();
    for kill in evidence.nemeses.iter().filter(|nemesis| nemesis.kind == NemesisKind::Killed) {
        for source in &sources {
            let of_source = || evidence.accesses.iter().filter(|access| access.source == *source);
            let last = of_source().filter(|access| access.started < kill.from).max_by_key(|access| access.started);
            let next = of_source().filter(|access| access.started > kill.from).min_by_key(|access| access.started);
            if let (Some(last), Some(next)) = (last, next)
                && kill.struck(&last.replica, kill.from, kill.from)
            {
                let after_us = next.started - kill.from;
                takeovers.push(Takeover { source: (*source).to_owned(), replica: kill.replica.clone(), after_us });
            }
        }
    }
    takeovers
}

/// For each termination and each source that the replica held last: from the end of its last request to the first one of
/// the next holder, in microseconds.
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
                handovers.push(pair[1].started.saturating_sub(pair[0].ended));
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
    /// From the kill to the next request, in microseconds.
    pub after_us: u64,
}

#[cfg(test)]
mod tests {
    use super::{
        testing::{access, killed, paused},
        *,
    };
    use crate::source::FaultKind;

    fn check_log(accesses: Vec<Access>) -> Findings {
        check(&Evidence { accesses, ..Evidence::default() })
    }

    fn broken(findings: &Findings) -> Vec<Rule> {
        findings.violations.iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn an_orderly_log_is_clean() {
        let findings = check_log(vec![
            access("orders").by("a").at_ms(0).after(0).delivering(1, 1000).build(),
            access("orders").by("a").at_ms(200).after(1000).delivering(1001, 2000).build(),
            access("orders").by("b").at_ms(450).after(2000).build(),
            access("bills").by("b").at_ms(1).after(0).delivering(1, 3).build(),
        ]);
        assert!(findings.clean(), "{:?}", findings.violations);
        assert_eq!(findings.sources["orders"].smallest_gap_us, Some(200_000));
        assert_eq!(findings.sources["orders"].delivered_events, 2000);
    }

    #[test]
    fn i1_a_gap_below_200_ms_is_found() {
        let findings =
            check_log(vec![access("orders").by("a").at_ms(0).build(), access("orders").by("b").at_us(199_999).build()]);
        assert_eq!(broken(&findings), [Rule::I1]);
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
        let findings = check(&Evidence { accesses, nemeses: vec![paused("a", 100, 9_500)], ..Evidence::default() });
        assert!(findings.clean());
        assert_eq!(findings.sources["orders"].explained_overlaps, 1);
    }

    #[test]
    fn i2_a_short_pause_explains_nothing() {
        let accesses = vec![
            access("orders").by("a").at_ms(0).lasting_ms(400).build(),
            access("orders").by("b").at_ms(300).build(),
        ];
        let findings = check(&Evidence { accesses, nemeses: vec![paused("a", 100, 250)], ..Evidence::default() });
        assert_eq!(broken(&findings), [Rule::I2]);
    }

    #[test]
    fn i3_an_event_delivered_twice_is_found() {
        let findings = check_log(vec![
            access("orders").by("a").at_ms(0).after(0).delivering(1, 1000).build(),
            access("orders").by("a").at_ms(300).after(0).delivering(1, 1000).build(),
        ]);
        assert_eq!(broken(&findings), [Rule::I3]);
    }

    #[test]
    fn i3_a_kill_of_the_replica_that_took_it_explains_a_repeat() {
        let accesses = vec![
            access("orders").by("a_7f").at_ms(0).after(0).delivering(1, 1000).build(),
            access("orders").by("b_91").at_ms(6_000).after(400).delivering(401, 1400).build(),
        ];
        let findings = check(&Evidence { accesses, nemeses: vec![killed("a", 10)], ..Evidence::default() });
        assert!(findings.clean(), "{:?}", findings.violations);
        assert_eq!(findings.sources["orders"].repeats.after_a_kill, 600);
    }

    #[test]
    fn i3_a_kill_of_another_replica_explains_nothing() {
        let accesses = vec![
            access("orders").by("a").at_ms(0).after(0).delivering(1, 10).build(),
            access("orders").by("b").at_ms(6_000).after(0).delivering(1, 10).build(),
        ];
        let findings = check(&Evidence { accesses, nemeses: vec![killed("b", 10)], ..Evidence::default() });
        assert_eq!(broken(&findings), [Rule::I3]);
    }

    #[test]
    fn i3_a_kill_long_before_or_after_explains_nothing() {
        let accesses = vec![
            access("orders").by("a").at_ms(1_000).after(0).delivering(1, 10).build(),
            access("orders").by("b").at_ms(6_000).after(0).delivering(1, 10).build(),
        ];
        let nemeses = vec![killed("a", 10), killed("a", 7_000)];
        let findings = check(&Evidence { accesses, nemeses, ..Evidence::default() });
        assert_eq!(broken(&findings), [Rule::I3]);
    }

    #[test]
    fn i3_a_short_pause_explains_nothing() {
        let accesses = vec![
            access("orders").by("a").at_ms(0).after(0).delivering(1, 10).build(),
            access("orders").by("b").at_ms(6_000).after(0).delivering(1, 10).build(),
        ];
        let nemeses = vec![paused("a", 10, 300)];
        let findings = check(&Evidence { accesses, nemeses, ..Evidence::default() });
        assert_eq!(broken(&findings), [Rule::I3]);
    }

    #[test]
    fn i3_a_cut_body_explains_the_part_that_could_not_be_used() {
        let findings = check_log(vec![
            access("orders").by("a").at_ms(0).after(0).delivering(1, 7).fault(FaultKind::CutBody).incomplete().build(),
            access("orders").by("a").at_ms(300).after(5).delivering(6, 15).build(),
        ]);
        assert!(findings.clean(), "{:?}", findings.violations);
        assert_eq!(findings.sources["orders"].repeats.of_an_unusable_response, 2);
    }

    #[test]
    fn i3_an_answer_that_the_client_gave_up_without_a_fault_is_not_explained() {
        let findings = check_log(vec![
            access("orders").by("a").at_ms(0).after(0).delivering(1, 7).incomplete().build(),
            access("orders").by("a").at_ms(300).after(5).delivering(6, 15).build(),
        ]);
        assert_eq!(broken(&findings), [Rule::I3]);
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

    /// Loads 1 to 20, then 1 to 10 again.
    fn loaded_again(resets: Vec<Reset>) -> Findings {
        let accesses = vec![
            access("orders").by("a").at_ms(0).after(0).delivering(1, 10).build(),
            access("orders").by("a").at_ms(300).after(10).delivering(11, 20).build(),
            access("orders").by("a").at_ms(600).after(0).delivering(1, 10).build(),
            access("orders").by("a").at_ms(900).after(10).delivering(11, 20).build(),
        ];
        check(&Evidence { accesses, resets, ..Evidence::default() })
    }

    fn reset(source: &str, at_ms: u64) -> Reset {
        Reset { source: source.to_owned(), to: 0, at: at_ms * 1000 }
    }

    #[test]
    fn i3_i4_a_reset_explains_one_step_back_and_what_comes_again_after_it() {
        let findings = loaded_again(vec![reset("orders", 200)]);
        assert!(findings.clean(), "{:?}", findings.violations);
        assert_eq!(findings.sources["orders"].repeats.after_a_reset, 20);
    }

    #[test]
    fn i3_i4_a_reset_of_another_source_or_after_the_step_back_explains_nothing() {
        let findings = loaded_again(vec![reset("bills", 200), reset("orders", 700)]);
        assert_eq!(broken(&findings), [Rule::I4, Rule::I3, Rule::I3]);
    }

    #[test]
    fn i3_an_event_that_comes_twice_after_a_reset_is_found() {
        let accesses = vec![
            access("orders").by("a").at_ms(0).after(0).delivering(1, 10).build(),
            access("orders").by("a").at_ms(300).after(0).delivering(1, 10).build(),
            access("orders").by("a").at_ms(600).after(0).delivering(1, 10).build(),
        ];
        let findings = check(&Evidence { accesses, resets: vec![reset("orders", 200)], ..Evidence::default() });
        assert_eq!(broken(&findings), [Rule::I3]);
    }

    #[test]
    fn i8_a_source_that_waits_too_long_is_found() {
        let accesses = vec![access("orders").by("a").at_ms(0).build(), access("orders").by("b").at_ms(8_001).build()];
        let findings = check(&Evidence { accesses, longest_wait: Some(8_000_000), ..Evidence::default() });
        assert_eq!(broken(&findings), [Rule::I8]);
    }

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
    fn a_takeover_is_measured_from_the_kill_to_the_next_request() {
        let accesses = vec![
            access("orders").by("a_1").at_ms(1_000).build(),
            access("bills").by("b_1").at_ms(1_000).build(),
            access("orders").by("b_1").at_ms(7_500).build(),
            access("bills").by("b_1").at_ms(2_500).build(),
        ];
        let takeovers = takeovers(&Evidence { accesses, nemeses: vec![killed("a", 1_500)], ..Evidence::default() });
        assert_eq!(takeovers, [Takeover { source: "orders".into(), replica: "a".into(), after_us: 6_000_000 }]);
    }
}
