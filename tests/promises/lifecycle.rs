//! What a user does to an EventSource takes effect between polls: a sent request is never cut off for it.

use std::time::Duration;

use headgate_bed::{
    access_log::Access,
    source::{FaultKind, SourceConfig},
};
use serde_json::json;

use crate::world::{World, eager, now};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_does_takes_effect_between_polls_and_cuts_no_request() {
    let endless = ["orders", "kept", "dropped"].map(|name| SourceConfig::new(name, 10_000_000));
    let mut sources = Vec::from(endless);
    sources.extend([SourceConfig::new("quiet", 5), SourceConfig::new("unkept", 5)]);
    let world = World::without_objects("lifecycle", sources, &["headgate-a"]).await;
    tokio::join!(
        suspended_resumed_moved_and_reset(&world, "orders"),
        deleted_without_its_events(&world, "kept"),
        deleted_with_its_events(&world, "dropped"),
        asked_to_poll(&world, "quiet"),
        first_asked_when_no_deletion_can_leave_its_events(&world, "unkept"),
    );

    // Nothing is stored twice, and the gap is kept through all of it. What travelled twice did so because a user asked.
    let proof = world.prove().await;
    for (source, began_again) in
        [("orders", true), ("kept", false), ("dropped", true), ("quiet", false), ("unkept", false)]
    {
        let repeats = proof.findings.sources[source].repeats;
        assert_eq!(repeats.after_a_reset > 0, began_again, "{source}: {repeats:?}");
        assert_eq!(repeats.total(), repeats.after_a_reset, "{source}: {repeats:?}");
    }
}

/// The index of the last event that a request brought.
fn end_of(access: &Access) -> u64 {
    access.delivered.last().expect("the request brought events").last
}

/// The slow request during which something was done. It was read to its end.
fn finished(world: &World, source: &str) -> Access {
    let slow = world.asked_since(source, 0).into_iter().filter(|access| access.fault == FaultKind::SlowBody);
    let slow = slow.max_by_key(|access| access.started).expect("it has ended");
    assert!(slow.complete, "the request was cut off: {slow:?}");
    slow
}

/// Nobody asks the source any more.
async fn is_left_alone(world: &World, source: &str) -> u64 {
    let since = now();
    world.load_for(Duration::from_secs(1)).await;
    assert_eq!(world.asked_since(source, since), [], "{source} is to be left alone");
    since
}

async fn suspended_resumed_moved_and_reset(world: &World, source: &str) {
    world.apply(source, world.spec(source, &eager())).await;

    // Suspended in the middle of an answer: it is read to its end and stored, and then nothing more is sent.
    world.in_the_middle_of_an_answer(source).await;
    world.change(source, json!({ "suspend": true })).await;
    assert_eq!(world.says(source, "Ready", "Suspended").await.status, "True");
    // Nobody knows how the source would answer now, and nobody says so.
    assert_eq!(world.says(source, "Reachable", "Suspended").await.status, "Unknown");
    finished(world, source);
    let stored_to = end_of(&world.last_request(source));
    assert_eq!(world.stored(source).await.0, Some(stored_to.to_string()));
    let suspended = is_left_alone(world, source).await;

    // Resumed: goes on where it stopped.
    world.change(source, json!({ "suspend": false })).await;
    assert_eq!(world.next_request(source, suspended).await.after, stored_to);

    // Another URL: the request to the old one is read to its end, and the new one goes on from there.
    world.in_the_middle_of_an_answer(source).await;
    let new_url = world.stage.source.url(source).replace("/events", "/v2/events");
    world.change(source, json!({ "http": { "url": new_url } })).await;
    let (last_of_old, first_of_new) =
        turning_point(world, source, |request| request.path.ends_with("/v2/events")).await;
    finished(world, source);
    assert_eq!(first_of_new.after, end_of(&last_of_old));

    // A larger epoch: the request under way is read to its end, and then everything comes once more.
    world.in_the_middle_of_an_answer(source).await;
    let reset = now();
    world.note_reset(source, 0);
    world.change(source, json!({ "epoch": 1, "poll": { "batchSize": 1000 } })).await;
    let begins_again = |request: &Access| request.started > reset && request.after == 0;
    let (last_of_old, _) = turning_point(world, source, begins_again).await;
    finished(world, source);
    let further = async || world.last_request(source).after > end_of(&last_of_old);
    world.until("it is further than before", further).await;
    world.tells(source, &["SourceSuspended", "SourceResumed", "CursorReset"]).await;
}

/// Waits for the first request that is of the new kind. Returns it behind the one before it.
async fn turning_point(world: &World, source: &str, is_new: impl Fn(&Access) -> bool) -> (Access, Access) {
    let requests = || {
        let mut requests = world.asked_since(source, 0);
        requests.sort_by_key(|request| request.started);
        requests
    };
    world.until("the change takes effect", async || requests().iter().any(&is_new)).await;
    let requests = requests();
    let new = requests.iter().position(is_new).expect("it was seen");
    (requests[new - 1].clone(), requests[new].clone())
}

/// Deletes the source in the middle of an answer: it is read to its end, then nothing more is sent, and the Lease goes.
async fn deleted(world: &World, source: &str) -> u64 {
    world.in_the_middle_of_an_answer(source).await;
    world.delete(source).await;
    gone(world, source).await;
    finished(world, source);
    is_left_alone(world, source).await
}

