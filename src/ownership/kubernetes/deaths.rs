//! The end of members: one compare-and-set declares a silent one dead, and whoever wrote that fences its rows off before
//! the certificate is removed. And the end of Leases whose object is gone.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::Instant;

use super::{
    client::{LeaseError, within},
    replica::Replica,
    write::{self, Deletion, OnDenial},
};
use crate::{
    backoff::{Backoff, Waits},
    event::StreamName,
    ownership::{
        lease::{MemberLease, Version},
        view::End,
    },
    store::{Gate, Holder},
};

/// One attempt to declare a member dead. It is not repeated by itself: the suspicion has to hold.
const DECLARE_TIMEOUT: Duration = Duration::from_secs(2);
/// One that failed is followed by another after this, if the suspicion holds.
const DECLARE_RETRY: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
/// One attempt to fence rows off.
const FENCE_TIMEOUT: Duration = Duration::from_secs(5);
const FENCE_RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
/// A Lease that names me is given up when I have not seen its object for this long: controllers are seldom so far apart. If I have
/// seen the object and cannot read it, the Lease is given up at once.
pub(super) const EARLY_FOR: Duration = Duration::from_secs(10);
/// For how long the last sign of an ended member is remembered; only a metric wants it.
const REMEMBER_LAST_SIGN: Duration = Duration::from_mins(10);

/// Something that was done whatever became of this incarnation.
#[derive(Debug)]
pub(super) enum Duty {
    Declared {
        lease: Arc<str>,
        answer: Result<Box<Lease>, LeaseError>,
    },
    Fenced {
        dead: Holder,
        certificate: Option<Certificate>,
    },
    /// A certificate was removed, or stands like this.
    Removed {
        lease: Arc<str>,
        deletion: Deletion,
    },
    Swept(StreamName),
}

/// The attempts to declare one member dead, as far as they failed.
#[derive(Debug)]
pub(super) struct Attempts {
    waits: Waits,
    /// When the next one may be made; none while one is under way.
    next: Option<Instant>,
}

/// A certificate of death as it was seen. Only this version of the Lease may go: a newer one may be that of a member that lives.
#[derive(Debug)]
pub(super) struct Certificate {
    lease: Arc<str>,
    version: Version,
}

impl Replica {
    /// Declares dead whoever was silent for too long.
    pub(super) fn declare_suspects(&mut self, now: Instant) {
        if self.me.is_none() {
            return;
        }
        let suspects = self.membership.suspects(now);
        let is_suspect = |lease: &Arc<str>| suspects.iter().any(|(suspect, _)| suspect == lease);
        self.declaring.retain(|lease, attempts| attempts.next.is_none() || is_suspect(lease));
        for (lease, version) in suspects {
            self.declare(&lease, &version, now);
        }
    }

    /// Fences off the rows of those whose certificate is mine to handle, and removes it then.
    pub(super) fn handle_certificates(&mut self, now: Instant) {
        if self.me.is_none() {
            return;
        }
        self.certificates.retain(|name| self.view.member(name).is_some());
        let certificates: Vec<_> = self
            .view
            .members()
            .filter(|lease| !self.certificates.contains(&lease.name))
            .filter_map(|lease| {
                let certificate = Certificate { lease: lease.name.clone(), version: lease.version.clone() };
                Some((certificate, lease.death()?.clone()))
            })
            .collect();
        for (certificate, death) in certificates {
            // Whoever declared it dead; when that one has died too, or cannot, the first of those who live.
            let declared_by_me = self.me.as_ref() == Some(&death.declared_by);
            let witness_can = self.view.live(&death.declared_by).is_some_and(|lease| lease.state.has_database());
            if declared_by_me || (!witness_can && self.is_first()) {
                self.certificates.insert(certificate.lease.clone());
                self.fence_off(death.of, Some(certificate));
            }
        }
        self.last_signs.retain(|_, at| now - *at < REMEMBER_LAST_SIGN);
    }

    /// Incarnations of this very pod that were there before my first: their container has ended, so their silence need not
    /// be waited for. This rests on a pod's name being given once at a time ([`Config::pod`](super::Config)).
    pub(super) fn declare_predecessors(&mut self, now: Instant) {
        let predecessors: Vec<_> = self
            .view
            .members()
            .filter(|lease| *lease.pod == *self.config.pod)
            .filter(|lease| lease.holder().is_some_and(|holder| Some(holder) != self.me.as_ref()))
            .map(|lease| (lease.name.clone(), lease.version.clone()))
            .collect();
        for (lease, version) in predecessors {
            self.declare(&lease, &version, now);
        }
    }

    /// One compare-and-set with the version whose silence was measured, never with a newer one.
    fn declare(&mut self, lease: &Arc<str>, version: &Version, now: Instant) {
        let known =
            self.view.member(lease).filter(|member| member.version == *version && member.holder() != self.me.as_ref());
        let Some(member) = known else { return };
        let Some(certificate) = self.me.as_ref().and_then(|me| member.declared_dead(me)) else { return };
        let first = || Attempts { waits: DECLARE_RETRY.waits(), next: Some(now) };
        let attempts = self.declaring.entry(lease.clone()).or_insert_with(first);
        if attempts.next.is_none_or(|next| now < next) {
            return;
        }
        attempts.next = None;
        let (api, lease) = (self.api.clone(), lease.clone());
        let declare = async move {
            let written = certificate.write(Timestamp::now());
            let answer = within(DECLARE_TIMEOUT, "declare a member dead", api.replace(&written)).await;
            Duty::Declared { lease, answer: answer.map(Box::new) }
        };
        self.duties.push(declare.boxed());
    }

