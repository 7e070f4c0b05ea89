use std::{collections::HashSet, time::Duration};

use futures::future::join_all;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    event::StreamName,
    store::{
        Patience,
        postgres::queue::{LATE, LATELY, WINDOW},
    },
};

/// A call, a statement or a caller that fails, and those beside it.
mod failing;
/// Statements that take long or never end, and calls that none takes.
mod slow;

const ROWS: usize = 8;
const LIMITS: Limits = Limits { rows: ROWS, bytes: 1000, statements: 3 };
/// Of a patient call.
const PATIENCE: Duration = Duration::from_millis(100);
/// What a statement takes on a healthy server.
const ROUND_TRIP: Duration = Duration::from_millis(2);

#[derive(Debug, Clone)]
struct Asked {
    stream: StreamName,
    number: u64,
    patient: bool,
    bytes: usize,
    /// PostgreSQL fails the statement that holds it.
    poison: bool,
    /// Its own row of the answer can be read.
    readable: bool,
    hurry: CancellationToken,
}

impl Asked {
    fn of(stream: u64, number: u64) -> Self {
        let stream = StreamName::new("shop", &format!("source-{stream}"));
        let hurry = CancellationToken::new();
        Self { stream, number, patient: false, bytes: 0, poison: false, readable: true, hurry }
    }

    fn patient(self) -> Self {
        Self { patient: true, ..self }
    }
}

impl Request for Asked {
    type Answer = u64;

    fn stream(&self) -> &StreamName {
        &self.stream
    }

