use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use rstest::rstest;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::*;
use crate::{
    api::{
        ReachableReason,
        event_source::{DeletionPolicy, StartPosition},
    },
    event::StreamName,
    fetch::{FetchError, Fetcher, OpenError},
    loader::testing::{Faults, Frost, Script, World, number},
    store::Holder,
};

mod lease;
mod parting;
mod takeover;

/// A replica with a supervisor, steered by a test as ownership and the controller would.
struct Replica {
    world: World,
    desired: Desired,
    directives: mpsc::UnboundedSender<Directive>,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

fn replica(world: World) -> Replica {
    let transports = Arc::new(world.source.transports("a", &Frost::default()));
    replica_with(world, transports)
}

fn replica_with(world: World, transports: Arc<dyn Transports>) -> Replica {
    let desired = Desired::default();
    let supervisor = Supervisor::new(Ports {
        store: Arc::new(world.store.clone()),
        transports,
        ownership: Arc::clone(&world.ownership) as Arc<dyn Ownership>,
        desired: desired.clone(),
        reports: world.reports.clone(),
        metrics: Arc::clone(&world.metrics),
        buffer: world.buffer.clone(),
        health: Health::starting(),
    });
    let (directives, receiver) = mpsc::unbounded_channel();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(supervisor.run(receiver, shutdown.clone()));
    Replica { world, desired, directives, shutdown, running }
}

impl Replica {
    fn wants(&self, change: impl FnOnce(&mut Source)) {
        let mut source = self.world.object.clone();
        change(&mut source);
        self.desired.put(Arc::new(source));
        self.desired.mark_complete();
    }

    fn direct(&self, directive: Directive) {
        self.directives.send(directive).expect("the supervisor runs");
    }

    fn holds_the_lease(&self) {
        self.direct(Directive::Run(self.world.holding("a")));
    }

    /// A write that would have given it away was not answered.
    fn may_hold_the_lease(&self) {
        self.direct(Directive::RunInDoubt(self.world.holding("a")));
    }

    fn stream(&self) -> StreamName {
        self.world.stream.clone()
    }

    fn reachable(&self) -> Option<ReachableReason> {
        self.world.report().reachable.as_ref().map(|verdict| verdict.reason)
    }

