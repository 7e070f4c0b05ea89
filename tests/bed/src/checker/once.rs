//! I3: every event is delivered once, or the repeat is explained by a fault on the replica that took it first.

use std::collections::HashMap;

use super::{Nemesis, NemesisKind, Rule, SourceFindings, Violation};
use crate::{access_log::Access, source::FaultKind};

/// Events that were delivered more than once, by what explains it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repeats {
    /// P3 (a): the replica died before the commit.
    pub after_a_kill: u64,
    /// P3 (a): the replica was frozen past its deadline before the commit.
    pub after_a_pause: u64,
    /// P3 (b): the response was cut or could not be used.
    pub of_an_unusable_response: u64,
    /// The source sent what it was not asked for.
    pub by_the_source: u64,
    /// A user had set the cursor back in between.
    pub after_a_reset: u64,
    pub unexplained: u64,
}

impl Repeats {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.after_a_kill
            + self.after_a_pause
            + self.of_an_unusable_response
            + self.by_the_source
            + self.after_a_reset
            + self.unexplained
    }
}

pub(super) fn check(
    source: &str,
    accesses: &[&Access],
    lives: &[usize],
    nemeses: &[Nemesis],
    found: &mut SourceFindings,
) -> Vec<Violation> {
    let mut violations = Vec::new();
    // For each event, the place of the request that delivered it last.
    let mut deliveries: HashMap<u64, usize> = HashMap::new();
    for (place, &access) in accesses.iter().enumerate() {
        // One violation for each pair of requests, not for each event.
        let mut unexplained: HashMap<usize, (u64, u64)> = HashMap::new();
        for index in access.delivered.iter().flat_map(|run| run.first..=run.last) {
            found.delivered_events += 1;
            let Some(earlier) = deliveries.insert(index, place) else { continue };
            let counter = match (earlier == place)
                .then_some(Cause::Source)
                .or_else(|| (lives[earlier] != lives[place]).then_some(Cause::Reset))
                .or_else(|| explain(accesses, earlier, access, nemeses))
            {
                Some(Cause::Source) => &mut found.repeats.by_the_source,
                Some(Cause::Kill) => &mut found.repeats.after_a_kill,
                Some(Cause::Pause) => &mut found.repeats.after_a_pause,
                Some(Cause::Reset) => &mut found.repeats.after_a_reset,
                Some(Cause::Unusable) => &mut found.repeats.of_an_unusable_response,
                None => {
                    let range = unexplained.entry(earlier).or_insert((index, index));
                    *range = (range.0.min(index), range.1.max(index));
                    &mut found.repeats.unexplained
                }
            };
            *counter += 1;
        }
        violations.extend(unexplained.into_iter().map(|(earlier, (first, last))| Violation {
            rule: Rule::I3,
            source: source.to_owned(),
            what: format!("events {first} to {last} were delivered twice"),
            lines: vec![accesses[earlier].clone(), access.clone()],
        }));
    }
    violations
}

enum Cause {
    Kill,
    Pause,
    Unusable,
    Source,
    Reset,
}

/// Why events of the request at `earlier` were delivered again by `later`.
fn explain(accesses: &[&Access], earlier: usize, later: &Access, nemeses: &[Nemesis]) -> Option<Cause> {
    if later.fault == FaultKind::IgnoresAfterId {
        return Some(Cause::Source);
    }
    let (first, next) = (accesses[earlier], accesses[earlier + 1]);
    // Only a fault before the next request to the source can have cost the commit: whoever asks next has the row.
    let struck =
        |nemesis: &&Nemesis| nemesis.is_telling() && nemesis.struck(&first.replica, first.started, next.started);
    let mut telling = nemeses.iter().filter(struck).map(|nemesis| match nemesis.kind {
        NemesisKind::Killed => Cause::Kill,
        NemesisKind::Paused => Cause::Pause,
    });
    telling.next().or_else(|| first.fault.explains_repeats().then_some(Cause::Unusable))
}
