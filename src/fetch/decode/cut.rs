//! Where one JSON value ends, found byte by byte: no recursion, no memory, and no judgement of the value itself.

use memchr::memchr2;

/// A scan of one value. It counts brackets of either kind alike: a value whose brackets do not match is cut somewhere and
/// then found to be no JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    depth: usize,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A number, or `true`, `false`, `null`: ends before the next delimiter.
    Bare,
    /// Between the tokens of an array or object.
    Nested,
    InString,
    Escaped,
}

impl Cut {
    /// Begins with the first byte of the value; `None` when no value begins with it.
    pub(super) fn begin(first: u8) -> Option<Self> {
        match first {
            b'{' | b'[' => Some(Self { depth: 1, place: Place::Nested }),
            b'"' => Some(Self { depth: 0, place: Place::InString }),
            b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => Some(Self { depth: 0, place: Place::Bare }),
            _ => None,
        }
    }

    /// Goes on with the bytes after the first: how many of them belong to the value, or `None` when all do and it may go on.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            match self.place {
                Place::Bare => return bytes[at..].iter().position(|byte| ends_bare(*byte)).map(|end| at + end),
                Place::Escaped => {
                    at += 1;
                    self.place = Place::InString;
                }
                Place::InString => {
                    at += memchr2(b'"', b'\\', &bytes[at..])? + 1;
                    if bytes[at - 1] == b'\\' {
                        self.place = Place::Escaped;
                    } else if self.depth == 0 {
                        return Some(at);
                    } else {
                        self.place = Place::Nested;
                    }
                }
                Place::Nested => {
                    at += bytes[at..].iter().position(|byte| matches!(byte, b'"' | b'{' | b'[' | b'}' | b']'))? + 1;
                    match bytes[at - 1] {
                        b'"' => self.place = Place::InString,
                        b'{' | b'[' => self.depth += 1,
                        _ if self.depth == 1 => return Some(at),
                        _ => self.depth -= 1,
                    }
                }
            }
        }
        None
    }
}

fn ends_bare(byte: u8) -> bool {
    matches!(byte, b',' | b']' | b'}') || is_space(byte)
}

/// The white space of JSON.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Whether a valid JSON text is nested in more than `levels` arrays and objects.
pub(super) fn nests_deeper(text: &str, levels: usize) -> bool {
    // An upper bound that costs next to nothing settles nearly every text.
    if text.bytes().filter(|byte| matches!(byte, b'{' | b'[')).count() <= levels {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    text.bytes().any(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth -= 1,
            _ => {}
        }
        depth > levels
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(r#"{"a":[1,{"b":"}]"}]}"#)]
    #[case(r#""a \" quote, and \\""#)]
    #[case(r#"["\\","\"]"]"#)]
    #[case("-12.5e+3")]
    #[case("true")]
    #[case("[]")]
    fn a_value_ends_where_it_ends_in_one_piece_or_byte_by_byte(#[case] value: &str) {
        for after in [",", "]", "}", " ", "\n"] {
            let text = format!("{value}{after}");
            let (first, rest) = text.as_bytes().split_first().expect("bytes");
            let mut cut = Cut::begin(*first).expect("a value");
            assert_eq!(cut.advance(rest), Some(value.len() - 1));

            let mut cut = Cut::begin(*first).expect("a value");
            let mut ends = rest.iter().enumerate().filter_map(|(at, byte)| Some(at + cut.advance(&[*byte])?));
            assert_eq!(ends.next(), Some(value.len() - 1));
        }
    }

    #[test]
    fn no_value_begins_with_anything_else() {
        for byte in [b',', b']', b'}', b':', b'<', b'\'', b'+', b'.', b'T', 0, 0xEF] {
            assert!(Cut::begin(byte).is_none(), "{byte}");
        }
    }

    #[test]
    fn nesting_counts_levels_not_brackets() {
        let levels = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(!nests_deeper(&levels(128), 128));
        assert!(nests_deeper(&levels(129), 128));
        assert!(!nests_deeper(&format!("[{}]", vec!["[]"; 1000].join(",")), 2));
        assert!(!nests_deeper(&format!(r#"["\"{}"]"#, "[".repeat(1000)), 1));
    }
}
