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
    /// Each statement takes up to twice as long as a call waits for one.
    slow: Option<Arc<Mutex<StdRng>>>,
}

impl Server {
    fn statements(&self) -> Vec<Vec<Asked>> {
        self.statements.lock().unwrap().clone()
    }

    fn round_trip(&self) -> Duration {
        self.slow.as_ref().map_or(ROUND_TRIP, |rng| halves(&mut rng.lock().unwrap(), 2 * CONNECT_LIMIT))
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

#[tokio::test(start_paused = true)]
async fn a_statement_that_hangs_holds_the_others_up_for_a_moment_only() {
    let world = World::hanging(1);
    let hangs = world.asks(Asked::of(1, 1));
    sleep(WINDOW).await;
    assert_eq!(WINDOW + world.took(Asked::of(2, 2)).await, LATE + ROUND_TRIP);
    // By now nobody waits behind it.
    sleep(PATIENCE).await;
    assert_eq!(world.took(Asked::of(3, 3)).await, ROUND_TRIP);
    hangs.abort();
}

#[tokio::test(start_paused = true)]
async fn when_all_statements_hang_the_calls_wait_and_go_on_with_the_first_that_ends() {
    let world = World::hanging(LIMITS.statements);
    for stream in 0..LIMITS.statements as u64 {
        world.asks(Asked::of(stream, stream));
        sleep(LATE + WINDOW).await;
    }
    let waits = world.asks(Asked::of(9, 9));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.server.sizes().len(), LIMITS.statements);
    assert!(!waits.is_finished());
    world.lane.queue().ended(1);
    sleep(LATE + ROUND_TRIP).await;
    assert_eq!(waits.await.unwrap().0.unwrap(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_no_statement_takes_is_told_so_as_soon_as_one_that_finds_no_connection() {
    let world = World::hanging(LIMITS.statements);
    for stream in 0..LIMITS.statements as u64 {
        world.asks(Asked::of(stream, stream));
        sleep(LATE + WINDOW).await;
    }
    let (answer, took) = world.asks(Asked::of(9, 9)).await.unwrap();
    assert!(matches!(answer, Err(StoreError::NotBegun { .. })) && took == CONNECT_LIMIT, "{answer:?} after {took:?}");
    // Nothing is left behind that a statement could still take.
    world.lane.queue().ended(1);
    sleep(LATELY).await;
    assert_eq!(world.took(Asked::of(10, 10)).await, ROUND_TRIP);
    assert_eq!(world.server.sizes(), [1, 1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_back_goes_into_no_statement_and_what_a_statement_has_is_not_taken_back() {
    let mut queue = Queue::new(LIMITS);
    let places = [1, 2, 3].map(|number| queue.enter(Asked::of(number, number), (), Instant::now()));
    assert!(queue.withdraw(places[1]));
    let Next::Issue(batch) = queue.next(Instant::now(), |()| false) else { panic!("nothing holds it up") };
    assert_eq!(batch.requests.iter().map(|asked| asked.number).collect::<Vec<_>>(), [1, 3]);
    assert!(places.into_iter().all(|place| !queue.withdraw(place)));
}

#[tokio::test(start_paused = true)]
async fn a_call_is_in_a_statement_or_is_told_that_it_never_was() {
    let (mut answered, mut not_begun) = (0, 0);
    for seed in 0..50 {
        let slow = Some(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))));
        let world = World { server: Server { slow, ..Server::default() }, ..World::new() };
        let mut rng = StdRng::seed_from_u64(seed);
        let calls: Vec<_> = (0..100)
            .map(|number| {
                let (world, enters) = (world.clone(), halves(&mut rng, Duration::from_secs(6)));
                tokio::spawn(async move {
                    sleep(enters).await;
                    world.asks(Asked::of(number, number)).await.unwrap().0
                })
            })
            .collect();
        let answers = join_all(calls).await;
        world.took(Asked::of(100, 100)).await;
        let statements = world.server.statements();
        for (number, answer) in (0..).zip(answers) {
            let times = statements.iter().flatten().filter(|asked| asked.number == number).count();
            match answer.unwrap() {
                Ok(answer) => assert_eq!((answer, times), (number, 1), "seed {seed}"),
                Err(StoreError::NotBegun { .. }) => assert_eq!(times, 0, "seed {seed}: call {number}"),
                Err(error) => panic!("{error:?}"),
            }
            *if times == 0 { &mut not_begun } else { &mut answered } += 1;
        }
    }
    assert!(answered > 100 && not_begun > 100, "{answered} answered, {not_begun} not begun");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_found_every_statement_under_way_goes_when_the_window_after_the_first_that_ends_is_over() {
    let world = World::hanging(LIMITS.statements - 1);
    for stream in 1..LIMITS.statements as u64 {
        world.asks(Asked::of(stream, stream));
        sleep(LATE + WINDOW).await;
    }
    let last = world.asks(Asked::of(8, 8));
    let entered_after = Duration::from_millis(1);
    sleep(entered_after).await;
    assert_eq!(entered_after + world.took(Asked::of(9, 9)).await, WINDOW + ROUND_TRIP);
    assert_eq!(last.await.unwrap().0.unwrap(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_go_does_not_wait_for_the_patience_of_one_that_stands_before_it() {
    let world = World::hanging(LIMITS.statements - 1);
    for stream in 1..LIMITS.statements as u64 {
        world.asks(Asked::of(stream, stream));
        sleep(LATE + WINDOW).await;
    }
    world.asks(Asked::of(8, 8));
    let patient = world.asks(Asked::of(7, 7).patient());
    let entered_after = Duration::from_millis(1);
    sleep(entered_after).await;
    assert_eq!(entered_after + world.took(Asked::of(9, 9)).await, WINDOW + ROUND_TRIP);
    assert_eq!(patient.await.unwrap().0.unwrap(), 7);
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
