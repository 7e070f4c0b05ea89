use std::time::Duration;

use headgate_bed::{
    chaos,
    nemesis::plan,
    source::{Fault, SourceConfig},
};

use crate::world::{World, eager, now};

const REPLICAS: [&str; 3] = ["headgate-a", "headgate-b", "headgate-c"];
const LENGTH: Duration = Duration::from_mins(2);

/// I8: all three may be struck one after the other, each frozen for up to 15 s or away for up to 6 s, and then comes a
/// takeover of 8 s. A source that stands still for longer was forgotten.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// One of each kind of trouble that a source can make while its holder is killed.
fn sources() -> Vec<SourceConfig> {
    let growing = |name: &str| SourceConfig::new(name, 500).growing_by(50.0);
    vec![
        SourceConfig::new("backlog", 10_000_000),
        SourceConfig::new("backlog-slow", 10_000_000).sometimes(1.0, Fault::SlowBody { ms: 300 }),
        SourceConfig::new("backlog-far", 10_000_000).answering_after(Duration::from_millis(80)),
        growing("steady"),
        growing("opaque").with_opaque_ids(),
        growing("flaky").sometimes(0.2, Fault::Status(500)),
        growing("cut").sometimes(0.1, Fault::CutBody { share: 0.6 }),
        growing("limited")
            .sometimes(0.1, Fault::RateLimited { seconds: 1, as_date: false })
            .sometimes(0.1, Fault::RateLimited { seconds: 2, as_date: true }),
        growing("hanging").sometimes(0.03, Fault::NeverAnswers),
        growing("untidy").sometimes(0.1, Fault::Repeats).sometimes(0.1, Fault::MoreThanAsked),
        growing("backwards").at_most(2_000).sometimes(0.1, Fault::Unsorted),
        growing("redirecting").sometimes(0.1, Fault::Redirect),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_p2_p3_p4_hold_through_two_minutes_of_kills_freezes_and_terminations() {
    let seed =
        std::env::var("HEADGATE_SEED").map_or_else(|_| now(), |seed| seed.parse().expect("HEADGATE_SEED is a number"));
    println!("HEADGATE_SEED={seed}");
    let mut world = World::with("chaos", sources(), eager(), &REPLICAS).await;

    let plan = plan(seed, &REPLICAS, LENGTH);
    chaos::strike(&mut world.stage.fleet, &plan, LENGTH).await.expect("every replica can be struck and comes back");

    let names: Vec<String> = sources().into_iter().map(|source| source.feed.name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.all_are_loaded_since(&names, now()).await;
    let proof = world.prove_within(Some(LONGEST_WAIT)).await;
    assert!(proof.findings.sources.values().all(|found| found.stored_events > Some(0)), "every source was loaded");
}
