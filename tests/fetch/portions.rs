//! How much comes of one turn of reading, and what is left of a body that goes bad.

use std::{io::Write, time::Duration};

use flate2::{Compression, write::GzEncoder};
use headgate::fetch::{FetchError, Item};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    raw::Source,
    world::{connect, fetcher, fetcher_mapping, read, send},
};

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes()).expect("compressed");
    encoder.finish().expect("compressed")
}

/// Sends these bytes as the body of one response, so many at a time, and keeps the connection.
async fn serving(body: Vec<u8>, compressed: bool, piece: usize) -> Source {
    Source::that(move |mut talk| {
        let body = body.clone();
        async move {
            talk.request().await?;
            let coding = if compressed { "Content-Encoding: gzip\r\n" } else { "" };
            talk.say(format!("HTTP/1.1 200 OK\r\n{coding}Content-Length: {}\r\n\r\n", body.len())).await?;
            for piece in body.chunks(piece) {
                talk.say(piece).await?;
                // So that it is read by itself.
                if body.len() < 100 {
                    sleep(Duration::from_millis(2)).await;
                }
            }
            talk.hold().await
        }
    })
    .await
}

/// A bracket, so many equal items, and their end.
fn array(open: &str, item: &str, items: usize, close: &str) -> String {
    format!("{open}{}{close}", vec![item; items].join(","))
}

#[rstest]
#[case::held_back(array(r#"{"d":["#, r#"{"id":1}"#, 99_999, "]}"), json!({}), json!({}))]
#[case::flowing(array("[", r#"{"id":1}"#, 99_999, "]"), json!({}), json!({}))]
#[case::the_smallest_held_back(array(r#"{"d":["#, "1", 99_999, "]}"), json!({}), json!({ "idPath": "$" }))]
#[case::the_smallest_flowing(array("[", "1", 99_999, "]"), json!({}), json!({ "idPath": "$" }))]
#[case::the_smallest_lines("1\n".repeat(99_999), json!({ "format": "NDJSON" }), json!({ "idPath": "$" }))]
#[tokio::test]
async fn one_turn_of_reading_adds_no_more_than_a_portion_whatever_the_body(
    #[case] body: String,
    #[case] decode: Value,
    #[case] mapping: Value,
    #[values(true, false)] compressed: bool,
) {
    let bytes = if compressed { gzip(&body) } else { body.into_bytes() };
    let source = serving(bytes, compressed, usize::MAX).await;
    let mut fetcher = fetcher_mapping(json!({ "url": source.url(), "decode": decode }), mapping).await;
    connect(&mut fetcher).await;
    let mut page = send(&mut fetcher).await.expect("the head");
    let (mut held, mut items, mut most) = (page.held(), 0, 0);
    while let Some(came) = page.next().await.expect("a good body") {
        items += came.len();
        // What was held back is handed out at once; that adds nothing.
        let kept = page.held() + came.iter().map(Item::bytes).sum::<u64>();
        most = most.max(kept.saturating_sub(held));
        held = page.held();
    }
    assert_eq!(items, 99_999);
    // A portion of 64 KiB, what a kilobyte of the smallest items comes to beyond it, and what came from the network.
    assert!(most <= (64 + 96 + 64) * 1024, "{most} bytes at once");
}

#[rstest]
#[case::zeros_behind_it(&[0; 16], None)]
#[case::another_member_that_is_none(b"\x1F\x8B\x07\0\0\0\0\0\0\0", Some("data is corrupt"))]
#[case::something_else(b"something else", Some("data is corrupt"))]
#[case::something_short(b"x", Some("too early"))]
#[case::something_behind_zeros(b"\0\0x", Some("data is corrupt"))]
#[case::a_member_that_is_cut(b"\x1F\x8B\x08", Some("too early"))]
#[tokio::test]
async fn what_was_decoded_before_a_bad_byte_is_handed_on_however_it_comes(
    #[case] behind: &'static [u8],
    #[case] says: Option<&str>,
    #[values(1, 7, usize::MAX)] piece: usize,
) {
    let source = serving([&gzip(r#"[{"id":1}]"#), behind].concat(), true, piece).await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    connect(&mut fetcher).await;
    let mut page = send(&mut fetcher).await.expect("the head");
    let (ids, outcome) = read(&mut page).await;
    assert_eq!(ids, ["1"]);
    match (outcome.map_err(|failure| failure.error), says) {
        (Ok(()), None) => {}
        (Err(FetchError::DecodeFailed { detail }), Some(says)) => assert!(detail.contains(says), "{detail}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_wrong_checksum_is_told_behind_what_was_decoded() {
    let mut body = gzip(r#"[{"id":1},{"id":2}]"#);
    let checksum = body.len() - 8;
    body[checksum] ^= 1;
    let source = serving(body, true, usize::MAX).await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    connect(&mut fetcher).await;
    let mut page = send(&mut fetcher).await.expect("the head");
    let (ids, outcome) = read(&mut page).await;
    let error = outcome.expect_err("a wrong checksum").error;
    assert_eq!(ids, ["1", "2"]);
    assert!(matches!(error, FetchError::DecodeFailed { .. }), "{error}");
}
