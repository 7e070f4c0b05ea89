//! What statuses mean, and that nothing is followed or asked again for them.

use std::time::Duration;

use headgate::{api::ReachableReason, fetch::FetchError};
use rstest::rstest;
use serde_json::json;

use crate::{
    raw::Source,
    world::{Vault, fetcher, fetcher_with, may_be_served, poll, poll_failing, read_to_end},
};

/// Answers every request with this status, these header lines and a short body.
async fn answering(status: u16, headers: &'static str) -> Source {
    Source::that(move |mut talk| async move {
        loop {
            talk.request().await?;
            talk.answer(status, headers, "{\"error\":\"a body that must not be shown\"}").await?;
        }
    })
    .await
}

#[rstest]
#[case::redirected(302, "", FetchError::Redirected { status: 302 })]
#[case::rate_limited(429, "Retry-After: 7\r\n", FetchError::RateLimited { status: 429, retry_after: Some(Duration::from_secs(7)) })]
#[case::rate_limited_until(
    429,
    "Date: Sun, 06 Nov 2044 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 2044 08:49:57 GMT\r\n",
    FetchError::RateLimited { status: 429, retry_after: Some(Duration::from_secs(20)) }
)]
#[case::unavailable(503, "Retry-After: 90000\r\n", FetchError::ServerError { status: 503, retry_after: Some(Duration::from_hours(24)) })]
#[case::broken(500, "", FetchError::ServerError { status: 500, retry_after: None })]
#[case::unknown(404, "", FetchError::ServerError { status: 404, retry_after: None })]
#[case::gone(410, "", FetchError::ServerError { status: 410, retry_after: None })]
#[case::partial(206, "Content-Range: bytes 0-1/9\r\n", FetchError::ServerError { status: 206, retry_after: None })]
#[tokio::test]
async fn a_status_becomes_its_error_and_the_response_is_read_to_its_end(
    #[case] status: u16,
    #[case] headers: &'static str,
    #[case] expected: FetchError,
) {
    let source = answering(status, headers).await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    for requests in 1..=2 {
        let failure = poll_failing(&mut fetcher).await;
        assert_eq!(failure.error, expected);
        assert!(read_to_end(&failure));
        assert_eq!((source.connections(), source.requests().len()), (1, requests));
        assert!(!failure.to_string().contains("must not be shown"));
    }
}

#[rstest]
#[case::of_http(504)]
#[case::of_a_delivery_network(524)]
#[tokio::test]
async fn a_request_for_which_a_gateway_stopped_waiting_may_still_be_served(#[case] status: u16) {
    let source = answering(status, "Retry-After: 7\r\n").await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    for requests in 1..=2 {
        let failure = poll_failing(&mut fetcher).await;
        assert_eq!(failure.error.reason(), ReachableReason::ServerError);
        assert_eq!(failure.error.retry_after(), Some(Duration::from_secs(7)));
        assert!(may_be_served(&failure), "{failure}");
        assert!(failure.to_string().contains("may still be served"), "{failure}");
        assert_eq!((source.connections(), source.requests().len()), (1, requests), "the gateway itself is well");
    }
}

#[tokio::test]
async fn a_403_that_says_how_long_to_wait_is_obeyed_as_a_429_is() {
    let source = answering(403, "Retry-After: 60\r\n").await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    let failure = poll_failing(&mut fetcher).await;
    assert_eq!(failure.error.reason(), ReachableReason::Forbidden);
    assert_eq!(failure.error.retry_after(), Some(Duration::from_mins(1)));
    assert!(read_to_end(&failure));
    assert!(failure.to_string().contains("asks to be left alone"), "{failure}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Source::that(|talk| async move { talk.hold().await }).await;
    let target = elsewhere.url();
    let source = Source::that(move |mut talk| {
        let location = format!("Location: {target}\r\n");
        async move {
            loop {
                talk.request().await?;
                talk.answer(307, &location, "").await?;
            }
        }
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    let failure = poll_failing(&mut fetcher).await;
    assert_eq!(failure.error, FetchError::Redirected { status: 307 });
    poll_failing(&mut fetcher).await;
    assert_eq!((elsewhere.connections(), source.requests().len()), (0, 2));
}

#[tokio::test]
async fn an_error_without_end_is_given_up() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.say("HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
        loop {
            talk.say(format!("3e8\r\n{}\r\n", "x".repeat(1000))).await?;
        }
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    let failure = poll_failing(&mut fetcher).await;
    assert_eq!(failure.error, FetchError::ServerError { status: 500, retry_after: None });
    assert!(may_be_served(&failure));
}

#[tokio::test]
async fn no_content_is_a_page_without_events() {
    let source = Source::that(|mut talk| async move {
        loop {
            talk.request().await?;
            talk.say("HTTP/1.1 204 No Content\r\n\r\n").await?;
        }
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    for _ in 0..2 {
        assert_eq!(poll(&mut fetcher).await.expect("nothing new"), [""; 0]);
    }
    assert_eq!(source.connections(), 1);
}

#[rstest]
#[case(401, "set `http.auth`")]
#[case(403, "403")]
#[tokio::test]
async fn missing_rights_say_what_to_do(#[case] status: u16, #[case] hint: &str) {
    let source = answering(status, "").await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    let failure = poll_failing(&mut fetcher).await;
    assert!(failure.to_string().contains(hint), "{failure}");
    assert!(matches!(failure.error, FetchError::AuthenticationFailed { .. } | FetchError::Forbidden { .. }));
}

#[tokio::test]
async fn a_401_says_where_the_credentials_that_were_sent_stand() {
    let source = answering(401, "").await;
    let from_secret = json!([{ "name": "key", "valueFrom": { "secretKeyRef": { "name": "api", "key": "key" } } }]);
    let literal = json!([{ "name": "authorization", "value": "Basic YTpi" }]);
    for sent in [json!({ "query": from_secret }), json!({ "headers": from_secret }), json!({ "headers": literal })] {
        let mut http = json!({ "url": source.url(), "plaintextCredentials": "Allow" });
        http.as_object_mut().expect("a spec").extend(sent.as_object().expect("members").clone());
        let mut fetcher = fetcher_with(http, Vault::with_secret("api", &[("key", "k")])).await;
        let said = poll_failing(&mut fetcher).await.to_string();
        assert!(said.contains("`http.query`") && said.contains("`http.headers`"), "{said}");
        assert!(!said.contains("set `http.auth`"), "{said}");
    }
}

#[rstest]
#[case::the_request_came_too_slowly(408)]
#[case::it_met_another_one(409)]
#[case::too_early(425)]
#[tokio::test]
async fn what_passes_by_itself_sends_nobody_to_the_url(#[case] status: u16) {
    let source = answering(status, "").await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    let said = poll_failing(&mut fetcher).await.to_string();
    assert!(said.contains(&status.to_string()) && !said.contains("check"), "{said}");
}
