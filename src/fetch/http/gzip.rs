//! gzip (RFC 1952), a little at a time: what was decoded before a bad byte is handed on, however the body arrives, and no
//! more is decoded than was asked for.

use std::ops::Range;

use bytes::{Buf, Bytes};
use flate2::Crc;
use miniz_oxide::inflate::{
    TINFLStatus,
    core::{DecompressorOxide, TINFL_LZ_DICT_SIZE, decompress, inflate_flags::TINFL_FLAG_HAS_MORE_INPUT},
};

/// The data is no gzip, or not what its checksum says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Corrupt;

/// Decompresses the members of one body.
pub(super) struct Gzip {
    place: Place,
    deflate: DecompressorOxide,
    /// What was decoded last: later data repeats parts of it, and `ready` of it was not handed on yet.
    window: Box<[u8]>,
    ready: Range<usize>,
    /// More can be decoded without another byte of the body.
    more: bool,
    /// Of the member that is being decoded.
    crc: Crc,
}

enum Place {
    Header(Header),
    Deflate,
    /// The checksum and the length, as far as they came.
    Trailer([u8; 8], usize),
    /// After a member: another one, padding, or the end.
    Between,
    /// Zeros to the end of the body, which gzip ignores too.
    Padding,
    Failed,
}

impl Gzip {
    pub(super) fn new() -> Self {
        Self {
            place: Place::Header(Header::default()),
            deflate: DecompressorOxide::new(),
            window: vec![0; TINFL_LZ_DICT_SIZE].into_boxed_slice(),
            ready: 0..0,
            more: false,
            crc: Crc::new(),
        }
    }

    /// The next of the decoded text, at most so many bytes; none when `unread` is used up.
    pub(super) fn read(&mut self, unread: &mut Bytes, most: usize) -> Result<&[u8], Corrupt> {
        while self.ready.is_empty() && (self.more || matches!(self.place, Place::Failed) || !unread.is_empty()) {
            if self.step(unread).is_err() {
                // What came before it goes first.
                self.place = Place::Failed;
                self.more = false;
                if self.ready.is_empty() {
                    return Err(Corrupt);
                }
            }
        }
        let text = self.ready.start..self.ready.end.min(self.ready.start + most);
        self.ready.start = text.end;
        Ok(&self.window[text])
    }

    /// Whether [`Gzip::read`] has something to tell without another byte of the body.
    pub(super) fn has_more(&self) -> bool {
        !self.ready.is_empty() || self.more || matches!(self.place, Place::Failed)
    }

    /// Whether the body may end here.
    pub(super) fn is_whole(&self) -> bool {
        !self.has_more() && matches!(self.place, Place::Between | Place::Padding)
    }

    fn step(&mut self, unread: &mut Bytes) -> Result<(), Corrupt> {
        match &mut self.place {
            Place::Deflate => return self.inflate(unread),
            Place::Failed => return Err(Corrupt),
            Place::Header(header) => {
                if header.take(unread.get_u8())? {
                    self.begin();
                }
            }
            Place::Trailer(trailer, length) => {
                trailer[*length] = unread.get_u8();
                *length += 1;
                if *length == trailer.len() {
                    let decoded = u64::from(self.crc.amount()) << 32 | u64::from(self.crc.sum());
                    if u64::from_le_bytes(*trailer) != decoded {
                        return Err(Corrupt);
                    }
                    self.place = Place::Between;
                }
            }
            Place::Between if unread[0] == 0 => self.place = Place::Padding,
            Place::Between => self.place = Place::Header(Header::default()),
            Place::Padding => {
                if unread.get_u8() != 0 {
                    return Err(Corrupt);
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self) {
        // Of the member before nothing may be repeated.
        let written = usize::try_from(self.crc.amount()).unwrap_or(usize::MAX).min(self.window.len());
        self.window[..written].fill(0);
        self.ready = 0..0;
        self.deflate.init();
        self.crc.reset();
        self.place = Place::Deflate;
    }

    fn inflate(&mut self, unread: &mut Bytes) -> Result<(), Corrupt> {
        let from = self.ready.end % self.window.len();
        let (status, consumed, written) =
            decompress(&mut self.deflate, unread, &mut self.window, from, TINFL_FLAG_HAS_MORE_INPUT);
        unread.advance(consumed);
        self.ready = from..from + written;
        self.crc.update(&self.window[self.ready.clone()]);
        self.more = status == TINFLStatus::HasMoreOutput;
        match status {
            TINFLStatus::Done => self.place = Place::Trailer([0; 8], 0),
            TINFLStatus::HasMoreOutput if written > 0 => {}
            TINFLStatus::NeedsMoreInput => {}
            _ => return Err(Corrupt),
        }
        Ok(())
    }
}

/// What stands before the data of a member.
#[derive(Default)]
struct Header {
    field: Field,
    /// How many bytes of the field have come.
    read: u16,
    flags: u8,
    /// The length of the extra field, or the checksum of the header.
    number: u16,
    crc: Crc,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Field {
    #[default]
    Fixed,
    ExtraLength,
    Extra,
    Name,
    Comment,
    Checksum,
    Over,
}

impl Header {
    /// Takes the next byte. Returns whether it was the last one.
    fn take(&mut self, byte: u8) -> Result<bool, Corrupt> {
        let place = self.read;
        self.read = self.read.saturating_add(1);
        let ends = match self.field {
            Field::Fixed => {
                self.fixed(place, byte)?;
                self.read == 10
            }
            Field::ExtraLength | Field::Checksum => {
                self.number |= u16::from(byte) << (8 * place);
                self.read == 2
            }
            Field::Extra => self.read == self.number,
            Field::Name | Field::Comment => byte == 0,
            Field::Over => return Err(Corrupt),
        };
        if self.field == Field::Checksum && ends && u32::from(self.number) != self.crc.sum() & 0xFFFF {
            return Err(Corrupt);
        }
        if self.field != Field::Checksum {
            self.crc.update(&[byte]);
        }
        if ends {
            self.end_field();
        }
        Ok(self.field == Field::Over)
    }

    fn fixed(&mut self, place: u16, byte: u8) -> Result<(), Corrupt> {
        let fits = match place {
            0 => byte == 0x1F,
            1 => byte == 0x8B,
            2 => byte == 8,
            3 => {
                self.flags = byte;
                byte & 0xE0 == 0
            }
            // The time, and what made it.
            _ => true,
        };
        if fits { Ok(()) } else { Err(Corrupt) }
    }

    /// On to the next field that the flags announce.
    fn end_field(&mut self) {
        loop {
            let (next, flag) = match self.field {
                Field::Fixed => (Field::ExtraLength, 4),
                Field::ExtraLength if self.number > 0 => (Field::Extra, 4),
                Field::ExtraLength | Field::Extra => (Field::Name, 8),
                Field::Name => (Field::Comment, 16),
                Field::Comment => (Field::Checksum, 2),
                Field::Checksum | Field::Over => (Field::Over, 0),
            };
            self.field = next;
            if next == Field::Over || self.flags & flag != 0 {
                break;
            }
        }
        self.read = 0;
        if self.field != Field::Extra {
            self.number = 0;
        }
    }
}
