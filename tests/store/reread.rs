//! After a reset the same events come again: none is stored twice, and none is missed.

use std::sync::Arc;

use headgate::{
    event::{EventId, SetAside, SetAsideReason},
    store::{Append, Appended, EventStore, Gate},
};

use crate::{
    database::Database,
    replica::{Replica, after, event, events},
};

const IDS: &str = "SELECT id FROM headgate.events ORDER BY sequence";

/// Three kinds of ids, nine each, in the order of their source.
fn nine_ids(kind: &str) -> Vec<String> {
    (1..=9)
        .map(|n| match kind {
            "numbers" => n.to_string(),
            "padded numbers" => format!("{n:04}"),
            // Digits and leading zeros among them, and not in the order of their texts.
            "opaque" => format!("0{}x{n}", 9 - n),
            "numbers that outgrow bigint" if n < 5 => n.to_string(),
            "numbers that outgrow bigint" | "long numbers" => format!("{}{n}", "9".repeat(39)),
            other => panic!("no kind {other}"),
        })
        .collect()
}

async fn a_reset_stores_no_event_twice(kind: &str) {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    let ids = nine_ids(kind);
    replica.poll(events(&ids[..4])).await;
    replica.poll(events(&ids[4..6])).await;

    // Twice, the second time in the middle of reading again.
    replica.reset(1).await;
    assert_eq!(
        replica.poll(events(&ids[..3])).await,
        Appended { repeated: 3, events_stored: 6, ..Appended::default() }
    );
    replica.reset(2).await;
    assert_eq!(replica.poll(events(&ids[..5])).await.repeated, 5, "{kind}");
    let seam = replica.poll(events(&ids[5..8])).await;
    assert_eq!(seam, Appended { stored: 2, repeated: 1, conflicting: 0, events_stored: 8 }, "{kind}");
    assert_eq!(replica.poll(events(&ids[8..])).await.stored, 1);
    assert_eq!(database.all::<String>(IDS).await, ids, "{kind}");
}

#[tokio::test]
async fn a_reset_stores_no_event_twice_of_numbers() {
    a_reset_stores_no_event_twice("numbers").await;
}

#[tokio::test]
async fn a_reset_stores_no_event_twice_of_padded_numbers() {
    a_reset_stores_no_event_twice("padded numbers").await;
}

#[tokio::test]
async fn a_reset_stores_no_event_twice_of_numbers_longer_than_bigint() {
    a_reset_stores_no_event_twice("long numbers").await;
}

#[tokio::test]
async fn a_reset_stores_no_event_twice_of_opaque_ids() {
    a_reset_stores_no_event_twice("opaque").await;
}

#[tokio::test]
async fn a_reset_stores_no_event_twice_of_numbers_that_outgrow_bigint() {
    a_reset_stores_no_event_twice("numbers that outgrow bigint").await;
}

#[tokio::test]
async fn the_same_number_in_another_spelling_is_the_same_event() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    let long = "9".repeat(40);
    replica.poll(vec![event("7", "1"), event("008", "1"), event(&long, "1")]).await;
    replica.reset(1).await;
    let again = vec![event("007", "1"), event("8", "1"), event(&format!("0{long}"), "1")];
    assert_eq!(replica.poll(again).await.repeated, 3);
    assert_eq!(database.all::<String>(IDS).await, ["7", "008", &long]);
}

#[tokio::test]
async fn the_same_id_with_other_content_is_set_aside_and_the_stored_event_stays() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.poll(vec![event("1", "1"), event("2", "1"), event("3", "1")]).await;
    let mut other_subject = event("3", "1");
    other_subject.subject = Some("another".to_owned());
    for epoch in 1..=2 {
        replica.reset(epoch).await;
        let again = vec![event("1", "1"), event("2", " 1"), other_subject.clone()];
        let appended = replica.poll(again).await;
        assert_eq!(appended, Appended { stored: 0, repeated: 1, conflicting: 2, events_stored: 3 });
    }
    assert_eq!(replica.poll(events([4])).await.stored, 1);
    let stored: Vec<String> = database.all("SELECT payload::text FROM headgate.events WHERE sequence <= 3").await;
    assert_eq!(stored, ["1", "1", "1"]);
    let aside: Vec<String> = database
        .all("SELECT format('%s %s [%s]', id, reason, convert_from(item, 'UTF8')) FROM headgate.set_aside ORDER BY id")
        .await;
    assert_eq!(aside, ["2 ConflictingEvent [ 1]", "3 ConflictingEvent [1]"], "kept once, however often they come");
}

