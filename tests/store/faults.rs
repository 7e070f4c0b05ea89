//! What breaks between us and the database costs a repetition, never an event.

use std::time::Duration;

use futures::future::join_all;
use headgate::store::{Answer, EventStore, Gate, Holder, StoreError, postgres::PostgresStore};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    database::Database,
    replica::{Replica, events},
};

/// Repeats until it is answered, as the loader does.
pub(crate) async fn until_answered<T>(mut ask: impl AsyncFnMut() -> Result<Answer<T>, StoreError>) -> Answer<T> {
    loop {
        match ask().await {
            Ok(Answer::Locked) | Err(StoreError::Unavailable { .. } | StoreError::NotBegun { .. }) => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok(answer) => return answer,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_killed_at_any_moment_cost_no_event_and_store_none_twice() {
    let database = Database::migrated().await;
    let store = database.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    let killer = tokio::spawn({
        let sql = database.sql.clone();
        async move {
            loop {
                sqlx::query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE datname = current_database() AND application_name = 'headgate-test'",
                )
                .execute(&sql)
                .await
                .unwrap();
                tokio::time::sleep(Duration::from_millis(rand::random_range(10..80))).await;
            }
        }
    });
    replica.in_flight = Duration::from_hours(1);
    let reservation = replica.reservation();
    replica.attempt = reservation.attempt;
    // A reservation whose answer was lost shows its own token: it was granted, and is not granted again.
    match until_answered(async || store.reserve(reservation.clone()).await).await {
        Answer::Applied(_) => {}
        Answer::Refused(Some(row)) => assert_eq!(row.attempt, Some(reservation.attempt)),
        other => panic!("{other:?}"),
    }
    for page in 0..40 {
        let append = replica.appending(events(page * 50 + 1..=page * 50 + 50));
        let answer = until_answered(async || store.append(&append).await).await;
        assert!(matches!(answer, Answer::Applied(appended) if appended.stored == 50), "{answer:?}");
        (replica.cursor, replica.part) = (append.cursor_after, append.part + 1);
    }
    killer.abort();
    let shown: String = database
        .one("SELECT format('%s %s %s %s', count(*), count(DISTINCT sequence), min(sequence), max(sequence)) FROM headgate.event")
        .await;
    assert_eq!(shown, "2000 2000 1 2000");
    assert_eq!(database.one::<i64>("SELECT events_stored FROM headgate.source").await, 2000);
}

#[tokio::test]
async fn connections_that_were_lost_together_cost_one_answer() {
    let database = Database::migrated().await;
    let store = database.store();
    let replica = Replica::adopting(&store, "a", "orders").await;
    // Not shared, so each has a connection of its own.
    let nobody = Holder::new("nobody");
    join_all((0..5).map(|_| store.fence_off(&nobody))).await;
    let sessions = "SELECT count(*) FROM pg_stat_activity \
                    WHERE datname = current_database() AND application_name = 'headgate-test'";
    assert!(database.one::<i64>(sessions).await > 2);
    database
        .run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND application_name = 'headgate-test'",
        )
        .await;
    while database.one::<i64>(sessions).await > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    let mut lost = 0;
    while replica.store.adopt(replica.adoption()).await.is_err() {
        lost += 1;
    }
    assert_eq!(lost, 1, "the others were tried before they were used");
}

#[tokio::test]
async fn a_database_that_is_down_is_unavailable_and_one_without_the_schema_says_so() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = PostgresStore::new(&format!("postgres://u:hush@{nobody}/x"), "headgate-test", 2).unwrap();
    let error = down.ping().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(!format!("{error:?}").contains("hush"));

    let empty = Database::empty().await;
    let store = empty.store();
    store.ping().await.unwrap();
    let error = store.adopt(Replica::new(&store, "a", "orders").adoption()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Failed { sqlstate, .. } if sqlstate == "42P01"), "{error:?}");
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up_within_the_statement_limit() {
    // Accepts and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            held.push(stream);
        }
    });
    let store = PostgresStore::new(&format!("postgres://u@{address}/x"), "headgate-test", 1).unwrap();
    let asked = tokio::time::timeout(Duration::from_secs(9), store.ping()).await.expect("an answer of our own");
    assert!(matches!(asked, Err(StoreError::Unavailable { .. })));
    accepting.abort();
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_the_pool_usable() {
    let database = Database::migrated().await;
    let store = PostgresStore::new(&database.url, "headgate-test", 1).unwrap();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    replica.reserve().await;
    let mut blocker = database.sql.begin().await.unwrap();
    sqlx::query("LOCK TABLE headgate.source IN EXCLUSIVE MODE").execute(&mut *blocker).await.unwrap();
    let append = replica.closing(events([1]));
    tokio::time::timeout(Duration::from_millis(100), store.append(&append)).await.unwrap_err();
    blocker.rollback().await.unwrap();
    // The pool has one connection, and it was in the middle of a statement.
    let answer = until_answered(async || store.append(&append).await).await;
    assert!(matches!(answer, Answer::Applied(appended) if appended.stored == 1), "{answer:?}");
}

