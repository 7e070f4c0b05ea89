//! The byte budget of the process (`--buffer-bytes`): what responses may hold in memory until they are committed.
//!
//! A source takes a share **before** RESERVE, so that it never asks for what it could not keep (P5). The share is what its
//! recent pages needed, not `maxResponseBytes`: 10,000 idle sources poll on 16 KiB each. And it is at most an eighth of the
//! budget, so that no source keeps the others waiting by a large page that it does not send. When a page turns out larger,
//! the share grows if the budget has room. If not, the source reads no further until there is: its socket fills, and the
//! sender waits. What counts is everything the response keeps, committable items, what the decoder holds back, and the ids
//! by which repeats within the page are found, so memory stays bounded by the budget plus what one turn of reading adds per
//! open response: some 64 KiB in items, whatever the body is compressed to, beyond the item that it ends in.
//!
//! Why large pages starve no small ones (P6): a part of the budget, **the first eighth**, is for small shares alone. Sources
//! whose pages are large may fill all the rest, and wait in line for it; a source that asks for little does not stand in
//! that line. Its pages flow: what it cannot hold at once it commits, and reads on.
//!
//! Why nobody waits for ever:
//! - Before RESERVE a source holds nothing while it waits.
//! - A response whose items are committed as they come waits for those commits, which take no memory.
//! - A response that nothing of its own can free (a page held whole, one large item) may wait for others that wait for it.
//!   So a part of the budget, **the last eighth**, is in no share: it is given whole to one such response at a time, first
//!   come first served, until that response ends. By default it is as large as `maxResponseBytes`, so that one is enough.
//! - Where it is not enough, those that still wait for their turn **give way**, one after the other, to the one whose turn
//!   it is: they are given up, and asked for again with a share as large as the page was, up to the eighth. It alone stands
//!   in line for more, with those that hold nothing. So it waits for no circle, only for responses that go on by themselves
//!   or for a database that is away, and no longer than `http.timeout`.
//! - A page larger than all that one response can get fails at once, and says so.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    select,
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// The budget is counted in pieces of this size, so that any budget fits the semaphore.
const PIECE: u64 = 1024;

/// The smallest share: an empty page, or a handful of events.
const LEAST_SHARE: u64 = 16 * 1024;

/// A share grows by at least this, to keep growing cheap.
const LEAST_GROWTH: u64 = 256 * 1024;

/// This part of the budget is for small shares alone.
const FIRST_PART: u32 = 8;

/// So many small shares fit into the first part: enough that a few slow sources do not fill it, and 2 MiB each by default,
/// more than a page of 1,000 usual events takes.
const SMALL_SHARES: u32 = 8;

/// This part of the budget is the last resort of responses that cannot free memory by themselves.
const LAST_PART: u32 = 8;

/// The most that a share may be before a byte of the response has come, as a part of the budget: a source that is slow with
/// a large page holds it for as long as `http.timeout`. By default it is as large as `maxResponseBytes`.
const BEFORE_A_BYTE: u64 = 8;

/// The byte budget, shared by clones.
#[derive(Debug, Clone)]
pub struct Buffer {
    pieces: Arc<Semaphore>,
    /// How many `pieces` there are.
    shared: u32,
    first_part: Arc<Semaphore>,
    /// The most pieces of a share that may come from `first_part`.
    small: u32,
    /// How many pieces there are in all.
    total: u32,
    last_part: Arc<Semaphore>,
    /// How many pieces `last_part` has, which is taken whole.
    last: u32,
    /// The response that has the last part needs more: somebody in line is to give way.
    give_way: Arc<AtomicBool>,
}

/// The part of the budget that one response at a time may have beside its share.
#[derive(Debug)]
pub(super) struct LastPart {
    permit: OwnedSemaphorePermit,
    give_way: Arc<AtomicBool>,
}

impl Drop for LastPart {
    fn drop(&mut self) {
        self.give_way.store(false, Ordering::Relaxed);
    }
}

/// What one response may hold. Gives its bytes back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    buffer: Buffer,
    /// Of the first part, or of all the rest.
    permit: OwnedSemaphorePermit,
    /// Of all the rest.
    growth: Option<OwnedSemaphorePermit>,
    last_part: Option<LastPart>,
}

