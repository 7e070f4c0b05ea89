//! Polls that somebody asks for (`headgate.dev/poll-requested-at`).

use super::*;
use crate::store::Reserve;

fn ask(running: &Running) {
    running.change(|source| source.poll_requested_at = Some("now".to_owned()));
}

fn is_served(world: &World) -> bool {
    world.report().handled_poll_request.as_deref() == Some("now")
}

/// A source that has been idle for hours, and how often it was asked.
async fn idle() -> (World, Running, usize) {
    let mut world = World::with_events(3);
    world.object.spec.poll.max_idle_interval = Duration::from_hours(1).into();
    let running = start(&world);
    sleep(Duration::from_hours(20)).await;
    let asked = world.source.log().len();
    (world, running, asked)
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_is_asked_for_comes_now_and_through_the_gate() {
    let mut world = World::with_events(3);
    world.object.spec.poll.max_idle_interval = Duration::from_hours(1).into();
    let running = start(&world);
    sleep(Duration::from_hours(20)).await;
    let before = world.source.log().len();
    let asked = Instant::now();
    running.change(|source| source.poll_requested_at = Some("now".to_owned()));
    until("a poll", || world.source.log().len() > before).await;
    assert!(asked.elapsed() < Duration::from_secs(1));
    let patience = |reserve: Option<&Reserve>| reserve.expect("it was reserved").patience.longest;
    let reserves = world.store.reserves();
    assert_eq!(patience(reserves.last()), Duration::ZERO, "nobody else is waited for");
    assert_eq!(patience(reserves.iter().rev().nth(1)), Duration::from_secs(1), "as is usual");
    until("told", || world.report().handled_poll_request.as_deref() == Some("now")).await;
    for value in ["again", "and again", "once more"] {
        running.change(|source| source.poll_requested_at = Some(value.to_owned()));
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_secs(5)).await;
    let log = world.source.log();
    assert!(log.windows(2).all(|pair| pair[1].start - pair[0].start >= Duration::from_millis(200)));
    assert_eq!(world.source.opens(), 1, "the task was not restarted");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_is_asked_for_or_another_spec_does_not_wait_for_the_company_that_a_reservation_waits_for() {
    let changes: [fn(&mut Source); 2] =
        [|source| source.poll_requested_at = Some("now".to_owned()), |source| source.generation += 1];
    for change in changes {
        let mut world = World::with_events(3);
        world.object.spec.poll.max_idle_interval = Duration::from_mins(1).into();
        world.store.faults(|faults| faults.lonely = true);
        let running = start(&world);
        sleep(Duration::from_mins(10)).await;
        until("a reservation waits", || world.store.waiting() == 1).await;
        let (before, changed) = (world.source.log().len(), Instant::now());
        running.change(change);
        until("a poll", || world.source.log().len() > before).await;
        assert!(
            changed.elapsed() < Duration::from_millis(100),
            "a second is what it may wait: {:?}",
            changed.elapsed()
        );
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_never_left_serves_no_poll_that_was_asked_for() {
    let (world, running, asked) = idle().await;
    // The second one is a failure, and backs off.
    world.source.close_idle_connections(2);
    ask(&running);
    until("served", || is_served(&world)).await;
    assert_eq!(world.requests("ConnectionFailed"), 1);
    assert_eq!(world.source.log().len(), asked + 1, "the source was asked");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_must_come_first_serves_no_poll_that_was_asked_for() {
    let (world, running, asked) = idle().await;
    world.source.next([Script::Prepares]);
    ask(&running);
    until("served", || is_served(&world)).await;
    assert_eq!(world.source.log().len(), asked + 2, "the source was asked");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_served_to_one_object_is_not_said_of_the_next_of_its_name() {
    let (world, running, _) = idle().await;
    ask(&running);
    until("served", || is_served(&world)).await;
    running.change(|source| (source.uid, source.poll_requested_at) = ("another".to_owned(), None));
    until("the next one runs", || world.report().uid == "another").await;
    assert!(!is_served(&world));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_a_holder_before_may_have_served_costs_none_more() {
    let mut asked = Vec::new();
    for request in [None, Some("now".to_owned())] {
        let mut world = World::with_events(3);
        world.object.poll_requested_at = request;
        let (begun, running) = (Instant::now(), start(&world));
        sleep(Duration::from_mins(10)).await;
        asked.push(world.source.log().iter().map(|served| served.start - begun).collect::<Vec<_>>());
        running.stop().await;
    }
    assert_eq!(asked[0], asked[1]);
}
