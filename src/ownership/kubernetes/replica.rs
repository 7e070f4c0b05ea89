//! One replica: a single loop that hears the watch, the answers to its writes, its member Lease and the supervisor, and
//! keeps what it knows in one place. Nothing in it is shared, and nothing runs beside it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher::Event;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{
    Config, OwnershipView, Stage,
    claims::{Claimed, Refusal},
    client::{LeaseApi, LeaseError},
    database::DatabaseClock,
    deaths::{Attempts, Duty, EARLY_FOR},
    member::{Part, Sign, Wish},
    watchdog::Watchdog,
    write::DeletionTurns,
};
use crate::{
    desired::Desired,
    event::StreamName,
    ownership::{
        Directive,
        database::DatabaseWatch,
        declined::Declined,
        gone::Gone,
        holdings::Holdings,
        lease::MemberLease,
        membership::Membership,
        pacing::Pacing,
        roster::Roster,
        stuck::StuckMembers,
        view::{Change, End, View},
    },
    store::{Gate, Holder},
    telemetry::metrics::Metrics,
};

/// What changed is worked out this often, however many Leases changed meanwhile.
const TICK: Duration = Duration::from_millis(100);
/// Leases without an object are looked for this often.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// What the supervisor says.
#[derive(Debug)]
pub(super) enum Command {
    Yielded(StreamName),
    Finished(StreamName),
    HoldsBatch(StreamName, bool),
    Drain,
}

/// Whom a replica tells what.
pub(super) struct Outlets {
    pub(super) directives: mpsc::UnboundedSender<Directive>,
    pub(super) publish: watch::Sender<OwnershipView>,
    pub(super) wish: watch::Sender<Wish>,
    pub(super) nudge: Arc<Notify>,
}

pub(super) struct Replica {
    pub(super) config: Arc<Config>,
    pub(super) api: Arc<dyn LeaseApi>,
    pub(super) gate: Arc<dyn Gate>,
    pub(super) desired: Desired,
    pub(super) desired_changes: watch::Receiver<u64>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) database_clock: Arc<DatabaseClock>,
    pub(super) outlets: Outlets,

    /// My incarnation, while it lives.
    pub(super) me: Option<Holder>,
    pub(super) view: View,
    pub(super) membership: Membership,
    pub(super) stuck: StuckMembers,
    pub(super) declined: Declined,
    /// When a member came or went last, and whether that is long ago.
    pub(super) members_changed: Instant,
    pub(super) members_stand_still: bool,
    pub(super) pacing: Pacing,
    pub(super) holdings: Holdings,
    pub(super) roster: Roster,
    pub(super) gone: Gone,
    pub(super) database: DatabaseWatch,
    pub(super) draining_since: Option<Instant>,

    /// Orphans that are mine to claim, waiting for a free write.
    pub(super) queue: VecDeque<StreamName>,
    /// When Leases that had lost our labels were last given them.
    pub(super) labelled: HashMap<StreamName, Instant>,
    /// Leases that name me without an object, and are being deleted.
    pub(super) sweeping: HashSet<StreamName>,
    /// Since when more sources are without a holder than all members claim at once.
    pub(super) leases_wait_since: Option<Instant>,
    /// Claims that came to nothing: the watch has a moment to show why.
    pub(super) refused: HashMap<StreamName, Refusal>,
    /// Leases that name me and whose object I do not know yet, and until when it is waited for.
    pub(super) early: HashMap<StreamName, Instant>,
    /// Writes of this incarnation; they end with it.
    pub(super) writes: FuturesUnordered<BoxFuture<'static, Claimed>>,
    /// Deletions of this incarnation, which keep no claim waiting; and how many may be under way at once, these and others.
    pub(super) deletions: FuturesUnordered<BoxFuture<'static, Claimed>>,
    pub(super) deletion_turns: DeletionTurns,
    /// What has to be done whatever becomes of this incarnation.
    pub(super) duties: FuturesUnordered<BoxFuture<'static, Duty>>,
    /// Member Leases that are being declared dead.
    pub(super) declaring: HashMap<Arc<str>, Attempts>,
    /// The Leases whose certificates of death are being handled.
    pub(super) certificates: HashSet<Arc<str>>,
    /// When each member that ended was last heard of.
    pub(super) last_signs: HashMap<Holder, Instant>,
    pub(super) joined_before: bool,
    pub(super) dirty: bool,
    /// When all was counted last.
    pub(super) counted: Instant,
    watchdog: Watchdog,
    next_sweep: Instant,
}

