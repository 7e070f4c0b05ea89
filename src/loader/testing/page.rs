use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use async_trait::async_trait;
use tokio::{sync::mpsc, time::Instant};

use crate::fetch::{Failure, FetchError, Item, Page, Progress};

/// What a source writes.
pub(super) enum Wire {
    Prepared,
    Head {
        holds_back: bool,
    },
    Items(Vec<Item>),
    End,
    /// As `End`, where a cut would look the same.
    UnprovenEnd,
    Fails(FetchError),
    FailsUnread(FetchError),
}

/// The bytes that pages hold back, of all sources that share this.
#[derive(Debug, Default)]
pub(in crate::loader) struct Kept {
    now: AtomicU64,
    most: AtomicU64,
}

impl Kept {
    fn add(&self, bytes: u64) {
        self.most.fetch_max(self.now.fetch_add(bytes, SeqCst) + bytes, SeqCst);
    }

    pub(in crate::loader) fn most(&self) -> u64 {
        self.most.load(SeqCst)
    }
}

pub(super) fn cut(first_byte: Option<Instant>) -> Failure {
    let error = FetchError::ConnectionFailed { detail: "the body was cut".to_owned() };
    Failure { error, progress: Progress::MayBeServed { first_byte } }
}

/// A response that is being read.
pub(super) struct FakePage {
    first_byte: Instant,
    answer: mpsc::Receiver<Wire>,
    holds_back: bool,
    held_back: Vec<Item>,
    /// The response was read to its end, and what was held back was handed out.
    ended: bool,
    end_is_proven: bool,
    kept: Arc<Kept>,
}

impl FakePage {
    pub(super) fn new(first_byte: Instant, answer: mpsc::Receiver<Wire>, holds_back: bool, kept: Arc<Kept>) -> Self {
        Self { first_byte, answer, holds_back, held_back: Vec::new(), ended: false, end_is_proven: true, kept }
    }
}

impl Drop for FakePage {
    fn drop(&mut self) {
        self.kept.now.fetch_sub(self.held(), SeqCst);
    }
}

#[async_trait]
impl Page for FakePage {
    fn first_byte(&self) -> Instant {
        self.first_byte
    }

    async fn next(&mut self) -> Result<Option<Vec<Item>>, Failure> {
        match self.answer.recv().await {
            Some(Wire::Items(items)) if self.holds_back => {
                self.kept.add(items.iter().map(Item::bytes).sum());
                self.held_back.extend(items);
                Ok(Some(Vec::new()))
            }
            Some(Wire::Items(items)) => Ok(Some(items)),
            Some(Wire::End) if !self.held_back.is_empty() => {
                self.kept.now.fetch_sub(self.held(), SeqCst);
                self.ended = true;
                Ok(Some(std::mem::take(&mut self.held_back)))
            }
            None if self.ended => Ok(None),
            Some(Wire::End) => Ok(None),
            Some(Wire::UnprovenEnd) => {
                self.end_is_proven = false;
                Ok(None)
            }
            Some(Wire::Fails(error)) => {
                Err(Failure { error, progress: Progress::ReadToEnd { first_byte: self.first_byte } })
            }
            _ => Err(cut(Some(self.first_byte))),
        }
    }

    fn end_is_proven(&self) -> bool {
        self.end_is_proven
    }

    fn held(&self) -> u64 {
        self.held_back.iter().map(Item::bytes).sum()
    }
}
