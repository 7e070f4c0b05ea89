//! The gap holds whatever else happens to the row: the trap of DESIGN 4, as a test.

use std::time::Duration;

use headgate::store::{Answer, Gate, Reserve};
use sqlx::postgres::PgPool;

use crate::{
    database::Database,
    replica::{GAP, Replica},
};

/// How a transaction that holds the row's lock for a moment ends.
#[derive(Clone, Copy)]
enum Blocker {
    OnlyLocks,
    RollsAnUpdateBack,
    CommitsAnUpdate,
}

impl Blocker {
    async fn stand_in_the_way(self, sql: PgPool) {
        loop {
            let mut transaction = sql.begin().await.unwrap();
            let statement = match self {
                Self::OnlyLocks => "SELECT FROM headgate.source FOR UPDATE",
                Self::RollsAnUpdateBack | Self::CommitsAnUpdate => "UPDATE headgate.source SET epoch = epoch + 1",
            };
            sqlx::query(statement).execute(&mut *transaction).await.unwrap();
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..8))).await;
            match self {
                Self::OnlyLocks | Self::CommitsAnUpdate => transaction.commit().await.unwrap(),
                Self::RollsAnUpdateBack => transaction.rollback().await.unwrap(),
            }
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..3))).await;
        }
    }
}

/// Many ask all the time; every grant's slot is read from the row before the next can come.
async fn slots_of(grants: usize, blocker: Blocker) -> Vec<Duration> {
    let database = Database::migrated().await;
    let replica = Replica::adopting(&database.store(), "a", "orders").await;
    let blocker = tokio::spawn(blocker.stand_in_the_way(database.sql.clone()));
    let (granted, mut slots) = tokio::sync::mpsc::unbounded_channel();
    let askers: Vec<_> = (0..6)
        .map(|_| {
            let (replica, granted) = (replica.clone(), granted.clone());
            tokio::spawn(async move {
                loop {
                    let reserve = Reserve { in_flight: Duration::ZERO, ..replica.reservation() };
                    if let Answer::Applied(_) = replica.store.reserve(reserve).await.unwrap() {
                        granted.send(()).unwrap();
                    }
                }
            })
        })
        .collect();
    let mut seen = Vec::new();
    while seen.len() < grants {
        slots.recv().await.unwrap();
        let slot: i64 = database.one("SELECT (extract(epoch FROM slot) * 1000000)::bigint FROM headgate.source").await;
        seen.push(Duration::from_micros(u64::try_from(slot).unwrap()));
    }
    for task in askers.into_iter().chain([blocker]) {
        task.abort();
        let _ = task.await;
    }
    seen
}

async fn the_gap_holds_while_a_blocker(blocker: Blocker) {
    let slots = slots_of(12, blocker).await;
    for pair in slots.windows(2) {
        assert!(pair[1].saturating_sub(pair[0]) >= GAP, "{:?} after {:?}", pair[1], pair[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gap_holds_while_others_only_lock_the_row() {
    the_gap_holds_while_a_blocker(Blocker::OnlyLocks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gap_holds_while_others_roll_back() {
    the_gap_holds_while_a_blocker(Blocker::RollsAnUpdateBack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gap_holds_while_others_commit() {
    the_gap_holds_while_a_blocker(Blocker::CommitsAnUpdate).await;
}