impl Replica {
    pub(super) fn new(
        config: Arc<Config>,
        api: Arc<dyn LeaseApi>,
        gate: Arc<dyn Gate>,
        desired: Desired,
        metrics: Arc<Metrics>,
        database_clock: Arc<DatabaseClock>,
        outlets: Outlets,
    ) -> Self {
        let now = Instant::now();
        let deletion_turns = DeletionTurns::new(config.writes_in_flight);
        Self {
            membership: Membership::new(config.late_after(), now),
            database: DatabaseWatch::new(now),
            watchdog: Watchdog::new(config.lease_duration, now),
            config,
            api,
            gate,
            desired_changes: desired.changes(),
            desired,
            metrics,
            database_clock,
            outlets,
            me: None,
            view: View::default(),
            stuck: StuckMembers::default(),
            declined: Declined::default(),
            members_changed: now,
            members_stand_still: false,
            pacing: Pacing::default(),
            holdings: Holdings::default(),
            roster: Roster::default(),
            gone: Gone::default(),
            draining_since: None,
            queue: VecDeque::new(),
            labelled: HashMap::new(),
            sweeping: HashSet::new(),
            leases_wait_since: None,
            refused: HashMap::new(),
            early: HashMap::new(),
            writes: FuturesUnordered::new(),
            deletions: FuturesUnordered::new(),
            deletion_turns,
            duties: FuturesUnordered::new(),
            declaring: HashMap::new(),
            certificates: HashSet::new(),
            last_signs: HashMap::new(),
            joined_before: false,
            dirty: true,
            counted: now,
            next_sweep: now + SWEEP_EVERY,
        }
    }

