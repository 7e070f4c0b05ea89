//! Which of the calls that wait go into the next statement, and when it goes. No IO and no clock.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::{event::StreamName, store::Patience};

/// While calls of several sources come, one statement goes per window (DESIGN 4: 5 to 10 ms). The short end: it is added
/// to every poll of a busy replica, and at 5 ms ten thousand saturated sources already share statements of 250.
pub(super) const WINDOW: Duration = Duration::from_millis(5);

/// A statement that is under way for longer than this holds nobody up any more: the next one goes beside it. Longer than
/// any statement takes on a healthy server, a flush of its log included; and a deadline that is extended every second
/// for 3 s does not notice it.
pub(super) const LATE: Duration = Duration::from_millis(50);

/// When a call looks again that waits for the end of any statement. Each that ends calls the next one; this is for one that
/// ended by a panic.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Whoever asked within this is company to wait for. As long as any call waits for it at most.
pub(super) const LATELY: Duration = Duration::from_secs(1);

/// The most that one statement carries, and how many of them run at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    pub(super) statements: usize,
}

/// What one caller asks for one stream.
pub(super) trait Request: Clone + Send + Sync + 'static {
    type Answer: Send + 'static;

    fn stream(&self) -> &StreamName;

    /// How long it may wait for company.
    fn patience(&self) -> Patience {
        Patience::default()
    }

    /// What counts towards the size of a statement.
    fn bytes(&self) -> usize {
        0
    }
}

/// A call that waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    number: u64,
    /// From then on it no longer waits for company.
    pub(super) ripe: Instant,
}

struct Call<Q, R> {
    request: Q,
    /// Where the answer goes.
    reply: R,
    place: Place,
}

/// The calls of one statement.
pub(super) struct Calls<Q, R> {
    pub(super) ticket: u64,
    pub(super) requests: Vec<Q>,
    pub(super) replies: Vec<R>,
}

pub(super) enum Next<Q, R> {
    /// This statement goes now.
    Issue(Calls<Q, R>),
    /// Nothing goes before this instant, but for a call that comes or a statement that ends.
    NotBefore(Instant),
    /// Nothing waits.
    Nothing,
}

struct Issued {
    at: Instant,
    /// The stream of a statement that carried one.
    alone: Option<StreamName>,
}

/// One verb: the calls that wait, and the statements under way.
pub(super) struct Queue<Q, R> {
    limits: Limits,
    waiting: VecDeque<Call<Q, R>>,
    /// By ticket.
    under_way: Vec<(u64, Instant)>,
    issued: Option<Issued>,
    called: Option<(StreamName, Instant)>,
    tickets: u64,
    calls: u64,
}

impl<Q: Request, R> Queue<Q, R> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            waiting: VecDeque::new(),
            under_way: Vec::new(),
            issued: None,
            called: None,
            tickets: 0,
            calls: 0,
        }
    }

    /// Lets a call wait.
    pub(super) fn enter(&mut self, request: Q, reply: R, now: Instant) -> Place {
        // Where nobody else has asked lately, nobody is likely to come.
        let company = self.called.take().is_some_and(|(stream, at)| stream != *request.stream() && now < at + LATELY);
        self.called = Some((request.stream().clone(), now));
        let ripe = if company { now + request.patience().longest } else { now };
        self.calls += 1;
        let place = Place { number: self.calls, ripe };
        self.waiting.push_back(Call { request, reply, place });
        place
    }

    /// A call waits for company no longer.
    pub(super) fn hurry(&mut self, place: Place, now: Instant) {
        if let Ok(at) = self.find(place) {
            self.waiting[at].place.ripe = now;
        }
    }

    /// They stand in the order in which they came, and thousands may be looked for at once.
    fn find(&self, place: Place) -> Result<usize, usize> {
        self.waiting.binary_search_by_key(&place.number, |call| call.place.number)
    }

    /// Takes a call back, which is in no statement then and never will be. Returns false when a statement has it.
    pub(super) fn withdraw(&mut self, place: Place) -> bool {
        self.find(place).ok().and_then(|at| self.waiting.remove(at)).is_some()
    }

    /// The statement with this ticket has ended.
    pub(super) fn ended(&mut self, ticket: u64) {
        self.under_way.retain(|(other, _)| *other != ticket);
    }

    /// What goes now. Calls whose caller has gone leave without a statement.
    pub(super) fn next(&mut self, now: Instant, is_gone: impl Fn(&R) -> bool) -> Next<Q, R> {
        // First, because thousands of callers may look at it while a database hangs.
        if self.under_way.len() >= self.limits.statements && !self.waiting.is_empty() {
            return Next::NotBefore(now + LOOK_AGAIN);
        }
        self.waiting.retain(|call| !is_gone(&call.reply));
        let Some(ripe) = self.waiting.iter().map(|call| call.place.ripe).min() else { return Next::Nothing };
        let opens = if self.is_full() { now } else { ripe.max(self.gathers_until(now)) };
        if opens > now {
            return Next::NotBefore(opens);
        }
        Next::Issue(self.take(now))
    }

    /// Waiting longer would not make the statement any better.
    fn is_full(&self) -> bool {
        let bytes = || self.waiting.iter().map(|call| call.request.bytes()).sum::<usize>();
        self.waiting.len() >= self.limits.rows || bytes() >= self.limits.bytes
    }

    /// Until when calls gather because of the statements before.
    fn gathers_until(&self, now: Instant) -> Instant {
        let Some(issued) = &self.issued else { return now };
        // One source that asks again and again has no company to wait for.
        let again = self.waiting.len() == 1 && issued.alone.as_ref() == Some(self.waiting[0].request.stream());
        let window = if again { issued.at } else { issued.at + WINDOW };
        if window > now {
            return window;
        }
        // Whoever is behind a statement goes when that one ends.
        self.under_way.iter().map(|(_, at)| *at + LATE).max().unwrap_or(now)
    }

    /// The longest waiting calls that fit, each stream once: two requests of one statement for a stream would be judged
    /// by the same standing row.
    fn take(&mut self, now: Instant) -> Calls<Q, R> {
        self.tickets += 1;
        let mut calls = Calls { ticket: self.tickets, requests: Vec::new(), replies: Vec::new() };
        let mut streams = HashSet::new();
        let mut bytes = 0;
        for call in std::mem::take(&mut self.waiting) {
            let larger = bytes + call.request.bytes();
            let fits =
                calls.requests.len() < self.limits.rows && (calls.requests.is_empty() || larger <= self.limits.bytes);
            if fits && streams.insert(call.request.stream().clone()) {
                bytes = larger;
                calls.requests.push(call.request);
                calls.replies.push(call.reply);
            } else {
                self.waiting.push_back(call);
            }
        }
        let alone = (calls.requests.len() == 1).then(|| calls.requests[0].stream().clone());
        self.issued = Some(Issued { at: now, alone });
        self.under_way.push((calls.ticket, now));
        calls
    }
}
