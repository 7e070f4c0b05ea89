//! The access-log checker: does what a source saw keep to the promises?
//!
//! | rule | promise | what must hold |
//! |---|---|---|
//! | I1 | P2 | starts of two requests to one source are at least its minInterval apart, never less than 200 ms, and under two attempts |
//! | I2 | P1 | a request starts after the one before has ended; an overlap is explained only by a frozen or dead peer (R3) |
//! | I3 | P3 | no event is delivered twice, but for what was not committed when its replica was struck, and the part of a response nobody could use |
//! | I4 | P4 | the cursor that is sent goes back only when a user set it back, and never runs ahead of what was delivered |
//! | I5 | P4 | the store holds exactly the events 1 to cursor, byte for byte, each from the attempt that delivered it |
//! | I5 | P4 | what was delivered and never again is stored, but for what I3 excuses |
//! | I7 | P1 | the Lease names the requester, or did until it could not know better |
//! | I8 | P7 | no source waits longer than the bound for its next request without a cause, the end of the run included |
//! | I9 | P2 | nobody asks sooner than the source asked for (`Retry-After`), but whoever could not know |
//!
//! Everything here is pure: it takes the log, the faults that were done, and the rows that were found.

mod excuse;
mod holder;
mod once;
mod order;
mod retry_after;
mod spans;
mod still;
mod store;
mod takeover;
#[cfg(test)]
pub(crate) mod testing;

use std::{collections::BTreeMap, fmt};

use crate::access_log::Access;

pub use holder::{LeaseHistory, Named, Requesters};
pub use once::Repeats;
pub use still::Presence;
pub use store::{StoredEvent, StoredStream};
pub use takeover::{Takeover, handovers, takeovers};

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
    /// Its line to the sources was cut, or swallowed what they sent, which may not have come.
    LostSources,
    /// Its line to the sources swallowed what it sent, the end of its connections included. What they sent came.
    UnheardBySources,
    /// Its line to the API server was cut, swallowed or slow: others may have taken its sources over.
    LostApiServer,
    /// Its line to the database, or the database, was: its commits may not have come.
    LostDatabase,
    /// Its wall clock was set wrong, which explains nothing.
    WrongClock,
}

impl Nemesis {
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
    /// The minInterval of each source in microseconds. 200 ms where none is given, and at the least.
    pub min_intervals: BTreeMap<String, u64>,
    /// I8: of no wait of a source may more than this many microseconds be without a cause. Not checked when not given.
    pub longest_wait: Option<u64>,
    /// I7: who was named when. Not checked when not given.
    pub leases: Option<LeaseHistory>,
    /// I8: until when each source was to be asked. One that was suspended or deleted stands here with that moment.
    pub asked_until: BTreeMap<String, u64>,
    /// I8: when the API server or etcd was away, from and until.
    pub api_away: Vec<(u64, u64)>,
    /// I8: when which replica was there. Where none is given, somebody always was.
    pub presences: Vec<Presence>,
}

impl Evidence {
    fn stored_of(&self, source: &str) -> Option<&StoredStream> {
        self.stored.iter().find(|stored| stored.source == source)
    }
}

/// The rules, as they are named in the design.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    I1,
    I2,
    I3,
    I4,
    I5,
    I7,
    I8,
    I9,
}

/// A rule that was broken, with the lines that show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub source: String,
    pub what: String,
    pub lines: Vec<Access>,
}

impl Violation {
    /// When the request started that shows it, on the clock of the log. Those of the store have no lines and come last.
    #[must_use]
    pub fn seen_at(&self) -> u64 {
        self.lines.last().map_or(u64::MAX, |line| line.started)
    }
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
    /// The most of one wait that nothing explains, where I8 is checked.
    pub longest_unexplained_us: Option<u64>,
    pub requesters: Requesters,
    /// Answers with `Retry-After`, and those of them whose receiver could not store it.
    pub asked_to_wait: (u64, u64),
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
    for source in evidence.asked_until.keys() {
        by_source.entry(source).or_default();
    }
    let mut findings = Findings::default();
    for (source, mut accesses) in by_source {
        accesses.sort_by_key(|access| access.started);
        let mut found = SourceFindings { requests: accesses.len(), ..SourceFindings::default() };
        let lives = lives(source, &accesses, &evidence.resets);
        findings.violations.extend(order::check(source, &accesses, &lives, evidence, &mut found));
        findings.violations.extend(still::check(source, &accesses, evidence, &mut found));
        findings.violations.extend(once::check(source, &accesses, &lives, evidence, &mut found));
        findings.violations.extend(holder::check(source, &accesses, evidence, &mut found));
        findings.violations.extend(retry_after::check(source, &accesses, evidence, &mut found));
        findings.sources.insert(source.to_owned(), found);
    }
    for stored in &evidence.stored {
        let found = findings.sources.entry(stored.source.clone()).or_default();
        found.stored_events = Some(stored.events.len() as u64);
        findings.violations.extend(store::check(stored));
        findings.violations.extend(store::origins(stored, &evidence.accesses));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{
        testing::{access, broken, check_log, killed, stored, stored_under},
        *,
    };

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
    fn i3_i5_what_no_commit_is_known_for_does_not_pass_for_uncommitted() {
        let accesses = || {
            let first = access("orders").by("a").under("01").at_ms(0).after(0).delivering(1, 10).build();
            vec![first, access("orders").by("b").under("02").at_ms(6_000).after(0).delivering(1, 20).build()]
        };
        let found = |stream: StoredStream| {
            let (nemeses, stored) = (vec![killed("a", 10)], vec![stream]);
            broken(&check(&Evidence { accesses: accesses(), nemeses, stored, ..Evidence::default() }))
        };
        assert_eq!(found(stored_under("02", 20)), []);
        assert_eq!(found(stored(20)), [Rule::I5]);
        assert_eq!(found(stored_under("99", 20)), [Rule::I5]);
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
}