#[tokio::test]
async fn a_lost_answer_of_a_reread_append_tells_what_it_did() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.poll(events([1, 2])).await;
    replica.reset(1).await;
    replica.reserve().await;
    let again = replica.appending(vec![event("1", "1"), event("2", r#"{"id": "2"}"#)]);
    let told = replica.append(&again).await;
    assert_eq!(told, Appended { stored: 0, repeated: 1, conflicting: 1, events_stored: 2 });
    replica.part -= 1;
    assert_eq!(replica.append(&again).await, told);
}

#[tokio::test]
async fn an_id_below_one_that_went_ahead_is_stored_at_its_place() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.reserve().await;
    let ahead = replica.appending(events([1, 2, 9]));
    replica.append(&ahead).await;
    let behind = Append { cursor_after: after("9"), not_ascending: true, ..replica.closing(events([2, 5, 7])) };
    assert_eq!(replica.append(&behind).await, Appended { stored: 2, repeated: 1, conflicting: 0, events_stored: 5 });
    assert_eq!(database.all::<i64>("SELECT sequence FROM headgate.events ORDER BY sequence").await, [1, 2, 5, 7, 9]);
}

#[tokio::test]
async fn ids_are_looked_up_over_all_days() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.poll(events(["x", "y"])).await;
    // As if they had been stored on another day.
    database.run("UPDATE headgate.event SET stored_at = stored_at + interval '3 days'").await;
    replica.reset(1).await;
    assert_eq!(replica.poll(events(["x", "y", "z"])).await.repeated, 2);
    assert_eq!(database.all::<String>(IDS).await.len(), 3);
}

#[tokio::test]
async fn once_the_reread_is_over_nothing_is_looked_up_any_more() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    let pending = "SELECT count(*) FROM headgate.source WHERE reread_to IS NOT NULL";
    replica.poll(events(["x", "y"])).await;
    replica.reset(1).await;
    replica.poll(events(["x"])).await;
    assert_eq!(database.one::<i64>(pending).await, 1);
    replica.poll(events(["y"])).await;
    assert_eq!(database.one::<i64>(pending).await, 0);
}

#[tokio::test]
async fn a_stream_that_changes_the_kind_of_its_ids_looks_up_only_those_of_that_kind_and_stores_none_twice() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    let pending = "SELECT count(*) FROM headgate.source WHERE reread_to IS NOT NULL";
    replica.poll(events(["x", "y"])).await;

    replica.reset(1).await;
    assert_eq!(replica.poll(events(1..=3)).await.stored, 3);
    assert_eq!(database.one::<i64>(pending).await, 0, "no opaque id can come among numbers");

    replica.reset(2).await;
    assert_eq!(replica.poll(events(["x"])).await.repeated, 1, "the opaque ids of the first epoch come again");
    assert_eq!(database.one::<i64>(pending).await, 1);
    replica.reset(3).await;
    assert_eq!(replica.poll(events(1..=2)).await.repeated, 2);
    assert_eq!(
        replica.poll(events(3..=4)).await,
        Appended { stored: 1, repeated: 1, conflicting: 0, events_stored: 6 }
    );
    assert_eq!(database.one::<i64>(pending).await, 0);

    replica.reset(4).await;
    assert_eq!(replica.poll(events(["x", "y", "z"])).await.repeated, 2);
    assert_eq!(database.one::<i64>(pending).await, 0);
    assert_eq!(database.all::<String>(IDS).await, ["x", "y", "1", "2", "3", "4", "z"]);
}

