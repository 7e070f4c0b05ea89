//! A replica that is started too early, or wrongly: it waits where waiting helps and says what for, or ends with one line
//! that says what to do.

use std::{
    ffi::OsStr,
    process::{Output, Stdio},
    time::Duration,
};

use headgate_bed::{
    source::SourceConfig,
    stage::{SOURCES, SYSTEM, apply_spec},
    test_api::apply_crds,
};
use k8s_openapi::{
    api::coordination::v1::Lease, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use rstest::rstest;
use serde_json::json;
use tokio::process::Command;

use crate::world::{World, eager, now, saturated};

const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until a replica names this part in `/readyz` with a text that holds all of these words.
async fn waits_for(world: &World, replica: &str, part: &str, words: &[&str]) {
    world
        .until(&format!("{replica} says that it waits for {part}: {words:?}"), async || {
            let pending = world.stage.fleet.pending(replica).await.unwrap_or_default();
            pending.get(part).is_some_and(|why| words.iter().all(|word| why.contains(word)))
        })
        .await;
    assert!(world.stage.fleet.lives(replica).await, "restarting it would help nobody");
}

async fn says(world: &World, source: &str, kind: &str, status: &str, reason: &str) {
    world
        .until(&format!("{source} says {kind}={status}, {reason}"), async || {
            let condition = world.stage.condition(source, kind).await.expect("the API server answers");
            condition == Some((status.to_owned(), reason.to_owned()))
        })
        .await;
}

async fn member_leases(world: &World, namespace: &str) -> usize {
    let leases: Api<Lease> = Api::namespaced(world.stage.client.clone(), namespace);
    let leases = leases.list(&ListParams::default()).await.expect("the API server answers");
    let is_member =
        |lease: &&Lease| lease.metadata.name.as_ref().is_some_and(|name| name.starts_with("headgate-member-"));
    leases.items.iter().filter(is_member).count()
}

/// Leaves the Lease of the installation as a release has left it that named no databases.
async fn forget_the_database(world: &World) {
    let leases: Api<Lease> = Api::namespaced(world.stage.client.clone(), SYSTEM);
    let unnamed = json!({"metadata": {"annotations": {"headgate.dev/database": null}}});
    let lease = "headgate-installation";
    let before = leases.get(lease).await.expect("the API server answers");
    assert!(before.metadata.annotations.is_some_and(|named| named.contains_key("headgate.dev/database")));
    leases.patch(lease, &PatchParams::default(), &Patch::Merge(unnamed)).await.expect("the API server answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_at_the_start_is_waited_for_and_said_and_then_loaded_into() {
    let sources = vec![SourceConfig::new("s1", 300), SourceConfig::new("s2", 300)];
    let mut world = World::with("late-database", sources, eager(), &[]).await;
    world.stage.parts.postgres.stop().await.expect("it stops");
    for replica in ["headgate-a", "headgate-b"] {
        world.stage.fleet.start(replica).expect("it starts");
    }
    for replica in ["headgate-a", "headgate-b"] {
        waits_for(&world, replica, "database", &["the database is not reachable", "refused"]).await;
    }
    for source in ["s1", "s2"] {
        says(&world, source, "Stored", "False", "DatabaseUnavailable").await;
    }

    // Told to end before it could begin, a replica ends well, and the other one takes what it held.
    world.stage.fleet.ask_to_end("headgate-b").expect("it runs");
    world.stage.fleet.ended("headgate-b", PATIENCE).await.expect("it ends well");
    assert_eq!(world.accesses(), [], "nobody may ask a source without the row's permission");

    world.stage.parts.postgres.start().await.expect("it starts");
    world.stage.fleet.ready("headgate-a").await.expect("it becomes ready");
    for source in ["s1", "s2"] {
        says(&world, source, "CaughtUp", "True", "NoMoreEvents").await;
        says(&world, source, "Stored", "True", "AppendSucceeded").await;
    }
    let proof = world.prove().await;
    assert!(proof.findings.sources.values().all(|found| found.stored_events == Some(300)), "all is loaded");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_cannot_use_the_database_take_no_source_from_one_that_can() {
    let names = ["s1", "s2", "s3", "s4"];
    let mut world = World::with("sick-database", saturated(&names), eager(), &["headgate-a"]).await;
    world.all_hold_their_share_of(names.len()).await;

    // Nothing listens there: it waits, and that is all it does.
    let nowhere = [
        ("DATABASE_URL", "postgres://me:secret@127.0.0.1:1/nowhere".as_ref()),
        ("POD_TEMPLATE_HASH", "newer".as_ref()),
    ];
    world.stage.fleet.start_with("headgate-sick", &nowhere).expect("it starts");
    waits_for(&world, "headgate-sick", "database", &["refused"]).await;

    // The same database, but Leases of its own: it would know nothing of the others.
    world.stage.fleet.start_with("headgate-stranger", &[("POD_NAMESPACE", SOURCES.as_ref())]).expect("it starts");
    let (code, said) = world.stage.fleet.failed("headgate-stranger", PATIENCE).await.expect("it ends by itself");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.starts_with("headgate: ") && said.contains("--take-over"), "{said}");
    assert_eq!(member_leases(&world, SOURCES).await, 0, "it leaves in good order");

    // The same Leases, but a database that is empty: neither the cursors nor the waits of their sources are there.
    let elsewhere = world.stage.parts.postgres.database().await.expect("it is made");
    let newer = [("DATABASE_URL", elsewhere.url().as_ref()), ("POD_TEMPLATE_HASH", "newer".as_ref())];
    world.stage.fleet.start_with("headgate-elsewhere", &newer).expect("it starts");
    let (code, said) = world.stage.fleet.failed("headgate-elsewhere", PATIENCE).await.expect("it ends by itself");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("belong to another database") && said.contains("scale to 0"), "{said}");
    // The sick one joins when its database has had its time to answer; the other one leaves in good order.
    let two_are_left = async || member_leases(&world, SYSTEM).await == 2;
    world.until("the sick one is a member, and no other one but the first", two_are_left).await;

    // Nor if no release has named a database yet: those whose Leases these are have another one.
    forget_the_database(&world).await;
    world.stage.fleet.start_with("headgate-elsewhere", &newer).expect("it starts");
    let (code, said) = world.stage.fleet.failed("headgate-elsewhere", PATIENCE).await.expect("it ends by itself");
    assert!(code == Some(1) && said.contains("belong to another database"), "{said}");

    // A wrong password is not mended by waiting.
    let port = world.stage.parts.postgres.port();
    let wrong = format!("postgres://postgres:secret@127.0.0.1:{port}/postgres?sslmode=disable");
    world.stage.fleet.start_with("headgate-unknown", &[("DATABASE_URL", wrong.as_ref())]).expect("it starts");
    let (code, said) = world.stage.fleet.failed("headgate-unknown", PATIENCE).await.expect("it ends by itself");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cannot bring the database schema to this release") && said.contains("password"), "{said}");
    assert!(!said.contains("secret"), "{said}");

    // A join is answered with moves after 3 s; the sick one has been a member for longer.
    world.load_for(Duration::from_secs(5)).await;
    let held = world.stage.fleet.held().await;
    assert!(held.len() == names.len() && held.iter().all(|(holder, _)| holder == "headgate-a"), "{held:?}");
    assert_eq!(member_leases(&world, SYSTEM).await, 2, "the sick one is a member all the same");
    world.all_are_loaded_since(&names, now()).await;
    world.prove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_and_a_crd_that_come_late_are_waited_for_and_said() {
    let mut world = World::with("late-cluster", vec![SourceConfig::new("s1", 300)], eager(), &[]).await;
    let crds: Api<CustomResourceDefinition> = Api::all(world.stage.client.clone());
    let crd = "eventsources.headgate.dev";
    crds.delete(crd, &DeleteParams::default()).await.expect("the API server answers");
    let gone = async || crds.get_opt(crd).await.expect("the API server answers").is_none();
    world.until("the CRD is gone", gone).await;
    world.stage.parts.control_plane.api_server.stop().await.expect("it stops");

    world.stage.fleet.start("headgate-a").expect("it starts");
    waits_for(&world, "headgate-a", "kubernetes", &["the API server does not answer", "refused"]).await;
    world.stage.parts.control_plane.start().await.expect("it starts");
    waits_for(&world, "headgate-a", "sources", &[crd, "headgate crd | kubectl apply -f -"]).await;
    let pending = world.stage.fleet.pending("headgate-a").await.expect("it answers");
    assert!(!pending.contains_key("database") && !pending.contains_key("installation"), "{pending:?}");

    apply_crds(&world.stage.client, world.stage.parts.control_plane.kubeconfig()).await.expect("it is applied");
    let spec = json!({ "http": { "url": world.stage.source.url("s1") }, "poll": eager() });
    // An established CRD is not served at once.
    let accepted = async || apply_spec(&world.stage.client, "s1", &spec).await.is_ok();
    world.until("the EventSource is accepted", accepted).await;
    world.stage.fleet.ready("headgate-a").await.expect("it becomes ready");
    says(&world, "s1", "CaughtUp", "True", "NoMoreEvents").await;
    world.prove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_the_environment_is_for_the_sources_and_not_for_the_api_server() {
    let mut world = World::with("proxy", saturated(&["s1"]), eager(), &[]).await;
    // Nobody listens there; NO_PROXY says so for the source, and kube does not read it.
    let proxy =
        [("HTTPS_PROXY", "http://127.0.0.1:1"), ("HTTP_PROXY", "http://127.0.0.1:1"), ("NO_PROXY", "127.0.0.1")];
    let environment = proxy.map(|(name, value)| (name, OsStr::new(value)));
    world.stage.fleet.start_with("headgate-a", &environment).expect("the replica starts");
    world.stage.fleet.ready("headgate-a").await.expect("it reaches its cluster");
    world.all_are_loaded_since(&["s1"], now()).await;
    world.prove().await;
}

/// Runs the operator with nothing in its environment but this.
async fn run(line: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headgate"));
    command.args(line).env_clear().env("HEADGATE_LOG", "error").env("HEADGATE_ADMIN_LISTEN", "127.0.0.1:0");
    command.envs(environment.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends by itself").expect("it can be started")
}

const DATABASE: (&str, &str) = ("DATABASE_URL", "postgres://me:secret@127.0.0.1:1/nowhere");

#[rstest]
#[case::an_unknown_flag(&["run", "--lease-duratoin", "5s"], "--lease-duration")]
#[case::a_value_without_unit(&["run", "--drain-timeout", "fifty"], "write it like 500ms, 30s or 5m")]
#[case::nothing_to_do(&[], "Usage")]
#[tokio::test]
async fn a_wrong_command_line_is_answered_with_the_right_one(#[case] line: &[&str], #[case] answer: &str) {
    let output = run(line, &[DATABASE]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(answer), "{said}");
    assert!(!said.contains("secret"), "{said}");
}

/// A kubeconfig that is well-formed, of a server that is not there.
const NOBODY: &str = "{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}], \
                      clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}], users: [{name: a, user: {token: secret}}]}";

#[rstest]
#[case::flags_that_exclude_each_other(NOBODY, &["--lease-duration", "2s"], "must be at most half of --lease-duration")]
#[case::a_database_url_that_is_none(NOBODY, &["--database-url", "orders"], "--database-url is not valid")]
#[case::a_second_one_that_is_none(NOBODY, &["--migrate-database-url", "orders"], "--migrate-database-url is not valid")]
#[case::an_address_of_another_machine(NOBODY, &["--admin-listen", "192.0.2.1:80"], "cannot listen on --admin-listen 192.0.2.1:80")]
#[case::a_filter_that_is_none(NOBODY, &["--log", "=loud="], "--log is not a filter")]
#[case::a_kubeconfig_of_nonsense("clusters:\n  - {\n    cluster", &[], "point KUBECONFIG at a kubeconfig file")]
#[case::a_kubeconfig_without_a_cluster("{}", &[], "point KUBECONFIG at a kubeconfig file")]
#[tokio::test]
async fn what_waiting_does_not_mend_ends_it_with_one_line(
    #[case] kubeconfig: &str,
    #[case] flags: &[&str],
    #[case] answer: &str,
) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), kubeconfig).expect("it can be written");
    let kubeconfig = file.path().to_str().expect("a plain path");
    let output = run(&[&["run"], flags].concat(), &[DATABASE, ("KUBECONFIG", kubeconfig)]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("headgate: ") && said.contains(answer), "{said}");
    assert!(!said.contains("secret"), "{said}");
}

#[tokio::test]
async fn no_cluster_at_all_ends_it_with_one_line_and_so_does_migrate_without_a_database() {
    for (line, answer) in
        [("run", "point KUBECONFIG at a kubeconfig file"), ("migrate", "the database is not reachable")]
    {
        let output = run(&[line], &[DATABASE, ("KUBECONFIG", "/nowhere")]).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains(answer) && !said.contains("secret"), "{said}");
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_written_changes_nothing() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a disk that is always full");
    let mut command = Command::new(env!("CARGO_BIN_EXE_headgate"));
    command.arg("run").env_clear().envs([DATABASE, ("KUBECONFIG", "/nowhere")]);
    command.stdin(Stdio::null()).stderr(full).kill_on_drop(true);
    let status = tokio::time::timeout(PATIENCE, command.status()).await.expect("it ends by itself");
    assert_eq!(status.expect("it can be started").code(), Some(1), "as with a log, and not by a panic");
}