/// The database sets this for all sessions, and what it is in each write to a row of the gate is kept in `seen`.
async fn set_for_all_and_seen_in_writes(database: &Database, set: &str, seen: &str) {
    database
        .execute(format!(
            "CREATE TABLE seen (setting text); \
             CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN INSERT INTO public.seen VALUES (current_setting('{seen}')); RETURN NULL; END $$; \
             CREATE TRIGGER see AFTER INSERT OR UPDATE ON headgate.source FOR EACH ROW EXECUTE FUNCTION see(); \
             DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET {set}', current_database()); END $$"
        ))
        .await;
}

#[tokio::test]
async fn every_grant_is_durable_before_it_is_acknowledged_whatever_the_database_is_set_to() {
    let database = Database::migrated().await;
    set_for_all_and_seen_in_writes(&database, "synchronous_commit = off", "synchronous_commit").await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.poll(events([1])).await;
    assert_eq!(database.all::<String>("SELECT setting FROM seen").await, ["on", "on", "on"]);
}

#[tokio::test]
async fn statements_are_read_committed_whatever_the_database_is_set_to() {
    let database = Database::migrated().await;
    let set = "default_transaction_isolation = ''repeatable read''";
    set_for_all_and_seen_in_writes(&database, set, "transaction_isolation").await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.poll(events([1])).await;
    assert_eq!(database.all::<String>("SELECT DISTINCT setting FROM seen").await, ["read committed"]);
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_waited_for_and_the_next_connection_finds_the_one_that_does() {
    let database = Database::migrated().await;
    let writes = database.store();
    let replica = Replica::adopting(&writes, "a", "orders").await;
    let make = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$";
    database.run(make).await;
    // As after a failover: what was connected then stays on the server that takes no writes.
    let store = database.store();
    let shown = |error: StoreError| {
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        std::error::Error::source(&error).unwrap().to_string()
    };
    assert!(shown(store.ping().await.unwrap_err()).contains("the server takes no writes"));
    assert!(shown(store.reserve(replica.reservation()).await.unwrap_err()).contains("the server takes no writes"));
    let nothing = Replica { store: store.clone(), ..replica.clone() };
    let extend = headgate::store::Extend { stream: nothing.stream, attempt: nothing.attempt, by: Duration::ZERO };
    assert!(shown(store.extend(extend.clone()).await.unwrap_err()).contains("the server takes no writes"));

    database
        .run(
            "SET TRANSACTION READ WRITE; \
             DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET default_transaction_read_only', current_database()); END $$",
        )
        .await;
    store.ping().await.unwrap();
    assert!(matches!(store.reserve(replica.reservation()).await.unwrap(), Answer::Applied(_)));
    assert!(matches!(store.extend(extend).await.unwrap(), Answer::Refused(Some(_))));
}

#[tokio::test]
async fn an_append_that_is_too_slow_is_rolled_back_and_goes_through_in_parts() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    database
        .run(
            "CREATE FUNCTION crawl() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.05); RETURN NEW; END $$; \
             CREATE TRIGGER crawl BEFORE INSERT ON headgate.event FOR EACH ROW EXECUTE FUNCTION crawl()",
        )
        .await;
    replica.reserve().await;
    let whole = replica.closing(events(1..=120));
    let error = replica.store.append(&whole).await.unwrap_err();
    assert!(matches!(error, StoreError::TooSlow { .. }), "{error:?}");
    assert_eq!(database.one::<i64>("SELECT count(*) FROM headgate.event").await, 0);
    let first = replica.appending(events(1..=60));
    assert_eq!(replica.append(&first).await.stored, 60);
    let last = replica.closing(events(61..=120));
    assert_eq!(replica.append(&last).await.events_stored, 120);
    assert_eq!(database.one::<i64>("SELECT count(*) FROM headgate.commits").await, 2);
}

#[tokio::test]
async fn a_request_in_flight_is_extended_while_appends_keep_every_connection_busy() {
    let database = Database::migrated().await;
    let store = PostgresStore::new(&database.url, "headgate-test", 1).unwrap();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    let mut other = Replica::adopting(&store, "a", "stock").await;
    replica.reserve().await;
    other.reserve().await;
    let mut blocker = database.sql.begin().await.unwrap();
    sqlx::query("LOCK TABLE headgate.event IN EXCLUSIVE MODE").execute(&mut *blocker).await.unwrap();
    let append = other.closing(events([1]));
    let appending = tokio::spawn(async move { other.store.append(&append).await });
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while database.one::<i64>(waiting).await == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(replica.extend(Duration::from_secs(3)).await, Answer::Applied(()));
    assert_eq!(replica.abort(Duration::ZERO).await, Answer::Applied(()));
    store.ping().await.unwrap();
    assert!(!appending.is_finished());
    blocker.rollback().await.unwrap();
    assert!(matches!(appending.await.unwrap().unwrap(), Answer::Applied(_)));
}

