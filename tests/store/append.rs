//! Events and cursor in one statement: stored once, byte for byte, whatever becomes of the answer.

use std::{sync::Arc, time::Duration};

use headgate::{
    event::{Cursor, Event, EventId, IdKind, Payload, SetAside, SetAsideReason},
    store::{Answer, Append, Appended, Close, EventStore, Gate, Then},
};

use crate::{
    database::Database,
    replica::{GAP, Replica, after, applied, event, events, refused},
};

const IDS: &str = "SELECT id FROM headgate.events ORDER BY sequence";
const SEQUENCES: &str = "SELECT sequence FROM headgate.events ORDER BY sequence";

fn forty_digits(last: u32) -> String {
    format!("{}{last:02}", "9".repeat(38))
}

#[tokio::test]
async fn payloads_are_stored_byte_for_byte() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    let payloads = [
        r#"{"a" :1,  "a":2, "b": null}"#,
        r#"{"lone surrogate": "\ud800", "nul": "\u0000"}"#,
        "[1234567890123456789012345678901234567890, 1.10, 1E400, -0]",
        "\"plain ünïcödé \u{1F600}\"",
        " null ",
    ];
    let sent: Vec<_> = payloads.iter().zip(1..).map(|(payload, id)| event(&format!("{id}"), payload)).collect();
    assert_eq!(replica.poll(sent).await.stored, 5);
    let stored: Vec<String> = database.all("SELECT payload::text FROM headgate.events ORDER BY sequence").await;
    assert_eq!(stored, payloads);
}

#[tokio::test]
async fn readers_see_every_field_of_an_event() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    let mut far = event("2", "{}");
    far.occurred_at = Some(jiff::Timestamp::MAX);
    (far.event_type, far.subject) = (None, Some("order 7".to_owned()));
    replica.poll(vec![event("1", "{}"), far]).await;
    let rows: Vec<String> = database
        .all(
            "SELECT format('%s|%s|%s|%s|%s|%s', stream, sequence, id, type, subject, occurred_at AT TIME ZONE 'UTC') \
             FROM headgate.events ORDER BY sequence",
        )
        .await;
    assert_eq!(
        rows,
        [
            "shop/orders|1|1|order.placed||2026-11-22 10:00:00.123456",
            "shop/orders|2|2||order 7|9999-12-30 22:00:00.999999",
        ]
    );
}

#[tokio::test]
async fn numbers_are_their_own_sequence() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.poll(events(["007", "12", "8000000000000000000"])).await;
    assert_eq!(database.all::<i64>(SEQUENCES).await, [7, 12, 8_000_000_000_000_000_000]);
    assert_eq!(database.all::<String>(IDS).await, ["007", "12", "8000000000000000000"]);
    assert_eq!(replica.adopt().await.id_kind, Some(IdKind::Number));
}

#[tokio::test]
async fn a_number_that_does_not_fit_makes_the_stream_counted_from_its_highest_sequence_on() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.poll(events(["5", "100"])).await;
    replica.poll(events(["101", &forty_digits(1)])).await;
    replica.poll(events([forty_digits(2)])).await;
    assert_eq!(database.all::<i64>(SEQUENCES).await, [5, 100, 101, 102, 103]);
    let ids = ["5", "100", "101", &forty_digits(1), &forty_digits(2)];
    assert_eq!(database.all::<String>(IDS).await, ids);
}

#[tokio::test]
async fn opaque_ids_are_counted_in_the_order_of_delivery() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.poll(events(["zulu", "alpha"])).await;
    replica.poll(events(["mike"])).await;
    assert_eq!(database.all::<String>(IDS).await, ["zulu", "alpha", "mike"]);
    assert_eq!(database.all::<i64>(SEQUENCES).await, [1, 2, 3]);
    assert_eq!(replica.adopt().await.id_kind, Some(IdKind::Opaque));
}

#[tokio::test]
async fn the_parts_of_one_answer_are_appended_one_after_the_other() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.reserve().await;
    for ids in [1..=2, 3..=3, 4..=6] {
        let part = replica.appending(events(ids));
        replica.append(&part).await;
    }
    let last = Append { not_ascending: true, ..replica.closing(vec![]) };
    assert_eq!(replica.append(&last).await, Appended { events_stored: 6, ..Appended::default() });
    assert!(!replica.adopt().await.progressive);
    let commits: Vec<String> = database
        .all("SELECT format('%s:%s-%s:%s', part, first_sequence, last_sequence, n) FROM headgate.commits ORDER BY part")
        .await;
    assert_eq!(commits, ["0:1-2:2", "1:3-3:1", "2:4-6:3"]);
    let apart: i64 = database
        .one(
            "SELECT count(*) FROM headgate.commits AS c JOIN headgate.event AS e \
             ON e.stream = c.stream AND e.stored_at = c.stored_at AND e.sequence BETWEEN c.first_sequence AND c.last_sequence",
        )
        .await;
    assert_eq!(apart, 6, "every event is in exactly one commit");
}

