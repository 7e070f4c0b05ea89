//! The reasons of a condition come about for real, say what to do, and repeat nothing of what a source or a Secret
//! holds; and a source that is well goes on.

use headgate_bed::{
    ports::free_port,
    source::{Fault, SourceConfig, UNSPEAKABLE},
    stage::{SOURCES, SYSTEM},
};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{ConfigMap, Secret},
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    tls_front::TlsFront,
    world::{World, eager, now, saturated},
};

const REPLICA: &str = "headgate-a";

/// A source with a fault, what its condition must say, and a part of the message.
struct Case {
    name: &'static str,
    /// How it answers; none for one that answers well, or is never reached.
    fault: Option<Fault>,
    /// Members of `spec.http` beside, or instead of, the usual ones.
    http: Value,
    condition: &'static str,
    reason: &'static str,
    says: &'static str,
}

fn answers(name: &'static str, fault: Fault, reason: &'static str, says: &'static str) -> Case {
    Case { name, fault: Some(fault), http: json!({}), condition: "Reachable", reason, says }
}

fn set_up(name: &'static str, http: Value, condition: &'static str, reason: &'static str, says: &'static str) -> Case {
    Case { name, fault: None, http, condition, reason, says }
}

/// Sources that answer, but not with a page.
fn bad_answers() -> Vec<Case> {
    let limiting = Fault::RateLimited { seconds: 3600, as_date: true };
    let hanging = json!({ "timeout": "1s" });
    let padded = json!({ "maxResponseBytes": 1024 });
    vec![
        answers("unknown", Fault::Status(401), "AuthenticationFailed", "set `http.auth`"),
        answers("forbidding", Fault::Status(403), "Forbidden", "403"),
        answers("missing", Fault::Status(404), "ServerError", "404; check `http.url`"),
        answers("failing", Fault::Status(503), "ServerError", "503"),
        answers("limiting", limiting, "RateLimited", "429"),
        answers("redirecting", Fault::Redirect, "Redirected", "set `http.url` to the final address"),
        answers("cutting", Fault::CutBody { share: 0.0 }, "ConnectionFailed", "before its answer was complete"),
        Case { http: hanging, ..answers("hanging", Fault::NeverAnswers, "Timeout", "1s (`http.timeout`)") },
        Case {
            http: padded,
            ..answers(
                "padded",
                Fault::Padding { bytes: 4096 },
                "ResponseTooLarge",
                "1024 bytes (`http.maxResponseBytes`)",
            )
        },
        answers("prose", Fault::NotJson, "DecodeFailed", "at byte 0"),
        answers("shapeless", Fault::WrongShape, "DecodeFailed", "`http.decode.itemsPath: $."),
        answers("nameless", Fault::BadItem, "MappingFailed", "`mapping.idPath`"),
        answers("mixed", Fault::NoNumber, "MappingFailed", "raise `spec.epoch`"),
        answers("backwards", Fault::Unsorted, "CursorRejected", "sort the answer by id"),
        answers("looping", Fault::IgnoresAfterId, "CursorRejected", "at or below the cursor"),
    ]
}

/// Sources that cannot be reached as their spec says.
fn unreachable(encrypted: &str) -> Vec<Case> {
    let refused = format!("http://127.0.0.1:{}/events", free_port().expect("a free port"));
    let at = |url: &str| json!({ "url": url });
    let cannot = |name, url: &str, reason, says| set_up(name, at(url), "Reachable", reason, says);
    vec![
        cannot("refusing", &refused, "ConnectionFailed", "refused the connection"),
        cannot("nowhere", "http://nowhere.invalid/events", "ConnectionFailed", "nowhere.invalid"),
        cannot("untrusted", encrypted, "TLSFailed", "name it in `http.tls.caRef`"),
    ]
}

/// Sources whose Secret, key or CA is not there yet, or is of no use.
fn waiting(encrypted: &str) -> Vec<Case> {
    let token = |secret: &str| {
        let token = json!({ "name": secret, "key": "token" });
        json!({ "auth": { "bearer": { "tokenSecretRef": token } }, "plaintextCredentials": "Allow" })
    };
    let trusting = json!({ "url": encrypted, "tls": { "caRef": { "kind": "ConfigMap", "name": "partner-ca" } } });
    vec![
        set_up("secretless", token("orders-api"), "Accepted", "SecretNotFound", "Secret `orders-api`"),
        set_up("keyless", token("bills-api"), "Accepted", "SecretKeyMissing", "has no key `token`"),
        set_up("garbled", token("users-api"), "Accepted", "InvalidSpec", "a character that no header can carry"),
        set_up("caless", trusting, "Accepted", "CANotFound", "ConfigMap `partner-ca`"),
    ]
}

