//! CONNECT before RESERVE, one request per permit, and how far a failed request came.

use std::time::Duration;

use headgate::fetch::{FetchError, Progress, Reply};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    raw::Source,
    world::{
        connect, expired_permit, fetcher, from_start, may_be_served, permit_in, poll, poll_failing, refused, send,
    },
};

/// Answers every request on every connection with one event.
async fn steady() -> Source {
    Source::that(|mut talk| async move {
        loop {
            talk.request().await?;
            talk.page(&[1]).await?;
        }
    })
    .await
}

#[tokio::test]
async fn the_connection_stands_before_the_gate_opens_and_carries_nothing_until_then() {
    let source = steady().await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    connect(&mut fetcher).await;
    source.connected(1).await;
    let gate_opens = Instant::now();
    send(&mut fetcher).await.expect("answered");
    assert_eq!((source.connections(), source.requests().len()), (1, 1));
    assert!(source.requests()[0].at >= gate_opens, "not a byte went ahead");
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let source = steady().await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    for _ in 0..3 {
        assert_eq!(poll(&mut fetcher).await.expect("a page"), ["1"]);
    }
    assert_eq!((source.connections(), source.requests().len()), (1, 3));
}

#[tokio::test]
async fn without_a_connection_nothing_is_sent_and_none_is_made() {
    let source = steady().await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    let failure = refused(&mut fetcher).await;
    assert_eq!(failure.progress, Progress::NeverLeft);
    assert_eq!(source.connections(), 0);
}

#[tokio::test]
async fn nothing_is_sent_when_the_permit_has_expired() {
    let source = steady().await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    connect(&mut fetcher).await;
    let Err(failure) = fetcher.send(expired_permit(), &from_start()).await else { panic!("sent late") };
    assert_eq!((failure.error, failure.progress), (FetchError::PermitExpired, Progress::NeverLeft));
    assert_eq!(source.bytes(), b"");
    assert_eq!(poll(&mut fetcher).await.expect("the next permit is good"), ["1"]);
    assert_eq!((source.connections(), source.requests().len()), (1, 1));
}

#[tokio::test]
async fn a_request_waits_for_its_slot() {
    let source = steady().await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    connect(&mut fetcher).await;
    let permit = permit_in(Duration::from_millis(300));
    let opens = permit.opens();
    let _page = fetcher.send(permit, &from_start()).await.expect("answered");
    assert!(source.requests()[0].at >= opens);
}

#[tokio::test]
async fn a_connection_that_died_while_idle_ends_in_an_error_with_nothing_sent() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.page(&[1]).await?;
        if talk.number == 1 { talk.close().await } else { talk.hold().await }
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    poll(&mut fetcher).await.expect("the first page");
    source.said_goodbye(1).await;
    let failure = refused(&mut fetcher).await;
    assert_eq!((failure.error, failure.progress), (FetchError::ClosedWhileIdle, Progress::NeverLeft));
    assert_eq!(source.requests().len(), 1);
    assert_eq!(poll(&mut fetcher).await.expect("over a new connection"), ["1"]);
    assert_eq!((source.connections(), source.requests().len()), (2, 2));
}

#[tokio::test]
async fn a_dead_connection_is_replaced_before_the_gate() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.page(&[1]).await?;
        talk.close().await
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    for connections in 1..=3 {
        poll(&mut fetcher).await.expect("a page");
        assert_eq!(source.connections(), connections);
        source.said_goodbye(connections).await;
    }
}

