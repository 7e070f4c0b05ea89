use std::time::Duration;

use headgate_bed::source::{Fault, SourceConfig};

use crate::world::{World, eager, longest_gap, now};

#[tokio::test(flavor = "multi_thread")]
async fn p6_sources_that_fail_hang_and_lie_affect_themselves_alone() {
    let hostile = [
        ("failing", Fault::Status(500), "ServerError"),
        ("hanging", Fault::NeverAnswers, "Timeout"),
        ("cutting", Fault::CutBody { share: 0.0 }, "ConnectionFailed"),
        ("redirecting", Fault::Redirect, "Redirected"),
        ("forbidding", Fault::Status(403), "Forbidden"),
        ("unknown", Fault::Status(401), "AuthenticationFailed"),
        ("limiting", Fault::RateLimited { seconds: 3600, as_date: true }, "RateLimited"),
        ("mapless", Fault::BadItem, "MappingFailed"),
    ];
    let mut sources = vec![SourceConfig::new("good", 10_000_000)];
    sources.extend(hostile.iter().map(|(name, fault, _)| SourceConfig::new(name, 1_000).sometimes(1.0, fault.clone())));
    let world = World::with("hostile", sources, eager(), &["headgate-a"]).await;
    world.all_are_loaded_since(&["good"], now()).await;

    let begun = now();
    world.load_for(Duration::from_secs(10)).await;
    let asked = world.asked_since("good", begun);
    assert!(asked.len() > 30, "the good source was asked {} times in 10 s", asked.len());
    assert!(longest_gap(asked) < 1_500_000, "the good source stood still");

    for (name, _, reason) in hostile {
        world
            .until(&format!("{name} says {reason}"), async || {
                let condition = world.stage.condition(name, "Reachable").await.expect("the API server answers");
                condition == Some(("False".to_owned(), reason.to_owned()))
            })
            .await;
    }
    let good = world.stage.condition("good", "Ready").await.expect("the API server answers");
    assert_eq!(good.map(|(status, _)| status).as_deref(), Some("True"));
    world.prove().await;
}
