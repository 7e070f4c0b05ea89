//! I7: whoever asks a source is the one that its Lease names.
//!
//! The Lease says who tries and the row who may, so a replica that does not know yet that it lost the Lease may go on
//! under its fence, until the next holder has asked. It must have a reason not to know: its way to the API server was
//! lost, or it was frozen.
//!
//! A process signs its requests with a nonce of its own, and a membership its Leases with another one; what both have is
//! the name of the pod.

use std::fmt;

use super::{Evidence, NemesisKind, Rule, SourceFindings, Violation};
use crate::access_log::Access;

/// The watch tells of a change this much later at the most, and a request takes as long to the source.
const LATENESS_US: u64 = 2_000_000;
/// After its line is healed, or it is woken, a replica learns within this that it lost its Leases.
const LEARNING_US: u64 = 10_000_000;

/// What a watch of the Leases has shown.
#[derive(Debug, Clone, Default)]
pub struct LeaseHistory {
    /// In the order in which it was shown.
    pub named: Vec<Named>,
    /// When the watch showed nothing: from and until, on the clock of the log. Changes in between may never be shown.
    pub blind: Vec<(u64, u64)>,
}

/// From `at` on the Lease of a source named this holder, or nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub source: String,
    pub holder: Option<String>,
    pub at: u64,
}

impl fmt::Display for LeaseHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Named { source, holder, at } in &self.named {
            writeln!(f, "{at} {source} {}", holder.as_deref().unwrap_or("-"))?;
        }
        self.blind.iter().try_for_each(|(from, until)| writeln!(f, "{from} to {until}: nothing was shown"))
    }
}

/// How the requests of one source stand to its Lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requesters {
    pub named: u64,
    /// Not named any more, and free to go on.
    pub under_the_fence: u64,
    /// While nobody watched.
    pub unseen: u64,
}

pub(super) fn check(
    source: &str,
    accesses: &[&Access],
    evidence: &Evidence,
    found: &mut SourceFindings,
) -> Vec<Violation> {
    let Some(history) = &evidence.leases else { return Vec::new() };
    let named: Vec<&Named> = history.named.iter().filter(|named| named.source == source).collect();
    let mut violations = Vec::new();
    for (place, &access) in accesses.iter().enumerate() {
        let terms = terms(&named, &access.replica);
        let late = |(from, until): &(u64, u64)| {
            from.saturating_sub(LATENESS_US) <= access.started && access.started <= until.saturating_add(LATENESS_US)
        };
        if terms.iter().any(late) {
            found.requesters.named += 1;
        } else if history.blind.iter().any(late) {
            found.requesters.unseen += 1;
        } else if goes_on(&terms, &accesses[..place], access, evidence) {
            found.requesters.under_the_fence += 1;
        } else {
            violations.push(Violation {
                rule: Rule::I7,
                source: source.to_owned(),
                what: format!("asked by {}, which the Lease does not name", access.replica),
                lines: vec![access.clone()],
            });
        }
    }
    violations
}

fn pod(identity: &str) -> &str {
    identity.rsplit_once('_').map_or(identity, |(pod, _)| pod)
}

/// From when until when the Lease named a replica.
fn terms(named: &[&Named], replica: &str) -> Vec<(u64, u64)> {
    let until = |place: usize| named.get(place + 1).map_or(u64::MAX, |next| next.at);
    let is_it = |named: &Named| named.holder.as_deref().is_some_and(|holder| pod(holder) == pod(replica));
    named.iter().enumerate().filter(|(_, named)| is_it(named)).map(|(place, named)| (named.at, until(place))).collect()
}

/// Whether it held the source, had no way to know that it does not any more, and nobody has asked since.
fn goes_on(terms: &[(u64, u64)], before: &[&Access], access: &Access, evidence: &Evidence) -> bool {
    let Some(lost) = terms.iter().map(|(_, until)| *until).filter(|until| *until < access.started).max() else {
        return false;
    };
    let succeeded = before.iter().any(|it| it.started > lost && pod(&it.replica) != pod(&access.replica));
    let did_not_know = evidence.nemeses.iter().any(|nemesis| {
        matches!(nemesis.kind, NemesisKind::LostApiServer | NemesisKind::Paused)
            && nemesis.struck(&access.replica, access.started.saturating_sub(LEARNING_US), access.started)
    });
    did_not_know && !succeeded
}