#[tokio::test]
async fn a_goodbye_on_an_idle_connection_is_not_taken_for_an_answer() {
    let source = Source::that(|mut talk| async move {
        if talk.number == 1 {
            talk.say("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n").await?;
            talk.goodbye();
            return talk.hold().await;
        }
        talk.request().await?;
        talk.page(&[1]).await
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    connect(&mut fetcher).await;
    source.said_goodbye(1).await;
    let failure = refused(&mut fetcher).await;
    assert_eq!(failure.progress, Progress::NeverLeft);
    // It was good for nothing yet, so whoever tries again at once may go on doing so.
    assert!(matches!(failure.error, FetchError::ConnectionFailed { .. }), "{failure}");
    assert_eq!(source.bytes(), b"");
    assert_eq!(poll(&mut fetcher).await.expect("a page"), ["1"]);
}

#[tokio::test]
async fn a_source_that_announces_when_it_closes_idle_connections_is_believed() {
    let source = Source::that(|mut talk| async move {
        loop {
            talk.request().await?;
            talk.answer(200, "Keep-Alive: timeout=1, max=100\r\n", "[]").await?;
        }
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    poll(&mut fetcher).await.expect("a page");
    poll(&mut fetcher).await.expect("a page");
    assert_eq!(source.connections(), 1, "half a second is left of the one");
    tokio::time::sleep(Duration::from_millis(600)).await;
    poll(&mut fetcher).await.expect("a page");
    assert_eq!(source.connections(), 2);
}

#[tokio::test]
async fn a_request_that_was_not_answered_is_not_sent_again() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.close().await
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    for requests in 1..=3 {
        let failure = poll_failing(&mut fetcher).await;
        assert_eq!(failure.progress, Progress::MayBeServed { first_byte: None });
        assert!(failure.to_string().contains("closed the connection"), "{failure}");
        assert_eq!((source.connections(), source.requests().len()), (requests, requests));
    }
}

#[tokio::test]
async fn a_request_on_a_reused_connection_that_was_not_answered_is_not_sent_again() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.page(&[1]).await?;
        talk.request().await?;
        talk.close().await
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    poll(&mut fetcher).await.expect("a page");
    let failure = poll_failing(&mut fetcher).await;
    assert_eq!(failure.progress, Progress::MayBeServed { first_byte: None });
    poll(&mut fetcher).await.expect("a page");
    let mut attempts: Vec<_> =
        source.requests().iter().map(|request| request.header("headgate-attempt").map(str::to_owned)).collect();
    assert_eq!(attempts.len(), 3);
    attempts.dedup();
    assert_eq!(attempts.len(), 3, "each request has a permit of its own");
}

#[tokio::test]
async fn a_source_that_never_answers_ends_in_a_timeout_and_may_still_be_serving() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.hold().await
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url(), "timeout": "300ms" })).await;
    let failure = poll_failing(&mut fetcher).await;
    assert_eq!(failure.error, FetchError::Timeout { after: Duration::from_millis(300) });
    assert_eq!(failure.progress, Progress::MayBeServed { first_byte: None });
}

#[tokio::test]
async fn a_request_that_was_given_up_leaves_no_connection_behind() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        if talk.number == 1 { talk.hold().await } else { talk.page(&[1]).await }
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url(), "timeout": "300ms" })).await;
    poll_failing(&mut fetcher).await;
    assert_eq!(poll(&mut fetcher).await.expect("over a new connection"), ["1"]);
    assert_eq!(source.connections(), 2);
}

#[tokio::test]
async fn an_interim_answer_is_not_the_answer() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.say("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").await?;
        talk.page(&[1, 2]).await
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    assert_eq!(poll(&mut fetcher).await.expect("a page"), ["1", "2"]);
}

#[tokio::test]
async fn the_first_byte_is_taken_when_it_arrives_and_not_when_the_head_is_complete() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.say("H").await?;
        sleep(Duration::from_millis(300)).await;
        talk.say("TTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]").await
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    connect(&mut fetcher).await;
    let Ok(Reply::Page(page)) = fetcher.send(permit_in(Duration::ZERO), &from_start()).await else { panic!("no page") };
    assert!(page.first_byte() < source.last_answer());
    assert!(page.first_byte() >= source.requests()[0].at);
}

#[tokio::test]
async fn something_else_than_http_is_named() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.say("SSH-2.0-OpenSSH_9.6\r\n\r\n").await?;
        talk.hold().await
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    let failure = poll_failing(&mut fetcher).await;
    assert!(failure.to_string().contains("is not HTTP/1.1"), "{failure}");
    assert!(may_be_served(&failure));
}

#[tokio::test]
async fn a_head_without_end_is_cut_off() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.say("HTTP/1.1 200 OK\r\n").await?;
        loop {
            talk.say(format!("X: {}\r\n", "x".repeat(1000))).await?;
        }
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    let failure = poll_failing(&mut fetcher).await;
    assert!(matches!(failure.error, FetchError::ConnectionFailed { .. }), "{failure}");
}

#[tokio::test]
async fn interim_answers_without_end_are_cut_off() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        loop {
            talk.say("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n".repeat(100)).await?;
        }
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    let failure = poll_failing(&mut fetcher).await;
    assert!(may_be_served(&failure));
    assert!(failure.to_string().contains("too large"), "{failure}");
}

#[tokio::test]
async fn a_refused_connection_and_an_unknown_name_are_different() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("its address"));
    drop(listener);
    let refused = fetcher(json!({ "url": url })).await.connect().await.unwrap_err();
    assert!(refused.to_string().contains("refused the connection"), "{refused}");
    let unknown = fetcher(json!({ "url": "http://no-such-name.invalid/" })).await.connect().await.unwrap_err();
    assert!(unknown.to_string().contains("the name `no-such-name.invalid` has no address"), "{unknown}");
}

#[tokio::test]
async fn standing_connected_takes_no_longer_than_the_timeout_of_the_source() {
    // Accepts no connection: the backlog takes it, and TLS never begins.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://{}/", listener.local_addr().expect("its address"));
    let begun = Instant::now();
    let error = fetcher(json!({ "url": url, "timeout": "300ms" })).await.connect().await.unwrap_err();
    assert!(matches!(error, FetchError::TlsFailed { .. }), "{error}");
    // Without the timeout of the source it would be given up after 10 s.
    let waited = begun.elapsed();
    assert!((Duration::from_millis(300)..Duration::from_secs(5)).contains(&waited), "given up after {waited:?}");
}
