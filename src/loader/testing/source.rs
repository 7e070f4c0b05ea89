mod transport;

use std::{
    cmp::Ordering,
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use transport::{FakeFetcher, FakeTransports};

use super::{
    freeze::Frost,
    page::{Kept, Wire},
};
use crate::{
    event::{Cursor, Event, EventId, IdKind},
    fetch::{FetchError, Item, OpenError, PageRequest},
};

/// What the source does with one request.
#[derive(Debug, Clone)]
pub(in crate::loader) enum Script {
    /// Answers as asked.
    Page,
    /// Answers as asked, this many items at a time, with a pause between.
    Slow(usize, Duration),
    /// As `Slow`, in a body whose items the page holds back until its end.
    HeldBack(usize, Duration),
    /// Sends this many items and cuts the connection.
    Cut(usize),
    /// Sends this many items, then one that cannot be mapped, and reads to the end.
    Bad(usize),
    /// Sends exactly these, whatever was asked.
    Exactly(Vec<Event>),
    /// As `Exactly`, and ends where a cut would look the same.
    Unproven(Vec<Event>),
    /// Sends exactly these, one at a time, with a pause after each.
    OneByOne(Vec<Item>, Duration),
    /// An error that is read to its end.
    Fails(FetchError),
    /// An error whose body is too long to be read.
    FailsUnread(FetchError),
    /// Serves without a byte until nobody listens.
    NeverAnswers,
    /// Takes the request for something that must come first.
    Prepares,
}

/// What the source noted of one request: what it did, not what it was asked to do.
#[derive(Debug, Clone)]
pub(in crate::loader) struct Served {
    pub(in crate::loader) replica: String,
    pub(in crate::loader) after: Option<String>,
    pub(in crate::loader) limit: u32,
    pub(in crate::loader) start: Instant,
    pub(in crate::loader) first_byte: Option<Instant>,
    pub(in crate::loader) end: Option<Instant>,
    /// The ids that were written.
    pub(in crate::loader) ids: Vec<String>,
    /// The response was complete and could be used.
    pub(in crate::loader) usable: bool,
    /// How many rotations of the credentials the replica had taken up.
    pub(in crate::loader) rotations: usize,
}

/// How often a random fault happens, of 1.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::loader) struct Odds {
    pub(in crate::loader) fails: f64,
    pub(in crate::loader) slow: f64,
    pub(in crate::loader) cut: f64,
    pub(in crate::loader) never_answers: f64,
}

struct Inner {
    events: Vec<Event>,
    log: Vec<Served>,
    script: VecDeque<Script>,
    odds: Odds,
    /// The longest time to the source and to the first byte.
    network: Duration,
    connect_errors: VecDeque<FetchError>,
    /// How many connections will be found closed when the gate opens.
    closes_idle: usize,
    /// How long the next connections take.
    handshakes: VecDeque<Duration>,
    open_errors: VecDeque<OpenError>,
    opens: usize,
    reloads: usize,
    rotated: bool,
    rotations: usize,
    reloading: Duration,
    rng: StdRng,
}

/// A source that notes what it really served.
#[derive(Clone)]
pub(in crate::loader) struct FakeSource {
    inner: Arc<Mutex<Inner>>,
    pub(in crate::loader) timeout: Duration,
    /// How soon the source notices that a peer has closed the connection.
    pub(in crate::loader) notices_a_reset_after: Duration,
    pub(in crate::loader) kept: Arc<Kept>,
}

/// The source gives a silent or dead peer up after this, twice at most: while it works and while it writes. Together less
/// than what is left of D after the last extension: residue R3 is not what these tests are about.
const PATIENCE: Duration = Duration::from_millis(700);

