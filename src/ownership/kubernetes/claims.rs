//! The writes of source Leases: taking an orphan, handing over, deleting; and what their answers mean.

use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::Instant;

use super::{
    client::LeaseError,
    member::Part,
    replica::Replica,
    write::{self, Deletion, OnDenial, Written},
};
use crate::{
    backoff::Backoff,
    event::StreamName,
    ownership::lease::{self, Seen, SourceLease, Version},
    store::Holder,
};

/// A refused claim is tried again after this; by then the watch has shown who was first. Each denial in a row doubles it.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// A Lease without our labels gets them this often at most.
const LABEL_EVERY: Duration = Duration::from_secs(10);

/// A claim, or a handoff, that came to nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal {
    /// Its Lease is not to be written before.
    until: Instant,
    cause: Cause,
}

/// Why it came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Somebody else was first, the answer did not come, or the Lease has lost its labels: the watch shows who holds it now.
    Unclear,
    /// The API server did not allow it, so many times in a row.
    Denied { in_a_row: u32 },
}

impl Refusal {
    /// Whether the API server did not allow it.
    pub(super) fn was_denied(&self) -> bool {
        matches!(self.cause, Cause::Denied { .. })
    }

    fn denials_in_a_row(&self) -> u32 {
        match self.cause {
            Cause::Unclear => 0,
            Cause::Denied { in_a_row } => in_a_row,
        }
    }

    /// Denials are remembered beyond the next try, to be counted. Of others there may be thousands, and each claim goes through
    /// all that are remembered.
    fn remembered_until(&self) -> Instant {
        if self.was_denied() { self.until + RETRY.longest() } else { self.until }
    }

    /// Whether the API server did not allow it, and it is not to be tried again yet.
    pub(super) fn is_denied(&self, now: Instant) -> bool {
        self.was_denied() && now < self.until
    }
}

/// A source that waits for the write of its handoff is not polled, so an API server that does not answer would stop it (P5).
/// After this it is taken back, by a compare-and-set on the same version: the API server carries out one of the two writes
/// and never both, so the answer tells whose the source is.
const HANDOFF_PATIENCE: Duration = Duration::from_secs(1);

/// When that is not answered either, the source runs here again, in doubt, and is taken back until there is an answer. If
/// the handoff did land, the row lets only one holder at a time go on (DESIGN 4), and a request in flight here is given up
/// as soon as the row cannot be kept.
const TAKE_BACK_PATIENCE: Duration = Duration::from_millis(500);

/// A write of a source Lease that was answered.
#[derive(Debug)]
pub(super) enum Claimed {
    Taken {
        stream: StreamName,
        from: Option<Holder>,
        written: Written,
    },
    HandedOver {
        stream: StreamName,
        to: Holder,
        written: Written,
    },
    /// What was in doubt is so no more.
    TakenBack {
        stream: StreamName,
        written: Written,
    },
    Deleted {
        stream: StreamName,
        version: Version,
        deletion: Deletion,
    },
}

impl Replica {
    /// Starts claims as long as writes are free. What the plan said is looked at again: the view may have moved on.
    pub(super) fn claim_from_queue(&mut self) {
        let now = Instant::now();
        self.refused.retain(|_, refusal| now < refusal.remembered_until());
        while self.writes.len() < self.config.writes_in_flight {
            let Some(stream) = self.queue.pop_front() else { return };
            let previous = self.view.source(&stream).cloned();
            let holder = previous.as_ref().and_then(|lease| lease.holder.as_ref());
            let is_orphan = holder.is_none_or(|holder| !self.view.is_live(holder));
            let is_wanted = self.desired.get(&stream).is_some();
            if is_orphan && is_wanted && self.may_write(&stream, now) && !self.holdings.has(&stream) {
                self.take(&stream, previous.as_ref());
            }
        }
    }

    /// Whether the last write of a Lease did not just come to nothing.
    pub(super) fn may_write(&self, stream: &StreamName, now: Instant) -> bool {
        self.refused.get(stream).is_none_or(|refusal| refusal.until <= now)
    }

    /// Writes the Lease to name me.
    fn take(&mut self, stream: &StreamName, previous: Option<&SourceLease>) {
        let Some(me) = self.me.clone() else { return };
        self.holdings.claim(stream);
        let lease = SourceLease::give(stream, previous, &me, &self.config.pod, Timestamp::now());
        let (api, stream) = (self.api.clone(), stream.clone());
        let from = previous.and_then(|lease| lease.holder.clone());
        let claim = async move { Claimed::Taken { stream, from, written: write::claim(api, lease).await } };
        self.writes.push(claim.boxed());
    }

