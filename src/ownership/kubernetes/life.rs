//! This replica's own life as a member: it joins, may be declared dead and joins again, drains and leaves.

use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::{
    member::{Part, Sign},
    replica::Replica,
};
use crate::ownership::lease::Version;

impl Replica {
    pub(super) fn on_sign(&mut self, sign: Sign) {
        let now = Instant::now();
        match sign {
            Sign::Joined { holder, lease } => {
                self.me = Some(holder);
                self.dirty = true;
                self.membership.renewed(now);
                // The watch may have shown it before I knew that it is mine.
                if let Some(name) = &lease.metadata.name {
                    self.membership.gone(name);
                }
                self.learn(&lease);
                self.run_what_was_given_already();
                if !std::mem::replace(&mut self.joined_before, true) {
                    self.declare_predecessors(now);
                }
            }
            Sign::Renewed { lease, issued } => {
                self.membership.renewed(now);
                self.membership.wrote(&Version::of(&lease), issued);
                self.learn(&lease);
            }
            Sign::Failed => {
                self.membership.renewal_failed(now);
                self.metrics.lease_renew_failures.inc();
            }
            Sign::Ended => self.on_incarnation_ended(),
            Sign::Left => {}
        }
    }

    /// Others may have seen the member Lease, and handed sources to it, before I knew that it stands: what the watch showed of
    /// them meant nothing to me then, and it does not show it twice.
    fn run_what_was_given_already(&mut self) {
        let given: Vec<_> = self.view.sources().filter(|lease| lease.holder == self.me).collect();
        let streams: Vec<_> = given.into_iter().map(|lease| lease.stream.clone()).collect();
        for stream in streams {
            self.align(&stream);
        }
    }

    /// Finish what is in flight, and begin anew: the member Lease does that by itself, with a new nonce.
    fn on_incarnation_ended(&mut self) {
        let Some(me) = self.me.take() else { return };
        tracing::warn!(holder = %me, "this incarnation was ended; joining again");
        for directive in self.holdings.lose_all() {
            self.direct(directive);
        }
        self.writes = FuturesUnordered::new();
        self.deletions = FuturesUnordered::new();
        self.queue.clear();
        self.refused.clear();
        self.early.clear();
        self.dirty = true;
        if self.draining_since.is_some() {
            self.take_part(Part::Leaving);
        }
    }

    /// Hands everything off from now on, and leaves then.
    pub(super) fn drain(&mut self, now: Instant) {
        tracing::info!(held = self.holdings.held(), "draining");
        self.draining_since.get_or_insert(now);
        self.queue.clear();
        self.take_part(Part::Draining);
        self.plan(now);
        self.leave_when_drained(now);
    }

    /// Frees the member Lease when everything is handed off, or when waiting longer would outlast the pod.
    pub(super) fn leave_when_drained(&mut self, now: Instant) {
        let Some(since) = self.draining_since else { return };
        if self.me.is_none() || self.holdings.is_drained() || now - since >= self.config.drain_limit {
            self.take_part(Part::Leaving);
        }
    }

    pub(super) fn take_part(&self, part: Part) {
        self.outlets.wish.send_if_modified(|wish| {
            let forward = part > wish.part;
            wish.part = std::cmp::max(part, wish.part);
            forward
        });
    }
}
