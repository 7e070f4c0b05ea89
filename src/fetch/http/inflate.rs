//! Content codings, and the limit on what a response may bring.

use std::ops::ControlFlow;

use bytes::Bytes;
use hyper::header::{CONTENT_ENCODING, HeaderMap};

use super::gzip::Gzip;
use crate::fetch::FetchError;

/// Decoded bytes that are handed on at a time: a few hundred of the smallest items.
const SLICE: usize = 1024;

/// Bytes after which [`Inflate::push`] returns.
pub(super) const PORTION: u64 = 64 * 1024;

/// Decompresses a body and counts it, compressed and decompressed, against `http.maxResponseBytes`.
pub(super) struct Inflate {
    coding: Coding,
    limit: u64,
    received: u64,
    decoded: u64,
}

enum Coding {
    Identity,
    Gzip(Box<Gzip>),
}

impl Inflate {
    /// # Errors
    /// For a coding nobody asked for.
    pub(super) fn new(headers: &HeaderMap, limit: u64) -> Result<Self, FetchError> {
        let mut codings = headers.get_all(CONTENT_ENCODING).iter();
        let coding = match (codings.next().map(|value| value.as_bytes().to_ascii_lowercase()), codings.next()) {
            (None, _) => Coding::Identity,
            (Some(coding), None) if coding == b"identity" || coding.is_empty() => Coding::Identity,
            (Some(coding), None) if coding == b"gzip" || coding == b"x-gzip" => Coding::Gzip(Box::new(Gzip::new())),
            _ => return Err(decode_failed("its Content-Encoding is not gzip, the only one that was offered")),
        };
        Ok(Self { coding, limit, received: 0, decoded: 0 })
    }

    /// Decompresses a portion of `unread` and hands the result to `take`, up to the limit, until `take` has enough for now.
    /// The rest of `unread` stays for the next call: a few kilobytes may hold many megabytes, and what comes of them many more.
    /// The budget is looked at in between.
    ///
    /// # Errors
    /// [`FetchError::ResponseTooLarge`] when the limit was reached, and where the compressed data is corrupt; all before it was
    /// handed on, but for what shares a call of the decoder with a bad block.
    pub(super) fn push(
        &mut self,
        unread: &mut Bytes,
        mut take: impl FnMut(&[u8]) -> Result<ControlFlow<()>, FetchError>,
    ) -> Result<(), FetchError> {
        let portion = self.decoded + PORTION;
        while self.has_more(unread) && self.decoded < portion {
            let (room, arrived) = (room(self.limit, self.decoded), unread.len());
            let identity;
            let text = match &mut self.coding {
                Coding::Identity => {
                    identity = unread.split_to(arrived.min(SLICE));
                    &identity[..]
                }
                Coding::Gzip(gzip) => {
                    gzip.read(unread, SLICE).map_err(|_| decode_failed("its gzip data is corrupt"))?
                }
            };
            self.received += (arrived - unread.len()) as u64;
            self.decoded += text.len() as u64;
            let taken = take(&text[..text.len().min(room)])?;
            if self.decoded > self.limit || self.received > self.limit {
                return Err(FetchError::ResponseTooLarge { limit: self.limit });
            }
            if taken.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Whether something can be decoded of what came.
    pub(super) fn has_more(&self, unread: &Bytes) -> bool {
        match &self.coding {
            Coding::Identity => !unread.is_empty(),
            Coding::Gzip(gzip) => gzip.has_more(unread),
        }
    }

    /// The body ended; everything it held was handed on before.
    ///
    /// # Errors
    /// When the compressed data ends too early.
    pub(super) fn finish(&self) -> Result<(), FetchError> {
        match &self.coding {
            Coding::Gzip(gzip) if self.received > 0 && !gzip.is_whole() => {
                Err(decode_failed("its gzip data ends too early, or is corrupt"))
            }
            _ => Ok(()),
        }
    }
}

fn room(limit: u64, decoded: u64) -> usize {
    usize::try_from(limit.saturating_sub(decoded)).unwrap_or(usize::MAX)
}

fn decode_failed(detail: &str) -> FetchError {
    FetchError::DecodeFailed { detail: format!("the body cannot be decompressed: {detail}") }
}
