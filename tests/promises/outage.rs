use std::time::Duration;

use headgate_bed::{
    access_log::Access,
    source::{Fault, FaultKind},
};

use crate::world::{World, eager, longest_gap, now, saturated};

const SOURCES: [&str; 3] = ["s1", "s2", "s3"];

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_postgresql_that_stops_and_comes_back_causes_no_second_fetch() {
    let mut world = World::with("stop", saturated(&SOURCES), eager(), &["headgate-a", "headgate-b"]).await;
    for _ in 0..2 {
        world.all_are_loaded_since(&SOURCES, now()).await;
        a_batch_is_held_while_it_is(Gone::Stopped, &mut world, SOURCES[0]).await;
    }
    world.all_are_loaded_since(&SOURCES, now()).await;
    nothing_travelled_twice(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_postgresql_that_crashes_causes_no_second_fetch() {
    let mut world = World::with("pg-crash", saturated(&SOURCES), eager(), &["headgate-a", "headgate-b"]).await;
    for _ in 0..2 {
        world.all_are_loaded_since(&SOURCES, now()).await;
        a_batch_is_held_while_it_is(Gone::Crashed, &mut world, SOURCES[0]).await;
    }
    world.all_are_loaded_since(&SOURCES, now()).await;
    nothing_travelled_twice(world).await;
}

/// Frozen for less than the row waits for it, from before its answer comes until after `http.timeout`.
#[tokio::test(flavor = "multi_thread")]
async fn p3_what_a_source_answered_a_frozen_replica_in_time_is_read_when_it_wakes_and_not_fetched_again() {
    let mut world = World::without_objects("frozen", saturated(&["orders"]), &["headgate-a"]).await;
    let mut spec = world.spec("orders", &eager());
    spec["http"]["timeout"] = "3s".into();
    world.apply("orders", spec).await;
    world.all_are_loaded_since(&["orders"], now()).await;

    // A machine that is too busy for this is given another try.
    for _ in 0..5 {
        let Some(answered) = frozen_over_the_end_of_an_answer(&mut world).await else { continue };
        let next = world.next_request("orders", answered.started).await;
        assert_eq!(next.after, answered.delivered[0].last, "{answered:?} then {next:?}");
        world.prove().await;
        return;
    }
    panic!("the replica was never frozen at the right time");
}

/// The answer, if the replica was frozen before it came, until after its time was over, and for less than 2.5 s.
async fn frozen_over_the_end_of_an_answer(world: &mut World) -> Option<Access> {
    let begun = now();
    world.stage.source.script("orders", [Some(Fault::Thinks { ms: 2_400 })]);
    let thinks = async || world.stage.source.is_serving_what_was_scripted("orders");
    world.until("the source thinks", thinks).await;
    world.load_for(Duration::from_millis(1_800)).await;
    let frozen = now();
    world.stage.fleet.pause("headgate-a").expect("it runs");
    world.load_for(Duration::from_millis(1_700)).await;
    world.stage.fleet.resume("headgate-a").expect("it is frozen");
    let thawed = now();
    world.all_are_loaded_since(&["orders"], thawed).await;
    let thought = |access: &Access| access.fault == FaultKind::Thinks;
    let answer = world.asked_since("orders", begun).into_iter().find(thought).expect("it was asked");
    let in_time = frozen < answer.ended && answer.started + 3_050_000 < thawed && thawed < frozen + 2_500_000;
    (in_time && answer.complete).then_some(answer)
}

#[derive(Clone, Copy)]
enum Gone {
    Stopped,
    Crashed,
}

/// PostgreSQL goes in the middle of an answer, whose end then comes while nothing can be committed. It comes back after
/// the deadline of the request, and the very attempt that fetched the page stores it.
async fn a_batch_is_held_while_it_is(gone: Gone, world: &mut World, source: &str) {
    let begun = now();
    world.in_the_middle_of_an_answer(source).await;
    match gone {
        Gone::Stopped => world.stage.parts.postgres.stop().await.expect("it stops"),
        Gone::Crashed => world.stage.parts.postgres.kill().await.expect("it runs"),
    }
    let left = now();
    let slow = || world.asked_since(source, begun).into_iter().find(|access| access.fault == FaultKind::SlowBody);
    world.until("the slow answer has ended", async || slow().is_some()).await;
    let slow = slow().expect("it was seen");
    assert!(slow.complete && slow.ended > left, "the end of the answer came without a database: {slow:?}");
    let waits = async || {
        let held = world.stage.fleet.held().await;
        held.iter().any(|(_, row)| row.name == source && row.blocked_by.as_deref() == Some("database"))
    };
    world.until("the source waits for the database", waits).await;
    world.load_for(Duration::from_secs(4)).await;
    world.stage.parts.postgres.start().await.expect("it starts");
    world.all_are_loaded_since(&SOURCES, now()).await;

    let page = slow.delivered[0];
    assert_eq!(world.stored_by(source, &slow.attempt).await, Some((page.first, page.last)), "{slow:?}");
    let asked = world.asked_since(source, 0);
    let brings_some_of_it =
        |run: &headgate_bed::access_log::Delivered| run.first <= page.last && page.first <= run.last;
    let times = asked.iter().filter(|access| access.delivered.iter().any(brings_some_of_it)).count();
    assert_eq!(times, 1, "the range was asked for once: {page:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_an_api_server_outage_stops_no_source_that_is_held() {
    let mut world = World::with("api-outage", saturated(&SOURCES), eager(), &["headgate-a", "headgate-b"]).await;
    world.all_are_loaded_since(&SOURCES, now()).await;

    world.stage.parts.control_plane.api_server.stop().await.expect("it stops");
    let gone = now();
    world.load_for(Duration::from_secs(12)).await;
    for source in SOURCES {
        let stood_still = longest_gap(&world.asked_since(source, gone), gone, now());
        assert!(stood_still < 3_000_000, "{source} stood still for {stood_still} us without an API server");
    }
    world.stage.parts.control_plane.start().await.expect("it starts");
    world.all_are_loaded_since(&SOURCES, now()).await;
    nothing_travelled_twice(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_cut_off_from_the_api_server_alone_leaves_its_sources_to_those_who_take_them_over() {
    const SIX: [&str; 6] = ["s1", "s2", "s3", "s4", "s5", "s6"];
    let mut world = World::with("api-cut", saturated(&SIX), eager(), &["headgate-b", "headgate-c"]).await;
    let line = world.start_on_a_line_of_its_own("headgate-a").await;
    world.all_hold_their_share_of(SIX.len()).await;
    world.all_are_loaded_since(&SIX, now()).await;

    line.cut();
    let is_of_a = |holder: &str| holder.starts_with("headgate-a_");
    let adopted = |holder: &str| !holder.is_empty() && !is_of_a(holder);
    world.until("others adopted", async || world.rows().await.values().all(|(holder, _)| adopted(holder))).await;
    let adopted = now();
    let by_others =
        |source: &&str| world.asked_since(source, adopted).iter().any(|access| access.replica != "headgate-a");
    world.until("others load them all", async || SIX.iter().all(by_others)).await;

    let (taken_over, rows) = (now(), world.rows().await);
    // It would have adopted again several times by now.
    world.load_for(Duration::from_secs(8)).await;
    assert_eq!(world.rows().await, rows, "no fence moved: whoever took over was left alone");
    for source in SIX {
        let asked = world.asked_since(source, taken_over);
        assert!(asked.len() > 10, "{source} was asked {} times in 8 s", asked.len());
        assert!(asked.iter().all(|access| access.replica != "headgate-a"), "{source} was asked by the one cut off");
    }

    line.heal();
    let holds_some = async || world.shares().await.iter().any(|(name, count)| name == "headgate-a" && *count > 0);
    world.until("it let go", async || !holds_some().await).await;
    world.until("it rejoined", holds_some).await;
    world.all_are_loaded_since(&SIX, now()).await;
    nothing_travelled_twice(world).await;
}

async fn nothing_travelled_twice(world: World) {
    let proof = world.prove().await;
    for (source, found) in &proof.findings.sources {
        assert_eq!(found.repeats.total(), 0, "{source}");
    }
}
