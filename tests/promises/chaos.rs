use std::time::Duration;

use headgate_bed::campaign::{Campaign, KINDS, default_evidence};

use crate::world::{World, now};

const LENGTH: Duration = Duration::from_mins(2);

/// What `make chaos` does for as long as one likes.
#[tokio::test(flavor = "multi_thread")]
async fn the_promises_hold_through_two_minutes_of_chaos() {
    let seed =
        std::env::var("HEADGATE_SEED").map_or_else(|_| now(), |seed| seed.parse().expect("HEADGATE_SEED is a number"));
    println!("HEADGATE_SEED={seed}");
    let _turn = World::alone().await;
    let campaign = Campaign {
        binary: env!("CARGO_BIN_EXE_headgate").into(),
        length: LENGTH,
        seed,
        replicas: 3,
        sources: KINDS,
        evidence: default_evidence(),
    };
    let proof = campaign.run().await.expect("everything comes back, and the store can be read");
    assert!(proof.findings.clean(), "a promise was broken: the first is printed above, the evidence was left");
    assert!(proof.findings.sources.values().all(|found| found.stored_events > Some(0)), "every source was loaded");
}