    pub(super) fn on_ended(&mut self, last: &MemberLease, by: &End, now: Instant) {
        let heard = self.membership.gone(&last.name);
        let Some(holder) = last.holder().cloned() else { return };
        tracing::info!(holder = %holder, certified = *by == End::Declared, "a member has ended");
        if self.me.as_ref() == Some(&holder) {
            // The renewal will find out for certain.
            self.outlets.nudge.notify_one();
            return;
        }
        self.last_signs.insert(holder.clone(), heard.unwrap_or(now));
        // A member that drained has stopped by itself. One whose Lease somebody deleted may still run.
        if *by == End::Deleted && !last.state.draining && self.is_first() {
            self.fence_off(holder, None);
        }
    }

    pub(super) fn on_duty(&mut self, duty: Duty) {
        match duty {
            Duty::Declared { lease, answer } => self.on_declared(&lease, answer, Instant::now()),
            Duty::Fenced { dead, certificate } => {
                tracing::info!(holder = %dead, "fenced off the rows of a dead holder");
                if let Some(certificate) = certificate {
                    self.remove_certificate(certificate);
                }
            }
            Duty::Removed { lease, deletion } => {
                if let Deletion::Changed(current) = deletion {
                    self.certificates.remove(&lease);
                    self.learn(&current);
                }
            }
            Duty::Swept(stream) => drop(self.sweeping.remove(&stream)),
        }
    }

    fn on_declared(&mut self, lease: &Arc<str>, answer: Result<Box<Lease>, LeaseError>, now: Instant) {
        let attempts = self.declaring.remove(lease);
        match answer {
            Ok(certificate) => {
                tracing::warn!(lease = %lease, "declared a silent member dead");
                self.learn(&certificate);
            }
            // It gave a sign of life, or another was first; the watch will show which.
            Err(LeaseError::Conflict | LeaseError::NotFound) => self.membership.excuse(lease, now),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "failed to declare a member dead");
                if let Some(Attempts { mut waits, .. }) = attempts {
                    let next = Some(now + waits.failed());
                    self.declaring.insert(lease.clone(), Attempts { waits, next });
                }
            }
        }
    }

    /// Raises the fence of all rows of the dead, again and again until it worked.
    fn fence_off(&mut self, dead: Holder, certificate: Option<Certificate>) {
        let gate = self.gate.clone();
        let fence = async move {
            fence_off(&*gate, &dead).await;
            Duty::Fenced { dead, certificate }
        };
        self.duties.push(fence.boxed());
    }

    fn remove_certificate(&mut self, Certificate { lease, version }: Certificate) {
        let (api, turns) = (self.api.clone(), self.deletion_turns.clone());
        let remove = async move {
            let deletion = write::delete(api, turns, lease.to_string(), version, OnDenial::Repeat).await;
            Duty::Removed { lease, deletion }
        };
        self.duties.push(remove.boxed());
    }

    /// Removes source Leases whose object has been gone for long, and those that name me without an object. A holder that
    /// lives and runs the task ends it itself, and says so with `finished`.
    pub(super) fn sweep(&mut self, now: Instant) {
        if self.me.is_none() || !self.view.is_synced() || !self.desired.is_complete() {
            return;
        }
        let gone: HashSet<StreamName> = self
            .view
            .sources()
            .map(|lease| &lease.stream)
            .filter(|stream| self.desired.get(stream).is_none())
            .cloned()
            .collect();
        for stream in self.gone.look(gone, self.config.gone_after, now) {
            let holder = self.view.source(&stream).and_then(|lease| lease.holder.as_ref());
            if self.is_first() && holder.is_none_or(|holder| !self.view.is_live(holder)) {
                self.sweep_away(&stream);
            }
        }
    }

    /// Gives up what names me for too long without an object that I know: either it is gone, or my controller does not see it;
    /// then another member is better off with it.
    pub(super) fn give_up_early(&mut self, now: Instant) {
        if self.me.is_none() || !self.desired.is_complete() {
            return;
        }
        let sweeping = &self.sweeping;
        let due = |(stream, until): &(&StreamName, &mut Instant)| **until <= now && !sweeping.contains(*stream);
        let early: Vec<_> = self
            .early
            .iter_mut()
            .filter(due)
            .map(|(stream, until)| {
                // Until the watch shows that it went: the deletion may be denied.
                *until = now + EARLY_FOR;
                stream.clone()
            })
            .collect();
        for stream in early {
            let holder = self.view.source(&stream).and_then(|lease| lease.holder.as_ref());
            if holder == self.me.as_ref() && !self.holdings.has(&stream) {
                self.sweep_away(&stream);
            } else {
                self.early.remove(&stream);
            }
        }
    }

    fn sweep_away(&mut self, stream: &StreamName) {
        let Some(lease) = self.view.source(stream) else { return };
        let delete = self.delete_in_turn(stream, &lease.version);
        // One is under way as long as the API server does not answer.
        if !self.sweeping.insert(stream.clone()) {
            return;
        }
        let stream = stream.clone();
        let delete = async move {
            delete.await;
            Duty::Swept(stream)
        };
        self.duties.push(delete.boxed());
    }

    fn is_first(&self) -> bool {
        self.me.is_some() && self.view.first_member() == self.me.as_ref()
    }
}

async fn fence_off(gate: &dyn Gate, dead: &Holder) {
    let mut retry = FENCE_RETRY.waits();
    loop {
        match tokio::time::timeout(FENCE_TIMEOUT, gate.fence_off(dead)).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "failed to fence off; trying again");
            }
            Err(_) => tracing::warn!("fencing off takes long; trying again"),
        }
        tokio::time::sleep(retry.failed()).await;
    }
}
