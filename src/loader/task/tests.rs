mod changes;
mod credentials;
mod finalizer;
mod poll_requests;
mod resets;

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    api::{AcceptedReason, Source, StoredReason},
    fetch::{FetchError, OpenError},
    loader::{
        context::IN_FLIGHT,
        report::BlockedBy,
        testing::{Frost, Script, Steering, World, number},
    },
    store::{Adopt, Epoch, Gate, Holder},
};

/// A task that runs as on a replica, and what steers it.
struct Running {
    steering: Steering,
    task: JoinHandle<()>,
}

fn start(world: &World) -> Running {
    let (task, steering) = world.task("a", &Frost::default(), 1);
    Running { steering, task: tokio::spawn(task.run()) }
}

impl Running {
    fn change(&self, change: impl FnOnce(&mut Source)) {
        let mut source = Source::clone(&self.steering.source.borrow());
        change(&mut source);
        self.steering.source.send_replace(Arc::new(source));
    }

    async fn stop(self) {
        self.steering.stop.cancel();
        self.task.await.expect("no panic");
    }
}

async fn until(what: &str, reached: impl Fn() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < Duration::from_mins(10), "never: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_is_adopted_and_loaded_until_it_has_caught_up() {
    let world = World::with_events(2500);
    let running = start(&world);
    until("caught up", || world.reports.get(&world.stream).is_some_and(|report| report.caught_up == Some(true))).await;
    assert_eq!(world.cursor(), "2500");
    assert_eq!(world.report().accepted.as_ref().map(|verdict| verdict.reason), Some(AcceptedReason::Valid));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_suspended_source_knows_its_cursor_and_sends_nothing_until_it_is_resumed() {
    let mut world = World::with_events(3);
    world.object.spec.suspend = true;
    let running = start(&world);
    sleep(Duration::from_mins(1)).await;
    let report = world.report();
    assert!(report.suspended && report.cursor.is_some());
    assert_eq!(report.blocked_by, Some(BlockedBy::Suspended));
    assert!(world.source.log().is_empty());
    running.change(|source| {
        source.spec.suspend = false;
        source.generation = 2;
    });
    until("loaded", || world.cursor() == "3").await;
    let report = world.report();
    assert!(!report.suspended && report.generation == 2);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_of_another_spec_is_not_said_of_this_one() {
    let world = World::with_events(3);
    let running = start(&world);
    until("caught up", || world.reports.get(&world.stream).is_some_and(|report| report.caught_up == Some(true))).await;
    running.change(|source| {
        source.spec.suspend = true;
        source.generation = 2;
    });
    until("accepted", || world.report().generation == 2 && world.report().accepted.is_some()).await;
    let report = world.report();
    assert_eq!((&report.reachable, &report.stored, report.caught_up), (&None, &None, None));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_spec_takes_effect_between_polls_and_cuts_no_request() {
    let world = World::with_events(400).asking_for(400);
    world.source.next([Script::Slow(100, Duration::from_secs(1))]);
    let running = start(&world);
    sleep(Duration::from_millis(500)).await;
    running.change(|source| {
        source.spec.poll.batch_size = 7;
        source.generation = 2;
    });
    until("loaded", || world.cursor() == "400").await;
    world.source.add((401..=403).map(number));
    until("loaded", || world.cursor() == "403").await;
    let log = world.source.log();
    assert!(log[0].usable, "the running request was read to its end");
    assert_eq!(log[1].limit, 7);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_epoch_that_grew_begins_again_at_its_start_and_stores_nothing_twice() {
    let world = World::with_events(5);
    let running = start(&world);
    until("loaded", || world.store.has_row(&world.stream) && world.cursor() == "5").await;
    running.change(|source| {
        source.spec.epoch = 1;
        source.generation = 2;
    });
    until("reset", || world.report().epoch == Some(Epoch(1))).await;
    until("loaded again", || world.cursor() == "5").await;
    assert_eq!(world.stored_ids().len(), 5);
    assert_eq!(world.report().retransported, 5, "they travelled again because the user asked for it");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_reads_its_ids_from_elsewhere_sends_nothing_until_it_begins_again_or_takes_its_path_back() {
    let world = World::with_events(5);
    let running = start(&world);
    until("loaded", || world.store.has_row(&world.stream) && world.cursor() == "5").await;
    let other_object = |source: &mut Source, uid: &str, id_path: &str| {
        uid.clone_into(&mut source.uid);
        source.spec.mapping.id_path = Some(id_path.to_owned());
    };
    let accepted = || world.report().accepted.as_ref().map(|verdict| (verdict.reason, verdict.message.clone()));
    let is_refused = || accepted().is_some_and(|(reason, _)| reason == AcceptedReason::InvalidSpec);

    running.change(|source| other_object(source, "uid-2", "$.uuid"));
    until("refused", is_refused).await;
    let message = accepted().expect("it is refused").1;
    assert!(["mapping.idPath", "`$.id`", "`epoch`"].iter().all(|part| message.contains(part)), "{message}");
    let asked = world.source.log().len();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(world.source.log().len(), asked);

    let report = world.report();
    assert_eq!(
        (&report.cursor, &report.last_caught_up, report.last_success),
        (&None, &None, None),
        "of the object before"
    );
    running.change(|source| other_object(source, "uid-3", "$.id"));
    until("asked again", || world.source.log().len() > asked).await;
    assert!(!is_refused());

    running.change(|source| other_object(source, "uid-4", "$.uuid"));
    until("refused", is_refused).await;
    let asked = world.source.log().len();
    running.change(|source| (source.spec.epoch, source.generation) = (1, 2));
    until("asked again", || world.source.log().len() > asked).await;
    assert_eq!(world.source.log()[asked].after, None, "it begins again");
    running.stop().await;
}

/// Another replica takes the row over.
async fn adopt_as(world: &World, holder: &str) {
    let adopt = Adopt {
        stream: world.stream.clone(),
        uid: world.object.uid.clone(),
        holder: Holder::new(holder),
        epoch: Epoch(0),
        start: crate::event::Cursor::Start,
        id_path: "$.id".to_owned(),
        in_doubt: false,
    };
    world.store.adopt(adopt).await.expect("the database answers");
}

fn stored_reason(world: &World) -> Option<StoredReason> {
    world.report().stored.as_ref().map(|verdict| verdict.reason)
}

#[tokio::test(start_paused = true)]
async fn a_fenced_off_source_stops_says_so_and_adopts_again_while_its_lease_is_ours() {
    let world = World::with_events(3);
    let running = start(&world);
    until("loaded", || world.store.has_row(&world.stream) && world.cursor() == "3").await;
    adopt_as(&world, "zombie").await;
    until("fenced off", || stored_reason(&world) == Some(StoredReason::FencedOff)).await;
    assert_eq!(world.report().blocked_by, Some(BlockedBy::Lease));
    world.source.add([number(4)]);
    let fenced_off = Instant::now();
    until("loaded", || world.cursor() == "4").await;
    assert!(fenced_off.elapsed() < Duration::from_secs(2), "the next renewal is enough: {:?}", fenced_off.elapsed());
    assert_eq!(stored_reason(&world), Some(StoredReason::AppendSucceeded));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_fenced_off_while_its_member_lease_cannot_be_renewed_leaves_the_row_alone() {
    let world = World::with_events(3);
    let frost = Frost::default();
    let ownership = world.alive("a", &frost);
    let (task, steering) = world.task_of("a", &frost, 1, Arc::clone(&ownership));
    let running = Running { steering, task: tokio::spawn(task.run()) };
    until("loaded", || world.store.has_row(&world.stream) && world.cursor() == "3").await;

    ownership.cut_off(true);
    sleep(Duration::from_mins(1)).await;
    world.source.add([number(4)]);
    until("loaded without an API server", || world.cursor() == "4").await;
    assert_eq!(world.store.asked("adopt"), 1, "who is not fenced off asks nobody");

    adopt_as(&world, "b").await;
    until("fenced off", || stored_reason(&world) == Some(StoredReason::FencedOff)).await;
    let requests = world.source.log().len();
    running.change(|source| source.generation = 2);
    running.change(|source| source.poll_requested_at = Some("now".to_owned()));
    sleep(Duration::from_mins(10)).await;
    assert_eq!(world.store.asked("adopt"), 2, "neither time nor a change is a reason to adopt");
    assert_eq!(world.source.log().len(), requests);
    assert_eq!(world.report().blocked_by, Some(BlockedBy::Lease));
    assert_eq!(stored_reason(&world), Some(StoredReason::FencedOff));

    ownership.cut_off(false);
    world.source.add([number(5)]);
    until("it was the rightful holder after all", || world.cursor() == "5").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_down_at_the_start_is_waited_for() {
    let world = World::with_events(3);
    world.store.faults(|faults| faults.unavailable = true);
    let running = start(&world);
    sleep(Duration::from_mins(2)).await;
    assert_eq!(world.report().blocked_by, Some(BlockedBy::Database));
    world.store.faults(|faults| faults.unavailable = false);
    until("loaded", || world.store.has_row(&world.stream) && world.cursor() == "3").await;
    assert_eq!(world.report().blocked_by, None);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_that_was_locked_at_the_start_is_not_complained_of_while_its_waits_are_waited_out() {
    let world = World::with_events(3);
    world.source.next([Script::Fails(asks_to_wait_an_hour())]);
    let first = start(&world);
    until("asked", || !world.source.log().is_empty()).await;
    sleep(Duration::from_secs(1)).await;
    first.stop().await;

    world.store.faults(|faults| faults.lock = 1.0);
    let (task, steering) = world.task("b", &Frost::default(), 2);
    let second = Running { task: tokio::spawn(task.run()), steering };
    until("it says so", || stored_reason(&world) == Some(StoredReason::DatabaseUnavailable)).await;
    world.store.faults(|faults| faults.lock = 0.0);
    until("it waits", || world.report().blocked_by == Some(BlockedBy::Gate)).await;
    assert_eq!(world.report().problem(), None, "the row has answered");
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_poll_after_a_takeover_waits_for_what_is_left_of_the_deadline() {
    let world = World::with_events(300);
    world.source.next([Script::Slow(100, Duration::from_secs(1))]);
    let running = start(&world);
    sleep(Duration::from_millis(500)).await;
    running.task.abort();
    let crashed = Instant::now();
    let (task, steering) = world.task("b", &Frost::default(), 2);
    let next = Running { steering, task: tokio::spawn(task.run()) };
    until("loaded", || world.cursor() == "300").await;
    let log = world.source.log();
    let waited = log[1].start - crashed;
    assert!(waited > Duration::from_secs(2) && waited < Duration::from_millis(3200), "{waited:?}");
    assert_eq!(log[1].after.as_deref(), Some("100"), "the committed prefix does not travel again");
    next.stop().await;
}

const HOUR: Duration = Duration::from_hours(1);

fn asks_to_wait_an_hour() -> FetchError {
    FetchError::RateLimited { status: 429, retry_after: Some(HOUR) }
}

/// The database goes away when the first request has been granted, before its answer is there.
async fn lose_the_database_after_the_first_reserve(world: &World) {
    while world.store.asked("reserve") == 0 {
        sleep(Duration::from_micros(100)).await;
    }
    world.store.faults(|faults| faults.unavailable = true);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_extension_of_a_long_wait_in_an_outage_which_holds_no_memory_before() {
    let world = World::with_events(3);
    world.source.next([Script::FailsUnread(asks_to_wait_an_hour())]);
    let free = world.buffer.free();
    let running = start(&world);
    lose_the_database_after_the_first_reserve(&world).await;
    until("extended in vain", || world.store.asked("extend") > 10).await;
    assert_eq!(world.buffer.free(), free, "the memory was given back");
    sleep(IN_FLIGHT).await;
    let stopped = Instant::now();
    running.stop().await;
    assert!(stopped.elapsed() < Duration::from_millis(500), "{:?}", stopped.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_source_asked_to_wait_reaches_the_row_after_an_outage() {
    let world = World::with_events(3);
    world.source.next([Script::Fails(asks_to_wait_an_hour())]);
    let running = start(&world);
    lose_the_database_after_the_first_reserve(&world).await;
    until("the attempt was to be closed", || world.store.asked("abort") > 0).await;
    running.change(|source| source.generation += 1);
    sleep(Duration::from_secs(10)).await;
    world.store.faults(|faults| faults.unavailable = false);
    sleep(Duration::from_secs(10)).await;
    let starts_in = world.store.row(&world.stream, |row| {
        assert_eq!(row.attempt, None, "the attempt is closed");
        row.not_before.saturating_duration_since(Instant::now())
    });
    assert!(starts_in > HOUR / 10 * 9, "another replica would ask in {starts_in:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn that_ids_do_not_ascend_reaches_the_row_after_an_outage_that_ends_in_another_adoption() {
    let world = World::with_events(0).asking_for(3);
    let unsorted = || Script::Exactly([3, 1, 2].map(number).to_vec());
    world.source.next([unsorted(), Script::Exactly(vec![number(1)])]);
    let running = start(&world);
    lose_the_database_after_the_first_reserve(&world).await;
    until("the page was to be closed", || world.store.asked("append") > 0).await;
    running.change(|source| source.generation += 1);
    sleep(Duration::from_secs(10)).await;
    world.store.faults(|faults| faults.unavailable = false);
    until("the next page is stored", || world.cursor() == "1").await;
    assert!(!world.store.row(&world.stream, |row| row.progressive), "the row knows it");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_reservation_that_is_given_back_after_another_adoption_keeps_nobody_waiting() {
    let world = World::with_events(3);
    world.store.faults(|faults| faults.lose_next = vec!["reserve"]);
    let begun = Instant::now();
    let running = start(&world);
    until("its answer was lost", || world.store.asked("reserve") == 1).await;
    running.change(|source| source.generation += 1);
    until("loaded", || world.cursor() == "3").await;
    assert_eq!((world.store.asked("adopt"), world.store.asked("abort")), (2, 1));
    assert!(begun.elapsed() < Duration::from_secs(1), "not after the deadline: {:?}", begun.elapsed());
    running.stop().await;
}