impl FakeSource {
    pub(in crate::loader) fn new(seed: u64) -> Self {
        let inner = Inner {
            events: Vec::new(),
            log: Vec::new(),
            script: VecDeque::new(),
            odds: Odds::default(),
            network: Duration::from_millis(5),
            connect_errors: VecDeque::new(),
            closes_idle: 0,
            handshakes: VecDeque::new(),
            open_errors: VecDeque::new(),
            opens: 0,
            reloads: 0,
            rotated: false,
            rotations: 0,
            reloading: Duration::ZERO,
            rng: StdRng::seed_from_u64(seed),
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            timeout: Duration::from_secs(5),
            notices_a_reset_after: PATIENCE,
            kept: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no test panics inside the source")
    }

    pub(in crate::loader) fn add(&self, events: impl IntoIterator<Item = Event>) {
        self.lock().events.extend(events);
    }

    pub(in crate::loader) fn next(&self, script: impl IntoIterator<Item = Script>) {
        self.lock().script.extend(script);
    }

    pub(in crate::loader) fn odds(&self, odds: Odds, network: Duration) {
        let mut inner = self.lock();
        inner.odds = odds;
        inner.network = network;
    }

    pub(in crate::loader) fn refuse_connections(&self, errors: impl IntoIterator<Item = FetchError>) {
        self.lock().connect_errors.extend(errors);
    }

    /// The next connections are found closed when the gate opens.
    pub(in crate::loader) fn close_idle_connections(&self, count: usize) {
        self.lock().closes_idle = count;
    }

    fn found_closed(&self) -> bool {
        let mut inner = self.lock();
        let found = inner.closes_idle > 0;
        inner.closes_idle = inner.closes_idle.saturating_sub(1);
        found
    }

    pub(in crate::loader) fn take_time_to_connect(&self, handshakes: impl IntoIterator<Item = Duration>) {
        self.lock().handshakes.extend(handshakes);
    }

    pub(in crate::loader) fn refuse_to_open(&self, errors: impl IntoIterator<Item = OpenError>) {
        self.lock().open_errors.extend(errors);
    }

    /// What a refusal says is over.
    pub(in crate::loader) fn open_again(&self) {
        self.lock().open_errors.clear();
    }

    pub(in crate::loader) fn rotate_credentials(&self) {
        self.lock().rotated = true;
    }

    /// How long whoever keeps the credentials takes to answer.
    pub(in crate::loader) fn take_time_to_reload(&self, time: Duration) {
        self.lock().reloading = time;
    }

    pub(in crate::loader) fn log(&self) -> Vec<Served> {
        self.lock().log.clone()
    }

    pub(in crate::loader) fn opens(&self) -> usize {
        self.lock().opens
    }

    pub(in crate::loader) fn reloads(&self) -> usize {
        self.lock().reloads
    }

    pub(in crate::loader) fn fetcher(&self, replica: &str, frost: &Frost) -> FakeFetcher {
        FakeFetcher { source: self.clone(), replica: replica.to_owned(), frost: frost.clone() }
    }

    pub(in crate::loader) fn transports(&self, replica: &str, frost: &Frost) -> FakeTransports {
        FakeTransports { source: self.clone(), replica: replica.to_owned(), frost: frost.clone() }
    }

    /// One way through the network, or the time to the first byte.
    fn delay(&self) -> Duration {
        let mut inner = self.lock();
        let longest = inner.network;
        longest.mul_f64(inner.rng.random())
    }

    fn choose(&self) -> Script {
        let mut inner = self.lock();
        if let Some(script) = inner.script.pop_front() {
            return script;
        }
        let odds = inner.odds;
        let chunk = inner.rng.random_range(1..60);
        let pause = Duration::from_millis(inner.rng.random_range(1..400));
        let choices = [
            (odds.fails, Script::Fails(FetchError::ServerError { status: 500, retry_after: None })),
            (odds.slow, Script::Slow(chunk, pause)),
            (odds.cut, Script::Cut(chunk)),
            (odds.never_answers, Script::NeverAnswers),
        ];
        let mut dice: f64 = inner.rng.random();
        for (odds, script) in choices {
            if dice < odds {
                return script;
            }
            dice -= odds;
        }
        Script::Page
    }

    fn page(&self, request: &PageRequest) -> Vec<Item> {
        let inner = self.lock();
        let numbers = inner.events.iter().all(|event| event.id.is_digits());
        let place = match &request.after {
            Cursor::Start => 0,
            Cursor::After(id) if numbers => {
                inner.events.partition_point(|event| IdKind::Number.compare(&event.id, id) != Some(Ordering::Greater))
            }
            Cursor::After(id) => inner.events.iter().position(|event| event.id == *id).map_or(0, |place| place + 1),
        };
        inner.events[place..].iter().take(request.limit as usize).cloned().map(Item::Event).collect()
    }

    fn note(&self, request: usize, note: impl FnOnce(&mut Served)) {
        note(&mut self.lock().log[request]);
    }
}

/// The source's side of one request.
struct Server {
    source: FakeSource,
    frost: Frost,
    number: usize,
    wire: mpsc::Sender<Wire>,
}

impl Server {
    async fn serve(self, script: Script, request: &PageRequest) {
        self.answer(script, request).await;
        let now = Instant::now();
        self.source.note(self.number, |served| served.end = Some(now));
    }

