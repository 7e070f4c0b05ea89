//! Content codings, and the limit on what a response may bring.

use std::io::Write;

use flate2::write::MultiGzDecoder;
use hyper::header::{CONTENT_ENCODING, HeaderMap};

use crate::fetch::FetchError;

/// Compressed bytes taken at a time. Deflate grows by 1,032 at most, so one piece brings about a megabyte before the limit
/// is looked at.
const PIECE: usize = 1024;

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

    /// Decompresses `bytes` and hands the result to `take`, piece by piece, up to the limit.
    ///
    /// # Errors
    /// [`FetchError::ResponseTooLarge`] when the limit was reached; all before it was handed on.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), FetchError>,
    ) -> Result<(), FetchError> {
        self.received += bytes.len() as u64;
        match &mut self.coding {
            Coding::Identity => {
                let room = room(self.limit, self.decoded);
                self.decoded += bytes.len() as u64;
                take(&bytes[..bytes.len().min(room)])?;
            }
            Coding::Gzip(gzip) => {
                for piece in bytes.chunks(PIECE) {
                    gzip.write_all(piece)
                        .and_then(|()| gzip.flush())
                        .map_err(|_| decode_failed("its gzip data is corrupt"))?;
                    let room = room(self.limit, self.decoded);
                    let decoded = gzip.get_mut();
                    self.decoded += decoded.len() as u64;
                    take(&decoded[..decoded.len().min(room)])?;
                    decoded.clear();
                    if self.decoded > self.limit {
                        break;
                    }
                }
            }
        }
        if self.decoded > self.limit || self.received > self.limit {
            return Err(FetchError::ResponseTooLarge { limit: self.limit });
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
