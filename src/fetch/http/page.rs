//! A response that is being read.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use hyper::{
    Response,
    body::{Body, Incoming},
    header::TRANSFER_ENCODING,
};
use tokio::time::Instant;

use super::{
    answer::{broken, explain_behind_an_answer, read_to_end},
    connection::Connection,
    inflate::{Inflate, PORTION},
};
use crate::{
    deadline::{self, TimeOver},
    fetch::{Failure, FetchError, Item, Page, Progress, decode::PageDecoder},
};

/// What is read of a body that is of no use, so that its row need not wait out the deadline. More is not worth the
/// traffic.
pub(super) const DRAIN_BYTES: usize = 64 * 1024;
pub(super) const DRAIN_FOR: Duration = Duration::from_secs(5);

/// Where a connection idles between two requests. A fetcher takes it out to send; the page that read its response to
/// the end puts it back.
#[derive(Clone, Default)]
pub(super) struct IdleSlot(Arc<Mutex<Option<Connection>>>);

impl IdleSlot {
    pub(super) fn take(&self) -> Option<Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn put(&self, connection: Connection) {
        connection.line.disarm();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
    }
}

/// A request that was answered: what is needed to read the answer.
pub(super) struct Answered {
    pub(super) connection: Connection,
    pub(super) body: Incoming,
    pub(super) first_byte: Instant,
    /// When `http.timeout` strikes.
    pub(super) until: Instant,
    pub(super) timeout: Duration,
}

impl Answered {
    /// Reads the rest of a body that is of no use, within bounds, and says what became of the request.
    pub(super) async fn fail(mut self, idle: &IdleSlot, error: FetchError) -> Failure {
        let first_byte = self.first_byte;
        let until = self.until.min(Instant::now() + DRAIN_FOR);
        let drained = self.connection.read_out(&mut self.body, DRAIN_BYTES, until).await.is_ok();
        if !drained {
            return Failure { error, progress: Progress::MayBeServed { first_byte: Some(first_byte) } };
        }
        idle.put(self.connection);
        read_to_end(error, first_byte)
    }
}

/// The page behind a response. [`Page::next`] may be dropped while it waits, and called again.
pub(super) struct HttpPage {
    first_byte: Instant,
    framed: bool,
    reading: Reading,
    /// What came from the network and is not decoded yet.
    unread: Bytes,
    inflate: Inflate,
    decoder: PageDecoder,
    idle: IdleSlot,
}

enum Reading {
    Streaming(Answered),
    /// The decoder or the limit has had enough; the items before that were handed out.
    Spoiled(Answered, FetchError),
    /// The response was read to its end; the decoder may still hold items.
    Ended,
    Over(Result<(), Failure>),
}

/// What waiting for the next piece of a body brings.
type Awaited = Result<Option<hyper::Result<Bytes>>, TimeOver>;

impl HttpPage {
    pub(super) fn new(
        head: &Response<()>,
        answered: Answered,
        inflate: Inflate,
        mut decoder: PageDecoder,
        idle: IdleSlot,
    ) -> Self {
        let (first_byte, framed) = (answered.first_byte, is_framed(head, &answered.body));
        if !framed {
            decoder.end_may_be_a_cut();
        }
        Self { first_byte, framed, reading: Reading::Streaming(answered), unread: Bytes::new(), inflate, decoder, idle }
    }

    /// Takes what came of waiting for a piece.
    fn receive(&mut self, awaited: Awaited) -> Result<(), Failure> {
        let Reading::Streaming(answered) = std::mem::replace(&mut self.reading, Reading::Ended) else {
            return Ok(());
        };
        let first_byte = Some(self.first_byte);
        match awaited {
            Err(TimeOver) => {
                let failure = broken(&answered.connection, None, answered.timeout);
                Err(self.over(failure.error, failure.progress))
            }
            Ok(Some(Err(error))) => {
                let error = explain_behind_an_answer(&answered.connection.endpoint, &error);
                Err(self.over(error, Progress::MayBeServed { first_byte }))
            }
            Ok(Some(Ok(piece))) => {
                self.unread = piece;
                self.reading = Reading::Streaming(answered);
                Ok(())
            }
            Ok(None) => {
                self.idle.put(answered.connection);
                match self.inflate.finish() {
                    Ok(()) => Ok(()),
                    Err(error) => Err(self.over(error, Progress::ReadToEnd { first_byte: self.first_byte })),
                }
            }
        }
    }

