//! Calls that come together share statements, and each still gets its own answer. The statements are counted by the
//! metric.

use std::time::{Duration, Instant};

use futures::future::join_all;
use headgate::{
    store::{
        Answer, Append, Close, Ended, EventStore, Gate, Patience, Reserve, Reserved, Row, Then, postgres::PostgresStore,
    },
    telemetry::metrics::Metrics,
};
use prometheus_client::{encoding::text::encode, registry::Registry};

use crate::{
    database::Database,
    replica::{GAP, Replica, applied, event, events},
};

/// Of an idle source.
const PATIENCE: Duration = Duration::from_millis(100);

/// A store of one replica, and what it counted.
struct Counted {
    store: PostgresStore,
    registry: Registry,
}

impl Counted {
    fn on(database: &Database) -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        Self { store: database.store().counting(&metrics), registry }
    }

    fn counted(&self, what: &str, verb: &str) -> u64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let series = format!("headgate_statement_rows_{what}{{verb=\"{verb}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&series)).unwrap_or("0");
        // A sum is written as a float.
        value.strip_suffix(".0").unwrap_or(value).parse().unwrap()
    }

    fn statements(&self, verb: &str) -> u64 {
        self.counted("count", verb)
    }

    fn rows(&self, verb: &str) -> u64 {
        self.counted("sum", verb)
    }
}

async fn adopting(store: &PostgresStore, holder: &str, streams: usize) -> Vec<Replica> {
    let adoptions = (0..streams).map(async |n| Replica::adopting(store, holder, &format!("source-{n}")).await);
    join_all(adoptions).await
}

/// As an idle source asks.
fn idle_reservation(replica: &Replica) -> Reserve {
    Reserve { patience: Patience { longest: PATIENCE, ..Patience::default() }, ..replica.reservation() }
}

