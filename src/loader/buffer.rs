//! The byte budget of the process (`--buffer-bytes`): what responses may hold in memory until they are committed.
//!
//! A source takes a share **before** RESERVE, so that it never asks for what it could not keep (P5). The share is what its
//! recent pages needed, not `maxResponseBytes`: 10,000 idle sources poll on 16 KiB each. When a page turns out larger,
//! the share grows if the budget has room. If not, the source reads no further until its own commits have freed what it
//! holds, so memory stays bounded by the budget plus one decoded chunk per open response.
//!
//! Why nobody waits for ever: before RESERVE a source holds nothing while it waits. During a response it waits only for
//! its own commits, or, where those cannot come (a page that must be held whole, a database that is away), until
//! `http.timeout` ends the response. Its next share is then as large as that page was, taken before RESERVE; and a stream
//! known to need whole pages takes `maxResponseBytes` at once. So no circle of waiting sources outlives a timeout.

use std::{mem, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::fetch::Item;

/// The budget is counted in pieces of this size, so that any budget fits the semaphore.
const PIECE: u64 = 1024;

/// The smallest share: an empty page, or a handful of events.
const LEAST_SHARE: u64 = 16 * 1024;

/// A share grows by at least this, to keep growing cheap.
const LEAST_GROWTH: u64 = 256 * 1024;

/// The default of `--buffer-bytes`.
pub const DEFAULT_BUFFER_BYTES: u64 = 128 * 1024 * 1024;

/// The byte budget, shared by clones.
#[derive(Debug, Clone)]
pub struct Buffer {
    pieces: Arc<Semaphore>,
    total: u32,
}

/// What one response may hold. Gives its bytes back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    buffer: Buffer,
    permit: OwnedSemaphorePermit,
}

impl Buffer {
    /// A budget of at least one smallest share.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let total = pieces(bytes.max(LEAST_SHARE));
        Self { pieces: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Bytes that no source holds.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.pieces.available_permits() as u64 * PIECE
    }

    /// Takes a share if there is room now and nobody waits for it.
    pub(super) fn try_take(&self, bytes: u64) -> Option<Share> {
        let permit = Arc::clone(&self.pieces).try_acquire_many_owned(self.clamped(bytes)).ok()?;
        Some(Share { buffer: self.clone(), permit })
    }

    /// Takes a share, first come first served. A share larger than the whole budget is cut to it.
    pub(super) async fn take(&self, bytes: u64) -> Share {
        let permit = Arc::clone(&self.pieces)
            .acquire_many_owned(self.clamped(bytes))
            .await
            .expect("the semaphore of the buffer is never closed");
        Share { buffer: self.clone(), permit }
    }

    fn clamped(&self, bytes: u64) -> u32 {
        pieces(bytes.max(LEAST_SHARE)).min(self.total)
    }
}

impl Share {
    pub(super) fn bytes(&self) -> u64 {
        self.permit.num_permits() as u64 * PIECE
    }

    /// Grows to hold `bytes` if the budget has room now. Never waits: a waiting holder could close a circle.
    pub(super) fn try_grow_to(&mut self, bytes: u64) -> bool {
        let missing = bytes.saturating_sub(self.bytes());
        if missing == 0 {
            return true;
        }
        for growth in [missing.max(LEAST_GROWTH), missing] {
            if let Ok(more) = Arc::clone(&self.buffer.pieces).try_acquire_many_owned(pieces(growth)) {
                self.permit.merge(more);
                return true;
            }
        }
        false
    }
}

fn pieces(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PIECE)).unwrap_or(u32::MAX)
}

/// Learns how large the pages of one source are.
#[derive(Debug, Default)]
pub(super) struct PageSize {
    recent: u64,
}

impl PageSize {
    /// The share to take before the next request.
    pub(super) fn expected(&self, max_response_bytes: u64) -> u64 {
        (self.recent + self.recent / 4).clamp(LEAST_SHARE, max_response_bytes.max(LEAST_SHARE))
    }

    /// Up at once, down by an eighth per page.
    pub(super) fn observe(&mut self, bytes: u64) {
        self.recent = bytes.max(self.recent - self.recent / 8);
    }
}

/// What an item takes in memory, near enough: its texts, and what holds them.
pub(super) fn bytes_of(item: &Item) -> u64 {
    let bytes = match item {
        Item::Event(event) => {
            event.id.as_str().len()
                + event.payload.len()
                + event.event_type.as_ref().map_or(0, String::len)
                + event.subject.as_ref().map_or(0, String::len)
        }
        Item::SetAside(item) => item.id.as_str().len() + item.item.len(),
    };
    (bytes + mem::size_of::<Item>()) as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[tokio::test]
    async fn ten_thousand_idle_sources_poll_a_few_at_a_time_within_the_default_budget() {
        let buffer = Buffer::new(DEFAULT_BUFFER_BYTES);
        let idle = PageSize::default();
        let shares: Vec<_> = (0..8000).filter_map(|_| buffer.try_take(idle.expected(16 * MIB))).collect();
        assert_eq!(shares.len(), 8000, "8000 may even be in flight at the same instant");
    }

    #[tokio::test]
    async fn a_share_never_exceeds_the_budget_and_comes_back_when_dropped() {
        let buffer = Buffer::new(MIB);
        let everything = buffer.take(64 * MIB).await;
        assert_eq!(everything.bytes(), MIB);
        assert!(buffer.try_take(1).is_none());
        drop(everything);
        assert_eq!(buffer.free(), MIB);
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_grows_only_into_free_room_and_never_waits_for_it() {
        let buffer = Buffer::new(MIB);
        let mut small = buffer.take(LEAST_SHARE).await;
        let other = buffer.take(MIB / 2).await;
        assert!(small.try_grow_to(MIB / 4));
        assert!(!small.try_grow_to(MIB));
        drop(other);
        assert!(small.try_grow_to(MIB));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_are_served_in_order_so_a_large_share_is_not_starved_by_small_ones() {
        let buffer = Buffer::new(MIB);
        let first = buffer.take(LEAST_SHARE).await;
        let large = tokio::spawn({
            let buffer = buffer.clone();
            async move { buffer.take(MIB).await }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(buffer.try_take(LEAST_SHARE).is_none(), "the large one stands before us");
        drop(first);
        assert_eq!(large.await.expect("it was served").bytes(), MIB);
    }

    #[test]
    fn the_expected_page_follows_large_pages_at_once_and_forgets_them_slowly() {
        let mut size = PageSize::default();
        assert_eq!(size.expected(16 * MIB), LEAST_SHARE);
        size.observe(4 * MIB);
        assert_eq!(size.expected(16 * MIB), 5 * MIB);
        size.observe(0);
        assert!(size.expected(16 * MIB) > 4 * MIB);
        assert_eq!(size.expected(MIB), MIB, "never more than one response may have");
        (0..100).for_each(|_| size.observe(0));
        assert_eq!(size.expected(16 * MIB), LEAST_SHARE);
    }
}