    fn patience(&self) -> Patience {
        let longest = if self.patient { PATIENCE } else { Duration::ZERO };
        Patience { longest, ends: self.hurry.clone() }
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A server that answers each request with its number.
#[derive(Clone, Default)]
struct Server {
    statements: Arc<Mutex<Vec<Vec<Asked>>>>,
    /// Statements that never end, from the first one on.
    hanging: Arc<Mutex<usize>>,
    down: bool,
    /// The password was changed.
    refuses_logins: bool,
    /// What a statement takes, where it is not [`ROUND_TRIP`].
    takes: Option<Duration>,
    /// Each statement takes up to twice as long as a call waits for one.
    slow: Option<Arc<Mutex<StdRng>>>,
}

impl Server {
    fn statements(&self) -> Vec<Vec<Asked>> {
        self.statements.lock().unwrap().clone()
    }

    fn round_trip(&self) -> Duration {
        let usual = self.takes.unwrap_or(ROUND_TRIP);
        self.slow.as_ref().map_or(usual, |rng| halves(&mut rng.lock().unwrap(), 2 * CONNECT_LIMIT))
    }

    fn sizes(&self) -> Vec<usize> {
        self.statements().iter().map(Vec::len).collect()
    }
}

impl Statement<Asked> for Server {
    async fn run(&self, requests: &[Asked]) -> Result<Answers<u64>, StoreError> {
        self.statements.lock().unwrap().push(requests.to_vec());
        let hangs = {
            let mut hanging = self.hanging.lock().unwrap();
            let hangs = *hanging > 0;
            *hanging = hanging.saturating_sub(1);
            hangs
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        sleep(self.round_trip()).await;
        if self.down {
            return Err(StoreError::Unavailable { action: "ask", source: "down".into() });
        }
        if self.refuses_logins {
            return Err(StoreError::Failed { action: "ask", sqlstate: "28P01".to_owned(), source: "password".into() });
        }
        if requests.iter().any(|asked| asked.poison) {
            return Err(StoreError::Failed { action: "ask", sqlstate: "22P05".to_owned(), source: "poison".into() });
        }
        Ok(requests.iter().map(|asked| asked.readable.then_some(asked.number).ok_or_else(unreadable)).collect())
    }
}

/// In half seconds, so that many things fall on one instant.
fn halves(rng: &mut StdRng, longest: Duration) -> Duration {
    let half = Duration::from_millis(500);
    half * rng.random_range(0..=u32::try_from(longest.as_millis() / half.as_millis()).unwrap())
}

fn unreadable() -> StoreError {
    StoreError::Failed { action: "read", sqlstate: String::new(), source: "a cursor that is none".into() }
}

/// A lane to a server, and how long its calls took.
#[derive(Clone)]
struct World {
    lane: Lane<Asked>,
    server: Server,
}

impl World {
    fn new() -> Self {
        Self { lane: Lane::new(LIMITS), server: Server::default() }
    }

    fn hanging(statements: usize) -> Self {
        let world = Self::new();
        *world.server.hanging.lock().unwrap() = statements;
        world
    }

    fn asks(&self, asked: Asked) -> JoinHandle<(Result<u64, StoreError>, Duration)> {
        let world = self.clone();
        tokio::spawn(async move {
            let began = Instant::now();
            let answer = world.lane.ask(&world.server, asked).await;
            (answer, began.elapsed())
        })
    }

    async fn took(&self, asked: Asked) -> Duration {
        let (answer, took) = self.asks(asked.clone()).await.unwrap();
        assert_eq!(answer.unwrap(), asked.number);
        took
    }
}

#[tokio::test(start_paused = true)]
async fn a_lone_call_goes_at_once_also_a_patient_one() {
    let world = World::new();
    assert_eq!(world.took(Asked::of(1, 1)).await, ROUND_TRIP);
    sleep(LATELY).await;
    assert_eq!(world.took(Asked::of(2, 2).patient()).await, ROUND_TRIP);
}

#[tokio::test(start_paused = true)]
async fn one_source_that_asks_again_and_again_never_waits_for_itself() {
    let world = World::new();
    for number in 0..5 {
        assert_eq!(world.took(Asked::of(1, number)).await, ROUND_TRIP);
        assert_eq!(world.took(Asked::of(1, number).patient()).await, ROUND_TRIP);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_come_within_a_window_share_the_next_statement() {
    let world = World::new();
    let calls: Vec<_> = (0..6).map(|stream| world.asks(Asked::of(stream, stream))).collect();
    for (number, call) in (0..).zip(calls) {
        let (answer, took) = call.await.unwrap();
        assert_eq!(answer.unwrap(), number);
        assert!(took <= WINDOW + ROUND_TRIP, "{took:?}");
    }
    assert_eq!(world.server.sizes(), [1, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_patient_call_waits_where_others_come_and_goes_with_the_first_that_does_not_wait() {
    let world = World::new();
    world.took(Asked::of(1, 1)).await;
    let patient = world.asks(Asked::of(2, 2).patient());
    sleep(PATIENCE / 2).await;
    let hasty = world.asks(Asked::of(3, 3));
    assert_eq!(patient.await.unwrap().1, PATIENCE / 2 + ROUND_TRIP);
    assert_eq!(hasty.await.unwrap().1, ROUND_TRIP);
    assert_eq!(world.server.sizes(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn patience_ends_without_company() {
    let world = World::new();
    world.took(Asked::of(1, 1)).await;
    assert_eq!(world.took(Asked::of(2, 2).patient()).await, PATIENCE + ROUND_TRIP);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_caller_has_no_time_any_more_waits_for_nobody_and_takes_along_who_waits() {
    let world = World::new();
    world.took(Asked::of(1, 1)).await;
    let (first, second) = (Asked::of(2, 2).patient(), Asked::of(3, 3).patient());
    let hurry = second.hurry.clone();
    let calls = [world.asks(first), world.asks(second)];
    sleep(PATIENCE / 2).await;
    hurry.cancel();
    for call in calls {
        assert_eq!(call.await.unwrap().1, PATIENCE / 2 + ROUND_TRIP);
    }
    assert_eq!(world.server.sizes(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_full_statement_waits_for_nothing() {
    let world = World::new();
    world.took(Asked::of(99, 99)).await;
    let calls = (0..2 * ROWS as u64).map(|stream| world.asks(Asked::of(stream, stream).patient()));
    for (_, took) in join_all(calls).await.into_iter().map(Result::unwrap) {
        assert_eq!(took, ROUND_TRIP);
    }
    assert_eq!(world.server.sizes(), [1, ROWS, ROWS]);

    let large = |stream| Asked { bytes: 600, ..Asked::of(stream, stream).patient() };
    world.asks(large(1));
    world.asks(large(2)).await.unwrap().0.unwrap();
    assert!(world.server.statements().iter().all(|asked| asked.iter().map(|asked| asked.bytes).sum::<usize>() <= 1000));
}

#[tokio::test(start_paused = true)]
async fn a_second_call_for_a_stream_waits_for_the_next_statement() {
    let world = World::new();
    world.took(Asked::of(9, 9)).await;
    let calls = [Asked::of(1, 1), Asked::of(1, 2), Asked::of(2, 3)].map(|asked| world.asks(asked));
    for (number, call) in (1..).zip(calls) {
        assert_eq!(call.await.unwrap().0.unwrap(), number);
    }
    assert_eq!(world.server.sizes(), [1, 2, 1]);
}

/// Sources that ask in a loop of chance, some of them idle, some going away, against a server where some calls are poison.
async fn a_busy_lane(seed: u64) {
    let world = World::hanging(usize::try_from(seed % 2).unwrap());
    let sources = (0..20).map(|stream| {
        let (world, mut rng) = (world.clone(), StdRng::seed_from_u64(seed * 100 + stream));
        tokio::spawn(async move {
            let patient = rng.random_bool(0.5);
            for turn in 0..20 {
                sleep(Duration::from_micros(rng.random_range(0..30_000))).await;
                let poison = rng.random_bool(0.05);
                let bytes = rng.random_range(0..400);
                let asked = Asked { patient, bytes, poison, ..Asked::of(stream, stream * 1000 + turn) };
                let call = world.asks(asked.clone());
                if rng.random_bool(0.05) {
                    sleep(Duration::from_micros(rng.random_range(0..10_000))).await;
                    call.abort();
                    continue;
                }
                let Ok(answered) = tokio::time::timeout(Duration::from_secs(5), call).await else {
                    assert!(seed % 2 == 1, "stream {stream} was never answered");
                    return 1;
                };
                let (answer, took) = answered.unwrap();
                match answer {
                    Ok(number) => assert_eq!(number, asked.number),
                    Err(error) => assert!(poison && matches!(error, StoreError::Failed { .. }), "{error:?}"),
                }
                let company = if patient { PATIENCE } else { Duration::ZERO };
                // A statement of each size before it, its own, and then each of that one alone.
                let longest = company + LATE + WINDOW + 3 * ROUND_TRIP;
                assert!(took <= longest, "seed {seed}: {took:?} of at most {longest:?}");
            }
            0
        })
    });
    let unanswered: usize = join_all(sources).await.into_iter().map(Result::unwrap).sum();
    let statements = world.server.statements();
    let in_the_hanging = if seed % 2 == 1 { statements[0].len() } else { 0 };
    assert!(unanswered <= in_the_hanging, "{unanswered} calls were never answered");
    for asked in &statements {
        let streams: HashSet<_> = asked.iter().map(|asked| &asked.stream).collect();
        assert_eq!(streams.len(), asked.len(), "a stream twice in a statement");
        assert!(asked.len() <= ROWS);
        assert!(asked.len() == 1 || asked.iter().map(|asked| asked.bytes).sum::<usize>() <= LIMITS.bytes);
    }
    let asked: HashSet<_> = statements.iter().flatten().map(|asked| asked.number).collect();
    let is_split = |asked: &[Asked]| asked.len() > 1 && asked.iter().any(|asked| asked.poison);
    for number in &asked {
        let with = || statements.iter().filter(|asked| asked.iter().any(|asked| asked.number == *number));
        let reasons = with().filter(|asked| is_split(asked)).count();
        assert!(with().count() <= 1 + reasons, "call {number} was asked twice without a reason");
    }
    assert!(statements.len() < asked.len(), "nobody shared a statement");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_comes_each_call_has_its_own_answer_in_time(seed in 0_u64..1_000_000) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(a_busy_lane(seed));
    }
}
