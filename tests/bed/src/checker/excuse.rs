//! What a strike excuses: that two requests overlap (R3), and that what was delivered was not committed (P3 a).
//!
//! Whatever is done to a replica, the row stays shut for D after the slot of its request, and after each EXTEND. So no
//! strike excuses a request that starts sooner, nor one that starts long after the replica was well again. Times are
//! microseconds.

use super::{Nemesis, NemesisKind, once::Cause};
use crate::access_log::Access;

/// D: RESERVE shuts the row until this long after the last moment at which the request may be written, EXTEND and
/// COMMIT until this long from now.
const IN_FLIGHT: u64 = 3_000_000;
/// A request is on its way to the source for this long at most: lines are made slower by no more (docs/guarantees.md).
const LONGEST_WAY: u64 = 800_000;
/// After a request whose attempt stays open nobody starts sooner: D counts from when it was written.
const SHUT_FOR: u64 = IN_FLIGHT - LONGEST_WAY;
/// A request in flight extends its row every second, and a statement may take half a second on a busy machine.
const LAST_EXTEND: u64 = 1_500_000;
/// So the row is shut for so much longer after a strike has begun, if the database was there until then.
const SHUT_AFTER_STRIKE: u64 = IN_FLIGHT - LAST_EXTEND;
/// When a strike is over, what was given up meanwhile is closed, which a source notices within 1.5 s; or its row is
/// extended at once. Half a second is for a busy machine.
const OVER_FOR: u64 = 2_000_000;
/// What was delivered is committed within this: answers are made slower by at most 500 ms, a prefix is committed after
/// 50 ms, and the rest is for a busy machine.
const COMMITTED_WITHIN: u64 = 1_000_000;
/// When the database is back, a commit that failed is tried again within 5 s, and takes its time.
const RETRIED_WITHIN: u64 = 5_000_000 + COMMITTED_WITHIN;
/// `http.timeout` in a campaign. Who took a source over waits so long for a request that was in flight then.
const LONGEST_REQUEST: u64 = 5_000_000;
/// A pause, or the loss of a line, that is shorter lets no row lapse, which was extended a second ago or less.
pub(super) const SHORTEST_TELLING: u64 = IN_FLIGHT - 1_000_000;
/// Nor does one of the database of less than half of that: each wait before another try is twice as long as the one
/// before.
const SHORTEST_OUTAGE: u64 = SHORTEST_TELLING / 2;

impl Nemesis {
    fn lasts(&self, at_least: u64) -> bool {
        self.until - self.from >= at_least
    }

    /// Whether the other one begins no more than this many microseconds after the end of this one.
    fn reaches(&self, within: u64, other: &Self) -> bool {
        other.from <= self.until.saturating_add(within)
    }
}

/// Whether the sender of `earlier`, which has not ended at the source when `access` starts, was dead, frozen, or could
/// not tell the source that it is gone.
pub(super) fn overlap(nemeses: &[Nemesis], earlier: &Access, access: &Access) -> bool {
    if access.started < earlier.started + SHUT_FOR {
        return false;
    }
    let of_it = |from: u64| nemeses.iter().filter(move |it| it.struck(&earlier.replica, from, access.started));
    let database_was_lost = of_it(earlier.started).any(|it| it.kind == NemesisKind::LostDatabase);
    let shut_for = if database_was_lost { 0 } else { SHUT_AFTER_STRIKE };
    of_it(earlier.started.saturating_sub(LONGEST_WAY)).filter(|it| it.from + shut_for <= access.started).any(|it| {
        match it.kind {
            NemesisKind::Killed => true,
            NemesisKind::Paused | NemesisKind::LostSources | NemesisKind::UnheardBySources => {
                it.lasts(SHORTEST_TELLING)
                    && it.until >= earlier.started
                    && it.until.saturating_add(OVER_FOR) >= access.started
            }
            // It goes on reading, and closes what it can keep neither by its row nor by its member Lease.
            NemesisKind::LostApiServer | NemesisKind::LostDatabase | NemesisKind::WrongClock => false,
        }
    })
}

/// What can have cost the commit of something that `first` delivered, if the next request to the source started at
/// `next`: whoever asks next has the row, and found it shut for as long as the attempt was open.
pub(super) fn uncommitted(nemeses: &[Nemesis], first: &Access, next: u64) -> Option<Cause> {
    if next < first.started + SHUT_FOR {
        return None;
    }
    let due = committed_by(nemeses, first);
    let struck_since = |from: u64, kind: NemesisKind| {
        let of_kind = nemeses.iter().filter(move |it| it.kind == kind && it.from <= due);
        of_kind.filter(move |it| it.struck(&first.replica, from, next))
    };
    let struck_by = |kind| struck_since(first.started, kind);
    // What was written before the kill may be served after it.
    let sent = first.started.saturating_sub(LONGEST_WAY);
    // Neither alone: a holder without a database keeps its batch, one without an API server commits under the fence.
    let without_api = |lost: &Nemesis| {
        let mut api = nemeses.iter().filter(|it| it.kind == NemesisKind::LostApiServer && it.lasts(SHORTEST_TELLING));
        api.any(|it| {
            it.struck(&first.replica, first.started, next)
                && it.reaches(LONGEST_REQUEST, lost)
                && lost.reaches(RETRIED_WITHIN, it)
        })
    };
    if struck_since(sent, NemesisKind::Killed).next().is_some() {
        Some(Cause::Kill)
    } else if struck_by(NemesisKind::Paused).any(|it| it.lasts(SHORTEST_TELLING)) {
        Some(Cause::Pause)
    } else if struck_by(NemesisKind::LostSources).next().is_some() {
        Some(Cause::Way)
    } else if struck_by(NemesisKind::LostDatabase).any(|lost| lost.lasts(SHORTEST_OUTAGE) && without_api(lost)) {
        Some(Cause::CutOff)
    } else {
        None
    }
}

/// When what a request delivered is committed at the latest, unless its replica was struck before. A commit that the
/// database does not take is tried again, and a frozen replica commits when it wakes.
fn committed_by(nemeses: &[Nemesis], first: &Access) -> u64 {
    let sent = first.started.saturating_sub(LONGEST_WAY);
    let mut hold_ups: Vec<(u64, u64)> = nemeses
        .iter()
        .filter(|it| it.struck(&first.replica, sent, u64::MAX))
        .filter_map(|it| match it.kind {
            NemesisKind::LostDatabase => Some((it.from, it.until.saturating_add(RETRIED_WITHIN))),
            NemesisKind::Paused => Some((it.from, it.until.saturating_add(COMMITTED_WITHIN))),
            _ => None,
        })
        .collect();
    hold_ups.sort_unstable();
    let held_up = |due: u64, (from, until): (u64, u64)| if from <= due { due.max(until) } else { due };
    hold_ups.into_iter().fold(first.ended + COMMITTED_WITHIN, held_up)
}
