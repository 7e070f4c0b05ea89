//! The PostgreSQL of the test bed does what tests of outages ask of it, and leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use headgate_bed::place::Place;
use headgate_bed::postgres::Postgres;
use headgate_bed::process::working_in;
use sqlx::{Connection, Executor, PgConnection, Row};
use tokio::time::timeout;

async fn session(server: &Postgres) -> PgConnection {
    PgConnection::connect(&server.url()).await.expect("the server takes sessions")
}

async fn count(server: &Postgres) -> i64 {
    session(server).await.fetch_one("SELECT count(*) FROM kept").await.expect("the table is there").get(0)
}

async fn a_server_with_a_row() -> Postgres {
    let server = Postgres::temporary().await.expect("a server");
    session(&server).await.execute("CREATE TABLE kept AS SELECT 1 AS one").await.expect("a table");
    server
}

#[tokio::test]
async fn a_restart_keeps_the_port_and_the_data() {
    let mut server = a_server_with_a_row().await;
    let (url, id) = (server.url(), server.id());
    server.restart().await.expect("it restarts");
    assert_eq!(server.url(), url);
    assert_ne!(server.id(), id);
    assert_eq!(count(&server).await, 1);
}

#[tokio::test]
async fn a_killed_server_recovers_every_committed_row() {
    let mut server = a_server_with_a_row().await;
    session(&server).await.execute("INSERT INTO kept VALUES (2)").await.expect("committed");
    server.kill().await.expect("killed");
    assert!(!server.is_running());
    PgConnection::connect(&server.url()).await.expect_err("nobody listens");
    server.start().await.expect("it recovers");
    assert_eq!(count(&server).await, 2);
}

#[tokio::test]
async fn a_killed_backend_breaks_every_session_but_not_the_server() {
    let server = a_server_with_a_row().await;
    let (mut victim, mut bystander) = (session(&server).await, session(&server).await);
    let id: i32 = victim.fetch_one("SELECT pg_backend_pid()").await.expect("a backend").get(0);
    server.kill_backend(id.cast_unsigned()).expect("killed");
    server.ready().await.expect("it recovers by itself");
    victim.execute("SELECT 1").await.expect_err("the session is gone");
    bystander.execute("SELECT 1").await.expect_err("so is every other one");
    assert_eq!(count(&server).await, 1);
}

#[tokio::test]
async fn only_backends_of_this_server_can_be_killed() {
    let server = Postgres::temporary().await.expect("a server");
    server.kill_backend(std::process::id()).expect_err("this test is no backend");
}

#[tokio::test]
async fn a_frozen_server_holds_its_sessions_and_answers_when_it_goes_on() {
    let server = a_server_with_a_row().await;
    let mut waiting = session(&server).await;
    server.pause().expect("frozen");
    let answer = timeout(Duration::from_millis(300), waiting.fetch_one("SELECT 42")).await;
    assert!(answer.is_err(), "a frozen server answered");
    server.resume().expect("it goes on");
    assert_eq!(count(&server).await, 1);
}

#[tokio::test]
async fn a_database_of_a_test_is_dropped_with_it_even_under_open_sessions() {
    let server = Postgres::temporary().await.expect("a server");
    let databases = "SELECT count(*) FROM pg_database WHERE datname LIKE 'test%'";
    let first = server.database().await.expect("a database");
    let second = server.database().await.expect("another one");
    let mut open = first.connect().await;
    open.execute("CREATE TABLE t ()").await.expect("it is writable");
    assert_ne!(first.name(), second.name());
    drop((first, second));
    let left: i64 = session(&server).await.fetch_one(databases).await.expect("counted").get(0);
    assert_eq!(left, 0);
}

#[tokio::test]
async fn nothing_is_left_of_a_server_that_was_dropped() {
    let place = Arc::new(Place::temporary("test").expect("a place"));
    let root = place.path().to_owned();
    let server = Postgres::up(&place).await.expect("a server");
    drop(place);
    let data = data_of(&root);
    assert!(!working_in(&data).is_empty());
    let _open = session(&server).await;
    drop(server);
    assert_eq!(working_in(&data), Vec::<u32>::new());
    assert!(!root.exists() && !data.exists());
}

#[tokio::test]
async fn a_place_that_other_accounts_cannot_reach_still_gets_a_server_and_is_cleared_whole() {
    use std::os::unix::fs::PermissionsExt;
    let closed = tempfile::tempdir().expect("a directory");
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).expect("closed to others");
    let root = closed.path().join("clone/.headgate/test");
    let place = Arc::new(Place::kept(&root).expect("a place"));
    let server = Postgres::up(&place).await.expect("a server");
    let data = data_of(&root);
    assert!(server.is_running() && data.exists());
    drop(server);
    Arc::into_inner(place).expect("nobody else holds it").end().expect("it ends");
    assert_eq!(working_in(&data), Vec::<u32>::new());
    assert!(!root.exists() && !data.exists());
}

/// Where the server's processes work, wherever the place has put it.
fn data_of(root: &Path) -> PathBuf {
    root.join("postgres").canonicalize().expect("the server has a directory").join("data")
}
