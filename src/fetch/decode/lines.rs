//! NDJSON: one item per line.

use memchr::memchr;

use super::{BOM, MOST_KEPT, cut::is_space, decode_failed, items::Items};
use crate::fetch::FetchError;

/// Cuts a body into its lines. Blank lines are none, CRLF ends a line too, and the last one needs no end, but for a number
/// in a body that may be cut.
#[derive(Default)]
pub(super) struct Lines {
    /// The begun line, as far as it came with earlier pieces.
    pending: Vec<u8>,
    /// Where the begun line starts in the body.
    start: usize,
    /// Whether the body may end where it was not meant to.
    pub(super) may_be_cut: bool,
}

impl Lines {
    pub(super) fn push(&mut self, mut bytes: &[u8], items: &mut Items) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end + 1);
            if self.pending.is_empty() {
                take(self.start, line, items);
                self.start += line.len();
            } else {
                self.pending.extend_from_slice(line);
                self.finish(items);
            }
            if items.failed.is_some() {
                return;
            }
            bytes = rest;
        }
        self.pending.extend_from_slice(bytes);
    }

    /// The body ended. Of all that a line may be only a number is still one when it is cut.
    pub(super) fn end(&mut self, items: &mut Items) -> Result<(), FetchError> {
        if self.may_be_cut && ends_in_a_number(without_mark(self.start, &self.pending)) {
            let what = format!(
                "the body may be cut inside item {}, a number: let the source end its last line too, or send a \
                 Content-Length or chunks",
                items.next_number()
            );
            return Err(decode_failed(self.start, &what));
        }
        self.finish(items);
        Ok(())
    }

    /// The begun line is complete.
    fn finish(&mut self, items: &mut Items) {
        take(self.start, &self.pending, items);
        self.start += self.pending.len();
        self.pending.clear();
        self.pending.shrink_to(MOST_KEPT);
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.pending.capacity()
    }
}

fn take(start: usize, line: &[u8], items: &mut Items) {
    let text = without_mark(start, line);
    let Some(first) = text.iter().position(|byte| !is_space(*byte)) else { return };
    let last = text.iter().rposition(|byte| !is_space(*byte)).unwrap_or(first);
    items.take(start + (line.len() - text.len()) + first, &text[first..=last]);
}

fn without_mark(start: usize, line: &[u8]) -> &[u8] {
    if start == 0 { line.strip_prefix(BOM).unwrap_or(line) } else { line }
}

/// Whether a line is a number with nothing behind it that would end it.
fn ends_in_a_number(line: &[u8]) -> bool {
    let first = line.iter().find(|byte| !is_space(**byte));
    let begins = first.is_some_and(|byte| byte.is_ascii_digit() || *byte == b'-');
    begins && line.last().is_some_and(|byte| !is_space(*byte))
}
