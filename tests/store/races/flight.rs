//! One request at a time, and every event once, however many believe to hold the stream.

use std::time::{Duration, Instant};

use headgate::store::{Answer, EventStore, Gate, Reserve};

use crate::{
    database::Database,
    replica::{GAP, Replica, after, events},
};

const CLIENTS: usize = 6;
const GRANTS_OF_EACH: usize = 15;
/// An attempt that is given up blocks the row for this long.
const IN_FLIGHT: Duration = Duration::from_millis(60);

/// What one client did.
#[derive(Default)]
struct Done {
    /// From the grant to the question that closed it: nobody else may be in flight in between.
    flights: Vec<(Instant, Instant)>,
    appended: u64,
    late_refused: u32,
}

/// What becomes of a granted request.
#[derive(Clone, Copy)]
enum Fate {
    Answered,
    NeverSent,
    /// The client froze; its answer comes after the deadline, when the next request may just have been granted.
    Late,
}

impl Fate {
    fn drawn() -> Self {
        match rand::random_range(0..10) {
            0..6 => Self::Answered,
            6..8 => Self::NeverSent,
            _ => Self::Late,
        }
    }
}

async fn client(mut me: Replica) -> Done {
    let mut done = Done::default();
    let mut grants = 0;
    while grants < GRANTS_OF_EACH {
        let asked = me.reservation();
        let reserve = Reserve { in_flight: IN_FLIGHT, ..asked };
        let attempt = reserve.attempt;
        match me.store.reserve(reserve).await.unwrap() {
            Answer::Locked => continue,
            Answer::Refused(row) => {
                let row = row.unwrap();
                me.cursor = row.cursor;
                tokio::time::sleep(row.starts_in.max(row.in_flight_for).min(Duration::from_millis(20))).await;
                continue;
            }
            Answer::Applied(_) => (me.attempt, me.part) = (attempt, 0),
        }
        grants += 1;
        fly(&mut me, Instant::now(), &mut done).await;
    }
    done
}

async fn fly(me: &mut Replica, granted: Instant, done: &mut Done) {
    let next = me.cursor.id().map_or(0, |id| id.as_str().parse::<u64>().unwrap()) + 1;
    let page = me.closing(events(next..=next + 2));
    let fate = Fate::drawn();
    let flight = match fate {
        Fate::Late => IN_FLIGHT + GAP + Duration::from_millis(rand::random_range(0..40)),
        Fate::Answered | Fate::NeverSent => Duration::from_millis(rand::random_range(0..20)),
    };
    tokio::time::sleep(flight).await;
    let closing = Instant::now();
    // The deadline was counted before the answer of RESERVE came: past it the row rightly believes the request over.
    if closing.duration_since(granted) < IN_FLIGHT / 2 {
        done.flights.push((granted, closing));
    }
    loop {
        let answer = match fate {
            Fate::NeverSent => me.abort(Duration::ZERO).await,
            Fate::Answered | Fate::Late => match me.store.append(&page).await.unwrap() {
                Answer::Applied(appended) => {
                    done.appended += appended.stored;
                    Answer::Applied(())
                }
                Answer::Locked => Answer::Locked,
                Answer::Refused(row) => Answer::Refused(row),
            },
        };
        match (answer, fate) {
            (Answer::Locked, _) => tokio::task::yield_now().await,
            (Answer::Applied(()), _) => break,
            (Answer::Refused(row), _) => {
                let row = row.unwrap();
                assert_ne!(row.attempt, Some(me.attempt), "refused, and still the one in flight: {row:?}");
                break done.late_refused += 1;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_poll_one_is_in_flight_at_a_time_and_every_event_is_stored_once() {
    let database = Database::migrated().await;
    let me = Replica::adopting(&database.store(), "a", "orders").await;
    let clients = (0..CLIENTS).map(|_| tokio::spawn(client(me.clone())));
    let done: Vec<Done> = futures::future::join_all(clients).await.into_iter().map(Result::unwrap).collect();

    let mut flights: Vec<_> = done.iter().flat_map(|done| done.flights.clone()).collect();
    flights.sort();
    let overlaps = flights.windows(2).filter(|pair| pair[1].0 < pair[0].1).count();
    assert_eq!(overlaps, 0, "of {} flights", flights.len());

    let appended: u64 = done.iter().map(|done| done.appended).sum();
    let stored: String = database
        .one("SELECT format('%s %s %s', count(*), count(DISTINCT sequence), max(sequence)) FROM headgate.event")
        .await;
    assert_eq!(
        stored,
        format!("{appended} {appended} {appended}"),
        "acknowledged, and stored from 1 on without a hole"
    );
    let cursor = database.one::<String>("SELECT cursor FROM headgate.source").await;
    assert_eq!(after(&cursor), after(&appended.to_string()));
    let refused: u32 = done.iter().map(|done| done.late_refused).sum();
    assert!(refused > 0, "nobody came too late, so nothing was tried");
}
