//! A response that is being read.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::{
    answer::{broken, explain},
    connection::Connection,
    inflate::Inflate,
};
use crate::fetch::{Failure, FetchError, Item, Page, Progress, decode::PageDecoder};

/// What is read of a body that is of no use, so that its row need not wait out the deadline. More is not worth the
/// traffic.
pub(super) const DRAIN_BYTES: usize = 64 * 1024;
pub(super) const DRAIN_FOR: Duration = Duration::from_secs(5);

/// Where a connection stands between two requests. A fetcher takes it out to send; the page that read its response to
/// the end puts it back.
#[derive(Clone, Default)]
pub(super) struct Stand(Arc<Mutex<Option<Connection>>>);

impl Stand {
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
    pub(super) async fn fail(mut self, stand: &Stand, error: FetchError) -> Failure {
        let first_byte = self.first_byte;
        let until = self.until.min(Instant::now() + DRAIN_FOR);
        let drained = self.connection.read_out(&mut self.body, DRAIN_BYTES, until).await.is_some();
        if !drained {
            return Failure { error, progress: Progress::MayBeServed { first_byte: Some(first_byte) } };
        }
        stand.put(self.connection);
        Failure { error, progress: Progress::ReadToEnd { first_byte } }
    }
}

/// The page behind a response.
pub(super) struct HttpPage {
    first_byte: Instant,
    reading: Reading,
    inflate: Inflate,
    decoder: PageDecoder,
    stand: Stand,
}

enum Reading {
    Streaming(Answered),
    /// The decoder or the limit has had enough; the items before were handed out or are about to be.
    Failed(Answered, FetchError),
    /// The response was read to its end; the decoder may still hold items.
    ReadToEnd,
    Over,
}

impl HttpPage {
    pub(super) fn new(answered: Answered, inflate: Inflate, decoder: PageDecoder, stand: Stand) -> Self {
        let first_byte = answered.first_byte;
        Self { first_byte, reading: Reading::Streaming(answered), inflate, decoder, stand }
    }

    /// Decodes one piece. What was complete before an error is returned with it.
    fn decode(&mut self, piece: &[u8]) -> (Vec<Item>, Result<(), FetchError>) {
        let mut items = Vec::new();
        let decoder = &mut self.decoder;
        let outcome = self.inflate.push(piece, |bytes| push(decoder, bytes, &mut items));
        (items, outcome)
    }

    fn ended(&self, error: FetchError) -> Failure {
        Failure { error, progress: Progress::ReadToEnd { first_byte: self.first_byte } }
    }
}

/// Takes the items out of the decoder, and the error behind them if there is one: the body need not go on for it to show.
fn push(decoder: &mut PageDecoder, bytes: &[u8], items: &mut Vec<Item>) -> Result<(), FetchError> {
    let complete = decoder.push(bytes)?;
    let error_may_follow = !complete.is_empty();
    items.extend(complete);
    if error_may_follow {
        decoder.push(&[])?;
    }
    Ok(())
}

#[async_trait]
impl Page for HttpPage {
    fn first_byte(&self) -> Instant {
        self.first_byte
    }

    async fn next(&mut self) -> Result<Option<Vec<Item>>, Failure> {
        loop {
            match std::mem::replace(&mut self.reading, Reading::Over) {
                Reading::Over => return Ok(None),
                Reading::Failed(answered, error) => return Err(answered.fail(&self.stand, error).await),
                Reading::ReadToEnd => {
                    let items = self.decoder.finish().map_err(|error| self.ended(error))?;
                    if !items.is_empty() {
                        // The decoder may have an error behind these items; it shows when it is asked again.
                        self.reading = Reading::ReadToEnd;
                        return Ok(Some(items));
                    }
                }
                Reading::Streaming(mut answered) => {
                    let piece = answered.connection.piece(&mut answered.body);
                    let Ok(piece) = timeout_at(answered.until, piece).await else {
                        return Err(broken(&answered.connection, None, answered.timeout));
                    };
                    match piece {
                        None => {
                            self.stand.put(answered.connection);
                            self.inflate.finish().map_err(|error| self.ended(error))?;
                            self.reading = Reading::ReadToEnd;
                        }
                        Some(Err(error)) => {
                            let error = explain(&answered.connection.endpoint, &error);
                            let progress = Progress::MayBeServed { first_byte: Some(self.first_byte) };
                            return Err(Failure { error, progress });
                        }
                        Some(Ok(piece)) => {
                            let (items, outcome) = self.decode(&piece);
                            self.reading = match outcome {
                                Ok(()) => Reading::Streaming(answered),
                                Err(error) => Reading::Failed(answered, error),
                            };
                            if !items.is_empty() {
                                return Ok(Some(items));
                            }
                        }
                    }
                }
            }
        }
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
}
