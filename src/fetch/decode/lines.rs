//! NDJSON: one item per line.

use memchr::memchr;

use super::{BOM, MOST_KEPT, cut::is_space, items::Items};

/// Cuts a body into its lines. Blank lines are none, CRLF ends a line too, and the last one needs no end.
#[derive(Default)]
pub(super) struct Lines {
    /// The begun line, as far as it came with earlier pieces.
    pending: Vec<u8>,
    /// Where the begun line starts in the body.
    start: usize,
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

    /// The begun line is complete.
    pub(super) fn finish(&mut self, items: &mut Items) {
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
    let text = if start == 0 { line.strip_prefix(BOM).unwrap_or(line) } else { line };
    let Some(first) = text.iter().position(|byte| !is_space(*byte)) else { return };
    let last = text.iter().rposition(|byte| !is_space(*byte)).unwrap_or(first);
    items.take(start + (line.len() - text.len()) + first, &text[first..=last]);
}