#[tokio::test]
async fn a_server_that_is_full_for_what_polls_does_not_count_as_answering() {
    let database = Database::migrated().await;
    let (role, url) = database.role_with_connections(1).await;
    let store = PostgresStore::new(&url, "headgate-test", 8).unwrap();
    // The only connection is taken for what is urgent.
    let error = store.ping().await.unwrap_err();
    assert!(cause(&error).contains("no connection was made within 3s: too many connections for role"), "{error:?}");
    database.execute(format!("ALTER ROLE {role} CONNECTION LIMIT 2")).await;
    store.ping().await.unwrap();
    store.close().await;
    database.execute(format!("DROP ROLE {role}")).await;
}

#[tokio::test]
async fn only_the_append_itself_is_ever_too_slow_to_be_sent_whole() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.reserve().await;
    // No day is there, and making one takes too long.
    database
        .run(
            "DO $$ DECLARE day text; BEGIN FOR day IN SELECT name FROM headgate.partition LOOP \
             EXECUTE 'DROP TABLE headgate.' || day; END LOOP; END $$; \
             CREATE OR REPLACE FUNCTION headgate.make_partitions(days_ahead integer, earliest timestamptz) RETURNS integer LANGUAGE sql \
             AS 'SELECT 1 FROM pg_sleep(6)'",
        )
        .await;
    let error = replica.store.append(&replica.closing(events(1..=2))).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
}

pub(crate) fn cause(error: &StoreError) -> String {
    std::error::Error::source(error).expect("a cause").to_string()
}

#[tokio::test]
async fn busy_connections_are_told_from_a_database_that_is_away() {
    let database = Database::migrated().await;
    let store = PostgresStore::new(&database.url, "headgate-test", 1).unwrap();
    let replica = Replica::adopting(&store, "a", "orders").await;
    let error = told_while_an_append_has_the_only_connection(&database, replica).await;
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(cause(&error).contains("all 1 connections were busy"), "{error:?}");
}

/// What a reservation hears then.
async fn told_while_an_append_has_the_only_connection(database: &Database, mut replica: Replica) -> StoreError {
    database
        .run(
            "CREATE FUNCTION crawl() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(4.2); RETURN NEW; END $$; \
             CREATE TRIGGER crawl BEFORE INSERT ON headgate.event FOR EACH ROW EXECUTE FUNCTION crawl()",
        )
        .await;
    replica.reserve().await;
    let append = replica.closing(events([1]));
    let reservation = replica.reservation();
    let (appended, reserved) = tokio::join!(biased; replica.store.append(&append), replica.store.reserve(reservation));
    assert!(matches!(appended, Ok(Answer::Applied(_))), "{appended:?}");
    reserved.unwrap_err()
}

/// A pooler that lets no `options` pass.
pub(crate) async fn pooler_before(url: &str) -> String {
    let mut url = url::Url::parse(url).unwrap();
    let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_query(Some("sslmode=disable"));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(async move {
                let length = client.read_u32().await.unwrap();
                let mut start = vec![0; length as usize - 4];
                client.read_exact(&mut start).await.unwrap();
                let mut fields = start[4..].split(|byte| *byte == 0);
                let mut passed = start[..4].to_vec();
                while let (Some(name @ [_, ..]), Some(value)) = (fields.next(), fields.next()) {
                    if name != b"options" {
                        passed.extend([name, value].into_iter().flat_map(|field| field.iter().copied().chain([0])));
                    }
                }
                passed.push(0);
                server.write_u32(u32::try_from(passed.len()).unwrap() + 4).await.unwrap();
                server.write_all(&passed).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    url.to_string()
}

/// The role or the database may have what does not pass.
async fn limit_statements(database: &Database) {
    database
        .run("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET statement_timeout = 4500', current_database()); END $$")
        .await;
}

#[tokio::test]
async fn a_session_without_the_servers_time_limit_is_not_used_and_says_what_to_do() {
    let database = Database::migrated().await;
    let store = PostgresStore::new(&pooler_before(&database.url).await, "headgate-test", 1).unwrap();
    let error = store.ping().await.unwrap_err();
    assert!(cause(&error).contains("statement_timeout did not arrive"), "{error:?}");
    limit_statements(&database).await;
    store.ping().await.unwrap();
}

#[tokio::test]
async fn later_troubles_are_not_put_down_to_what_a_session_lacked_once() {
    let database = Database::migrated().await;
    let store = PostgresStore::new(&pooler_before(&database.url).await, "headgate-test", 1).unwrap();
    let mut replica = Replica::new(&store, "a", "orders");
    let error = store.adopt(replica.adoption()).await.unwrap_err();
    assert!(cause(&error).contains("statement_timeout did not arrive"), "{error:?}");
    limit_statements(&database).await;
    replica.adopt().await;
    let error = told_while_an_append_has_the_only_connection(&database, replica).await;
    assert!(cause(&error).contains("all 1 connections were busy"), "{error:?}");
}