    /// Writes the Lease to name another; the task has stopped.
    pub(super) fn hand_off(&mut self, stream: &StreamName, to: Holder) {
        let Some(previous) = self.view.source(stream) else { return };
        let Some(mine) = self.mine(previous) else { return };
        let Some(pod) = self.view.live(&to).map(|lease| lease.pod.clone()) else { return };
        let lease = SourceLease::give(stream, Some(previous), &to, &pod, Timestamp::now());
        self.holdings.hand(stream, &to);
        let (api, stream) = (self.api.clone(), stream.clone());
        let drains = self.draining_since.is_some();
        let handoff = async move {
            // Who drains has nothing to go back to, and stays for no write that it may not make. Whose database is lost has: it may be
            // back before the API server is.
            let written = if drains {
                write::write(api, lease, OnDenial::End).await
            } else {
                match write::write_within(HANDOFF_PATIENCE, api.clone(), lease).await {
                    Written::Unanswered => write::write_within(TAKE_BACK_PATIENCE, api, mine).await,
                    answered => answered,
                }
            };
            Claimed::HandedOver { stream, to, written }
        };
        self.writes.push(handoff.boxed());
    }

    /// The Lease as it would be if I took it back from whoever an unanswered write has given it to.
    fn mine(&self, previous: &SourceLease) -> Option<Lease> {
        let me = self.me.as_ref()?;
        Some(SourceLease::give(&previous.stream, Some(previous), me, &self.config.pod, Timestamp::now()))
    }

    /// An unanswered handoff leaves it open who holds the source. It runs on, in doubt, until that is known, or until this replica
    /// drains and may not know.
    fn take_back(&mut self, stream: &StreamName) {
        let Some(mine) = self.view.source(stream).and_then(|previous| self.mine(previous)) else { return };
        self.holdings.doubt(stream);
        let (api, stream) = (self.api.clone(), stream.clone());
        let mut wish = self.outlets.wish.subscribe();
        let take = async move {
            let written = tokio::select! {
                written = write::write(api.clone(), mine.clone(), OnDenial::Repeat) => written,
                () = async { drop(wish.wait_for(|wish| wish.part >= Part::Draining).await) } => {
                    write::write(api, mine, OnDenial::End).await
                }
            };
            Claimed::TakenBack { stream, written }
        };
        self.writes.push(take.boxed());
    }

    /// Deletes the Lease of a source that has ended for good.
    pub(super) fn delete(&mut self, stream: &StreamName) {
        if self.holdings.delete(stream) {
            self.delete_lease(stream);
        }
    }

    fn delete_lease(&mut self, stream: &StreamName) {
        let Some(lease) = self.view.source(stream) else { return };
        let (version, stream) = (lease.version.clone(), stream.clone());
        let delete = self.delete_in_turn(&stream, &version);
        let delete = async move { Claimed::Deleted { deletion: delete.await, stream, version } };
        self.deletions.push(delete.boxed());
    }

