//! Who may send: reserve, extend, abort, reset.

use std::time::Duration;

use headgate::{
    event::Cursor,
    store::{Answer, Epoch, EventStore, Fence, Gate, Holder, Reserve, StoreError},
};

use crate::{
    database::Database,
    replica::{GAP, Replica, after, applied, events, refused},
};

#[tokio::test]
async fn a_new_stream_begins_at_its_start_and_may_ask_at_once() {
    let database = Database::migrated().await;
    let mut replica = Replica::new(&database.store(), "a", "orders");
    let adopted = replica.adopt().await;
    assert_eq!((adopted.fence, adopted.epoch, adopted.cursor), (Fence(1), Epoch(0), Cursor::Start));
    assert_eq!((adopted.starts_in, adopted.in_flight_for, adopted.id_kind), (Duration::ZERO, Duration::ZERO, None));
    assert!(adopted.progressive && !adopted.start_ignored);
    applied(replica.try_reserve().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_reserve_at_once_one_is_granted() {
    const STREAMS: usize = 30;
    let database = Database::migrated().await;
    let store = database.store();
    let mut replicas = Vec::new();
    for n in 0..STREAMS {
        replicas.push(Replica::adopting(&store, "a", &format!("source-{n}")).await);
    }
    let racers = (0..8).map(|_| {
        let (store, replicas) = (store.clone(), replicas.clone());
        tokio::spawn(async move {
            let mut granted = 0;
            let mut asking: Vec<_> = replicas.iter().map(Replica::reservation).collect();
            while !asking.is_empty() {
                let answers: Vec<_> =
                    store.reserve_all(&asking).await.unwrap().into_iter().map(Result::unwrap).collect();
                granted += answers.iter().filter(|answer| matches!(answer, Answer::Applied(_))).count();
                let mut answers = answers.into_iter();
                asking.retain(|_| answers.next() == Some(Answer::Locked));
            }
            granted
        })
    });
    let granted: usize = futures::future::join_all(racers).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(granted, STREAMS);
}

#[tokio::test]
async fn nobody_may_ask_while_a_request_is_in_flight_and_anybody_after_its_deadline_and_the_gap() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.in_flight = Duration::from_secs(2);
    replica.reserve().await;
    let crashed = replica.attempt;

    let mut heir = Replica::adopting(&database.store(), "b", "orders").await;
    let row = refused(heir.try_reserve().await);
    assert_eq!(row.attempt, Some(crashed));
    assert!(row.in_flight_for > Duration::ZERO && row.in_flight_for <= Duration::from_secs(2), "{row:?}");

    tokio::time::sleep(row.in_flight_for + GAP).await;
    applied(heir.try_reserve().await);
}

#[tokio::test]
async fn a_request_that_is_extended_keeps_others_away_when_the_gap_has_long_passed() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.in_flight = GAP;
    replica.reserve().await;
    let extended = Duration::from_secs(3);
    applied(replica.extend(extended).await);
    let mut heir = Replica::adopting(&database.store(), "b", "orders").await;
    let wait = refused(heir.try_reserve().await).starts_in;
    tokio::time::sleep(wait).await;

    // Nothing but the request in flight stands against it now.
    let row = refused(heir.try_reserve().await);
    assert!(row.starts_in.is_zero() && row.in_flight_for > Duration::ZERO, "{row:?}");
    tokio::time::sleep(row.in_flight_for).await;
    applied(heir.try_reserve().await);
}

#[tokio::test]
async fn a_slot_a_little_ahead_is_given_and_a_later_one_is_refused() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.poll(events([1])).await;
    replica.reserve().await;
    applied(replica.abort(Duration::from_mins(1)).await);

    let ahead = |at_most_ahead| Reserve { at_most_ahead, ..replica.reservation() };
    let row = refused(replica.store.reserve(ahead(Duration::from_secs(30))).await.unwrap());
    assert!(row.starts_in > Duration::from_secs(50), "{row:?}");
    let reserved = applied(replica.store.reserve(ahead(Duration::from_secs(70))).await.unwrap());
    assert!(reserved.wait > Duration::from_secs(50) && reserved.wait <= Duration::from_mins(1), "{reserved:?}");
}

#[tokio::test]
async fn a_reservation_needs_holder_fence_and_cursor_of_the_row() {
    let database = Database::migrated().await;
    let replica = Replica::adopting(&database.store(), "a", "orders").await;
    for wrong in [
        Reserve { holder: Holder::new("b"), ..replica.reservation() },
        Reserve { fence: Fence(replica.fence.0 - 1), ..replica.reservation() },
        Reserve { cursor: after("7"), ..replica.reservation() },
    ] {
        refused(replica.store.reserve(wrong).await.unwrap());
    }
    let elsewhere = Replica::new(&replica.store, "a", "nothing-here");
    assert_eq!(elsewhere.store.reserve(elsewhere.reservation()).await.unwrap(), Answer::Refused(None));
}

