//! Who takes what, now: orphans to claim, surplus to move, and everything to hand off when this replica leaves.

use std::time::Duration;

use tokio::time::Instant;

use super::replica::Replica;
use crate::{
    clock::Moment,
    event::StreamName,
    ownership::{
        assignment::{Flow, Seat, deal, flows, hand, out_of_band, pick},
        lease::MemberLease,
        roster::Roster,
    },
    store::Holder,
};

/// While claims of the last count are still to be begun, everything is counted again only this often: a count goes through every
/// source. A member that comes, goes or changes empties the queue, so nobody goes on claiming by an older deal for long.
const RECOUNT: Duration = Duration::from_millis(500);

/// A rollout in which no member came or went for this long counts as paused. A pause may last for ever, so shares are evened out
/// without waiting for the end of the rollout.
const PAUSED_AFTER: Duration = Duration::from_mins(5);

impl Replica {
    /// Works out what follows from all that changed since the last time. Costs nothing when nothing can follow.
    pub(super) fn plan(&mut self, now: Instant) {
        if self.desired_changes.has_changed().unwrap_or(false) {
            self.desired_changes.mark_unchanged();
            self.dirty = true;
        }
        let stands_still = now - self.members_changed >= PAUSED_AFTER;
        self.dirty |= stands_still != self.members_stand_still;
        self.members_stand_still = stands_still;
        let orphans = !self.roster.orphans.is_empty() || self.roster.denied > 0;
        let pending = orphans || self.pacing.is_active() || self.is_leaving();
        if !self.dirty && !pending && self.holdings.stopped_sources().next().is_none() {
            return;
        }
        let counted_lately = now < self.counted + RECOUNT;
        let Some(me) = self.me.clone() else {
            // While not a member, only publish the orphan count.
            if self.view.is_synced() && !counted_lately {
                self.count(now);
            }
            return;
        };
        if !self.queue.is_empty() && counted_lately {
            return;
        }
        self.dirty = false;
        self.align_early();
        self.count(now);
        self.stuck.retain(|holder| self.roster.seat_of(holder).is_some());
        let matters =
            |stream: &StreamName, holder: &Holder| self.view.is_live(holder) && self.desired.get(stream).is_some();
        self.declined.retain(now, matters);
        let seats = self.deal_orphans(&me, now);
        if self.is_leaving() {
            self.hand_all_off(now);
        } else {
            self.rebalance(&me, &seats, now);
        }
        let stopped: Vec<_> = self.holdings.stopped_sources().cloned().collect();
        for stream in stopped {
            self.place(&stream, None);
        }
    }

    fn count(&mut self, now: Instant) {
        self.counted = now;
        let is_stuck = |holder: &Holder| self.stuck.is_stuck(holder, now);
        let is_denied = |stream: &StreamName| self.refused.get(stream).is_some_and(|refusal| refusal.is_denied(now));
        self.roster = Roster::count(&self.view, self.desired.streams(), is_stuck, is_denied);
    }

    /// Runs what was handed to me before I knew its object, as soon as I know it.
    fn align_early(&mut self) {
        let known = |stream: &StreamName| self.desired.get(stream).is_some();
        let ready: Vec<_> = self.early.keys().filter(|stream| known(stream)).cloned().collect();
        for stream in ready {
            self.early.remove(&stream);
            self.align(&stream);
        }
    }

    /// Queues the orphans that are mine to claim. Returns the seats as they will be when all orphans are claimed.
    fn deal_orphans(&mut self, me: &Holder, now: Instant) -> Vec<Seat> {
        let mut seats = self.roster.seats.clone();
        let declined = |stream: &StreamName, at: usize| self.has_declined(stream, &self.roster.holders[at]);
        let dealt = deal(&self.roster.orphans, &mut seats, self.roster.bound(), declined);
        for (at, holder) in self.roster.holders.iter().enumerate() {
            let its_own = self.roster.orphans.iter().zip(&dealt).filter(|(_, to)| **to == Some(at));
            self.stuck.dealt(holder, its_own.map(|(stream, _)| stream), now);
        }
        let mine = self.roster.seat_of(me).filter(|_| self.draining_since.is_none());
        let orphans = self.roster.orphans.iter().zip(dealt);
        self.queue =
            orphans.filter(|(_, at)| mine.is_some() && *at == mine).map(|(stream, _)| stream.clone()).collect();
        self.claim_from_queue();
        seats
    }

    /// Moves surplus, at its pace.
    fn rebalance(&mut self, me: &Holder, seats: &[Seat], now: Instant) {
        // No handoff is begun that nobody may answer: it would stop a source that is held.
        if !self.membership.is_well(now) {
            return;
        }
        let Some(mine) = self.roster.seat_of(me) else { return };
        let flows: Vec<_> = flows(self.roster.total, seats, self.members_stand_still)
            .into_iter()
            .filter(|flow| flow.from == mine)
            .map(|flow| Flow { count: flow.count.min(self.most_for(flow.to)), ..flow })
            .collect();
        let surplus = flows.iter().map(|flow| flow.count).sum();
        let out_of_band = out_of_band(self.roster.total, seats);
        let mut due = self.pacing.due(now, out_of_band, surplus, self.holdings.moving());
        for flow in flows {
            let target = self.roster.holders[flow.to].clone();
            if !self.takes_handoffs(&target, now) {
                continue;
            }
            let count = std::cmp::min(due, flow.count.saturating_sub(self.holdings.moving_to(&target)));
            if count == 0 {
                continue;
            }
            let movable = self.movable_to(&target).collect();
            let picked: Vec<StreamName> = pick(movable, seats[flow.to].member, count).into_iter().cloned().collect();
            due -= count;
            for stream in picked {
                self.tell_to_yield(&stream, Some(target.clone()), now);
            }
        }
    }