    async fn answer(&self, script: Script, request: &PageRequest) -> Option<()> {
        if matches!(script, Script::NeverAnswers) {
            return self.pause(Duration::from_mins(2)).await;
        }
        let first_byte = self.source.delay();
        self.pause(first_byte).await?;
        let now = Instant::now();
        self.source.note(self.number, |served| served.first_byte = Some(now));
        let page = || self.source.page(request);
        let holds_back = matches!(script, Script::HeldBack(..));
        let end = if matches!(script, Script::Unproven(_)) { Wire::UnprovenEnd } else { Wire::End };
        if !matches!(script, Script::Prepares | Script::Fails(_) | Script::FailsUnread(_)) {
            self.send(Wire::Head { holds_back }).await?;
        }
        match script {
            Script::Prepares => return self.send(Wire::Prepared).await,
            Script::Fails(error) => return self.send(Wire::Fails(error)).await,
            Script::FailsUnread(error) => return self.send(Wire::FailsUnread(error)).await,
            Script::Page => self.send_items(page(), usize::MAX, Duration::ZERO).await?,
            Script::Slow(chunk, pause) | Script::HeldBack(chunk, pause) => {
                self.send_items(page(), chunk, pause).await?;
            }
            Script::Exactly(events) | Script::Unproven(events) => {
                self.send_items(events.into_iter().map(Item::Event).collect(), usize::MAX, Duration::ZERO).await?;
            }
            Script::OneByOne(items, pause) => self.send_items(items, 1, pause).await?,
            Script::Cut(count) | Script::Bad(count) => {
                let some = page().into_iter().take(count).collect();
                self.send_items(some, 20, Duration::from_millis(10)).await?;
                if matches!(script, Script::Bad(_)) {
                    let detail = "it has no id".to_owned();
                    return self.send(Wire::Fails(FetchError::MappingFailed { item: count, detail })).await;
                }
                return None;
            }
            Script::NeverAnswers => unreachable!("answered above"),
        }
        self.source.note(self.number, |served| served.usable = true);
        self.send(end).await
    }

    async fn send_items(&self, items: Vec<Item>, chunk: usize, pause: Duration) -> Option<()> {
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            let chunk: Vec<_> = items.by_ref().take(chunk).collect();
            let ids: Vec<_> = chunk.iter().map(|item| item.id().as_str().to_owned()).collect();
            self.send(Wire::Items(chunk)).await?;
            self.source.note(self.number, |served| served.ids.extend(ids));
            self.pause(pause).await?;
        }
        Some(())
    }

    /// Writes; a peer that does not read is given up.
    async fn send(&self, wire: Wire) -> Option<()> {
        self.wire.send_timeout(wire, PATIENCE).await.ok()
    }

    /// Works on the answer, unless the peer is seen to be gone.
    async fn pause(&self, wait: Duration) -> Option<()> {
        let until = Instant::now() + wait;
        let mut gone_since = None;
        while Instant::now() < until {
            sleep(Duration::from_millis(50).min(until - Instant::now())).await;
            let closed = self.wire.is_closed().then(|| *gone_since.get_or_insert_with(Instant::now));
            let frozen = self.frost.since().is_some_and(|since| since.elapsed() > PATIENCE);
            if frozen || closed.is_some_and(|since| since.elapsed() >= self.source.notices_a_reset_after) {
                return None;
            }
        }
        Some(())
    }
}

/// An id that a test writes.
pub(in crate::loader) fn id(text: &str) -> EventId {
    EventId::new(text).expect("a valid id")
}