    /// Decodes a portion of what came. It ends by what comes of it, too: an item of a few bytes takes some two hundred.
    fn decode(&mut self) -> Vec<Item> {
        let (mut items, mut bytes, held) = (Vec::new(), 0, self.decoder.held());
        let decoder = &mut self.decoder;
        let outcome = self.inflate.push(&mut self.unread, |text| {
            bytes += push(decoder, text, &mut items)?;
            let enough = bytes + decoder.held() >= held + PORTION;
            Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        if let Err(error) = outcome {
            self.unread = Bytes::new();
            self.reading = match std::mem::replace(&mut self.reading, Reading::Ended) {
                Reading::Streaming(answered) => Reading::Spoiled(answered, error),
                other => other,
            };
        }
        items
    }

    /// Ends the page for an error behind which its response still goes on.
    async fn give_up(&mut self) -> Result<(), Failure> {
        let Reading::Spoiled(answered, error) = std::mem::replace(&mut self.reading, Reading::Ended) else {
            return Ok(());
        };
        // What holds when this is dropped while it waits.
        let first_byte = Some(self.first_byte);
        self.over(error.clone(), Progress::MayBeServed { first_byte });
        let failure = answered.fail(&self.idle, error).await;
        Err(self.over(failure.error, failure.progress))
    }

    /// The page is over, now and whenever it is asked again.
    fn over(&mut self, error: FetchError, progress: Progress) -> Failure {
        let failure = Failure { error, progress };
        self.reading = Reading::Over(Err(failure.clone()));
        failure
    }
}

/// Whether the protocol tells a body that was cut from one that has ended: it has a length, or is sent in chunks. Else it
/// ends with its connection.
fn is_framed(head: &Response<()>, body: &Incoming) -> bool {
    let codings = head.headers().get_all(TRANSFER_ENCODING).iter().next_back().and_then(|value| value.to_str().ok());
    let last = codings.and_then(|codings| codings.rsplit(',').next());
    body.size_hint().exact().is_some() || last.is_some_and(|coding| coding.trim().eq_ignore_ascii_case("chunked"))
}

/// Takes the items out of the decoder, and the error behind them if there is one: the body need not go on for it to show.
/// Returns what they take in memory.
fn push(decoder: &mut PageDecoder, bytes: &[u8], items: &mut Vec<Item>) -> Result<u64, FetchError> {
    let complete = decoder.push(bytes)?;
    let taken = complete.iter().map(Item::bytes).sum();
    let error_may_follow = !complete.is_empty();
    items.extend(complete);
    if error_may_follow {
        decoder.push(&[])?;
    }
    Ok(taken)
}

#[async_trait]
impl Page for HttpPage {
    fn first_byte(&self) -> Instant {
        self.first_byte
    }

    async fn next(&mut self) -> Result<Option<Vec<Item>>, Failure> {
        loop {
            match &mut self.reading {
                Reading::Over(outcome) => return outcome.clone().map(|()| None),
                Reading::Spoiled(..) => self.give_up().await?,
                Reading::Ended => match self.decoder.finish() {
                    Ok(items) if items.is_empty() => self.reading = Reading::Over(Ok(())),
                    // An error may follow these items; it shows when the decoder is asked again.
                    Ok(items) => return Ok(Some(items)),
                    Err(error) => {
                        return Err(self.over(error, Progress::ReadToEnd { first_byte: self.first_byte }));
                    }
                },
                Reading::Streaming(answered) => {
                    if !self.inflate.has_more(&self.unread) {
                        let piece = answered.connection.piece(&mut answered.body);
                        let awaited = deadline::before(answered.until, piece).await;
                        self.receive(awaited)?;
                    }
                    let items = self.decode();
                    if !items.is_empty() || matches!(self.reading, Reading::Streaming(_)) {
                        return Ok(Some(items));
                    }
                }
            }
        }
    }

    fn end_is_proven(&self) -> bool {
        self.framed || self.decoder.marks_its_end()
    }

    fn held(&self) -> u64 {
        self.decoder.held() + self.unread.len() as u64
    }
}

/// 204: a page without items.
pub(super) struct NoItems {
    pub(super) first_byte: Instant,
}

#[async_trait]
impl Page for NoItems {
    fn first_byte(&self) -> Instant {
        self.first_byte
    }

    async fn next(&mut self) -> Result<Option<Vec<Item>>, Failure> {
        Ok(None)
    }

    fn end_is_proven(&self) -> bool {
        true
    }

    fn held(&self) -> u64 {
        0
    }
}