    /// The sources that could move to `target` now.
    fn movable_to(&self, target: &Holder) -> impl Iterator<Item = &StreamName> {
        self.holdings.movable(false).filter(|stream| !self.has_declined(stream, target))
    }

    /// How many may move to a seat: a round that waits for what cannot move would never end.
    fn most_for(&self, seat: usize) -> usize {
        let target = &self.roster.holders[seat];
        let all_may = self.declined.is_empty();
        if all_may { usize::MAX } else { self.holdings.moving_to(target) + self.movable_to(target).count() }
    }

    /// The Lease of a source is gone. If its holder lives, is of another release, and the object is there, that one cannot run it.
    /// Where both are of one release somebody has deleted it by hand.
    pub(super) fn note_declined(&mut self, stream: &StreamName, holder: &Holder, now: Instant) {
        let may_read_otherwise = self
            .view
            .members()
            .any(|lease| lease.holder() == Some(holder) && *lease.template != *self.config.pod_template);
        if let Some(source) = self.desired.get(stream).filter(|_| may_read_otherwise) {
            self.declined.note(stream, source.generation, holder, now);
        }
    }

    fn has_declined(&self, stream: &StreamName, holder: &Holder) -> bool {
        // Nearly always nobody has declined anything.
        !self.declined.is_empty()
            && self.desired.get(stream).is_some_and(|source| self.declined.has(stream, source.generation, holder))
    }

    /// Hands off as fast as the API server takes it; each source runs until its own turn. When nobody is there to take
    /// them, all just stop.
    fn hand_all_off(&mut self, now: Instant) {
        let drains = self.draining_since.is_some();
        let others = || self.roster.holders.iter().filter(|holder| self.me.as_ref() != Some(*holder));
        let takers: Vec<_> = others().filter(|holder| self.takes_handoffs(holder, now)).collect();
        // As in a rebalancing: no source is stopped for a handoff that nobody may answer.
        let may_go = |stream: &&StreamName| {
            drains || (self.membership.is_well(now) && takers.iter().any(|taker| !self.has_declined(stream, taker)))
        };
        let under_way = self.holdings.moving_promptly(now);
        let window =
            if others().next().is_some() { self.config.yields_in_flight.saturating_sub(under_way) } else { usize::MAX };
        let next: Vec<_> = self.holdings.movable(drains).filter(may_go).take(window).cloned().collect();
        for stream in next {
            self.tell_to_yield(&stream, None, now);
        }
    }

    /// Finds the place of a source whose task has stopped: the one intended, else the best that is well now.
    pub(super) fn place(&mut self, stream: &StreamName, intended: Option<Holder>) {
        let Some(me) = self.me.clone() else { return };
        let now = Instant::now();
        // It was denied a moment ago, and stays stopped.
        if self.draining_since.is_some() && !self.may_write(stream, now) {
            return;
        }
        let may_take =
            |holder: &Holder| *holder != me && self.takes_handoffs(holder, now) && !self.has_declined(stream, holder);
        let may: Vec<bool> = self.roster.holders.iter().map(may_take).collect();
        let intended = intended.and_then(|holder| self.roster.seat_of(&holder)).filter(|at| may[*at]);
        let bound = self.roster.bound();
        let target = if self.is_leaving() || intended.is_some() {
            intended.or_else(|| hand(stream, &mut self.roster.seats, bound, |at| may[at]))
        } else {
            None
        };
        match target {
            Some(at) => self.hand_off(stream, self.roster.holders[at].clone()),
            // It waits for somebody to come, or becomes an orphan when my member Lease is freed.
            None if self.draining_since.is_some() => {}
            // There is no reason to move it any more.
            None => {
                let resumed = self.view.source(stream).and_then(|lease| self.holdings.resume(lease, &me));
                if let Some(directive) = resumed {
                    self.direct(directive);
                }
            }
        }
    }

    /// Whether this replica is to hold nothing: it drains, or its database is lost while another's works.
    pub(super) fn is_leaving(&self) -> bool {
        let seated = self.me.as_ref().is_some_and(|me| self.roster.seat_of(me).is_some());
        self.draining_since.is_some() || (self.database.is_lost() && !seated)
    }

    /// A handoff to a member that is silent already would leave the source alone until it is declared dead.
    fn takes_handoffs(&self, holder: &Holder, now: Instant) -> bool {
        let lease = self.view.live(holder);
        lease.is_some_and(|lease| {
            self.membership.silence(&lease.name, now) <= self.config.late_after() && self.is_heard(lease, Moment::now())
        })
    }

    /// Whether a member is known to live. It may renew less often than I do, and lives for as long as nobody may declare it dead.
    pub(super) fn is_heard(&self, lease: &MemberLease, now: Moment) -> bool {
        self.membership.is_heard(&lease.name, self.config.heard_within().max(lease.duration), now)
    }

    fn tell_to_yield(&mut self, stream: &StreamName, to: Option<Holder>, now: Instant) {
        if let Some(directive) = self.holdings.begin_yield(stream, to, now) {
            self.direct(directive);
        }
    }
}
