//! How bodies travel: framing, gzip, limits, cuts.

use std::{io::Write, time::Duration};

use flate2::{Compression, write::GzEncoder};
use headgate::fetch::{FetchError, Progress};
use rstest::rstest;
use serde_json::json;
use tokio::time::sleep;

use crate::{
    raw::{Source, items},
    world::{connect, fetcher, fetcher_mapping, may_be_served, poll, read, read_to_end, send},
};

/// Answers the first request of each connection with these bytes, then closes.
async fn answering(bytes: impl AsRef<[u8]>) -> Source {
    let bytes = bytes.as_ref().to_vec();
    Source::that(move |mut talk| {
        let bytes = bytes.clone();
        async move {
            talk.request().await?;
            talk.say(bytes).await?;
            talk.close().await
        }
    })
    .await
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).expect("compressed");
    encoder.finish().expect("compressed")
}

fn gzipped(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[rstest]
#[case::http_1_0("HTTP/1.0 200 OK\r\n\r\n[{\"id\":1},{\"id\":2}]")]
#[case::until_the_end("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[{\"id\":1},{\"id\":2}]")]
#[case::chunked(
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n[{\"id\":1},{\r\n7\r\n\"id\":2}\r\n1\r\n]\r\n0\r\n\r\n"
)]
#[case::with_trailers(
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n[{\"id\":1},{\"id\":2}]\r\n0\r\nX-Sum: 1\r\n\r\n"
)]
#[tokio::test]
async fn a_page_is_read_whatever_its_framing(#[case] answer: &'static str) {
    let source = answering(answer).await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    assert_eq!(poll(&mut fetcher).await.expect("a page"), ["1", "2"]);
    assert_eq!(poll(&mut fetcher).await.expect("another"), ["1", "2"]);
}

/// Lines end anywhere; JSON does not.
#[rstest]
#[case::a_length("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"id\":1}\n", true)]
#[case::no_body("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true)]
#[case::chunked("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n9\r\n{\"id\":1}\n\r\n0\r\n\r\n", true)]
#[case::until_the_end("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"id\":1}\n", false)]
#[case::http_1_0("HTTP/1.0 200 OK\r\n\r\n{\"id\":1}\n", false)]
#[case::another_coding(
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 9\r\n\r\n{\"id\":1}\n",
    false
)]
#[tokio::test]
async fn lines_that_end_with_their_connection_may_have_been_cut(#[case] answer: &'static str, #[case] proven: bool) {
    let source = answering(answer).await;
    for (format, proven) in [("NDJSON", proven), ("JSON", true)] {
        let mut fetcher = fetcher(json!({ "url": source.url(), "decode": { "format": format } })).await;
        connect(&mut fetcher).await;
        let page = send(&mut fetcher).await.expect("the head");
        assert_eq!(page.end_is_proven(), proven, "{format}");
    }
}

#[tokio::test]
async fn items_are_handed_out_while_the_body_streams() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n[{\"id\":1},{\r\n").await?;
        talk.hold().await
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    connect(&mut fetcher).await;
    let mut page = send(&mut fetcher).await.expect("the head");
    let mut first = Vec::new();
    while first.is_empty() {
        first = page.next().await.expect("no failure yet").expect("not the end");
    }
    assert_eq!(first[0].id().as_str(), "1");
}

#[rstest]
#[case::one_member(gzip(&items(&[1, 2, 3])))]
#[case::a_member_per_event([gzip("[{\"id\":1}"), gzip(",{\"id\":2}"), gzip(",{\"id\":3}]")].concat())]
#[tokio::test]
async fn gzip_is_offered_and_taken(#[case] body: Vec<u8>) {
    let source = answering(gzipped(&body)).await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    assert_eq!(poll(&mut fetcher).await.expect("a page"), ["1", "2", "3"]);
    assert_eq!(source.requests()[0].header("accept-encoding"), Some("gzip"));
}

#[rstest]
#[case::cut(&gzip(&items(&[1, 2, 3]))[..20])]
#[case::no_gzip(b"[{\"id\":1}]")]
#[tokio::test]
async fn broken_gzip_is_a_body_that_cannot_be_decoded(#[case] body: &[u8]) {
    let source = answering(gzipped(body)).await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    let failure = poll(&mut fetcher).await.unwrap_err();
    assert!(matches!(failure.error, FetchError::DecodeFailed { .. }), "{failure}");
    assert!(read_to_end(&failure), "{failure:?}");
}

#[tokio::test]
async fn a_coding_that_was_not_offered_is_refused() {
    let source = answering("HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\n[]").await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    let failure = poll(&mut fetcher).await.unwrap_err();
    assert!(matches!(failure.error, FetchError::DecodeFailed { .. }), "{failure}");
}