/// Reserves until the row has answered.
async fn decided(replica: &mut Replica, reserve: Reserve) -> Result<Reserved, Row> {
    loop {
        match replica.store.reserve(reserve.clone()).await.unwrap() {
            Answer::Applied(reserved) => {
                (replica.attempt, replica.part) = (reserve.attempt, 0);
                return Ok(reserved);
            }
            Answer::Refused(row) => return Err(row.unwrap()),
            Answer::Locked => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

/// Closes what the poll before has left open.
async fn idle_poll(replica: &mut Replica, ended: Option<Ended>) -> Option<Ended> {
    let reserve = Reserve { ended, ..idle_reservation(replica) };
    decided(replica, reserve).await.unwrap();
    Some(replica.ended(Duration::ZERO))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_idle_sources_share_a_few_statements() {
    const STREAMS: usize = 200;
    const POLLS: u32 = 3;
    let database = Database::migrated().await;
    let counted = Counted::on(&database);
    let polling = adopting(&counted.store, "a", STREAMS).await.into_iter().map(|mut replica| {
        tokio::spawn(async move {
            let mut ended = None;
            for _ in 0..POLLS {
                ended = idle_poll(&mut replica, ended).await;
                // Each at its own moment of an idle interval.
                tokio::time::sleep(GAP + GAP * rand::random_range(0..100) / 100).await;
            }
        })
    });
    for task in join_all(polling).await {
        task.unwrap();
    }
    let polls = STREAMS as u64 * u64::from(POLLS);
    let (rows, statements) = (counted.rows("reserve"), counted.statements("reserve"));
    assert!(rows >= polls, "{rows} rows for {polls} polls");
    assert!(statements * 5 <= rows, "{statements} statements for {rows} rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_are_taken_over_together_share_a_few_statements_and_each_gets_the_next_fence_of_its_own_row() {
    const STREAMS: usize = 200;
    let database = Database::migrated().await;
    let (first, heir) = (Counted::on(&database), Counted::on(&database));
    for _ in 0..2 {
        Replica::adopting(&first.store, "a", "source-7").await;
    }
    adopting(&first.store, "a", STREAMS).await;

    let replicas = adopting(&heir.store, "b", STREAMS).await;
    assert_eq!(heir.rows("adopt"), STREAMS as u64);
    assert!(heir.statements("adopt") * 5 <= STREAMS as u64, "{} statements", heir.statements("adopt"));
    for (n, replica) in replicas.into_iter().enumerate() {
        assert_eq!(replica.fence.0, if n == 7 { 4 } else { 2 }, "source-{n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_is_making_keeps_none_but_its_own_source_from_being_adopted() {
    let database = Database::migrated().await;
    let store = database.store();
    let mut maker = database.sql.begin().await.unwrap();
    sqlx::query(
        "INSERT INTO headgate.source (stream, fence, epoch, slot, deadline, longest_flight, not_before, longest_wait)
         VALUES ('shop/source-7', 1, 0, now(), now(), '0', now(), '0')",
    )
    .execute(&mut *maker)
    .await
    .unwrap();
    let replicas: Vec<_> = (0..20).map(|n| Replica::new(&store, "b", &format!("source-{n}"))).collect();
    let answers = join_all(replicas.iter().map(|replica| store.adopt(replica.adoption()))).await;
    for (n, answer) in answers.into_iter().enumerate() {
        let is_adopted = matches!(answer, Ok(Answer::Applied(_)));
        assert_eq!(is_adopted, n != 7, "source-{n}: {answer:?}");
    }
}

#[tokio::test]
async fn a_lone_source_has_statements_of_its_own() {
    let database = Database::migrated().await;
    let counted = Counted::on(&database);
    let mut replica = Replica::adopting(&counted.store, "a", "orders").await;
    replica.poll(events([1])).await;
    replica.reserve().await;
    applied(replica.extend(GAP).await);
    applied(replica.abort(Duration::ZERO).await);
    for (verb, once) in [("adopt", 1), ("append", 1), ("extend", 1), ("abort", 1)] {
        assert_eq!((counted.statements(verb), counted.rows(verb)), (once, once), "{verb}");
    }
    assert_eq!(counted.statements("reserve"), counted.rows("reserve"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_calls_that_share_a_statement_the_locked_row_is_locked_and_the_others_are_answered() {
    let database = Database::migrated().await;
    let counted = Counted::on(&database);
    let mut replicas = adopting(&counted.store, "a", 20).await;
    let mut blocker = database.sql.begin().await.unwrap();
    sqlx::query("SELECT FROM headgate.source WHERE stream = 'shop/source-7' FOR UPDATE")
        .execute(&mut *blocker)
        .await
        .unwrap();
    let answers = join_all(replicas.iter_mut().map(Replica::try_reserve)).await;
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(matches!(answer, Answer::Locked), n == 7, "source-{n}: {answer:?}");
    }
    assert!(counted.statements("reserve") <= 3, "{} statements", counted.statements("reserve"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgresql_refuses_of_one_source_does_not_fail_those_that_share_its_statement() {
    let database = Database::migrated().await;
    let counted = Counted::on(&database);
    let mut replicas = adopting(&counted.store, "a", 20).await;
    join_all(replicas.iter_mut().map(Replica::reserve)).await;
    let before = counted.rows("append");
    let appends: Vec<_> = replicas
        .iter()
        .enumerate()
        .map(|(n, replica)| replica.closing(vec![event("1", if n == 7 { "{not json" } else { "1" })]))
        .collect();
    let answers = join_all(appends.iter().map(|append| counted.store.append(append))).await;
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(applied(answer.unwrap()).stored, u64::from(n != 7), "source-{n}");
    }
    assert_eq!(database.all::<String>("SELECT stream FROM headgate.set_aside").await, ["shop/source-7"]);
    assert!(counted.rows("append") - before > 20, "it had a statement of its own from the first, so nothing was tried");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_commit_has_a_statement_of_its_own() {
    let database = Database::migrated().await;
    let counted = Counted::on(&database);
    let mut replicas = adopting(&counted.store, "a", 10).await;
    join_all(replicas.iter_mut().map(Replica::reserve)).await;
    let large = format!("\"{}\"", "x".repeat(70_000));
    let appends: Vec<_> = replicas.iter().map(|replica| replica.closing(vec![event("1", &large)])).collect();
    for answer in join_all(appends.iter().map(|append| counted.store.append(append))).await {
        applied(answer.unwrap());
    }
    assert_eq!((counted.statements("append"), counted.rows("append")), (10, 10));
}

/// S in the race below.
const SEND_WITHIN: Duration = Duration::from_millis(50);
const STREAMS: usize = 40;

/// One request of the race below.
#[derive(Debug, Clone, Copy)]
struct Flight {
    stream: usize,
    sent: Instant,
    ended: Instant,
}

async fn take_over(replica: &mut Replica) {
    // One that meets a lock is tried again at the next refusal.
    if let Answer::Applied(adopted) = replica.store.adopt(replica.adoption()).await.unwrap() {
        (replica.fence, replica.cursor) = (adopted.fence, adopted.cursor);
    }
}

/// Polls one stream as long as it may, against another replica that does the same and adopts the row now and then.
async fn contend(stream: usize, mut me: Replica) -> Vec<Flight> {
    let mut flights: Vec<Flight> = Vec::new();
    let mut unclosed = false;
    let ends = Instant::now() + Duration::from_secs(4);
    while Instant::now() < ends {
        // The first byte came when the request was sent.
        let next_start_in = |sent: Instant| (sent + GAP).saturating_duration_since(Instant::now());
        let reserve = Reserve {
            send_within: SEND_WITHIN,
            in_flight: Duration::from_secs(1),
            ended: flights.last().filter(|_| unclosed).map(|last| me.ended(next_start_in(last.sent))),
            patience: Patience { longest: rand::random_range(0..=1) * PATIENCE, ..Patience::default() },
            ..me.reservation()
        };
        let reserved = match decided(&mut me, reserve).await {
            Ok(reserved) => reserved,
            Err(row) => {
                me.cursor = row.cursor;
                // Whoever finds the row in other hands takes it over, but not at every turn.
                if row.fence != me.fence && rand::random_range(0..10) == 0 {
                    take_over(&mut me).await;
                }
                tokio::time::sleep(Duration::from_millis(rand::random_range(5..40))).await;
                continue;
            }
        };
        unclosed = false;
        let sent = Instant::now();
        // The loader's own check: past S the request does not leave.
        if sent <= reserved.issued.at.into_std() + reserved.wait + SEND_WITHIN {
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..20))).await;
            flights.push(Flight { stream, sent, ended: Instant::now() });
        }
        // Of a page without events, the next reservation closes the attempt: if it is mine.
        if flights.last().is_some_and(|flight| flight.sent == sent) && rand::random() {
            unclosed = true;
            continue;
        }
        let next = me.cursor.id().map_or(1, |id| id.as_str().parse::<u64>().unwrap() + 1);
        let found = rand::random::<bool>().then_some(next..=next + 2).into_iter().flatten();
        let append =
            Append { then: Then::Closes(Close { next_start_in: next_start_in(sent) }), ..me.closing(events(found)) };
        loop {
            match me.store.append(&append).await.unwrap() {
                Answer::Applied(_) => break me.cursor = append.cursor_after.clone(),
                Answer::Locked => tokio::time::sleep(Duration::from_millis(1)).await,
                Answer::Refused(row) => panic!("nobody may have reserved within the deadline: {row:?}"),
            }
        }
    }
    flights
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_that_share_statements_keep_the_gap_and_one_request_in_flight() {
    let database = Database::migrated().await;
    let replicas = ["a", "b"].map(|holder| (holder, Counted::on(&database)));
    let mut believers = Vec::new();
    for (holder, counted) in &replicas {
        believers.extend(adopting(&counted.store, holder, STREAMS).await.into_iter().enumerate());
    }
    let contending = believers.into_iter().map(|(stream, replica)| tokio::spawn(contend(stream, replica)));
    let mut flights: Vec<_> = join_all(contending).await.into_iter().flat_map(Result::unwrap).collect();
    flights.sort_by_key(|flight| (flight.stream, flight.sent));
    for pair in flights.windows(2).filter(|pair| pair[0].stream == pair[1].stream) {
        assert!(pair[1].sent >= pair[0].ended, "two in flight: {pair:?}");
        assert!(pair[1].sent - pair[0].sent >= GAP, "{:?} apart: {pair:?}", pair[1].sent - pair[0].sent);
    }
    assert!(flights.len() > 2 * STREAMS, "only {} requests", flights.len());
    let torn: Vec<String> = database
        .all(
            "SELECT stream FROM headgate.source AS s JOIN headgate.event USING (stream) GROUP BY stream, cursor, events_stored \
             HAVING count(*) <> max(sequence) OR max(sequence)::text <> cursor OR count(*) <> events_stored",
        )
        .await;
    assert_eq!(torn, Vec::<String>::new(), "streams with a hole, or with a cursor that is not their last event");
    for (holder, counted) in &replicas {
        let (rows, statements) = (counted.rows("reserve"), counted.statements("reserve"));
        assert!(statements * 2 <= rows, "{holder}: {statements} statements for {rows} reservations: nobody shared one");
    }
}