#[cfg(test)]
mod tests {
    use super::super::testing::{access, broken, lost, paused};
    use super::super::{Findings, Nemesis, check as check_all};
    use super::*;

    /// The Lease names a from the beginning, and b from 10 s on.
    fn history() -> LeaseHistory {
        let named = |holder: &str, at_ms: u64| Named {
            source: "orders".to_owned(),
            holder: Some(format!("{holder}_07")),
            at: at_ms * 1000,
        };
        LeaseHistory { named: vec![named("a", 0), named("b", 10_000)], blind: Vec::new() }
    }

    /// Who asked, and when.
    fn asked(log: &[(&str, u64)], nemeses: Vec<Nemesis>, leases: LeaseHistory) -> Findings {
        let accesses =
            log.iter().map(|(replica, at)| access("orders").by(&format!("{replica}_91")).at_ms(*at).build()).collect();
        check_all(&Evidence { accesses, nemeses, leases: Some(leases), ..Evidence::default() })
    }

    #[test]
    fn the_holder_that_the_lease_names_may_ask() {
        let findings = asked(&[("a", 100), ("a", 9_000), ("b", 10_100), ("b", 20_000)], Vec::new(), history());
        assert!(findings.clean(), "{:?}", findings.violations);
        assert_eq!(findings.sources["orders"].requesters.named, 4);
    }

    #[test]
    fn a_request_of_a_replica_that_was_never_named_is_found() {
        assert_eq!(broken(&asked(&[("a", 100), ("c", 5_000)], Vec::new(), history())), [Rule::I7]);
    }

    #[test]
    fn a_request_before_the_lease_names_its_sender_is_found() {
        assert_eq!(broken(&asked(&[("b", 5_000)], Vec::new(), history())), [Rule::I7]);
    }

    #[test]
    fn a_request_of_a_former_holder_is_found_unless_it_could_not_know() {
        let late = [("a", 9_000), ("a", 14_000)];
        assert_eq!(broken(&asked(&late, Vec::new(), history())), [Rule::I7]);
        let somebody_else = vec![lost(NemesisKind::LostApiServer, "b", 4_000, 16_000)];
        assert_eq!(broken(&asked(&late, somebody_else, history())), [Rule::I7]);
        let another_line = vec![lost(NemesisKind::LostDatabase, "a", 4_000, 16_000)];
        assert_eq!(broken(&asked(&late, another_line, history())), [Rule::I7]);
        for nemesis in [lost(NemesisKind::LostApiServer, "a", 4_000, 13_000), paused("a", 4_000, 13_000)] {
            let findings = asked(&late, vec![nemesis], history());
            assert!(findings.clean(), "{:?}", findings.violations);
            assert_eq!(findings.sources["orders"].requesters.under_the_fence, 1);
        }
    }

    #[test]
    fn a_former_holder_that_asks_after_the_next_one_did_is_found_whatever_was_done_to_it() {
        let nemeses = vec![lost(NemesisKind::LostApiServer, "a", 4_000, 16_000)];
        assert_eq!(broken(&asked(&[("a", 9_000), ("b", 13_000), ("a", 14_000)], nemeses, history())), [Rule::I7]);
    }

    #[test]
    fn what_nobody_watched_is_counted_and_not_judged() {
        let leases = LeaseHistory { blind: vec![(4_000_000, 6_000_000)], ..history() };
        let findings = asked(&[("c", 5_000), ("c", 9_000)], Vec::new(), leases);
        assert_eq!(broken(&findings), [Rule::I7]);
        assert_eq!(findings.sources["orders"].requesters.unseen, 1);
    }
}