async fn gone(world: &World, source: &str) {
    let is_gone = async || world.object(source).await.is_none() && !world.has_lease(source).await;
    world.until("object and Lease are gone", is_gone).await;
}

async fn deleted_without_its_events(world: &World, source: &str) {
    let mut spec = world.spec(source, &eager());
    world.apply(source, spec.clone()).await;
    world.all_are_loaded_since(&[source], 0).await;
    let deleted = deleted(world, source).await;
    let stored_to = end_of(&world.last_request(source));
    assert_eq!(world.stored(source).await, (Some(stored_to.to_string()), stored_to.cast_signed()));

    // One that reads its ids from elsewhere asks for nothing, and has no cursor in its status that keeps it from going back.
    let mut other = spec.clone();
    other["mapping"] = json!({ "idPath": "$.payload.number" });
    world.apply(source, other).await;
    let refused = world.says(source, "Accepted", "InvalidSpec").await.message;
    assert!(refused.contains("spec.mapping.idPath") && refused.contains("`$.id`"), "{refused}");
    assert!(world.object(source).await.expect("it is there")["status"]["cursor"].is_null());
    world.delete(source).await;
    gone(world, source).await;

    // Applied again, it goes on from its cursor whatever `start` says, and says so.
    spec["start"] = json!({ "position": "AfterID", "afterID": "7" });
    world.apply(source, spec).await;
    assert_eq!(world.next_request(source, deleted).await.after, stored_to);
    let accepted = world.says(source, "Accepted", "Valid").await.message;
    assert!(accepted.contains(&stored_to.to_string()) && accepted.contains("`start` was not applied"), "{accepted}");
}

async fn deleted_with_its_events(world: &World, source: &str) {
    let mut spec = world.spec(source, &eager());
    world.apply(source, spec.clone()).await;
    world.all_are_loaded_since(&[source], 0).await;
    let finalizers = async || world.object(source).await.expect("it is there")["metadata"]["finalizers"].take();
    assert!(finalizers().await.is_null(), "an object whose events stay is not held back");

    spec["deletionPolicy"] = json!("Delete");
    world.apply(source, spec.clone()).await;
    let held_back = async || finalizers().await == json!(["headgate.dev/stored-events"]);
    world.until("it is held back until its events are gone", held_back).await;
    let deleted = deleted(world, source).await;
    assert_eq!(world.stored(source).await, (None, 0), "the events are gone, and the row that holds the gate is not");

    // Applied again, it begins again.
    world.note_reset(source, 0);
    world.apply(source, spec).await;
    assert_eq!(world.next_request(source, deleted).await.after, 0);
    let accepted = world.says(source, "Accepted", "Valid").await.message;
    assert!(!accepted.contains("`start`"), "{accepted}");
}

async fn asked_to_poll(world: &World, source: &str) {
    world.apply(source, world.spec(source, &json!({ "minInterval": "1s", "maxIdleInterval": "1h" }))).await;
    // Each empty answer waits half as long again as the one before: from now on more than 4.5 s.
    world.until("it is idle", async || world.asked_since(source, 0).len() >= 5).await;
    let seconds = |from: u64, to: u64| Duration::from_micros(to - from).as_secs_f64();

    // Asked for when `minInterval` has passed, it comes at once.
    world.load_for(Duration::from_secs(1)).await;
    let asked = now();
    world.request_poll(source, "first").await;
    let first = world.next_request(source, asked).await;
    assert!(seconds(asked, first.started) < 2.0, "it came {} s later", seconds(asked, first.started));

    // Asked for right after a request, it waits for the gate, and not for the idle interval.
    world.request_poll(source, "second").await;
    let second = world.next_request(source, first.started).await;
    let gap = seconds(first.started, second.started);
    assert!((1.0..4.0).contains(&gap), "{gap} s between the starts of two requests");
    let handled = async || world.object(source).await.expect("it is there")["status"]["lastHandledPollRequest"].take();
    world.until("the status says what was handled", async || handled().await == "second").await;
}

async fn first_asked_when_no_deletion_can_leave_its_events(world: &World, source: &str) {
    let mut spec = world.spec(source, &eager());
    spec["suspend"] = json!(true);
    world.apply(source, spec).await;
    world.says(source, "Ready", "Suspended").await;
    let refusal = world.refuse_finalizers_of(source).await;
    world.change(source, json!({ "deletionPolicy": "Delete", "suspend": false })).await;
    assert_eq!(world.says(source, "Ready", "FinalizerPending").await.status, "Unknown");
    let logged =
        || world.log_of("headgate-a").lines().any(|line| line.contains("finalizers") && line.contains("Invalid"));
    world.until("the log says what the API server refuses", async || logged()).await;
    is_left_alone(world, source).await;
    assert_eq!(world.stored(source).await, (None, 0));

    refusal.lift().await;
    world.all_are_loaded_since(&[source], 0).await;
    world.says(source, "Ready", "CaughtUp").await;
    // What was delivered goes with the object.
    world.note_reset(source, 0);
    world.delete(source).await;
    gone(world, source).await;
    assert_eq!(world.stored(source).await, (None, 0), "and so it is");
}