impl Buffer {
    /// A budget of at least one smallest share.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let total = pieces(bytes.max(LEAST_SHARE));
        let (first, last) = (total / FIRST_PART, total / LAST_PART);
        let shared = total - first - last;
        let small = (first / SMALL_SHARES).max(pieces(LEAST_SHARE));
        let semaphore = |pieces: u32| Arc::new(Semaphore::new(pieces as usize));
        Self {
            pieces: semaphore(shared),
            shared,
            first_part: semaphore(first),
            small,
            total,
            last_part: semaphore(last),
            last,
            give_way: Arc::default(),
        }
    }

    /// Bytes that no source holds.
    #[must_use]
    pub fn free(&self) -> u64 {
        let parts = [&self.pieces, &self.first_part, &self.last_part];
        parts.map(|part| part.available_permits()).iter().sum::<usize>() as u64 * PIECE
    }

    /// The whole budget.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.total) * PIECE
    }

    /// The largest share to take before RESERVE. What a page needs beyond it, the share grows by as its bytes come.
    pub(super) fn most_before_a_byte(&self) -> u64 {
        (self.bytes() / BEFORE_A_BYTE).max(LEAST_SHARE)
    }

    /// Takes a share if there is room now and nobody waits for it.
    pub(super) fn try_take(&self, bytes: u64) -> Option<Share> {
        let wanted = self.clamped(bytes);
        let rest = Arc::clone(&self.pieces).try_acquire_many_owned(wanted).ok();
        let small = || Arc::clone(&self.first_part).try_acquire_many_owned(wanted).ok();
        Some(self.share(rest.or_else(|| if wanted <= self.small { small() } else { None })?))
    }

    /// Takes a share, first come first served; a small one where it is served first. One larger than all that shares may
    /// have is cut to it.
    pub(super) async fn take(&self, bytes: u64) -> Share {
        let wanted = self.clamped(bytes);
        let permit = select! {
            permit = Arc::clone(&self.pieces).acquire_many_owned(wanted) => permit,
            permit = Arc::clone(&self.first_part).acquire_many_owned(wanted), if wanted <= self.small => permit,
        };
        self.share(permit.expect("the semaphores of the buffer are never closed"))
    }

    fn share(&self, permit: OwnedSemaphorePermit) -> Share {
        Share { buffer: self.clone(), permit, growth: None, last_part: None }
    }

    fn clamped(&self, bytes: u64) -> u32 {
        pieces(bytes.max(LEAST_SHARE)).min(self.shared)
    }
}

impl Share {
    pub(super) fn bytes(&self) -> u64 {
        let last = self.last_part.as_ref().map_or(0, |last| last.permit.num_permits());
        let growth = self.growth.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        (self.permit.num_permits() + growth + last) as u64 * PIECE
    }

    pub(super) fn budget(&self) -> u64 {
        self.buffer.bytes()
    }

    /// The most that any response may hold: all but the first part.
    pub(super) fn most(&self) -> u64 {
        u64::from(self.buffer.shared + self.buffer.last) * PIECE
    }

    /// Waits in line for the last part of the budget.
    pub(super) fn turn(&self) -> impl Future<Output = LastPart> + use<> {
        let turn = Arc::clone(&self.buffer.last_part).acquire_many_owned(self.buffer.last);
        let give_way = Arc::clone(&self.buffer.give_way);
        async { LastPart { permit: turn.await.expect("the semaphores of the buffer are never closed"), give_way } }
    }

    /// Adds the last part. It comes back with the share.
    pub(super) fn add(&mut self, last_part: LastPart) {
        self.last_part = Some(last_part);
    }

    /// Waits in line for what is missing to hold `bytes`, which are no more than [`Share::most`]. Only for the one share that
    /// has the last part: two that wait for each other would close a circle.
    pub(super) fn in_line_for(&self, bytes: u64) -> impl Future<Output = OwnedSemaphorePermit> + use<> {
        let missing = pieces(bytes.saturating_sub(self.bytes()));
        let more = Arc::clone(&self.buffer.pieces).acquire_many_owned(missing);
        async { more.await.expect("the semaphores of the buffer are never closed") }
    }

    pub(super) fn grow(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.growth {
            Some(growth) => growth.merge(more),
            None => self.growth = Some(more),
        }
    }

    pub(super) fn has_last_part(&self) -> bool {
        self.last_part.is_some()
    }

    /// Asks one of those in line for the last part, which this share has, to give way.
    pub(super) fn ask_to_give_way(&self) {
        self.buffer.give_way.store(true, Ordering::Relaxed);
    }

    /// Whether this share, in line for the last part, is the one to give way.
    pub(super) fn is_to_give_way(&self) -> bool {
        self.buffer.give_way.swap(false, Ordering::Relaxed)
    }

