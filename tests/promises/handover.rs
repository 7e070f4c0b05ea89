use std::time::Duration;

use headgate_bed::{checker::Evidence, source::SourceConfig};

use crate::world::{World, eager, now, saturated};

/// Every other one never has an event.
fn half_of_them_idle(names: &[&str]) -> Vec<SourceConfig> {
    let events = [10_000_000, 0].into_iter().cycle();
    names.iter().zip(events).map(|(name, events)| SourceConfig::new(name, events)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_p2_one_request_and_the_gap_hold_while_a_saturated_source_is_handed_to_and_fro() {
    let mut world = World::with("to-and-fro", saturated(&["orders"]), eager(), &["headgate-a", "headgate-b"]).await;
    for _ in 0..3 {
        world.all_are_loaded_since(&["orders"], now()).await;
        let (holder, _) = world.stage.fleet.held().await.pop().expect("somebody holds the source");
        world.stage.fleet.ask_to_end(&holder).expect("it runs");
        world.stage.fleet.ended(&holder, Duration::from_secs(30)).await.expect("it ends well");
        world.stage.fleet.start(&holder).expect("it starts again");
        world.stage.fleet.ready(&holder).await.expect("it becomes ready");
    }
    world.all_are_loaded_since(&["orders"], now()).await;
    let proof = world.prove().await;
    assert!(proof.handovers.len() >= 3, "the source changed hands each time: {:?}", proof.handovers);
    assert_eq!(proof.findings.sources["orders"].repeats.total(), 0, "nothing was in the way of any commit");
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_the_sources_of_a_killed_replica_run_again_within_8_s() {
    let names = ["s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"];
    let replicas = ["headgate-a", "headgate-b", "headgate-c"];
    let mut world = World::with("crash", half_of_them_idle(&names), eager(), &replicas).await;
    world.all_hold_their_share_of(names.len()).await;
    world.all_are_loaded_since(&names, now()).await;

    world.stage.fleet.kill("headgate-b").await.expect("it runs");
    world.all_are_loaded_since(&names, now()).await;

    let (accesses, nemeses) = (world.accesses(), world.stage.fleet.nemeses().to_vec());
    let takeovers = headgate_bed::checker::takeovers(&Evidence { accesses, nemeses, ..Evidence::default() });
    assert!(!takeovers.is_empty(), "the killed replica held something");
    for takeover in takeovers {
        assert!(takeover.after_us.is_some_and(|after| after <= 8_000_000), "{takeover:?}");
    }
    world.prove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_a_terminated_replica_hands_all_its_sources_off_in_a_second_and_most_in_half_of_one() {
    let names = ["s1", "s2", "s3", "s4", "s5", "s6"];
    let mut world = World::with("drain", half_of_them_idle(&names), eager(), &["headgate-a", "headgate-b"]).await;
    let half_each = async || world.shares().await.iter().all(|(_, count)| *count == names.len() / 2);
    world.until("each replica holds half of the sources", half_each).await;
    world.all_are_loaded_since(&names, now()).await;

    world.stage.fleet.ask_to_end("headgate-a").expect("it runs");
    world.stage.fleet.ended("headgate-a", Duration::from_secs(30)).await.expect("it ends well");
    world.all_are_loaded_since(&names, now()).await;

    let mut handovers = world.prove().await.handovers;
    handovers.sort_unstable();
    let [_, median, longest] = handovers[..] else { panic!("each source it held has moved once: {handovers:?}") };
    // One that meets a request or a commit under way takes longer; `make bench` tells by how much.
    assert!(median <= 500_000 && longest <= 1_000_000, "{handovers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_a_replica_that_joins_gets_its_share_within_30_s_and_no_more_moves() {
    let names: Vec<String> = (1..=30).map(|number| format!("s{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let idle = names.iter().map(|name| headgate_bed::source::SourceConfig::new(name, 10)).collect();
    let mut world = World::with("join", idle, eager(), &["headgate-a", "headgate-b"]).await;
    let all_held = async |world: &World| world.shares().await.iter().map(|(_, count)| count).sum::<usize>() == 30;
    // Evenly: a move between the two that is still under way would count as one of the join.
    let even = async || all_held(&world).await && world.shares().await.iter().all(|(_, count)| *count <= 16);
    world.until("two replicas share the sources", even).await;
    let before = world.stage.fleet.held().await;

    world.stage.fleet.start("headgate-c").expect("it starts");
    world.stage.fleet.ready("headgate-c").await.expect("it becomes ready");
    let balanced = async || {
        let shares = world.shares().await;
        // max/avg <= 1.10 with ten each on average.
        all_held(&world).await && shares.iter().all(|(_, count)| *count <= 11)
    };
    tokio::time::timeout(Duration::from_secs(30), world.until("balance", balanced)).await.expect("within 30 s");

    let after = world.stage.fleet.held().await;
    let holder_of = |held: &[(String, headgate_bed::fleet::SourceRow)], name: &str| {
        held.iter().find(|(_, row)| row.name == name).map(|(holder, _)| holder.clone())
    };
    let moved = names.iter().filter(|name| holder_of(&before, name) != holder_of(&after, name)).count();
    assert!(moved <= 11, "the ideal share of the new one is 10, but {moved} moved");
    world.prove().await;
}
