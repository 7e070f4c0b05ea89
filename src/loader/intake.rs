//! Where the reader of a response and the committer of its prefixes meet.

use std::{
    pin::pin,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    select,
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    buffer::Share,
    context::Context,
    prefix::{Batch, Overlap, Prefix},
    report::BlockedBy,
};
use crate::{
    event::Cursor,
    fetch::{FetchError, Item},
    store::Row,
};

/// A prefix is committed when it has this many events, or when its first one is this old (DESIGN 4). With a few
/// milliseconds for the statement, an event is in the store about 50 ms after it came.
const PREFIX_EVENTS: usize = 250;
const PREFIX_AGE: Duration = Duration::from_millis(40);

/// How long one commit may hold up the reading of more, most often a few milliseconds. In an outage the body must go on.
const COMMIT_AWAITED: Duration = Duration::from_millis(500);

/// How often a reader that may not hold more looks whether others have given memory back.
const ROOM_RETRY: Duration = Duration::from_millis(20);

/// How long the response whose turn it is waits for others to end before one of those in line gives way: longer than
/// most commits take, and short beside the patience of a source whose answer is not read.
const GIVE_WAY_AFTER: Duration = Duration::from_millis(500);

/// Where the reader of a response and the committer of its prefixes meet.
pub(super) struct Intake {
    page: Mutex<Prefix>,
    uncommitted: Mutex<Uncommitted>,
    first_byte: OnceLock<Instant>,
    /// Bytes that are not committed yet.
    held: AtomicU64,
    /// Bytes of the whole page so far.
    received: AtomicU64,
    /// The most that the response kept in memory at a time.
    most_kept: AtomicU64,
    /// Nothing more is read until memory is given back, by others or by a database that is away.
    waits_for_others: AtomicBool,
    arrived: Notify,
    freed: Notify,
    /// The response has ended or was given up.
    over: CancellationToken,
    superseded: CancellationToken,
    row: Mutex<Option<Row>>,
}

/// What a crash would lose of what may be committed.
#[derive(Debug, Default)]
struct Uncommitted {
    /// When the first one came of those that no statement has yet.
    oldest: Option<Instant>,
    /// The prefix that a statement has, and since when.
    under_way: Option<(u64, Instant)>,
}

impl Intake {
    pub(super) fn new(page: Prefix) -> Self {
        Self {
            page: Mutex::new(page),
            uncommitted: Mutex::default(),
            first_byte: OnceLock::new(),
            held: AtomicU64::new(0),
            received: AtomicU64::new(0),
            most_kept: AtomicU64::new(0),
            waits_for_others: AtomicBool::new(false),
            arrived: Notify::new(),
            freed: Notify::new(),
            over: CancellationToken::new(),
            superseded: CancellationToken::new(),
            row: Mutex::new(None),
        }
    }

    pub(super) fn note_first_byte(&self, at: Instant) {
        let _ = self.first_byte.set(at);
    }

    pub(super) fn first_byte(&self) -> Option<Instant> {
        self.first_byte.get().copied()
    }