    /// Grows to hold `bytes` if the budget has room now. Never waits: a waiting holder could close a circle.
    pub(super) fn try_grow_to(&mut self, bytes: u64) -> bool {
        let missing = bytes.saturating_sub(self.bytes());
        if missing == 0 {
            return true;
        }
        for growth in [missing.max(LEAST_GROWTH), missing] {
            if let Ok(more) = Arc::clone(&self.buffer.pieces).try_acquire_many_owned(pieces(growth)) {
                self.grow(more);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[tokio::test]
    async fn ten_thousand_idle_sources_poll_a_few_at_a_time_within_the_default_budget() {
        let buffer = Buffer::new(128 * MIB);
        let idle = PageSize::default();
        let shares: Vec<_> = (0..7000).filter_map(|_| buffer.try_take(idle.expected(16 * MIB))).collect();
        assert_eq!(shares.len(), 7000, "7000 may even be in flight at the same instant");
    }

    #[tokio::test]
    async fn a_share_never_exceeds_the_budget_and_comes_back_when_dropped() {
        let buffer = Buffer::new(MIB);
        let everything = buffer.take(64 * MIB).await;
        assert_eq!(everything.bytes(), MIB / 8 * 6, "the last part is in no share, and the first in no large one");
        assert!(buffer.try_take(LEAST_SHARE + 1).is_none());
        drop(everything);
        assert_eq!(buffer.free(), MIB);
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_grows_only_into_free_room_and_never_waits_for_it() {
        let buffer = Buffer::new(MIB);
        let mut small = buffer.take(LEAST_SHARE).await;
        let other = buffer.take(MIB / 2).await;
        assert!(small.try_grow_to(MIB / 4));
        assert!(!small.try_grow_to(MIB / 2));
        drop(other);
        assert!(small.try_grow_to(MIB / 2));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_part_goes_to_one_share_at_a_time_in_order_and_comes_back_with_it() {
        let buffer = Buffer::new(MIB);
        let mut first = buffer.take(MIB / 2).await;
        let mut second = buffer.take(LEAST_SHARE).await;
        let turn = first.turn().await;
        first.add(turn);
        assert_eq!(first.bytes(), MIB / 2 + MIB / 8);
        let turn = tokio::spawn(async move {
            let turn = second.turn().await;
            second.add(turn);
            second.bytes()
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!turn.is_finished(), "one at a time");
        drop(first);
        assert_eq!(turn.await.expect("it had its turn"), LEAST_SHARE + MIB / 8);
        assert_eq!(buffer.free(), MIB);
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
        assert!(buffer.try_take(LEAST_SHARE + 1).is_none(), "the large one stands before us");
        drop(first);
        assert_eq!(large.await.expect("it was served").bytes(), MIB / 8 * 6);
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_whose_turn_it_is_gets_what_is_missing_while_others_stand_in_line_again_and_again() {
        let buffer = Buffer::new(MIB);
        let mut largest = buffer.take(MIB / 8).await;
        let others: Vec<_> = (0..8)
            .map(|_| {
                let buffer = buffer.clone();
                tokio::spawn(async move {
                    loop {
                        let _share = buffer.take(MIB / 4).await;
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!largest.try_grow_to(MIB / 2), "somebody stands in line at any time");
        let turn = largest.turn().await;
        largest.add(turn);
        let missing = largest.in_line_for(largest.most());
        let more =
            tokio::time::timeout(Duration::from_secs(1), missing).await.expect("it comes to the head of the line");
        largest.grow(more);
        assert_eq!(largest.bytes(), largest.most());
        others.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_ask_for_little_are_served_while_large_ones_hold_the_rest_and_wait_for_more() {
        let buffer = Buffer::new(MIB);
        let held = buffer.take(MIB).await;
        let waiting = tokio::spawn({
            let buffer = buffer.clone();
            async move { buffer.take(MIB).await }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        for _ in 0..100 {
            let mut small: Vec<_> = (0..SMALL_SHARES).filter_map(|_| buffer.try_take(LEAST_SHARE)).collect();
            assert_eq!(small.len(), SMALL_SHARES as usize);
            assert!(!small[0].try_grow_to(LEAST_SHARE + 1), "but none of it is for large ones");
            let next = tokio::spawn({
                let buffer = buffer.clone();
                async move { buffer.take(LEAST_SHARE).await }
            });
            drop(small);
            next.await.expect("it waited for a small one only");
        }
        drop(held);
        waiting.await.expect("it was served");
        assert_eq!(buffer.free(), MIB);
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
