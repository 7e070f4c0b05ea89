//! Content codings, and the limit on what a response may bring.

use std::io::Write;

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use hyper::header::{CONTENT_ENCODING, HeaderMap};

use crate::fetch::FetchError;

/// Compressed bytes taken at a time. Deflate grows by 1,032 at most, so one piece brings about a megabyte before the limit
/// and the budget are looked at.
const PIECE: usize = 1024;

/// Decoded bytes after which [`Inflate::push`] returns: as many as an uncompressed piece from the network brings.
const PORTION: u64 = 64 * 1024;

/// Decompresses a body and counts it, compressed and decompressed, against `http.maxResponseBytes`.
pub(super) struct Inflate {
    coding: Coding,
    limit: u64,
    received: u64,
    decoded: u64,
}

enum Coding {
    Identity,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
}

impl Inflate {
    /// # Errors
    /// For a coding nobody asked for.
    pub(super) fn new(headers: &HeaderMap, limit: u64) -> Result<Self, FetchError> {
        let mut codings = headers.get_all(CONTENT_ENCODING).iter();
        let coding = match (codings.next().map(|value| value.as_bytes().to_ascii_lowercase()), codings.next()) {
            (None, _) => Coding::Identity,
            (Some(coding), None) if coding == b"identity" || coding.is_empty() => Coding::Identity,
            (Some(coding), None) if coding == b"gzip" || coding == b"x-gzip" => {
                Coding::Gzip(Box::new(MultiGzDecoder::new(Vec::new())))
            }
            _ => return Err(decode_failed("its Content-Encoding is not gzip, the only one that was offered")),
        };
        Ok(Self { coding, limit, received: 0, decoded: 0 })
    }

    /// Decompresses a portion of `unread` and hands the result to `take`, up to the limit. The rest of `unread` stays for
    /// the next call: a few kilobytes may hold many megabytes, and the budget is looked at in between.
    ///
    /// # Errors
    /// [`FetchError::ResponseTooLarge`] when the limit was reached; all before it was handed on.
    pub(super) fn push(
        &mut self,
        unread: &mut Bytes,
        mut take: impl FnMut(&[u8]) -> Result<(), FetchError>,
    ) -> Result<(), FetchError> {
        let portion = self.decoded + PORTION;
        while !unread.is_empty() && self.decoded < portion {
            let room = room(self.limit, self.decoded);
            match &mut self.coding {
                Coding::Identity => {
                    let piece = std::mem::take(unread);
                    self.received += piece.len() as u64;
                    self.decoded += piece.len() as u64;
                    take(&piece[..piece.len().min(room)])?;
                }
                Coding::Gzip(gzip) => {
                    let piece = unread.split_to(unread.len().min(PIECE));
                    self.received += piece.len() as u64;
                    gzip.write_all(&piece)
                        .and_then(|()| gzip.flush())
                        .map_err(|_| decode_failed("its gzip data is corrupt"))?;
                    let decoded = gzip.get_mut();
                    self.decoded += decoded.len() as u64;
                    take(&decoded[..decoded.len().min(room)])?;
                    decoded.clear();
                }
            }
            if self.decoded > self.limit || self.received > self.limit {
                return Err(FetchError::ResponseTooLarge { limit: self.limit });
            }
        }
        Ok(())
    }

    /// The body ended; everything it held was handed on before.
    ///
    /// # Errors
    /// When the compressed data ends too early or its checksum is wrong.
    pub(super) fn finish(&mut self) -> Result<(), FetchError> {
        match &mut self.coding {
            Coding::Gzip(decoder) if self.received > 0 => {
                decoder.try_finish().map_err(|_| decode_failed("its gzip data ends too early or is corrupt"))
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
