//! The gap holds whatever else happens to the row: the trap of DESIGN 4, as a test.
//!
//! Judged twice: by the slots in the row, which are exact, and by what the clients were told, on their own clock.

use std::time::{Duration, Instant};

use headgate::store::{Answer, Gate, Reserve};
use sqlx::postgres::PgPool;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

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

/// S: a client sends within this of asking, or not at all.
const SEND_WITHIN: Duration = Duration::from_millis(50);

/// When a client asked and was answered, on its own clock.
#[derive(Debug, Clone, Copy)]
struct Told {
    asked: Instant,
    answered: Instant,
    /// From the database's look at its clock, which lies between the two, to the slot.
    wait: Duration,
}

impl Told {
    /// When it sends, if it still may.
    fn sent(&self) -> Option<Instant> {
        (self.answered - self.asked <= SEND_WITHIN).then_some(self.answered + self.wait)
    }
}

/// Requests that were sent too soon after another.
fn too_close(grants: &[Told]) -> Vec<Duration> {
    let mut sent: Vec<_> = grants.iter().filter_map(Told::sent).collect();
    sent.sort();
    sent.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap < GAP).collect()
}

enum Reply {
    Granted(Told),
    Refused(Told),
    Locked,
}

/// Asks all the time, and tells what it was told.
async fn keep_asking(replica: Replica, replies: UnboundedSender<Reply>) {
    loop {
        let asked = Instant::now();
        let reserve = Reserve { send_within: SEND_WITHIN, in_flight: Duration::ZERO, ..replica.reservation() };
        let answer = replica.store.reserve(reserve).await.unwrap();
        let told = |wait| Told { asked, answered: Instant::now(), wait };
        let reply = match answer {
            Answer::Applied(reserved) => Reply::Granted(told(reserved.wait)),
            Answer::Refused(_) => Reply::Refused(told(Duration::ZERO)),
            Answer::Locked => Reply::Locked,
        };
        if replies.send(reply).is_err() {
            return;
        }
    }
}

#[derive(Default)]
struct Seen {
    grants: Vec<Told>,
    refusals: Vec<Told>,
    locked: u32,
    /// The slot that the row held after each grant.
    slots: Vec<Duration>,
}

impl Seen {
    async fn of(grants: usize, mut replies: UnboundedReceiver<Reply>, database: &Database) -> Self {
        let mut seen = Self::default();
        while seen.grants.len() < grants {
            match replies.recv().await.unwrap() {
                Reply::Locked => seen.locked += 1,
                Reply::Refused(told) => seen.refusals.push(told),
                Reply::Granted(told) => {
                    seen.grants.push(told);
                    let slot: i64 =
                        database.one("SELECT (extract(epoch FROM slot) * 1000000)::bigint FROM headgate.source").await;
                    seen.slots.push(Duration::from_micros(u64::try_from(slot).unwrap()));
                }
            }
        }
        seen
    }

    /// Whether a refusal was true: it was given while a slot that was granted still closed the gate.
    fn was_true(&self, refusal: &Told) -> bool {
        let closes = SEND_WITHIN + GAP;
        self.grants.iter().any(|grant| {
            grant.asked + grant.wait <= refusal.answered && refusal.asked < grant.answered + grant.wait + closes
        })
    }
}

async fn the_gap_holds_while_a_blocker(blocker: Blocker) {
    let database = Database::migrated().await;
    let replica = Replica::adopting(&database.store(), "a", "orders").await;
    let blocker = tokio::spawn(blocker.stand_in_the_way(database.sql.clone()));
    let (replies, told) = unbounded_channel();
    let askers: Vec<_> = (0..6).map(|_| tokio::spawn(keep_asking(replica.clone(), replies.clone()))).collect();
    let seen = Seen::of(12, told, &database).await;
    for task in askers.into_iter().chain([blocker]) {
        task.abort();
        let _ = task.await;
    }
    for pair in seen.slots.windows(2) {
        assert!(pair[1].saturating_sub(pair[0]) >= SEND_WITHIN + GAP, "{:?} after {:?}", pair[1], pair[0]);
    }
    assert_eq!(too_close(&seen.grants), Vec::<Duration>::new());
    assert!(seen.grants.iter().filter_map(Told::sent).count() > 1, "every answer came too late to be used");
    let untrue = seen.refusals.iter().filter(|refusal| !seen.was_true(refusal)).count();
    assert_eq!(untrue, 0, "of {} refusals", seen.refusals.len());
    assert!(seen.locked > 0, "nobody met the lock, so nothing was tried");
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

/// The statement that everybody writes first. It computes its SET list before it waits for the lock.
const NAIVE: &str = "UPDATE headgate.source SET not_before = clock_timestamp() + interval '200 milliseconds' \
                     WHERE stream = 'shop/orders' AND not_before <= clock_timestamp()";

#[tokio::test(flavor = "multi_thread")]
async fn the_same_clients_catch_a_statement_that_waits_for_the_lock() {
    let database = Database::migrated().await;
    Replica::adopting(&database.store(), "a", "orders").await;
    let blocker = tokio::spawn(Blocker::OnlyLocks.stand_in_the_way(database.sql.clone()));
    let (granted, mut told) = unbounded_channel();
    let askers: Vec<_> = (0..6)
        .map(|_| {
            let (sql, granted) = (database.sql.clone(), granted.clone());
            tokio::spawn(async move {
                loop {
                    let asked = Instant::now();
                    if sqlx::query(NAIVE).execute(&sql).await.unwrap().rows_affected() == 1 {
                        granted.send(Told { asked, answered: Instant::now(), wait: Duration::ZERO }).unwrap();
                    }
                }
            })
        })
        .collect();
    // About every third grant comes too soon, so a hundred that do not mean that the clients are blind.
    let mut grants = Vec::new();
    while too_close(&grants).is_empty() && grants.len() < 100 {
        grants.push(told.recv().await.unwrap());
    }
    for task in askers.into_iter().chain([blocker]) {
        task.abort();
        let _ = task.await;
    }
    assert!(grants.len() < 100, "a statement that is known to break the gap went unnoticed");
}
