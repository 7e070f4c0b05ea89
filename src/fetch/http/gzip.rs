//! gzip (RFC 1952) as it arrives, a little at a time.

use std::{
    io::{self, BufRead, Read},
    ops::Range,
};

use bytes::{Buf, Bytes};
use flate2::bufread::GzDecoder;

/// The most of a body that the decoder is given at once.
const GIVEN: usize = 56;

/// Room for what comes of it: deflate grows by 1,032 at most. A decoder that filled it could hold back more, and tell it only with
/// the next byte of the body.
const DECODED: usize = 64 * 1024;

/// The data is no gzip, or not what its checksum says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Corrupt;

/// Decompresses the members of one body.
pub(super) struct Gzip {
    place: Place,
    decoded: Box<[u8]>,
    /// What was not handed on yet of it.
    ready: Range<usize>,
}

enum Place {
    Member(Box<GzDecoder<Arrived>>),
    /// Behind a member: another one, padding, or the end.
    Between,
    /// Zeros to the end of the body, which gzip ignores too.
    Padding,
    Failed,
}

/// What has come of a body and is not decoded. It does not end here: the decoder is asked again when more has come.
struct Arrived(Bytes);

impl Gzip {
    pub(super) fn new() -> Self {
        Self { place: Place::member(), decoded: vec![0; DECODED].into_boxed_slice(), ready: 0..0 }
    }

    /// The next of the decoded text, at most so many bytes; none when `unread` is used up.
    ///
    /// # Errors
    /// Behind all that was decoded before it, but for what shares a call of the decoder with a bad block.
    pub(super) fn read(&mut self, unread: &mut Bytes, most: usize) -> Result<&[u8], Corrupt> {
        while self.ready.is_empty() && self.has_more(unread) {
            self.step(unread).inspect_err(|_| self.place = Place::Failed)?;
        }
        let text = self.ready.start..self.ready.end.min(self.ready.start + most);
        self.ready.start = text.end;
        Ok(&self.decoded[text])
    }

    /// Whether [`Gzip::read`] has something to tell of what came.
    pub(super) fn has_more(&self, unread: &Bytes) -> bool {
        !self.ready.is_empty() || !unread.is_empty()
    }

    /// Whether the body may end here.
    pub(super) fn is_whole(&self) -> bool {
        self.ready.is_empty() && matches!(self.place, Place::Between | Place::Padding)
    }

    fn step(&mut self, unread: &mut Bytes) -> Result<(), Corrupt> {
        match &mut self.place {
            Place::Member(decoder) => {
                decoder.get_mut().0 = std::mem::take(unread);
                let read = decoder.read(&mut self.decoded);
                *unread = std::mem::take(&mut decoder.get_mut().0);
                match read {
                    Ok(0) => self.place = Place::Between,
                    Ok(decoded) => self.ready = 0..decoded,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Err(Corrupt),
                }
            }
            Place::Between if unread[0] == 0 => self.place = Place::Padding,
            Place::Between => self.place = Place::member(),
            Place::Padding if unread.iter().all(|byte| *byte == 0) => unread.clear(),
            Place::Padding | Place::Failed => return Err(Corrupt),
        }
        Ok(())
    }
}

impl Place {
    fn member() -> Self {
        Self::Member(Box::new(GzDecoder::new(Arrived(Bytes::new()))))
    }
}

impl BufRead for Arrived {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(&self.0[..self.0.len().min(GIVEN)])
    }

    fn consume(&mut self, amount: usize) {
        self.0.advance(amount);
    }
}

impl Read for Arrived {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    /// What comes out before another byte of the body goes in.
    fn read_all(gzip: &mut Gzip, body: &[u8]) -> Vec<u8> {
        let (mut unread, mut text) = (Bytes::copy_from_slice(body), Vec::new());
        while gzip.has_more(&unread) {
            text.extend_from_slice(gzip.read(&mut unread, 1024).expect("good data"));
        }
        text
    }

    #[test]
    fn whatever_has_come_of_a_body_is_read_as_far_as_byte_for_byte() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all("{\"id\":1}\n".repeat(12_000).as_bytes()).expect("compressed");
        let body = encoder.finish().expect("compressed");
        let (mut by_byte, mut text) = (Gzip::new(), Vec::new());
        for length in 1..=body.len() {
            text.extend(read_all(&mut by_byte, &body[length - 1..length]));
            for first in [0, length / 3, length - 1] {
                let mut in_two = Gzip::new();
                let mut read = read_all(&mut in_two, &body[..first]);
                read.extend(read_all(&mut in_two, &body[first..length]));
                assert!(read == text, "{} of {}, of {first} bytes and up to {length}", read.len(), text.len());
                assert_eq!(in_two.is_whole(), length == body.len());
            }
        }
        assert_eq!(text.len(), 12_000 * 9);
    }
}
