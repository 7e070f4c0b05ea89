use std::time::Duration;

use crate::world::{World, eager, longest_gap, now, saturated};

const SOURCES: [&str; 3] = ["s1", "s2", "s3"];

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_postgresql_that_stops_and_comes_back_causes_no_second_fetch() {
    let mut world = World::with("stop", saturated(&SOURCES), eager(), &["headgate-a", "headgate-b"]).await;
    for _ in 0..2 {
        world.all_are_loaded_since(&SOURCES, now()).await;
        world.stage.parts.postgres.stop().await.expect("it stops");
        world.load_for(Duration::from_secs(6)).await;
        world.stage.parts.postgres.start().await.expect("it starts");
    }
    world.all_are_loaded_since(&SOURCES, now()).await;
    nothing_travelled_twice(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_postgresql_that_crashes_causes_no_second_fetch() {
    let mut world = World::with("pg-crash", saturated(&SOURCES), eager(), &["headgate-a", "headgate-b"]).await;
    for _ in 0..3 {
        world.all_are_loaded_since(&SOURCES, now()).await;
        world.stage.parts.postgres.kill().await.expect("it runs");
        world.load_for(Duration::from_secs(1)).await;
        world.stage.parts.postgres.start().await.expect("it starts");
    }
    world.all_are_loaded_since(&SOURCES, now()).await;
    nothing_travelled_twice(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_an_api_server_outage_stops_no_source_that_is_held() {
    let mut world = World::with("api-outage", saturated(&SOURCES), eager(), &["headgate-a", "headgate-b"]).await;
    world.all_are_loaded_since(&SOURCES, now()).await;

    world.stage.parts.control_plane.api_server.stop().await.expect("it stops");
    let gone = now();
    world.load_for(Duration::from_secs(12)).await;
    for source in SOURCES {
        let asked = world.asked_since(source, gone);
        assert!(asked.len() > 20, "{source} was asked {} times in 12 s without an API server", asked.len());
        assert!(longest_gap(asked) < 3_000_000, "{source} stood still");
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
    world.until("others adopted", async || world.rows().await.values().all(|(holder, _)| !is_of_a(holder))).await;
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