#[tokio::test]
async fn that_ids_do_not_ascend_is_remembered_until_their_epoch_ends() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.reserve().await;
    let unsorted = Append { not_ascending: true, ..replica.closing(events([1, 2])) };
    replica.append(&unsorted).await;
    assert!(!replica.adopt().await.progressive);
    let before = replica.clone();
    assert!(replica.reset(1).await.progressive, "the next epoch may read other ids");
    let again = applied(before.store.reset(before.resetting_to(1, Cursor::Start)).await.unwrap());
    assert!(again.progressive, "also where its answer was lost");
    assert!(replica.adopt().await.progressive);
}

#[tokio::test]
async fn an_append_whose_answer_was_lost_is_applied_once() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.reserve().await;
    let again = async |replica: &Replica, append: &Append| replica.store.append(append).await.unwrap();

    let first = replica.appending(events([1, 2]));
    let stored = replica.append(&first).await;
    assert_eq!(applied(again(&replica, &first).await), stored);

    // An id below the one before it leaves the cursor where it is, so the cursor alone cannot tell.
    let late = Append { cursor_after: replica.cursor.clone(), ..replica.appending(events([0])) };
    assert_eq!(replica.append(&late).await.stored, 1);
    assert_eq!(applied(again(&replica, &late).await).stored, 1);

    let last = replica.closing(events([3]));
    let stored = replica.append(&last).await;
    assert_eq!(applied(again(&replica, &last).await), stored);
    assert_eq!(stored.events_stored, 4);

    // Another has reserved since: only the record of the commit still knows.
    let mut heir = Replica::adopting(&replica.store, "b", "orders").await;
    heir.reserve().await;
    assert_eq!(applied(again(&replica, &last).await), stored);
    let never_sent = Append { part: 9, ..last };
    refused(again(&replica, &never_sent).await);
    assert_eq!(database.all::<i64>(SEQUENCES).await, [0, 1, 2, 3]);
}

#[tokio::test]
async fn an_empty_last_append_may_be_repeated() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.reserve().await;
    let then = Then::Closes(Close { next_start_in: Duration::from_secs(30) });
    let empty = Append { then, ..replica.closing(vec![]) };
    replica.append(&empty).await;
    applied(replica.store.append(&empty).await.unwrap());
    let row = refused(replica.try_reserve().await);
    assert!(row.attempt.is_none() && row.starts_in > Duration::from_secs(20), "{row:?}");
    assert_eq!(database.one::<i64>("SELECT count(*) FROM headgate.commits").await, 0);
}

#[tokio::test]
async fn a_late_answer_is_kept_as_long_as_nobody_has_reserved_since() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.in_flight = Duration::ZERO;
    replica.reserve().await;
    let late = replica.closing(events([1]));
    replica.append(&late).await;

    replica.reserve().await;
    let too_late = replica.closing(events([2]));
    let mut heir = Replica::adopting(&replica.store, "b", "orders").await;
    heir.reserve().await;
    let row = refused(replica.store.append(&too_late).await.unwrap());
    assert_eq!((row.attempt, row.cursor), (Some(heir.attempt), after("1")));
}

#[tokio::test]
async fn the_next_start_is_counted_from_the_last_append() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.reserve().await;
    let then = Then::Closes(Close { next_start_in: Duration::from_millis(50) });
    let append = Append { then, ..replica.closing(events([1])) };
    replica.append(&append).await;
    // Not from what RESERVE wrote, which had to assume that the request leaves at the last moment.
    let counted: bool = database
        .one(
            "SELECT s.not_before - c.stored_at = interval '50 milliseconds' \
             FROM headgate.source AS s JOIN headgate.commits AS c USING (stream)",
        )
        .await;
    assert!(counted);
}

#[tokio::test]
async fn appends_of_many_streams_that_come_together_are_judged_each_alone() {
    let database = Database::migrated().await;
    let store = database.store();
    let mut replicas = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let mut replica = Replica::adopting(&store, "me", name).await;
        replica.reserve().await;
        replicas.push(replica);
    }
    let mut appends = [
        replicas[0].closing(events([1, 2, 3])),
        replicas[1].closing(events([4])),
        replicas[2].closing(events(["x", "y"])),
        replicas[3].closing(vec![]),
    ];
    appends[1].cursor_before = after("3");
    let answers = futures::future::try_join_all(appends.iter().map(|append| store.append(append))).await.unwrap();
    assert!(matches!(answers[1], Answer::Refused(Some(_))), "{answers:?}");
    let stored: Vec<_> = [0, 2, 3].into_iter().map(|n: usize| applied(answers[n].clone()).stored).collect();
    assert_eq!(stored, [3, 2, 0]);
    let ids: Vec<String> =
        database.all("SELECT stream || ' ' || id FROM headgate.events ORDER BY stream, sequence").await;
    assert_eq!(ids, ["shop/a 1", "shop/a 2", "shop/a 3", "shop/c x", "shop/c y"]);
}