#[tokio::test]
async fn a_reservation_closes_the_attempt_that_its_caller_knows_to_be_over() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.in_flight = Duration::from_mins(1);
    replica.reserve().await;
    let first = replica.attempt;
    refused(replica.try_reserve().await);

    // The gap since the first byte has not passed: refused for that alone, and still open.
    let early = Reserve { ended: Some(replica.ended(Duration::from_secs(50))), ..replica.reservation() };
    let row = refused(replica.store.reserve(early).await.unwrap());
    assert_eq!((row.attempt, row.in_flight_for), (Some(first), Duration::ZERO));
    assert!(row.starts_in > Duration::from_secs(40) && row.starts_in <= Duration::from_secs(50), "{row:?}");
    assert!(refused(replica.try_reserve().await).in_flight_for > Duration::from_secs(30), "nothing was closed");

    let second = Reserve { ended: Some(replica.ended(Duration::ZERO)), ..replica.reservation() };
    let attempt = second.attempt;
    assert_eq!(applied(replica.store.reserve(second).await.unwrap()).wait, Duration::ZERO);
    assert_eq!(refused(replica.try_reserve().await).attempt, Some(attempt));
}

#[tokio::test]
async fn only_the_holder_closes_with_a_reservation_and_only_its_own_attempt() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.in_flight = Duration::from_mins(1);
    replica.reserve().await;
    let stranger = Replica::new(&database.store(), "a", "orders");
    let of_nobody = Reserve { ended: Some(stranger.ended(Duration::ZERO)), ..replica.reservation() };
    assert!(refused(replica.store.reserve(of_nobody).await.unwrap()).in_flight_for > Duration::ZERO);

    let heir = Replica::adopting(&database.store(), "b", "orders").await;
    let fenced = Reserve { ended: Some(replica.ended(Duration::ZERO)), ..replica.reservation() };
    assert_eq!(refused(replica.store.reserve(fenced).await.unwrap()).fence, heir.fence);
    let row = refused(heir.store.reserve(heir.reservation()).await.unwrap());
    assert_eq!(row.attempt, Some(replica.attempt), "it stands as it stood");
    assert!(row.in_flight_for > Duration::ZERO);
}

#[tokio::test]
async fn no_caller_can_make_the_gap_shorter_than_200_ms() {
    let database = Database::migrated().await;
    let replica = Replica::adopting(&database.store(), "a", "orders").await;
    let hasty = Reserve { min_interval: Duration::ZERO, in_flight: Duration::ZERO, ..replica.reservation() };
    applied(replica.store.reserve(hasty).await.unwrap());
    let wait: f64 = database.one("SELECT extract(epoch FROM not_before - slot)::float8 FROM headgate.source").await;
    assert!(wait >= GAP.as_secs_f64(), "{wait}");
}

#[tokio::test]
async fn after_a_crash_the_gap_counts_from_the_last_moment_at_which_the_request_can_have_arrived() {
    let database = Database::migrated().await;
    let replica = Replica::adopting(&database.store(), "a", "orders").await;
    let (send_within, in_flight) = (Duration::from_millis(100), Duration::from_secs(3));
    let min_interval = Duration::from_mins(1);
    let reserve = Reserve { send_within, in_flight, min_interval, ..replica.reservation() };
    applied(replica.store.reserve(reserve).await.unwrap());
    let wait: f64 = database.one("SELECT extract(epoch FROM not_before - slot)::float8 FROM headgate.source").await;
    assert!((wait - (send_within + in_flight + min_interval).as_secs_f64()).abs() < 1e-6, "{wait}");
}

#[tokio::test]
async fn a_locked_row_is_locked_and_not_refused() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.reserve().await;
    let mut blocker = database.sql.begin().await.unwrap();
    sqlx::query("SELECT FROM headgate.source FOR UPDATE").execute(&mut *blocker).await.unwrap();

    assert_eq!(replica.try_reserve().await, Answer::Locked);
    assert_eq!(replica.extend(GAP).await, Answer::Locked);
    assert_eq!(replica.abort(GAP).await, Answer::Locked);
    assert_eq!(replica.store.adopt(replica.adoption()).await.unwrap(), Answer::Locked);
    assert_eq!(replica.store.append(&replica.closing(events([1]))).await.unwrap(), Answer::Locked);
    assert_eq!(replica.store.reset(replica.resetting_to(1, Cursor::Start)).await.unwrap(), Answer::Locked);

    blocker.rollback().await.unwrap();
    let append = replica.closing(events([1]));
    replica.append(&append).await;
}

#[tokio::test]
async fn an_extension_lengthens_and_never_shortens() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.reserve().await;
    applied(replica.extend(Duration::from_mins(1)).await);
    applied(replica.extend(Duration::from_secs(1)).await);
    let row = refused(replica.try_reserve().await);
    assert!(row.in_flight_for > Duration::from_secs(50), "{row:?}");

    applied(replica.abort(Duration::ZERO).await);
    refused(replica.extend(Duration::from_mins(1)).await);
}