#[tokio::test]
async fn a_cut_body_gives_its_prefix_and_then_the_error() {
    let source = answering("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[{\"id\":1},{\"id\":2},{\"id\":").await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    connect(&mut fetcher).await;
    let mut page = send(&mut fetcher).await.expect("the head");
    let (ids, outcome) = read(&mut page).await;
    let failure = outcome.unwrap_err();
    assert_eq!(ids, ["1", "2"]);
    assert!(matches!(failure.error, FetchError::ConnectionFailed { .. }), "{failure}");
    assert_eq!(failure.progress, Progress::MayBeServed { first_byte: Some(page.first_byte()) });
}

#[tokio::test]
async fn a_body_that_stops_ends_in_a_timeout_behind_its_prefix() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[{\"id\":1},").await?;
        talk.hold().await
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url(), "timeout": "300ms" })).await;
    connect(&mut fetcher).await;
    let mut page = send(&mut fetcher).await.expect("the head");
    let (ids, outcome) = read(&mut page).await;
    let failure = outcome.unwrap_err();
    assert_eq!(ids, ["1"]);
    assert_eq!(failure.error, FetchError::Timeout { after: Duration::from_millis(300) });
    assert_eq!(failure.progress, Progress::MayBeServed { first_byte: Some(page.first_byte()) });
}

#[tokio::test]
async fn a_bad_item_comes_after_those_before_it_and_the_rest_is_read_out() {
    let source = Source::that(|mut talk| async move {
        loop {
            talk.request().await?;
            talk.answer(200, "", "[{\"id\":1},{\"no\":2},{\"id\":3}]").await?;
        }
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    connect(&mut fetcher).await;
    let mut page = send(&mut fetcher).await.expect("the head");
    let (ids, outcome) = read(&mut page).await;
    let failure = outcome.unwrap_err();
    assert_eq!(ids, ["1"]);
    assert!(matches!(failure.error, FetchError::MappingFailed { item: 2, .. }), "{failure}");
    assert_eq!(failure.progress, Progress::ReadToEnd { first_byte: page.first_byte() });
    poll(&mut fetcher).await.unwrap_err();
    assert_eq!(source.connections(), 1, "a response that was read out leaves a good connection");
}

#[tokio::test]
async fn a_bad_body_that_does_not_end_soon_is_given_up() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n<html>").await?;
        loop {
            talk.say([b' '; 1000]).await?;
        }
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    let failure = poll(&mut fetcher).await.unwrap_err();
    assert!(matches!(failure.error, FetchError::DecodeFailed { .. }), "{failure}");
    assert!(may_be_served(&failure));
}

#[rstest]
#[case::as_it_is(false)]
#[case::behind_gzip(true)]
#[tokio::test]
async fn a_body_beyond_the_limit_gives_its_prefix_and_then_the_error(#[case] compressed: bool) {
    let ids: Vec<u64> = (1..=200_000).collect();
    let body = items(&ids);
    let source = if compressed {
        answering(gzipped(&gzip(&body))).await
    } else {
        answering(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await
    };
    let mut fetcher = fetcher(json!({ "url": source.url(), "maxResponseBytes": 1000 })).await;
    connect(&mut fetcher).await;
    let mut page = send(&mut fetcher).await.expect("the head");
    let (ids, outcome) = read(&mut page).await;
    // `{"id":1},` nine times with 9 bytes, then 10 bytes each, after the bracket.
    assert_eq!(ids.len(), 9 + (1000 - 1 - 9 * 9) / 10 - usize::from((1000 - 1 - 9 * 9) % 10 == 0));
    let failure = outcome.unwrap_err();
    assert_eq!(failure.error, FetchError::ResponseTooLarge { limit: 1000 });
    assert!(may_be_served(&failure));
}

#[tokio::test]
async fn compressed_bytes_count_as_well() {
    // Empty members: a megabyte of gzip that decompresses to nothing.
    let source = answering(gzipped(&gzip("").repeat(50_000))).await;
    let mut fetcher = fetcher(json!({ "url": source.url(), "maxResponseBytes": 1000 })).await;
    let failure = poll(&mut fetcher).await.unwrap_err();
    assert_eq!(failure.error, FetchError::ResponseTooLarge { limit: 1000 });
}

#[tokio::test]
async fn a_slow_reader_of_a_page_that_has_arrived_is_not_timed_out() {
    let source = answering("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[{\"id\":1}]").await;
    let mut fetcher = fetcher(json!({ "url": source.url(), "timeout": "200ms" })).await;
    connect(&mut fetcher).await;
    let mut page = send(&mut fetcher).await.expect("the head");
    sleep(Duration::from_millis(300)).await;
    let (ids, outcome) = read(&mut page).await;
    outcome.expect("it was there all along");
    assert_eq!(ids, ["1"]);
}

#[tokio::test]
async fn a_reader_that_is_interrupted_loses_nothing() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 37\r\n\r\n").await?;
        for piece in ["[{\"id\"", ":1},{\"i", "d\":2},", "{\"id\":3", "},{\"id\"", ":4}]"] {
            sleep(Duration::from_millis(30)).await;
            talk.say(piece).await?;
        }
        talk.hold().await
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    connect(&mut fetcher).await;
    let mut page = send(&mut fetcher).await.expect("the head");
    let mut ids = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_millis(5), page.next()).await {
            Err(_interrupted) => {}
            Ok(Ok(Some(items))) => ids.extend(items.iter().map(|item| item.id().to_string())),
            Ok(Ok(None)) => break,
            Ok(Err(failure)) => panic!("{failure}"),
        }
    }
    assert_eq!(ids, ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn a_page_that_failed_stays_failed() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nno json").await?;
        talk.hold().await
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    connect(&mut fetcher).await;
    let mut page = send(&mut fetcher).await.expect("the head");
    // The rest of the body never comes; the reader gives up before the page does.
    tokio::time::timeout(Duration::from_millis(50), page.next()).await.expect_err("still draining");
    let failure = page.next().await.expect_err("not the end of a page");
    assert!(matches!(failure.error, FetchError::DecodeFailed { .. }), "{failure}");
    assert!(may_be_served(&failure));
}