    /// Takes the items of one chunk.
    ///
    /// # Errors
    /// The first item that cannot be used, and how many came with and after it.
    pub(super) fn push(&self, items: Vec<Item>) -> Result<(), (FetchError, u64)> {
        let mut page = self.page();
        let count = items.len() as u64;
        for (taken, item) in (0..).zip(items) {
            let bytes = page.push(item).map_err(|error| (error, count - taken))?;
            self.held.fetch_add(bytes, Ordering::Relaxed);
            self.received.fetch_add(bytes, Ordering::Relaxed);
        }
        if page.ready() > 0 {
            self.uncommitted().oldest.get_or_insert_with(Instant::now);
        }
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits until the share holds what has arrived and what the reader itself keeps (`kept`), by growing or by commits of
    /// this very page.
    ///
    /// # Errors
    /// The response needs more than any may have, or gave way to another.
    pub(super) async fn wait_for_room(
        &self,
        kept: u64,
        share: &mut Share,
        context: &Context,
    ) -> Result<(), FetchError> {
        if self.has_room(kept, share) {
            return Ok(());
        }
        context.reporter.blocked_by(Some(BlockedBy::Memory));
        let room = self.room(kept, share).await;
        self.waits_for_others.store(false, Ordering::Relaxed);
        context.reporter.blocked_by(None);
        room
    }

    /// Whether it was memory that was missing, held by others or for a database that is away, where the response was given up before
    /// its end.
    pub(super) fn waits_for_others(&self) -> bool {
        self.waits_for_others.load(Ordering::Relaxed)
    }

    async fn room(&self, kept: u64, share: &mut Share) -> Result<(), FetchError> {
        let mut freed = Instant::now();
        while self.frees_room() {
            select! {
                () = self.freed.notified() => freed = Instant::now(),
                () = sleep(ROOM_RETRY) => {}
            }
            if self.has_room(kept, share) {
                return Ok(());
            }
            // In an outage of the database nothing is freed, and that is not the source's doing either.
            self.waits_for_others.store(freed.elapsed() > COMMIT_AWAITED, Ordering::Relaxed);
        }
        self.waits_for_others.store(true, Ordering::Relaxed);
        if self.needed(kept) > share.most() {
            return Err(FetchError::LargerThanBudget { most: share.most() });
        }
        // What others give back may be enough; else this response, in its turn, gets the part that is kept for such; and
        // if that is not enough either, those whose turn has not come give way.
        let since = Instant::now();
        if !share.has_last_part() {
            let mut turn = pin!(share.turn());
            loop {
                select! {
                    last_part = &mut turn => break share.add(last_part),
                    () = sleep(ROOM_RETRY) => {}
                }
                if self.has_room(kept, share) {
                    return Ok(());
                }
                if share.is_to_give_way() {
                    return Err(FetchError::GaveWay { budget: share.budget() });
                }
            }
        }
        self.last_room(kept, share, since).await;
        Ok(())
    }

    /// The one whose turn it is stands in line for what is missing: by looking now and then it would find nothing as long as
    /// anybody else stands there.
    async fn last_room(&self, kept: u64, share: &mut Share, since: Instant) {
        let mut missing = pin!(share.in_line_for(self.needed(kept)));
        loop {
            select! {
                more = &mut missing => return share.grow(more),
                () = sleep(ROOM_RETRY) => if since.elapsed() > GIVE_WAY_AFTER { share.ask_to_give_way() },
            }
        }
    }

    fn has_room(&self, kept: u64, share: &mut Share) -> bool {
        share.try_grow_to(self.needed(kept))
    }

    fn needed(&self, kept: u64) -> u64 {
        let needed = kept + self.held.load(Ordering::Relaxed) + self.page().remembered();
        self.most_kept.fetch_max(needed, Ordering::Relaxed);
        needed
    }

    /// Whether commits of this very page will free some of what is held.
    fn frees_room(&self) -> bool {
        let (ready, flows) = self.flow();
        let under_way = self.uncommitted().under_way.is_some();
        self.held.load(Ordering::Relaxed) > 0 && flows && (ready > 0 || under_way)
    }

    /// How many items may be committed now, and whether more may while the page goes on.
    fn flow(&self) -> (usize, bool) {
        let page = self.page();
        (page.ready(), page.flows())
    }

    /// Waits while a whole prefix is here and not in the store: what is read meanwhile would travel again after a crash.
    /// Takes from `patience` what it waits.
    pub(super) async fn wait_for_commit(&self, patience: &mut Duration) {
        let asked = Instant::now();
        let last = asked + *patience;
        while let Some(until) = self.commit_awaited_until().filter(|_| Instant::now() < last) {
            select! {
                () = self.freed.notified() => {}
                () = sleep_until(until.min(last)) => break,
            }
        }
        *patience = patience.saturating_sub(asked.elapsed());
    }

    fn commit_awaited_until(&self) -> Option<Instant> {
        let (ready, flows) = self.flow();
        let under_way = self.uncommitted().under_way;
        let waiting = ready as u64 + under_way.map_or(0, |(events, _)| events);
        let now = Instant::now();
        let until = under_way.map_or(now, |(_, since)| since) + COMMIT_AWAITED;
        (flows && waiting >= PREFIX_EVENTS as u64 && now < until).then_some(until)
    }

    /// The next prefix to commit while the response goes on; `None` when it is over.
    pub(super) async fn next_prefix(&self) -> Option<Batch> {
        loop {
            if self.over.is_cancelled() || self.superseded.is_cancelled() {
                return None;
            }
            let ready = self.page().ready();
            let due = self.uncommitted().oldest.filter(|_| ready > 0).map(|oldest| oldest + PREFIX_AGE);
            if ready >= PREFIX_EVENTS || due.is_some_and(|due| Instant::now() >= due) {
                return Some(self.take());
            }
            select! {
                () = self.arrived.notified() => {}
                () = self.over.cancelled() => {}
                () = self.superseded.cancelled() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    fn take(&self) -> Batch {
        let mut page = self.page();
        let batch = page.take();
        self.held.fetch_sub(page.let_go(), Ordering::Relaxed);
        let now = Instant::now();
        // What did not fit into one statement is next, and need not wait.
        let oldest = if page.ready() > 0 { self.uncommitted().oldest } else { None };
        *self.uncommitted() = Uncommitted { oldest, under_way: Some((batch.len(), now)) };
        batch
    }

    /// The batch taken last was committed.
    pub(super) fn committed(&self, bytes: u64, cursor: Cursor) {
        self.page().stands_at(cursor);
        self.uncommitted().under_way = None;
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.freed.notify_one();
    }

    /// The batch taken last does not tell where the page begins: it is held until more has come, or the end.
    pub(super) fn give_back(&self, batch: &Batch) {
        self.page().give_back(batch);
        self.uncommitted().under_way = None;
        self.freed.notify_one();
    }

    /// The page does not begin after the cursor. What is held is of no use, and what still comes is not held.
    pub(super) fn overlaps(&self, batch: &Batch, why: Overlap) -> u64 {
        let dropped = self.page().overlaps(batch, why);
        *self.uncommitted() = Uncommitted::default();
        self.held.store(0, Ordering::Relaxed);
        self.freed.notify_one();
        dropped
    }

    /// The response has ended, and may lack some of its items.
    pub(super) fn end_proves_nothing(&self) {
        self.page().end_proves_nothing();
    }

    pub(super) fn end(&self) {
        self.over.cancel();
    }

    pub(super) async fn ended(&self) {
        self.over.cancelled().await;
    }

    /// The row has moved on; whatever is still held is of no use.
    pub(super) fn supersede(&self, row: Option<Row>) {
        *self.row.lock().unwrap_or_else(PoisonError::into_inner) = row;
        self.superseded.cancel();
    }

    /// Waits until the row has moved on. Returns how it stood then, if there is one.
    pub(super) async fn superseded(&self) -> Option<Row> {
        self.superseded.cancelled().await;
        self.row()
    }

    pub(super) fn is_superseded(&self) -> bool {
        self.superseded.is_cancelled()
    }

    /// How the row stood when it had moved on, if there is one.
    pub(super) fn row(&self) -> Option<Row> {
        self.row.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes that a share for this page should have had.
    pub(super) fn size(&self) -> u64 {
        self.received.load(Ordering::Relaxed).max(self.most_kept.load(Ordering::Relaxed))
    }

    pub(super) fn into_page(self) -> Prefix {
        self.page.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn uncommitted(&self) -> MutexGuard<'_, Uncommitted> {
        self.uncommitted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn page(&self) -> MutexGuard<'_, Prefix> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
