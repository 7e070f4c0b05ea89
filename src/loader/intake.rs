use std::{
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
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
    prefix::{Batch, Prefix, Taken},
    report::BlockedBy,
};
use crate::{
    fetch::{FetchError, Item},
    store::Row,
};

/// A prefix is committed when it has this many events, or when its first one is this old (DESIGN 4: measured to leave
/// 1.4 % of the events of a killed replica's slow bodies to travel again, of 7.9 %, for about 20 % CPU per event).
const PREFIX_EVENTS: usize = 250;
const PREFIX_AGE: Duration = Duration::from_millis(50);

/// How often a reader that may not hold more looks whether others have given memory back.
const ROOM_RETRY: Duration = Duration::from_millis(20);

/// Where the reader of a response and the committer of its prefixes meet.
pub(super) struct Intake {
    page: Mutex<Prefix>,
    first_byte: OnceLock<Instant>,
    /// Bytes that are not committed yet.
    held: AtomicU64,
    /// Bytes of the whole page so far.
    received: AtomicU64,
    arrived: Notify,
    freed: Notify,
    /// The response has ended or was given up.
    over: CancellationToken,
    superseded: CancellationToken,
    row: Mutex<Option<Row>>,
}

impl Intake {
    pub(super) fn new(page: Prefix) -> Self {
        Self {
            page: Mutex::new(page),
            first_byte: OnceLock::new(),
            held: AtomicU64::new(0),
            received: AtomicU64::new(0),
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
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits until the share holds what has arrived, by growing or by commits of this very page.
    pub(super) async fn wait_for_room(&self, share: &mut Share, context: &Context) {
        let mut waits = false;
        while !share.try_grow_to(self.held.load(Ordering::Relaxed)) {
            if !waits {
                waits = true;
                context.reporter.blocked_by(Some(BlockedBy::Memory));
            }
            select! {
                () = self.freed.notified() => {}
                () = sleep(ROOM_RETRY) => {}
            }
        }
        if waits {
            context.reporter.blocked_by(None);
        }
    }

    /// The next prefix to commit while the response goes on; `None` when it is over.
    pub(super) async fn next_prefix(&self) -> Option<Batch> {
        let mut oldest = None;
        loop {
            if self.over.is_cancelled() || self.superseded.is_cancelled() {
                return None;
            }
            let ready = self.page().ready();
            let old = oldest.is_some_and(|oldest| Instant::now() >= oldest + PREFIX_AGE);
            if ready >= PREFIX_EVENTS || (ready > 0 && old) {
                return Some(self.page().take());
            }
            let deadline = (ready > 0).then(|| *oldest.get_or_insert_with(Instant::now) + PREFIX_AGE);
            select! {
                () = self.arrived.notified() => {}
                () = self.over.cancelled() => {}
                () = self.superseded.cancelled() => {}
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
            }
        }
    }

    /// A batch was committed.
    pub(super) fn free(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.freed.notify_one();
    }

    /// The batch taken last holds events that are stored. What is held is of no use, and what still comes is not held.
    pub(super) fn overlaps(&self, batch: &Taken) -> u64 {
        let dropped = self.page().overlaps(batch);
        self.held.store(0, Ordering::Relaxed);
        self.freed.notify_one();
        dropped
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

    pub(super) async fn superseded(&self) {
        self.superseded.cancelled().await;
    }

    pub(super) fn is_superseded(&self) -> bool {
        self.superseded.is_cancelled()
    }

    /// How the row stood when it had moved on.
    pub(super) fn row(&self) -> Option<Row> {
        self.row.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(super) fn into_page(self) -> Prefix {
        self.page.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn page(&self) -> MutexGuard<'_, Prefix> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