    /// Runs until it has left, or is shut down.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        mut signs: mpsc::UnboundedReceiver<Sign>,
        shutdown: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = self.api.watch();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(event) = watch.next() => self.on_event(event),
                Some(claimed) = self.writes.next(), if !self.writes.is_empty() => self.on_claimed(claimed),
                Some(deleted) = self.deletions.next(), if !self.deletions.is_empty() => self.on_claimed(deleted),
                Some(duty) = self.duties.next(), if !self.duties.is_empty() => self.on_duty(duty),
                Some(command) = commands.recv() => self.on_command(command),
                Some(sign) = signs.recv() => match sign {
                    Sign::Left => break,
                    sign => self.on_sign(sign),
                },
                _ = ticks.tick() => {
                    self.tick(Instant::now());
                    if self.watch_is_stale() {
                        tracing::warn!("the watch of Leases shows nothing, not even my renewals; watching anew");
                        watch = self.api.watch();
                        self.watchdog.made_anew(Instant::now());
                    }
                }
            }
        }
        let left_to_nobody = self.holdings.stopped_sources().cloned().collect();
        self.outlets.publish.send_modify(|view| (view.stage, view.left_to_nobody) = (Stage::Ended, left_to_nobody));
    }

    fn on_event(&mut self, event: Result<Event<Lease>, LeaseError>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the watch of Leases failed; it goes on by itself"
                );
                return;
            }
        };
        self.watchdog.heard(&event, Instant::now());
        match event {
            Event::Init => self.view.begin_list(),
            Event::InitApply(lease) => {
                let change = self.view.apply_listed(&lease);
                self.on_changes(change);
            }
            Event::Apply(lease) => {
                let changes = self.view.apply(&lease);
                self.on_changes(changes);
            }
            Event::Delete(lease) => {
                let changes = self.view.delete(&lease);
                self.on_changes(changes);
            }
            Event::InitDone => {
                let changes = self.view.end_list();
                self.on_changes(changes);
            }
        }
    }

    /// Takes the Lease of an answer into the view, ahead of the watch.
    pub(super) fn learn(&mut self, lease: &Lease) {
        let change = self.view.apply_answer(lease);
        self.on_changes(change);
    }

    fn on_changes(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.on_change(change);
        }
    }

    fn on_change(&mut self, change: Change) {
        let now = Instant::now();
        match change {
            Change::Source { stream, from, to } => {
                if let (Some(from), None) = (&from, &to) {
                    self.note_declined(&stream, from, now);
                }
                if let Some(to) = to.filter(|to| from.as_ref() != Some(to)) {
                    self.stuck.progressed(&to, &stream, now);
                }
                self.dirty = true;
                self.align(&stream);
            }
            Change::Joined(lease) => {
                self.members_changed = now;
                self.deal_anew();
                self.pacing.joined(now);
                self.hear(&lease, now);
            }
            Change::Renewed { lease, altered } => {
                if altered {
                    self.deal_anew();
                }
                self.hear(&lease, now);
            }
            Change::Ended { last, by } => {
                self.members_changed = now;
                self.deal_anew();
                self.on_ended(&last, &by, now);
                // The other holder gives no sign of life, and takes sources until it is declared dead.
                if let End::Renamed(lease) = by {
                    self.hear(&lease, now);
                }
            }
            Change::Certificate => {}
        }
    }

    /// Who takes what is another question now than when the queue was filled.
    fn deal_anew(&mut self) {
        self.dirty = true;
        self.queue.clear();
    }

    /// A sign of life of a peer.
    fn hear(&mut self, lease: &MemberLease, now: Instant) {
        if lease.holder() != self.me.as_ref() {
            self.membership.seen(&lease.name, &lease.version, lease.duration, now);
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Yielded(stream) => {
                if let Some(yielded) = self.holdings.stopped(&stream) {
                    self.place(&stream, yielded.to);
                }
            }
            Command::Finished(stream) => self.delete(&stream),
            Command::HoldsBatch(stream, holds) => self.holdings.holds_batch(&stream, holds),
            Command::Drain => self.drain(Instant::now()),
        }
    }

    fn tick(&mut self, now: Instant) {
        // My first word to the others says whether my database works: a replica that cannot load must not attract sources.
        if self.view.is_synced() && self.desired.is_complete() && self.database_clock.is_known(now) {
            self.take_part(Part::Joined);
        }
        self.look_at_database(now);
        self.declare_suspects(now);
        self.handle_certificates(now);
        self.give_up_early(now);
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_EVERY;
            self.sweep(now);
        }
        self.plan(now);
        self.leave_when_drained(now);
        self.publish(now);
    }

    /// My own renewals are watched too: when they succeed and the watch shows none of them, the watch is dead.
    fn watch_is_stale(&self) -> bool {
        let now = Instant::now();
        self.me.is_some() && self.membership.is_well(now) && self.watchdog.is_stale(now)
    }

    /// Brings a source in line with its Lease.
    pub(super) fn align(&mut self, stream: &StreamName) {
        let Some(me) = &self.me else { return };
        let lease = self.view.source(stream);
        let wanted = self.desired.get(stream).is_some();
        let directive = self.holdings.align(stream, lease, me, wanted);
        let names_me = lease.is_some_and(|lease| lease.holder.as_ref() == Some(me));
        if names_me && !wanted && !self.holdings.has(stream) {
            let patience = if self.desired.is_unreadable(stream) { Duration::ZERO } else { EARLY_FOR };
            self.early.entry(stream.clone()).or_insert_with(|| Instant::now() + patience);
        } else {
            self.early.remove(stream);
        }
        if let Some(directive) = directive {
            self.direct(directive);
        }
    }

    pub(super) fn direct(&self, directive: Directive) {
        // A supervisor that is gone has stopped its tasks.
        let _ = self.outlets.directives.send(directive);
    }
}