#[tokio::test]
async fn what_was_set_aside_before_is_kept_with_its_reason_and_moves_the_cursor() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.reserve().await;
    let item = SetAside {
        id: EventId::new("9").unwrap(),
        reason: SetAsideReason::NestedTooDeep,
        item: Box::from(*b"[[\xff\x00]]"),
    };
    let append = Append { set_aside: Arc::new([item]), cursor_after: after("9"), ..replica.closing(vec![]) };
    replica.append(&append).await;
    assert_eq!(replica.adopt().await.cursor, after("9"));
    let kept: Vec<u8> =
        database.one("SELECT item FROM headgate.set_aside WHERE id = '9' AND reason = 'NestedTooDeep'").await;
    assert_eq!(kept, b"[[\xff\x00]]");
}

#[tokio::test]
async fn what_postgresql_refuses_is_set_aside_and_the_rest_goes_on() {
    let database = Database::migrated().await;
    let store = database.store();
    let mut replica = Replica::adopting(&store, "a", "orders").await;
    let mut bystander = Replica::adopting(&store, "a", "stock").await;
    replica.reserve().await;
    bystander.reserve().await;

    let mut sent = events(1..=1000);
    sent[499].event_type = Some("nul \0 in it".to_owned());
    sent[500].payload = Payload::from_json_text("{not json");
    sent[999].payload = Payload::from_json_text("[".repeat(100_000) + &"]".repeat(100_000));
    let appends = [replica.closing(sent), bystander.closing(events([1, 2]))];
    let answers = futures::future::join_all(appends.iter().map(|append| store.append(append))).await;
    let stored: Vec<_> = answers.into_iter().map(|answer| applied(answer.unwrap()).stored).collect();
    assert_eq!(stored, [997, 2]);
    let aside: Vec<String> =
        database.all("SELECT id || ' ' || reason FROM headgate.set_aside ORDER BY length(id), id").await;
    assert_eq!(aside, ["500 NulCharacter", "501 RefusedByDatabase", "1000 RefusedByDatabase"]);
    assert_eq!(replica.adopt().await.cursor, after("1000"));
}

#[tokio::test]
async fn an_id_twice_in_one_append_is_stored_once() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    let sent = vec![event("1", "1"), event("2", "1"), event("1", "1"), event("2", "2")];
    let appended = replica.poll(sent).await;
    assert_eq!(appended, Appended { stored: 2, repeated: 1, conflicting: 1, events_stored: 2 });
    assert_eq!(database.one::<String>("SELECT convert_from(item, 'UTF8') FROM headgate.set_aside").await, "2");
}

#[tokio::test]
async fn an_error_tells_no_value() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.reserve().await;
    database.run("ALTER TABLE headgate.event ADD CHECK (subject <> 'secret-subject')").await;
    let secret = Event { subject: Some("secret-subject".to_owned()), ..event("1", r#""secret-payload""#) };
    let error = replica.store.append(&replica.closing(vec![secret])).await.unwrap_err();
    let shown = format!("{error} {error:?} {:?}", std::error::Error::source(&error).map(ToString::to_string));
    assert!(!shown.contains("secret"), "{shown}");
    assert_eq!(replica.cursor, Cursor::Start);
}

#[tokio::test]
async fn an_append_that_does_not_close_keeps_the_row_shut_as_an_extension_does() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    for epoch in 1..=2 {
        replica.in_flight = GAP;
        replica.reserve().await;
        for (id, in_flight) in [(1, 60), (2, 1)] {
            let then = Then::GoesOn { in_flight: Duration::from_secs(in_flight) };
            let part = Append { then, ..replica.appending(events([id])) };
            replica.append(&part).await;
            let row = refused(replica.store.reserve(replica.reservation()).await.unwrap());
            assert!(row.in_flight_for > Duration::from_secs(50), "{row:?}");
        }
        assert_eq!(replica.abort(Duration::ZERO).await, Answer::Applied(()));
        // The same for events that are looked up.
        replica.reset(epoch).await;
    }
    assert_eq!(database.one::<i64>("SELECT count(*) FROM headgate.event").await, 2);
}