#[tokio::test]
async fn a_reset_to_where_the_stream_stands_looks_nothing_up() {
    let database = Database::migrated().await;
    for (name, ids, start, looks_up) in [
        ("opaque", ["x", "y"], "y", false),
        ("earlier", ["x", "y"], "x", true),
        ("unknown", ["x", "y"], "zz", true),
        ("numbers", ["1", "2"], "2", false),
        ("beyond", ["1", "2"], "10", false),
        ("below", ["1", "10"], "9", true),
    ] {
        let mut replica = Replica::adopting(&database.store(), "a", name).await;
        replica.poll(events(ids)).await;
        let reset = replica.resetting_to(1, after(start));
        replica.store.reset(reset).await.unwrap();
        let pending: Vec<String> = database.all("SELECT stream FROM headgate.source WHERE reread_to IS NOT NULL").await;
        assert_eq!(pending.contains(&replica.stream.as_str().to_owned()), looks_up, "{name}");
    }
}

#[tokio::test]
async fn a_number_that_comes_again_in_the_next_part_of_a_response_is_stored_once_also_where_it_is_counted() {
    let database = Database::migrated().await;
    for (name, ids) in [("fits", ["1", "2", "3", "4"]), ("counted", ["91", "92", "93", "94"])] {
        let ids = ids.map(|id| if name == "counted" { format!("{}{id}", "9".repeat(38)) } else { id.to_owned() });
        let mut replica = Replica::adopting(&database.store(), "a", name).await;
        replica.reserve().await;
        let first = replica.appending(events(&ids[..2]));
        replica.append(&first).await;
        let again = replica.appending(events(&ids[1..3]));
        let told = replica.append(&again).await;
        assert_eq!(told, Appended { stored: 1, repeated: 1, conflicting: 0, events_stored: 3 }, "{name}");
        // One that went ahead of others.
        let late =
            Append { cursor_after: replica.cursor.clone(), not_ascending: true, ..replica.closing(events(&ids[..1])) };
        assert_eq!(replica.append(&late).await.repeated, 1, "{name}");
        replica.poll(events(&ids[3..])).await;
    }
    assert_eq!(database.one::<i64>("SELECT count(*) FROM headgate.event").await, 8);
}

#[tokio::test]
async fn stored_opaque_events_are_found_unless_a_reset_has_asked_for_it() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.poll(events(["x", "00y", "z"])).await;
    let stream = replica.stream.clone();
    let found = async |replica: &Replica, ids: &[&str]| {
        let ids: Vec<_> = ids.iter().map(|id| EventId::new(id).unwrap()).collect();
        let found = replica.store.find_stored(&stream, &ids.iter().collect::<Vec<_>>()).await.unwrap();
        found.iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(found(&replica, &["new", "x", "newer"]).await, ["x"]);
    assert_eq!(found(&replica, &["00y"]).await, ["00y"]);
    assert!(found(&replica, &["0y", "new"]).await.is_empty(), "texts are equal only as they are");
    replica.reset(1).await;
    assert!(found(&replica, &["x"]).await.is_empty());
    replica.poll(events(["x", "00y", "z"])).await;
    assert_eq!(found(&replica, &["x"]).await, ["x"]);
}

