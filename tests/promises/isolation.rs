use std::time::Duration;

use headgate_bed::source::{Fault, SourceConfig};

use crate::world::{World, eager, longest_gap, now};

const LENGTH: Duration = Duration::from_secs(8);

/// Sources that make trouble, by the trouble, and what their Reachable condition then says.
fn hostile() -> Vec<(SourceConfig, &'static str)> {
    let always = |name: &str, fault| SourceConfig::new(name, 10_000).sometimes(1.0, fault);
    let slow = always("slow", Fault::SlowBody { ms: 2_000 }).answering_after(Duration::from_secs(1));
    vec![
        (always("failing", Fault::Status(500)), "ServerError"),
        (always("hanging", Fault::NeverAnswers), "Timeout"),
        (always("cutting", Fault::CutBody { share: 0.0 }), "ConnectionFailed"),
        (always("redirecting", Fault::Redirect), "Redirected"),
        (always("forbidding", Fault::Status(403)), "Forbidden"),
        (always("unknown", Fault::Status(401)), "AuthenticationFailed"),
        (always("limiting", Fault::RateLimited { seconds: 3600, as_date: true }), "RateLimited"),
        (always("mapless", Fault::BadItem), "MappingFailed"),
        // A liar's pages: from the beginning whatever was asked for, in falling order, twice as long as asked for.
        (always("looping", Fault::IgnoresAfterId), "CursorRejected"),
        (always("backwards", Fault::Unsorted), "CursorRejected"),
        (always("generous", Fault::MoreThanAsked), "PollSucceeded"),
        (slow, "PollSucceeded"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_sources_that_fail_hang_dawdle_and_lie_affect_themselves_alone() {
    let mut sources = vec![SourceConfig::new("good", 10_000_000), SourceConfig::new("better", 10_000_000)];
    sources.extend(hostile().into_iter().map(|(source, _)| source));
    let world = World::without_objects("hostile", sources, &["headgate-a"]).await;
    let apply = async |source: &str| world.apply(source, world.spec(source, &eager())).await;

    for source in ["good", "better"] {
        apply(source).await;
    }
    world.all_are_loaded_since(&["good", "better"], now()).await;

    // All the others come.
    let begun = now();
    for (source, _) in hostile() {
        apply(&source.feed.name).await;
    }
    world.load_for(LENGTH).await;
    for source in ["good", "better"] {
        let stood_still = longest_gap(&world.asked_since(source, begun), begun, now());
        // Debug builds on two cores slow each other down by their work; a source that waited for another would stand
        // still for seconds.
        assert!(stood_still < 1_500_000, "{source} stood still for {stood_still} us");
    }

    for (source, reason) in hostile() {
        world.says(&source.feed.name, "Reachable", reason).await;
    }
    for source in ["good", "better"] {
        assert_eq!(world.says(source, "Ready", "Backfilling").await.status, "True");
    }
    let generous = world.says("generous", "Reachable", "PollSucceeded").await;
    assert!(generous.message.contains("more than it was asked for"), "{}", generous.message);
    world.prove().await;
}
