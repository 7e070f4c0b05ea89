//! Headers and compressed bodies that nobody would send.

use std::{io::Read, ops::ControlFlow, time::Duration};

use bytes::Bytes;
use flate2::{Compression, read::GzEncoder, read::MultiGzDecoder};
use hyper::header::{CONTENT_ENCODING, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use jiff::Timestamp;

use super::{answer::retry_after, inflate::Inflate};
use crate::fetch::fuzz::{fuzz, kind};

const DAY: Duration = Duration::from_hours(24);

#[test]
fn fuzz_retry_after_is_read_as_no_more_than_a_day() {
    let words = &[
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "99999999999999999999",
        "-1",
        "0",
        "\n",
        "+0000",
        "Dec 9999",
        "Sat,",
        "60",
        " ",
    ];
    let now: Timestamp = "1994-11-06T08:49:37Z".parse().expect("a time");
    fuzz("retry-after", words, |input| {
        let mut lines = input.splitn(2, |byte| *byte == b'\n');
        let mut headers = HeaderMap::new();
        for name in [RETRY_AFTER, DATE] {
            if let Some(Ok(value)) = lines.next().map(HeaderValue::from_bytes) {
                headers.insert(name, value);
            }
        }
        let wait = retry_after(&headers, now);
        assert!(wait.is_none_or(|wait| wait <= DAY), "{wait:?}");
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(seconds) = seconds.filter(|_| !input.starts_with(b"+")) {
            assert_eq!(wait, Some(Duration::from_secs(seconds).min(DAY)));
        }
        let magnitude = wait.map(|wait| wait.as_secs().checked_ilog2());
        format!("{magnitude:?} {} {}", headers.contains_key(RETRY_AFTER), headers.contains_key(DATE))
    });
}

/// Inflates a body that arrives in these pieces: what was handed on, and the error that ended it.
fn inflated(body: &[u8], piece: usize, limit: u64) -> (Vec<u8>, Option<String>) {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    let mut inflate = Inflate::new(&headers, limit).expect("gzip was offered");
    let mut taken = Vec::new();
    for piece in body.chunks(piece) {
        let mut unread = Bytes::copy_from_slice(piece);
        while inflate.has_more(&unread) {
            let (before, left) = (taken.len(), unread.len());
            let pushed = inflate.push(&mut unread, |bytes| {
                taken.extend_from_slice(bytes);
                Ok(ControlFlow::Continue(()))
            });
            assert!(taken.len() - before <= 64 * 1024 + 1024, "{} at once", taken.len() - before);
            if let Err(error) = pushed {
                return (taken, Some(error.to_string()));
            }
            assert!(unread.len() < left || taken.len() > before, "it gets on");
        }
    }
    let end = inflate.finish().err().map(|error| error.to_string());
    (taken, end)
}

#[test]
fn fuzz_a_compressed_body_is_inflated_as_others_do_and_no_further_than_the_limit() {
    fuzz("inflate", &["\x1f\u{8b}", "\0\0\0\0", "hunter2", "[{\"id\":1}]", "aaaaaaaaaaaaaaaa"], |input| {
        let [compress, piece, limit, bytes @ ..] = input else { return "short".to_owned() };
        let (piece, limit) = (usize::from(*piece).max(1), 1 + u64::from(*limit) * 256);
        let mut body = bytes.to_vec();
        if compress % 2 == 1 {
            body.clear();
            let mut encoder = GzEncoder::new(bytes, Compression::fast());
            encoder.read_to_end(&mut body).expect("bytes can be compressed");
        }
        let (taken, error) = inflated(&body, piece, limit);
        assert!(taken.len() as u64 <= limit);
        // Else it depends on the pieces which of two limits is met first.
        if body.len() as u64 <= limit {
            let whole = inflated(&body, usize::MAX, limit);
            assert_eq!(error, whole.1, "in pieces of {piece}");
            // What the decoder drops with a bad block depends on the pieces.
            let is_corrupt = error.as_ref().is_some_and(|error| error.contains("corrupt"));
            let both = if is_corrupt { taken.len().min(whole.0.len()) } else { usize::MAX };
            assert_eq!(
                taken.get(..both).unwrap_or(&taken),
                whole.0.get(..both).unwrap_or(&whole.0),
                "in pieces of {piece}"
            );
        }
        if error.is_none() && !body.is_empty() {
            let padding = body.iter().rev().take_while(|byte| **byte == 0).count();
            let others = |padding| {
                let mut text = Vec::new();
                MultiGzDecoder::new(&body[..body.len() - padding]).read_to_end(&mut text).ok().map(|_| text)
            };
            // Zeros may be padding, or the end of what is no longer than it says.
            let expected = (0..=padding).find_map(others).expect("another decoder takes it as well");
            assert_eq!(taken, expected);
        }
        if compress % 2 == 1 && bytes.len() as u64 <= limit && body.len() as u64 <= limit {
            assert_eq!((taken.as_slice(), &error), (bytes, &None));
        }
        assert!(error.as_ref().is_none_or(|error| !error.contains("hunter2")));
        format!("{} {:?}", compress % 2, error.map(|error| kind(&error)))
    });
}