    /// Deletes this version of the Lease of a source, in calls that wait for their turn.
    pub(super) fn delete_in_turn(
        &self,
        stream: &StreamName,
        version: &Version,
    ) -> impl Future<Output = Deletion> + Send + 'static {
        let (api, turns) = (self.api.clone(), self.deletion_turns.clone());
        write::delete(api, turns, SourceLease::name_of(stream), version.clone(), OnDenial::End)
    }

    pub(super) fn on_claimed(&mut self, claimed: Claimed) {
        match claimed {
            Claimed::Taken { stream, from, written } => self.on_taken(&stream, from.as_ref(), written),
            Claimed::HandedOver { stream, to, written } => self.on_handed_over(&stream, &to, written),
            Claimed::TakenBack { stream, written } => self.on_taken_back(&stream, written),
            Claimed::Deleted { stream, version, deletion } => self.on_deleted(&stream, version, deletion),
        }
        self.claim_from_queue();
    }

    fn on_deleted(&mut self, stream: &StreamName, version: Version, deletion: Deletion) {
        match deletion {
            // It waits for the watch to show the deletion.
            Deletion::Done => {
                self.holdings.deleted(stream, version);
                self.align(stream);
            }
            Deletion::Changed(current) => {
                self.learn(&current);
                let edited = self.view.source(stream).is_some_and(|lease| lease.version != version);
                match self.names_me(stream) {
                    // An edit that came between is deleted too.
                    true if edited => self.delete_lease(stream),
                    // What I know of it is not what the API server says; the watch will tell.
                    true => self.keep_for_now(stream),
                    false => {}
                }
            }
            Deletion::Denied => self.keep_for_now(stream),
        }
    }

    /// It is one that names me without an object now, and tried again as such; a new object is run under it.
    fn keep_for_now(&mut self, stream: &StreamName) {
        self.holdings.keep(stream);
        self.align(stream);
    }

    fn on_taken(&mut self, stream: &StreamName, from: Option<&Holder>, written: Written) {
        self.holdings.write_answered(stream);
        match written {
            // Its labels were edited away, so the watch shows it to nobody, its holder included: it is an orphan, also when it
            // still names me.
            Written::Done(current) | Written::Refused(Some(current)) if lease::read(&current) == Seen::Other => {
                self.label_anew(stream, &current);
            }
            Written::Done(lease) => {
                self.refused.remove(stream);
                self.metrics.lease_transitions.inc();
                if let Some(last_sign) = from.and_then(|from| self.last_signs.get(from)) {
                    self.metrics.lease_takeover_duration.observe(last_sign.elapsed().as_secs_f64());
                }
                self.learn(&lease);
            }
            Written::Unanswered => self.refuse(stream, Cause::Unclear),
            Written::Denied(error) => self.deny(stream, &error),
            Written::Refused(current) => {
                self.refuse(stream, Cause::Unclear);
                if let Some(current) = current {
                    self.learn(&current);
                }
            }
        }
        self.align(stream);
    }

    /// At once, but not again and again: somebody may take the labels off each time.
    fn label_anew(&mut self, stream: &StreamName, current: &Lease) {
        let now = Instant::now();
        self.labelled.retain(|_, at| now - *at < LABEL_EVERY);
        self.refuse(stream, Cause::Unclear);
        if !self.labelled.contains_key(stream) {
            self.labelled.insert(stream.clone(), now);
            self.take(stream, Some(&SourceLease::unlabelled(stream, current)));
        }
    }

    fn deny(&mut self, stream: &StreamName, error: &LeaseError) {
        let in_a_row = self.refused.get(stream).map_or(0, Refusal::denials_in_a_row) + 1;
        if in_a_row == 1 {
            let error = error as &dyn std::error::Error;
            tracing::warn!(stream = %stream, error, "may not write its Lease; trying again, ever more seldom");
        }
        self.refuse(stream, Cause::Denied { in_a_row });
    }

    fn refuse(&mut self, stream: &StreamName, cause: Cause) {
        let wait = match cause {
            Cause::Unclear => RETRY.after(0),
            Cause::Denied { in_a_row } => RETRY.after(in_a_row.saturating_sub(1)),
        };
        self.refused.insert(stream.clone(), Refusal { until: Instant::now() + wait, cause });
    }

    fn on_handed_over(&mut self, stream: &StreamName, to: &Holder, written: Written) {
        if let Written::Denied(error) = &written {
            // A call before may have landed, so it is not run here again: it goes to another, now or when I have left.
            self.deny(stream, error);
            self.holdings.stay_stopped(stream);
        }
        self.holdings.write_answered(stream);
        match written {
            // Mine or the other's: what was taken back in vain was handed over.
            Written::Done(lease) | Written::Refused(Some(lease)) => {
                if SourceLease::read(&lease).is_some_and(|lease| lease.holder.as_ref() == Some(to)) {
                    tracing::debug!(stream = %stream, to = %to, "handed over");
                    self.metrics.lease_transitions.inc();
                }
                self.learn(&lease);
            }
            Written::Refused(None) | Written::Denied(_) => {}
            Written::Unanswered => {
                tracing::info!(stream = %stream, to = %to, "no answer to the handoff");
                // Unless the watch has shown meanwhile that it landed.
                if self.names_me(stream) {
                    self.take_back(stream);
                }
            }
        }
        self.align(stream);
    }

    fn on_taken_back(&mut self, stream: &StreamName, written: Written) {
        // What was denied tells nothing of what it should have undone. The source is let go as others are, in doubt until then.
        let is_known = !matches!(written, Written::Denied(_));
        if let Written::Done(lease) | Written::Refused(Some(lease)) = written {
            self.learn(&lease);
        }
        let names_me = is_known && self.names_me(stream);
        if let Some(directive) = self.holdings.end_doubt(stream, names_me) {
            self.direct(directive);
        }
        self.align(stream);
    }

    fn names_me(&self, stream: &StreamName) -> bool {
        let lease = self.view.source(stream);
        self.me.is_some() && lease.is_some_and(|lease| lease.holder == self.me)
    }
}