#[tokio::test]
async fn an_abort_opens_the_gate_but_never_before_the_slot() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.reserve().await;
    applied(replica.abort(Duration::from_secs(30)).await);

    let ahead = Reserve { at_most_ahead: Duration::from_mins(1), ..replica.reservation() };
    replica.attempt = ahead.attempt;
    applied(replica.store.reserve(ahead).await.unwrap());
    // The slot is 30 s ahead: the request before it still needs its gap.
    applied(replica.abort(Duration::ZERO).await);
    let row = refused(replica.try_reserve().await);
    assert!(row.starts_in > Duration::from_secs(20) && row.attempt.is_none(), "{row:?}");
}

#[tokio::test]
async fn an_abort_whose_answer_was_lost_is_applied_once() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.reserve().await;
    applied(replica.abort(Duration::from_secs(30)).await);
    applied(replica.abort(Duration::from_mins(1)).await);
    let row = refused(replica.try_reserve().await);
    assert!(row.starts_in <= Duration::from_secs(30), "{row:?}");
}

#[tokio::test]
async fn a_reset_begins_again_takes_the_token_and_keeps_the_waits() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.poll(events([1])).await;
    replica.reserve().await;
    let late = replica.closing(events([2]));
    let before = replica.clone();
    let not_before = "SELECT not_before::text FROM headgate.source";
    let opens: String = database.one(not_before).await;

    let reset = replica.reset(1).await;
    assert_eq!((&reset.cursor, reset.epoch), (&Cursor::Start, Epoch(1)));
    assert!(reset.in_flight_for > Duration::from_secs(30), "{reset:?}");
    assert_eq!(database.one::<String>(not_before).await, opens);
    let row = refused(replica.store.append(&late).await.unwrap());
    assert!(row.attempt.is_some_and(|token| token != late.attempt));
    refused(replica.try_reserve().await);

    // Its answer was lost, and it is asked again.
    let again = applied(before.store.reset(before.resetting_to(1, Cursor::Start)).await.unwrap());
    assert_eq!((again.fence, again.cursor), (replica.fence, Cursor::Start));
    // An epoch may only grow, and only for the object and the holder of the row.
    refused(replica.store.reset(replica.resetting_to(1, Cursor::Start)).await.unwrap());
    let mut stranger = replica.resetting_to(2, Cursor::Start);
    stranger.uid = "uid-2".to_owned();
    refused(replica.store.reset(stranger).await.unwrap());
}

#[tokio::test]
async fn a_clock_that_jumped_back_costs_no_more_than_the_wait_that_was_written() {
    let database = Database::migrated().await;
    let mut replica = Replica::adopting(&database.store(), "a", "orders").await;
    replica.in_flight = GAP;
    replica.reserve().await;
    database
        .run("UPDATE headgate.source SET not_before = not_before + interval '1 year', deadline = deadline + interval '1 year'")
        .await;
    let row = refused(replica.try_reserve().await);
    assert!(row.starts_in <= GAP * 2 && row.in_flight_for <= GAP, "{row:?}");
    tokio::time::sleep(GAP * 2).await;
    applied(replica.try_reserve().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_over_the_same_streams_in_any_order_do_not_deadlock() {
    let database = Database::migrated().await;
    let store = database.store();
    let tasks = (0..8_usize).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut replicas: Vec<_> =
                (0..40).map(|n| Replica::new(&store, &format!("replica-{task}"), &format!("source-{n}"))).collect();
            let turn = task * 5;
            replicas.rotate_left(turn);
            if task % 2 == 0 {
                replicas.reverse();
            }
            for _ in 0..20 {
                let adoptions: Vec<_> = replicas.iter().map(Replica::adoption).collect();
                for (replica, answer) in replicas.iter_mut().zip(store.adopt_all(&adoptions).await.unwrap()) {
                    if let Answer::Applied(adopted) = answer.unwrap() {
                        replica.fence = adopted.fence;
                    }
                }
                let reservations: Vec<_> = replicas.iter().map(Replica::reservation).collect();
                store.reserve_all(&reservations).await.unwrap();
            }
        })
    });
    for task in futures::future::join_all(tasks).await {
        task.unwrap();
    }
    let deadlocks: i64 =
        database.one("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").await;
    assert_eq!(deadlocks, 0);
    assert_eq!(database.one::<i64>("SELECT count(*) FROM headgate.source").await, 40);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_the_trouble_of_its_own_caller() {
    let database = Database::migrated().await;
    let store = database.store();
    let torn = Replica::adopting(&store, "a_1", "torn").await;
    let whole = Replica::adopting(&store, "a_1", "whole").await;
    database.run("UPDATE headgate.source SET cursor = '' WHERE stream = 'shop/torn'").await;
    let answers = store.reserve_all(&[torn.reservation(), whole.reservation()]).await.unwrap();
    assert!(matches!(&answers[..], [Err(StoreError::Failed { .. }), Ok(Answer::Applied(_))]), "{answers:?}");
}