    async fn loaded(&self, cursor: &str) {
        until("loaded", || self.world.store.has_row(&self.world.stream) && self.world.cursor() == cursor).await;
    }
}

async fn until(what: &str, reached: impl Fn() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < Duration::from_mins(10), "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_source_runs_as_soon_as_both_the_lease_and_the_object_are_known() {
    let replica = replica(World::with_events(3));
    replica.holds_the_lease();
    sleep(Duration::from_secs(5)).await;
    assert!(replica.world.source.log().is_empty(), "no object yet, and the list is not complete");
    replica.wants(|_| {});
    replica.loaded("3").await;
    assert!(replica.world.ownership.told().finished.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_not_held_is_never_asked() {
    let replica = replica(World::with_events(3));
    replica.wants(|_| {});
    sleep(Duration::from_mins(1)).await;
    assert!(replica.world.source.log().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_source_is_yielded_after_its_request_was_read_to_the_end() {
    let replica = replica(World::with_events(300));
    let stream = replica.world.stream.clone();
    replica.world.source.next([Script::Slow(100, Duration::from_millis(700))]);
    replica.wants(|_| {});
    replica.holds_the_lease();
    until("a request", || !replica.world.source.log().is_empty()).await;
    replica.direct(Directive::Yield(stream.clone()));
    sleep(Duration::from_millis(500)).await;
    assert!(replica.world.ownership.told().yielded.is_empty(), "the poll is finished first");
    until("yielded", || replica.world.ownership.told().yielded == [stream.clone()]).await;
    assert_eq!(replica.world.cursor(), "300");
    replica.world.store.row(&stream, |row| assert_eq!(row.attempt, None, "the next holder waits for no deadline"));
    assert!(replica.world.reports.get(&stream).is_none());
    sleep(Duration::from_mins(1)).await;
    assert_eq!(replica.world.source.log().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_source_is_yielded_at_once_and_so_is_one_that_does_not_run() {
    let replica = replica(World::with_events(0));
    let stream = replica.world.stream.clone();
    replica.wants(|_| {});
    replica.holds_the_lease();
    sleep(Duration::from_mins(1)).await;
    let begun = Instant::now();
    replica.direct(Directive::Yield(stream.clone()));
    until("yielded", || replica.world.ownership.told().yielded.len() == 1).await;
    assert!(begun.elapsed() < Duration::from_millis(500));
    replica.direct(Directive::Yield(StreamName::new("shop", "unknown")));
    until("yielded", || replica.world.ownership.told().yielded.len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_lost_and_won_again_runs_one_task_after_the_other() {
    let replica = replica(World::with_events(2000).asking_for(500));
    let stream = replica.world.stream.clone();
    replica.world.source.next([Script::Slow(100, Duration::from_millis(500))]);
    replica.wants(|_| {});
    replica.holds_the_lease();
    until("a request", || !replica.world.source.log().is_empty()).await;
    replica.direct(Directive::Lost(stream.clone(), LostReason::IncarnationEnded));
    replica.direct(Directive::Run(replica.world.holding("a-again")));
    replica.loaded("2000").await;
    let log = replica.world.source.log();
    assert!(log.iter().all(|served| served.usable));
    assert!(log.windows(2).all(|pair| pair[0].end.is_some_and(|end| end <= pair[1].start)));
    assert_eq!(replica.world.report().holding.holder.as_str(), "a-again");
    assert!(replica.world.ownership.told().yielded.is_empty(), "nobody waits for a lost Lease");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_object_that_retains_its_events_ends_its_task_and_lets_the_lease_go() {
    let replica = replica(World::with_events(3));
    let stream = replica.world.stream.clone();
    replica.wants(|_| {});
    replica.holds_the_lease();
    replica.loaded("3").await;
    replica.desired.remove(&stream);
    until("finished", || replica.world.ownership.told().finished == [stream.clone()]).await;
    assert_eq!(replica.world.stored_ids().len(), 3);
    assert_eq!(replica.world.store.asked("forget"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_object_with_policy_delete_is_forgotten_after_its_last_poll_and_says_so() {
    let replica = replica(World::with_events(300));
    let stream = replica.world.stream.clone();
    replica.world.source.next([Script::Slow(100, Duration::from_millis(700))]);
    replica.wants(|_| {});
    replica.holds_the_lease();
    until("a request", || !replica.world.source.log().is_empty()).await;
    replica.wants(|source| {
        source.deleting = true;
        source.has_finalizer = true;
        source.spec.deletion_policy = DeletionPolicy::Delete;
    });
    sleep(Duration::from_millis(300)).await;
    assert_eq!(replica.world.store.asked("forget"), 0, "the poll is finished first");
    replica.world.store.faults(|faults| faults.lose_next = vec!["forget"]);
    until("forgotten", || replica.world.report().forgotten).await;
    assert!(replica.world.source.log()[0].usable);
    assert!(replica.world.stored_ids().is_empty());
    assert!(replica.world.ownership.told().finished.is_empty(), "the finalizer is still there");
    replica.desired.remove(&stream);
    until("finished", || replica.world.ownership.told().finished == [stream.clone()]).await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_deleted_before_anything_ran_for_it_is_forgotten_as_the_one_before_was() {
    let replica = replica(World::with_events(3));
    let is_deleted = |source: &mut Source| {
        source.deleting = true;
        source.has_finalizer = true;
        source.spec.deletion_policy = DeletionPolicy::Delete;
    };
    replica.wants(|_| {});
    replica.holds_the_lease();
    replica.loaded("3").await;
    replica.wants(is_deleted);
    until("forgotten", || replica.world.report().forgotten).await;
    // While nobody watched it went, and another one came and is being deleted too.
    replica.wants(|source| {
        is_deleted(source);
        "uid-2".clone_into(&mut source.uid);
    });
    until("that one too", || replica.world.report().is_forgotten("uid-2")).await;
}

#[rstest]
#[case::database_away(|faults: &mut Faults| faults.unavailable = true)]
#[case::row_locked(|faults: &mut Faults| faults.lock = 1.0)]
#[tokio::test(start_paused = true)]
async fn a_deletion_that_waits_for_the_database_says_so(#[case] happens: fn(&mut Faults)) {
    let replica = replica(World::with_events(3));
    replica.wants(|_| {});
    replica.holds_the_lease();
    replica.loaded("3").await;
    replica.world.store.faults(happens);
    replica.wants(|source| {
        source.deleting = true;
        source.has_finalizer = true;
        source.spec.deletion_policy = DeletionPolicy::Delete;
    });
    until("asked", || replica.world.store.asked("forget") > 0).await;
    until("it says so", || replica.world.report().problem().is_some_and(|it| it.0 == "DatabaseUnavailable")).await;
    let asked = replica.world.store.asked("forget");
    sleep(Duration::from_mins(1)).await;
    assert!(replica.world.store.asked("forget") - asked < 80);
    replica.world.store.faults(|faults| *faults = Faults::default());
    until("forgotten", || replica.world.report().forgotten).await;
}

/// Said by the object, or by who takes our finalizer off it.
#[rstest]
#[case::the_policy_is_retain_by_now(true)]
#[case::the_object_went_without_another_word(false)]
#[tokio::test(start_paused = true)]
async fn a_deletion_that_waits_for_the_database_is_over_when_the_events_are_to_stay_after_all(#[case] is_said: bool) {
    let replica = replica(World::with_events(3));
    replica.wants(|_| {});
    replica.holds_the_lease();
    replica.loaded("3").await;
    replica.world.store.faults(|faults| faults.unavailable = true);
    let is_deleted = |source: &mut Source| (source.deleting, source.has_finalizer) = (true, true);
    replica.wants(|source| {
        is_deleted(source);
        source.spec.deletion_policy = DeletionPolicy::Delete;
    });
    until("asked", || replica.world.store.asked("forget") > 0).await;
    if is_said {
        replica.wants(is_deleted);
        sleep(Duration::from_secs(1)).await;
    }
    replica.desired.remove(&replica.stream());
    replica.world.store.faults(|faults| *faults = Faults::default());
    until("finished", || replica.world.ownership.told().finished == [replica.stream()]).await;
    sleep(Duration::from_mins(1)).await;
    assert_eq!(replica.world.stored_ids().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_deleting_object_without_our_finalizer_keeps_its_events() {
    let replica = replica(World::with_events(3));
    replica.wants(|_| {});
    replica.holds_the_lease();
    replica.loaded("3").await;
    replica.wants(|source| source.deleting = true);
    let requests = replica.world.source.log().len();
    sleep(Duration::from_mins(1)).await;
    assert!(replica.world.source.log().len() <= requests + 1);
    assert_eq!(replica.world.store.asked("forget"), 0);
    assert_eq!(replica.world.stored_ids().len(), 3);
}

/// Panics as often as told, then opens the source.
struct Defective {
    panics: Mutex<u32>,
    sound: Arc<dyn Transports>,
}

#[async_trait]
impl Transports for Defective {
    async fn open(&self, source: &Arc<Source>) -> Result<Box<dyn Fetcher>, OpenError> {
        let left = {
            let mut panics = self.panics.lock().expect("not held over the panic");
            *panics = panics.saturating_sub(1);
            *panics
        };
        assert!(left == 0 || source.stream.name() != "orders", "a defect");
        self.sound.open(source).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_affects_that_source_alone_and_it_is_started_again() {
    let world = World::with_events(3);
    let sound = Arc::new(world.source.transports("a", &Frost::default()));
    let replica = replica_with(world, Arc::new(Defective { panics: Mutex::new(4), sound }));
    let neighbour = StreamName::new("shop", "payments");
    let mut source = replica.world.object.clone();
    source.stream = neighbour.clone();
    replica.desired.put(Arc::new(source));
    replica.wants(|_| {});
    replica.holds_the_lease();
    replica.direct(Directive::Run(Holding { stream: neighbour.clone(), ..replica.world.holding("a") }));
    until("the neighbour loads", || replica.world.store.has_row(&neighbour)).await;
    assert!(!replica.world.store.has_row(&replica.world.stream));
    assert_eq!(replica.reachable(), Some(ReachableReason::InternalError));
    replica.loaded("3").await;
    until("well again", || replica.reachable() == Some(ReachableReason::PollSucceeded)).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_object_after_many_panics_is_tried_at_once() {
    let world = World::with_events(3);
    let sound = Arc::new(world.source.transports("a", &Frost::default()));
    let defect = Arc::new(Defective { panics: Mutex::new(1000), sound });
    let replica = replica_with(world, Arc::clone(&defect) as Arc<dyn Transports>);
    replica.wants(|_| {});
    replica.holds_the_lease();
    // The tries are 5 min apart by now: 512 s after the first, and then every 300 s.
    sleep(Duration::from_mins(20)).await;
    *defect.panics.lock().expect("nobody panicked in it") = 0;
    let changed = Instant::now();
    replica.wants(|source| source.generation += 1);
    replica.loaded("3").await;
    assert!(changed.elapsed() < Duration::from_secs(1), "{:?}", changed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_deleted_after_many_panics_goes_at_once() {
    let world = World::with_events(3);
    let sound = Arc::new(world.source.transports("a", &Frost::default()));
    let replica = replica_with(world, Arc::new(Defective { panics: Mutex::new(1000), sound }));
    replica.wants(|_| {});
    replica.holds_the_lease();
    sleep(Duration::from_mins(20)).await;
    let deleted = Instant::now();
    replica.desired.remove(&replica.world.stream);
    until("finished", || !replica.world.ownership.told().finished.is_empty()).await;
    assert!(deleted.elapsed() < Duration::from_secs(1), "{:?}", deleted.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_every_task_between_two_polls() {
    let replica = replica(World::with_events(300));
    replica.world.source.next([Script::Slow(100, Duration::from_millis(700))]);
    replica.wants(|_| {});
    replica.holds_the_lease();
    until("a request", || !replica.world.source.log().is_empty()).await;
    replica.shutdown.cancel();
    replica.running.await.expect("no panic");
    assert_eq!(replica.world.cursor(), "300");
    assert_eq!(replica.world.source.log().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_directives_ends_the_supervisor() {
    let replica = replica(World::with_events(3));
    drop(replica.directives);
    replica.running.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn ownership_learns_when_the_database_last_answered() {
    let replica = replica(World::new());
    sleep(Duration::from_secs(10)).await;
    let answers = replica.world.ownership.told().answers;
    assert!(answers >= 5, "{answers}");
    replica.world.store.faults(|faults| faults.unavailable = true);
    sleep(Duration::from_secs(10)).await;
    assert!(replica.world.ownership.told().answers <= answers + 1);
}

#[tokio::test(start_paused = true)]
async fn a_changed_object_reaches_the_running_task_without_a_restart() {
    let replica = replica(World::with_events(3));
    replica.wants(|_| {});
    replica.holds_the_lease();
    replica.loaded("3").await;
    replica.wants(|source| source.poll_requested_at = Some("now".to_owned()));
    until("served", || replica.world.report().handled_poll_request.as_deref() == Some("now")).await;
    replica.world.source.add([number(4)]);
    replica.loaded("4").await;
    assert_eq!(replica.world.source.opens(), 1);
}