#[tokio::test]
async fn lines_are_read_as_they_come() {
    let source = answering("HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{\"id\":1}\n\n{\"id\":2}\n").await;
    let mut fetcher = fetcher(json!({ "url": source.url(), "decode": { "format": "NDJSON" } })).await;
    assert_eq!(poll(&mut fetcher).await.expect("a page"), ["1", "2"]);
    assert!(source.requests()[0].header("accept").is_some_and(|accept| accept.starts_with("application/x-ndjson")));
}

#[rstest]
#[case::cut("Connection: close\r\n\r\n7\n10", &["7"], false)]
#[case::with_a_line_end("Connection: close\r\n\r\n7\n1002\n", &["7", "1002"], true)]
#[case::with_a_space("Connection: close\r\n\r\n7\n1002 ", &["7", "1002"], true)]
#[case::a_text("Connection: close\r\n\r\n7\n\"1002\"", &["7", "1002"], true)]
#[case::of_a_length("Content-Length: 6\r\n\r\n7\n1002", &["7", "1002"], true)]
#[case::chunked("Transfer-Encoding: chunked\r\n\r\n6\r\n7\n1002\r\n0\r\n\r\n", &["7", "1002"], true)]
#[tokio::test]
async fn a_number_that_may_have_been_cut_is_not_taken(
    #[case] answer: &str,
    #[case] expected: &[&str],
    #[case] is_whole: bool,
) {
    let source = answering(format!("HTTP/1.1 200 OK\r\n{answer}")).await;
    let http = json!({ "url": source.url(), "decode": { "format": "NDJSON" } });
    let mut fetcher = fetcher_mapping(http, json!({ "idPath": "$" })).await;
    connect(&mut fetcher).await;
    let mut page = send(&mut fetcher).await.expect("the head");
    let (ids, outcome) = read(&mut page).await;
    assert_eq!(ids, expected);
    match outcome {
        Ok(()) => assert!(is_whole),
        Err(failure) => {
            assert!(!is_whole && read_to_end(&failure), "{failure}");
            assert!(failure.to_string().contains("cut inside item 2"), "{failure}");
        }
    }
}

/// The head of an object without `itemsPath`, and so many items of a kilobyte.
fn begun_object(items: usize) -> String {
    let item = format!(r#"{{"id":1,"text":"{}"}}"#, "x".repeat(1000));
    format!(r#"{{"data":[{}"#, vec![item; items].join(","))
}

#[tokio::test]
async fn a_page_that_must_be_held_back_shows_what_it_holds_before_it_reads_on() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n").await?;
        talk.say(begun_object(1000)).await?;
        talk.hold().await
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    connect(&mut fetcher).await;
    let mut page = send(&mut fetcher).await.expect("the head");
    let mut held = 0;
    while held < 900_000 {
        let items = page.next().await.expect("no failure yet").expect("not the end");
        assert!(items.is_empty(), "an object hands nothing out before its end");
        assert!(page.held() <= held + 256 * 1024, "from {held} to {} bytes in one piece", page.held());
        held = page.held();
    }
}

#[tokio::test]
async fn a_gzip_bomb_is_inflated_in_portions_and_no_further_than_the_limit() {
    // Some 40 KiB that hold 8 MiB.
    let bomb = gzip(&begun_object(8000));
    let source = answering(gzipped(&bomb)).await;
    let mut fetcher = fetcher(json!({ "url": source.url(), "maxResponseBytes": 4 << 20 })).await;
    connect(&mut fetcher).await;
    let mut page = send(&mut fetcher).await.expect("the head");
    let mut held = 0;
    let failure = loop {
        match page.next().await {
            Ok(items) => assert!(items.expect("not the end").is_empty()),
            Err(failure) => break failure,
        }
        // A portion, and the item that it ends in; beside it what came from the network.
        assert!(page.held() <= held + (64 + 64 + 8) * 1024, "from {held} to {} bytes in one portion", page.held());
        held = page.held();
    };
    assert!(held > 3 << 20, "it was read up to the limit: {held} bytes");
    assert_eq!(failure.error, FetchError::ResponseTooLarge { limit: 4 << 20 });
}
