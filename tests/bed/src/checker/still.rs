//! I8: a source is asked again soon, but for what explains the wait.
//!
//! Of each wait that time is taken off in which
//! - the source keeps everybody away itself: a request is in flight, or was given up, or it asked for a wait;
//! - the API server or etcd is away, or nobody watched the Leases;
//! - whom the Lease names is struck and keeps it (no way to the source or to the database, a wrong clock), or was
//!   struck in a way that costs it the Lease: then others are to have the source soon;
//! - no replica is there that is well.
//!
//! What is left of one wait must be shorter than the bound.

use super::{Evidence, LeaseHistory, Nemesis, NemesisKind, Rule, SourceFindings, Violation, spans, spans::Span};
use crate::access_log::Access;

/// When a replica ran: from its start until it was asked to end, was killed, or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    pub replica: String,
    pub from: u64,
    pub until: u64,
}

/// A request that was given up keeps the row shut for `http.timeout` of the chaos run from then on, which is longer than D.
const GIVEN_UP_US: u64 = 5_000_000;
/// So long after its last renewal a replica is taken for dead (`--lease-duration`).
const LEASE_US: u64 = 5_000_000;
/// From the end of a strike to the next request: a session with the database is tried again after up to 5 s, an API server
/// begins to answer some seconds after its start, a takeover takes 3 s, an error up to 1 s (`maxErrorInterval`); they can come
/// one after the other, and the machine has two cores.
const AFTER_A_STRIKE_US: u64 = 10_000_000;
/// A replica that has come, or is left alone again, is a member within this.
const JOINED_WITHIN_US: u64 = 5_000_000;
/// The watch tells of a Lease this much later at the most.
const LATENESS_US: u64 = 2_000_000;

pub(super) fn check(
    source: &str,
    accesses: &[&Access],
    evidence: &Evidence,
    found: &mut SourceFindings,
) -> Vec<Violation> {
    let between = accesses.windows(2).map(|pair| (pair[1].started, "before the next", pair));
    let until = evidence.asked_until.get(source);
    let at_the_end = accesses.chunks(1).next_back().zip(until);
    let at_the_end = at_the_end.map(|(last, until)| (last[0].started.max(*until), "until the end of the run", last));
    let waits: Vec<_> = between.chain(at_the_end).collect();
    found.longest_wait_us = waits.iter().map(|(until, _, lines)| until - lines[0].started).max();

    let Some(bound) = evidence.longest_wait else { return Vec::new() };
    let broken = |what: String, lines: &[&Access]| {
        let lines = lines.iter().map(|&access| access.clone()).collect();
        Violation { rule: Rule::I8, source: source.to_owned(), what, lines }
    };
    if accesses.is_empty() {
        return vec![broken("never asked".to_owned(), &[])];
    }
    let terms = evidence.leases.as_ref().map(|leases| terms(source, leases));
    let mut longest = 0;
    let mut violations = Vec::new();
    for (until, what, lines) in waits {
        let waited = until - lines[0].started;
        // What explains a wait costs time to find.
        if waited > longest.min(bound) {
            let unexplained = unexplained(lines[0], until, terms.as_deref(), evidence);
            longest = longest.max(unexplained);
            if unexplained > bound {
                let (waited, left) = (waited / 1000, unexplained / 1000);
                let what = format!("{waited} ms without a request {what}, {left} ms of it without a cause");
                violations.push(broken(what, lines));
            }
        }
    }
    found.longest_unexplained_us = Some(longest);
    violations
}

/// From when until when the Lease of a source named whom.
type Term<'a> = (&'a str, Span);

fn terms<'a>(source: &str, leases: &'a LeaseHistory) -> Vec<Term<'a>> {
    let named: Vec<_> = leases.named.iter().filter(|named| named.source == source).collect();
    let until = |place: usize| named.get(place + 1).map_or(u64::MAX, |next| next.at);
    let terms = named.iter().enumerate();
    terms.filter_map(|(place, named)| Some((named.holder.as_deref()?, (named.at, until(place))))).collect()
}

/// How long nothing explains that nobody asked after this request.
fn unexplained(last: &Access, until: u64, terms: Option<&[Term<'_>]>, evidence: &Evidence) -> u64 {
    let wait = (last.started, until);
    let mut explained = vec![(last.started, kept_away_until(last))];
    let blind = evidence.leases.iter().flat_map(|leases| &leases.blind);
    explained.extend(evidence.api_away.iter().chain(blind).map(|(from, until)| (*from, after(*until))));
    let it_alone = [(last.replica.as_str(), (last.started, u64::MAX))];
    let holders = terms.unwrap_or(&it_alone).iter().filter(|(_, (at, end))| *at < until && *end > last.started);
    explained.extend(holders.flat_map(|term| struck(*term, &evidence.nemeses)));
    explained.extend(without_anybody(evidence));
    until - last.started - spans::length_within(wait, explained)
}

/// Until when the source, or the row because of its last answer, keeps everybody away.
fn kept_away_until(last: &Access) -> u64 {
    let asked = last.retry_after.map_or(0, |asked| u64::from(asked.seconds) * 1_000_000);
    last.ended + asked + if last.complete { 0 } else { GIVEN_UP_US }
}

fn after(until: u64) -> u64 {
    until.saturating_add(AFTER_A_STRIKE_US)
}

/// When whom the Lease names was struck, its dying and what follows included. After the kill its Lease is that of a dead one,
/// whatever becomes of the next process of that name.
fn struck((holder, (at, end)): Term<'_>, nemeses: &[Nemesis]) -> Vec<Span> {
    let of_it = || nemeses.iter().filter(|nemesis| nemesis.struck(holder, at.saturating_sub(LATENESS_US), end));
    let killed = of_it().filter(|nemesis| nemesis.kind == NemesisKind::Killed).map(|kill| kill.from).min();
    let alive = of_it().filter(|nemesis| killed.is_none_or(|killed| nemesis.from <= killed));
    let span = |nemesis: &Nemesis| {
        let taken_for_dead = nemesis.from + LEASE_US;
        let until = match nemesis.kind {
            NemesisKind::Killed => taken_for_dead,
            NemesisKind::Paused | NemesisKind::LostApiServer => nemesis.until.min(taken_for_dead),
            // It keeps its Lease, or hands its sources off when it has been without a database for long.
            _ => nemesis.until,
        };
        (nemesis.from, after(until))
    };
    alive.map(span).collect()
}

/// When every replica was away or struck. Who is not known to have run is not asked for.
fn without_anybody(evidence: &Evidence) -> Vec<Span> {
    let mut nobody: Option<Vec<Span>> = None;
    let mut names: Vec<&str> = evidence.presences.iter().map(|presence| presence.replica.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let of_it = evidence.presences.iter().filter(|presence| presence.replica == name);
        let there = of_it.map(|presence| (presence.from.saturating_add(JOINED_WITHIN_US), presence.until)).collect();
        let mut unable = spans::rest(&spans::union(there));
        let strikes = evidence.nemeses.iter().filter(|nemesis| nemesis.replica == name);
        unable.extend(strikes.map(|nemesis| (nemesis.from, nemesis.until.saturating_add(JOINED_WITHIN_US))));
        let unable = spans::union(unable);
        nobody = Some(nobody.map_or_else(|| unable.clone(), |nobody| spans::common(&nobody, &unable)));
    }
    nobody.unwrap_or_default()
}

#[cfg(test)]
mod tests;
