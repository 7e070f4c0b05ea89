//! Who should hold what: sticky, bounded rendezvous (DESIGN 6). Pure; every replica that sees the same Leases computes
//! the same, so no coordinator is needed and two replicas seldom write the same Lease.
//!
//! A living owner keeps its sources. Orphans go to the highest-ranked member below the bound. Only surplus moves.

use super::rendezvous::{Key, score};
use crate::event::StreamName;

/// One member that takes sources, as the assignment sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// The key of the pod's name, not of its incarnation: a restarted container ranks as before.
    pub member: Key,
    /// Sources whose Lease names it.
    pub held: usize,
    /// It runs the newest pod template.
    pub newest: bool,
    /// It was seen not to claim what is its to claim; others go first for a while.
    pub stuck: bool,
}

/// The most that a member takes: 1.05 x the average, and never less than the average rounded up.
#[must_use]
pub fn bound(total: usize, seats: usize) -> usize {
    let seats = std::cmp::max(seats, 1);
    std::cmp::max(total.div_ceil(seats), total * 105 / (100 * seats))
}

/// The highest-ranked of the seats that `may` take the stream and are below the bound; when all are at the bound (the
/// sources were counted an instant apart), the one that holds least.
#[must_use]
pub fn choose(stream: Key, seats: &[Seat], bound: usize, may: impl Fn(usize) -> bool) -> Option<usize> {
    let open = || seats.iter().enumerate().filter(|(at, _)| may(*at));
    open()
        .filter(|(_, seat)| seat.held < bound)
        .max_by_key(|(at, seat)| (score(stream, seat.member), *at))
        .or_else(|| open().min_by_key(|(at, seat)| (seat.held, *at)))
        .map(|(at, _)| at)
}

/// Deals the orphans out, in the order of their names, counting each into its seat. Returns the seat of each.
///
/// Dealing again while some of them are already claimed gives the rest the same seats: a seat's count at an orphan's
/// turn can only be what it was, or more by orphans that were that seat's anyway.
///
/// A seat that has `declined` an orphan is dealt it only when all have.
pub fn deal(
    orphans: &[StreamName],
    seats: &mut [Seat],
    bound: usize,
    declined: impl Fn(&StreamName, usize) -> bool,
) -> Vec<Option<usize>> {
    debug_assert!(orphans.is_sorted(), "every replica deals in the same order");
    let all_stuck = seats.iter().all(|seat| seat.stuck);
    orphans
        .iter()
        .map(|stream| {
            let (key, claims) = (Key::of(stream.as_str()), |at: usize| all_stuck || !seats[at].stuck);
            let at = choose(key, seats, bound, |at| claims(at) && !declined(stream, at))
                .or_else(|| choose(key, seats, bound, claims))?;
            seats[at].held += 1;
            Some(at)
        })
        .collect()
}

/// Where a source that leaves a living owner goes: the newest pod template first, so that a rolling update moves it
/// once. Counts it into its seat.
pub fn hand(stream: &StreamName, seats: &mut [Seat], bound: usize, may: impl Fn(usize) -> bool) -> Option<usize> {
    let key = Key::of(stream.as_str());
    let below = |at: usize| seats[at].held < bound && may(at);
    let at = choose(key, seats, bound, |at| seats[at].newest && below(at))
        .or_else(|| choose(key, seats, bound, below))
        .or_else(|| choose(key, seats, bound, |at| seats[at].newest && may(at)))
        .or_else(|| choose(key, seats, bound, &may))?;
    seats[at].held += 1;
    Some(at)
}

/// That many sources should move from one seat to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    pub from: usize,
    pub to: usize,
    pub count: usize,
}

/// The moves that even the seats out exactly, and no more: what a seat holds above its quota goes to seats below theirs.
///
/// While two pod templates live side by side only the older one gives and only the newest takes; anything else would be
/// moved again when the rollout goes on. When that one `stands_still`, those of one template even out among themselves too.
/// Nothing ever moves from the newest to the older: two releases may not count the same sources, and would move them to and fro.
#[must_use]
pub fn flows(total: usize, seats: &[Seat], stands_still: bool) -> Vec<Flow> {
    let quotas = quotas(total, seats);
    let mixed = seats.iter().any(|seat| seat.newest != seats[0].newest);
    let may =
        |from: &Seat, to: &Seat| !mixed || (!from.newest && to.newest) || (stands_still && from.newest == to.newest);
    let mut wanting: Vec<usize> =
        seats.iter().zip(&quotas).map(|(seat, quota)| quota.saturating_sub(seat.held)).collect();
    let mut flows = Vec::new();
    for (from, giver) in seats.iter().enumerate() {
        let mut surplus = giver.held.saturating_sub(quotas[from]);
        for (to, wants) in wanting.iter_mut().enumerate().filter(|(to, _)| may(giver, &seats[*to])) {
            let count = std::cmp::min(surplus, *wants);
            if count > 0 {
                flows.push(Flow { from, to, count });
                surplus -= count;
                *wants -= count;
            }
        }
    }
    flows
}

/// Whether somebody is so far from the average that sources should move: above the bound, or below 0.95 of the average.
/// The band keeps members that fill by rank, unevenly by nature, from trading sources for nothing.
#[must_use]
pub fn out_of_band(total: usize, seats: &[Seat]) -> bool {
    let Some(average) = total.checked_div(seats.len()) else { return false };
    let highest = bound(total, seats.len());
    let lowest = average - average * 5 / 100;
    seats.iter().any(|seat| seat.held > highest || seat.held < lowest)
}

/// Picks `count` of an owner's sources for one target: those that rank the target highest.
#[must_use]
pub fn pick<'a>(mut sources: Vec<&'a StreamName>, target: Key, count: usize) -> Vec<&'a StreamName> {
    let rank = |stream: &&'a StreamName| std::cmp::Reverse((score(Key::of(stream.as_str()), target), *stream));
    if count < sources.len() {
        sources.select_nth_unstable_by_key(count, rank);
        sources.truncate(count);
    }
    sources
}

/// The even share of each seat. Those that hold most keep the odd ones: nothing moves for them.
fn quotas(total: usize, seats: &[Seat]) -> Vec<usize> {
    let mut by_held: Vec<usize> = (0..seats.len()).collect();
    by_held.sort_by_key(|&at| (std::cmp::Reverse(seats[at].held), at));
    let mut quotas = vec![0; seats.len()];
    for (nth, at) in by_held.into_iter().enumerate() {
        quotas[at] = total / seats.len() + usize::from(nth < total % seats.len());
    }
    quotas
}

#[cfg(test)]
mod tests;