#[tokio::test]
async fn items_set_aside_are_found_with_the_events_of_their_stream_unless_a_reset_has_asked_for_them() {
    let database = Database::migrated().await;
    let ids: Vec<_> = ["deep", "x", "new"].iter().map(|id| EventId::new(id).unwrap()).collect();
    let item = SetAside { id: ids[0].clone(), reason: SetAsideReason::NestedTooDeep, item: Box::from(*b"[]") };
    // A stream without an event is read again without a mark.
    for (name, stored, known) in [("none", vec![], vec![]), ("some", events(["x"]), vec!["deep", "x"])] {
        let mut replica = Replica::adopting(&database.store(), "a", name).await;
        replica.reserve().await;
        let page = replica.closing(stored);
        let page = Append { set_aside: Arc::new([item.clone()]), cursor_after: after("deep"), ..page };
        replica.append(&page).await;
        let stream = replica.stream.clone();
        let found = async |replica: &Replica| {
            let found = replica.store.find_stored(&stream, &ids.iter().collect::<Vec<_>>()).await.unwrap();
            let mut found: Vec<_> = found.iter().map(|id| id.as_str().to_owned()).collect();
            found.sort();
            found
        };
        assert_eq!(found(&replica).await, known, "{name}");
        replica.reset(1).await;
        assert!(found(&replica).await.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn an_event_has_older_ones_until_retention_has_dropped_them_all() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.poll(events(["x", "00y", "z"])).await;
    replica.reserve().await;
    let id = |text: &str| EventId::new(text).unwrap();
    let item = SetAside { id: id("deep"), reason: SetAsideReason::NestedTooDeep, item: Box::from(*b"[]") };
    let page = replica.closing(vec![]);
    replica.append(&Append { set_aside: Arc::new([item]), cursor_after: after("deep"), ..page }).await;
    let have_older = async || {
        let mut have = Vec::new();
        for text in ["x", "00y", "z", "deep", "new"] {
            if replica.store.has_older(&replica.stream, &id(text)).await.unwrap() {
                have.push(text);
            }
        }
        have
    };
    assert_eq!(have_older().await, ["x", "00y", "z", "deep"], "the first of all was never behind another");
    for left in [&["z", "deep"][..], &["deep"], &[]] {
        let oldest = "DELETE FROM headgate.event WHERE sequence = (SELECT min(sequence) FROM headgate.event)";
        database.run(oldest).await;
        assert_eq!(have_older().await, left);
    }
}

#[tokio::test]
async fn opaque_events_that_are_known_to_be_stored_are_looked_up_among_new_ones() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.poll(vec![event("x", "1"), event("y", "1")]).await;
    replica.reserve().await;
    let page = vec![event("z", "1"), event("x", "1"), event("y", "2"), event("zz", "1")];
    let page = Append { looks_up: true, ..replica.closing(page) };
    assert_eq!(replica.append(&page).await, Appended { stored: 2, repeated: 1, conflicting: 1, events_stored: 4 });
    assert_eq!(database.all::<String>(IDS).await, ["x", "y", "z", "zz"]);
    assert_eq!(database.all::<String>("SELECT id FROM headgate.set_aside").await, ["y"]);
}

#[tokio::test]
async fn a_reread_in_parts_is_over_with_the_last_of_them_where_its_mark_was_set_aside() {
    let database = Database::migrated().await;
    let pending = "SELECT count(*) FROM headgate.source WHERE reread_to IS NOT NULL";
    let long = |digit: &str| format!("{}{digit}", "9".repeat(39));
    for (name, ids) in [("opaque", ["x", "y", "z"].map(str::to_owned)), ("counted", ["1", "2", "3"].map(long))] {
        let mut replica = Replica::adopting(&database.store(), "a", name).await;
        let set_aside: Arc<[_]> = Arc::new([SetAside {
            id: EventId::new(&ids[2]).unwrap(),
            reason: SetAsideReason::NestedTooDeep,
            item: Box::from(*b"[]"),
        }]);
        replica.reserve().await;
        let end = after(&ids[2]);
        let page = replica.closing(events(&ids[..2]));
        replica.append(&Append { set_aside: Arc::clone(&set_aside), cursor_after: end.clone(), ..page }).await;

        replica.reset(1).await;
        replica.reserve().await;
        let first = replica.appending(events(&ids[..1]));
        assert_eq!(replica.append(&first).await.repeated, 1, "{name}");
        assert_eq!(database.one::<i64>(pending).await, 1, "{name}");
        let second = Append { set_aside, cursor_after: end, ..replica.closing(events(&ids[1..2])) };
        assert_eq!(replica.append(&second).await.repeated, 1, "{name}");
        assert_eq!(database.one::<i64>(pending).await, 0, "{name}");
    }
    assert_eq!(database.one::<i64>("SELECT count(*) FROM headgate.event").await, 4);
    assert_eq!(database.one::<i64>("SELECT count(*) FROM headgate.set_aside").await, 2);
}