/// Applies what is served here under the name of a case.
async fn begin(world: &World, case: &Case) {
    let mut spec = world.spec(case.name, &eager());
    for (member, value) in case.http.as_object().expect("members of `spec.http`") {
        spec["http"][member] = value.clone();
    }
    world.apply(case.name, spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_has_its_reason_and_a_source_that_is_well_goes_on() {
    let world = World::without_objects("reasons", sources(), &[REPLICA]).await;
    let front = TlsFront::before(world.stage.source.address()).await;

    for source in ["good", "rewritten"] {
        world.apply(source, world.spec(source, &eager())).await;
    }
    world.says("rewritten", "CaughtUp", "NoMoreEvents").await;

    // Beside them come all those that fail.
    let mut resting = world.spec("resting", &eager());
    resting["suspend"] = json!(true);
    world.apply("resting", resting).await;
    let encrypted = front.url("caless");
    let (waiting, mut failing) = (waiting(&encrypted), bad_answers());
    failing.extend(unreachable(&encrypted));
    let two_lines = format!("{UNSPEAKABLE}\n{UNSPEAKABLE}");
    set(&world, "Secret", "bills-api", json!({ "stringData": { "other": UNSPEAKABLE } })).await;
    set(&world, "Secret", "users-api", json!({ "stringData": { "token": two_lines } })).await;
    for case in waiting.iter().chain(&failing) {
        begin(&world, case).await;
    }
    all_say_so(&world, &waiting).await;
    // What was missing appears …
    for secret in ["orders-api", "bills-api", "users-api"] {
        set(&world, "Secret", secret, json!({ "stringData": { "token": UNSPEAKABLE } })).await;
    }
    set(&world, "ConfigMap", "partner-ca", json!({ "data": { "ca.crt": front.authority() } })).await;
    all_say_so(&world, &failing).await;
    // … and they run by themselves.
    for case in &waiting {
        world.says(case.name, "Accepted", "Valid").await;
        world.says(case.name, "CaughtUp", "NoMoreEvents").await;
    }
    let ready = world.says("resting", "Ready", "Suspended").await;
    assert_eq!((ready.status.as_str(), world.asked_since("resting", 0)), ("True", vec![]));
    other_content_conflicts(&world, "rewritten", 20).await;

    world.all_are_loaded_since(&["good"], now()).await;
    world.tells("secretless", &["SecretNotFound", "CredentialsReloaded"]).await;
    world.tells("failing", &["PollFailing"]).await;
    for (source, reason, note) in world.events().await {
        assert!(!note.contains(UNSPEAKABLE), "{source} shows what nobody may repeat: {reason}: {note}");
    }
    assert!(!world.log_of(REPLICA).contains(UNSPEAKABLE), "the log shows what nobody may repeat");
    world.prove().await;
}

fn sources() -> Vec<SourceConfig> {
    let token = format!("Bearer {UNSPEAKABLE}");
    let mut sources = vec![SourceConfig::new("good", 10_000_000)];
    sources.extend(["rewritten", "resting", "caless"].map(|name| SourceConfig::new(name, 20)));
    let guarded = |name| SourceConfig::new(name, 20).behind_header("authorization", &token);
    sources.extend(["secretless", "keyless", "garbled"].map(guarded));
    sources.extend(bad_answers().into_iter().map(|case| {
        let fault = case.fault.expect("each of them has one");
        SourceConfig::new(case.name, 2_000).sometimes(1.0, fault)
    }));
    sources
}

/// Waits until each of them says what is wrong with it, and looks that none says too much.
async fn all_say_so(world: &World, cases: &[Case]) {
    for case in cases {
        let found = world.says(case.name, case.condition, case.reason).await;
        assert_eq!(found.status, "False", "{}", case.name);
        assert!(found.message.contains(case.says), "{}: {}", case.name, found.message);
        let says_when = found.message.contains("; next try in ");
        assert_eq!(says_when, case.condition == "Reachable", "{}: {}", case.name, found.message);
        for Condition { type_, message, .. } in world.conditions(case.name).await {
            assert!(!message.contains(UNSPEAKABLE), "{} shows what nobody may repeat: {type_}: {message}", case.name);
        }
    }
}

/// All events of the source are stored. They come again with other content: the stored ones stay, and it says so.
async fn other_content_conflicts(world: &World, source: &str, events: u64) {
    world.change(source, json!({ "suspend": true })).await;
    world.says(source, "Ready", "Suspended").await;
    world.stage.source.script(source, [Some(Fault::OtherContent)]);
    world.note_reset(source, 0);
    world.change(source, json!({ "epoch": 1, "suspend": false })).await;
    let Condition { status, message, .. } = world.says(source, "Stored", "ConflictingEvent").await;
    assert_eq!(status, "False");
    assert!(message.contains(&format!("{events} events")) && message.contains("headgate.set_aside"), "{message}");
    world.says(source, "Stalled", "ConflictingEvent").await;
    world.tells(source, &["ConflictingEvent"]).await;
}

/// Writes an object of the sources' namespace, as a user would.
pub(crate) async fn set(world: &World, kind: &str, name: &str, content: Value) {
    let mut object = content;
    object["apiVersion"] = json!("v1");
    object["kind"] = json!(kind);
    object["metadata"] = json!({ "name": name });
    let (client, user) = (world.stage.client.clone(), PatchParams::apply("a-user").force());
    let patch = Patch::Apply(&object);
    let written = match kind {
        "Secret" => Api::<Secret>::namespaced(client, SOURCES).patch(name, &user, &patch).await.map(drop),
        _ => Api::<ConfigMap>::namespaced(client, SOURCES).patch(name, &user, &patch).await.map(drop),
    };
    written.expect("the API server takes it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_was_fenced_off_or_lost_its_database_says_so_and_comes_back_by_itself() {
    let mut world = World::with("fenced-off", saturated(&["orders"]), eager(), &[REPLICA]).await;
    let database = world.database().await;
    let fence = async || {
        let row = "SELECT fence FROM headgate.source WHERE stream = 'demo/orders'";
        sqlx::query_scalar::<_, i64>(row).fetch_one(&database).await.expect("the row is there")
    };
    let raise = async || {
        let raise = "UPDATE headgate.source SET fence = fence + 1 WHERE stream = 'demo/orders'";
        sqlx::query(raise).execute(&database).await.expect("the fence is raised");
    };
    world.all_are_loaded_since(&["orders"], 0).await;

    // Somebody adopts the row, until the holder is seen to have lost it. Then it adopts the row again.
    let says_so = async || {
        raise().await;
        world.conditions("orders").await.iter().any(|it| it.reason == "FencedOff" && it.type_ == "Stored")
    };
    world.until("it says that it was fenced off", says_so).await;
    let raised_to = fence().await;
    world.says("orders", "Stored", "AppendSucceeded").await;
    world.all_are_loaded_since(&["orders"], now()).await;
    assert!(fence().await > raised_to, "the row was adopted again");

    world.stage.parts.postgres.stop().await.expect("it stops");
    assert_eq!(world.says("orders", "Stored", "DatabaseUnavailable").await.status, "False");
    assert_eq!(world.says("orders", "Ready", "DatabaseUnavailable").await.status, "False");
    let unready = async || world.stage.fleet.pending(REPLICA).await.is_ok_and(|parts| parts.contains_key("database"));
    world.until("the replica is not ready for its database", unready).await;
    world.stage.parts.postgres.start().await.expect("it starts");
    world.says("orders", "Stored", "AppendSucceeded").await;
    world.all_are_loaded_since(&["orders"], now()).await;

    let proof = world.prove().await;
    assert_eq!(proof.findings.sources["orders"].repeats.total(), 0, "what was in flight was kept each time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_replica_lost_its_lease_or_ended_as_the_last_one_says_so() {
    let mut world = World::with("lease-lost", saturated(&["orders"]), eager(), &[REPLICA]).await;
    world.all_are_loaded_since(&["orders"], 0).await;
    world.says("orders", "Assigned", "LeaseHeld").await;

    let leases: Api<Lease> = Api::namespaced(world.stage.client.clone(), SYSTEM);
    let listed = leases.list(&ListParams::default()).await.expect("the API server answers");
    let names = listed.items.into_iter().filter_map(|lease| lease.metadata.name);
    let members: Vec<String> = names.filter(|name| name.starts_with("headgate-member-")).collect();
    let [member] = &members[..] else { panic!("one replica, one member Lease: {members:?}") };
    // It would join again within a moment, and nobody might see what stood in between.
    let refusal = world.refuse_joins().await;
    leases.delete(member, &DeleteParams::default()).await.expect("it can be deleted");
    let lost = world.says("orders", "Assigned", "LeaseLost").await;
    assert!(lost.status == "False" && lost.message.contains("it rejoins"), "{lost:?}");
    refusal.lift().await;
    assert_eq!(world.says("orders", "Assigned", "LeaseHeld").await.status, "True");
    world.all_are_loaded_since(&["orders"], now()).await;
    world.tells("orders", &["LeaseLost"]).await;

    world.stage.fleet.ask_to_end(REPLICA).expect("it is asked to end");
    let awaits = world.says("orders", "Assigned", "AwaitingReplica").await;
    assert!(awaits.status == "Unknown" && awaits.message.contains("no other took it over"), "{awaits:?}");
    world.prove().await;
}
