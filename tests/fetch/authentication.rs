//! Credentials: every kind, where they come from, when they change.

use std::{sync::Arc, time::Duration};

use headgate::{
    api::ReachableReason,
    fetch::{Failure, FetchError, Fetcher, OpenError, Progress, Reply},
};
use rstest::rstest;
use serde_json::{Value, json};

use crate::{
    raw::{Request, Source},
    world::{
        BoxedFetcher, Vault, connect, fetcher_with, from_start, may_be_served, open, permit, poll, poll_failing,
        read_to_end,
    },
};

/// Answers every request with an empty page.
async fn open_source() -> Source {
    Source::that(|mut talk| async move {
        loop {
            talk.request().await?;
            talk.page(&[]).await?;
        }
    })
    .await
}

fn api_secret() -> Arc<Vault> {
    Vault::with_secret(
        "orders-api",
        &[
            ("token", "t0ken\n"),
            ("username", "Aladdin"),
            ("password", "open sesame"),
            ("id", "cli ent"),
            ("secret", "s:ecret"),
        ],
    )
}

fn spec(source: &Source, auth: &Value) -> Value {
    json!({ "url": source.url(), "auth": auth, "plaintextCredentials": "Allow" })
}

#[rstest]
#[case::bearer(json!({ "bearer": { "tokenSecretRef": { "name": "orders-api", "key": "token" } } }), "authorization", "Bearer t0ken")]
#[case::basic(
    json!({ "basic": { "secretRef": { "name": "orders-api" } } }),
    "authorization",
    "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
)]
#[case::header(
    json!({ "header": { "name": "X-Api-Key", "valueSecretRef": { "name": "orders-api", "key": "token" } } }),
    "x-api-key",
    "t0ken"
)]
#[tokio::test]
async fn each_kind_of_credential_arrives(#[case] auth: Value, #[case] header: &str, #[case] value: &str) {
    let source = open_source().await;
    let mut fetcher = fetcher_with(spec(&source, &auth), api_secret()).await;
    poll(&mut fetcher).await.expect("a page");
    assert_eq!(source.requests()[0].header(header), Some(value));
}

#[tokio::test]
async fn missing_secrets_and_keys_are_named() {
    let bearer = |name: &str, key: &str| json!({ "url": "https://host/", "auth": { "bearer": { "tokenSecretRef": { "name": name, "key": key } } } });
    let field = "http.auth.bearer.tokenSecretRef";
    let missing = open(bearer("nowhere", "token"), api_secret()).await.err().expect("refused");
    assert_eq!(missing, OpenError::SecretNotFound { field, name: "nowhere".to_owned() });
    let keyless = open(bearer("orders-api", "tok"), api_secret()).await.err().expect("refused");
    assert_eq!(keyless, OpenError::SecretKeyMissing { field, name: "orders-api".to_owned(), key: "tok".to_owned() });
    let silent = api_secret();
    silent.fall_silent();
    let unknown = open(bearer("orders-api", "token"), silent).await.err().expect("refused");
    assert_eq!((unknown.reason(), unknown), (None, OpenError::Unavailable { field }));
    let locked = api_secret();
    locked.forbid();
    let forbidden = open(bearer("orders-api", "token"), locked).await.err().expect("refused");
    assert_eq!(forbidden, OpenError::Forbidden { kind: "Secret", field, name: "orders-api".to_owned() });
}

#[rstest]
#[case::a_line_end_inside("two\nlines")]
#[case::a_nul("nul\0")]
#[tokio::test]
async fn a_secret_that_no_header_can_carry_names_the_field_and_not_the_value(#[case] token: &str) {
    let vault = Vault::with_secret("orders-api", &[("token", token)]);
    let http = json!({ "url": "https://host/", "auth": { "bearer": { "tokenSecretRef": { "name": "orders-api", "key": "token" } } } });
    let error = open(http, vault).await.err().expect("refused");
    assert!(matches!(error, OpenError::InvalidSpec { field: "http.auth.bearer.tokenSecretRef", .. }), "{error}");
    assert!(!error.to_string().contains("lines") && !error.to_string().contains("nul"), "{error}");
}

#[tokio::test]
async fn a_rotated_secret_is_used_from_the_next_connection_on() {
    let source = open_source().await;
    let vault = api_secret();
    let auth = json!({ "bearer": { "tokenSecretRef": { "name": "orders-api", "key": "token" } } });
    let mut fetcher = fetcher_with(spec(&source, &auth), vault.clone()).await;
    poll(&mut fetcher).await.expect("a page");
    assert!(!fetcher.reload_credentials().await.expect("readable"));
    poll(&mut fetcher).await.expect("a page");
    assert_eq!(source.connections(), 1, "nothing changed, nothing is rebuilt");

    vault.put_secret("orders-api", &[("token", "rotated")]);
    assert!(fetcher.reload_credentials().await.expect("readable"));
    poll(&mut fetcher).await.expect("a page");
    assert_eq!(source.requests()[2].header("authorization"), Some("Bearer rotated"));
    assert!(!fetcher.reload_credentials().await.expect("readable"));
}

#[tokio::test]
async fn credentials_that_cannot_be_read_again_are_kept() {
    let source = open_source().await;
    let vault = api_secret();
    let auth = json!({ "bearer": { "tokenSecretRef": { "name": "orders-api", "key": "token" } } });
    let mut fetcher = fetcher_with(spec(&source, &auth), vault.clone()).await;
    vault.fall_silent();
    assert!(matches!(fetcher.reload_credentials().await, Err(OpenError::Unavailable { .. })));
    vault.forbid();
    assert!(fetcher.reload_credentials().await.is_err_and(|error| !error.revokes()));
    poll(&mut fetcher).await.expect("a page");
    assert_eq!(source.requests()[0].header("authorization"), Some("Bearer t0ken"));
}

fn oauth2(token_url: &str) -> Value {
    json!({ "oauth2": {
        "tokenURL": token_url,
        "clientIDSecretRef": { "name": "orders-api", "key": "id" },
        "clientSecretSecretRef": { "name": "orders-api", "key": "secret" },
        "scopes": ["events:read", "x"],
        "audience": "orders",
    } })
}

/// Hands out tokens `t1`, `t2`, … at `/token`, and asks for the last one everywhere else.
async fn source_with_tokens(expires_in: u32) -> Source {
    source_refusing_with(401, expires_in).await
}

/// As [`source_with_tokens`]; this is how it answers who has another token.
async fn source_refusing_with(refusal: u16, expires_in: u32) -> Source {
    let handed_out = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    Source::that(move |mut talk| {
        let handed_out = handed_out.clone();
        async move {
            use std::sync::atomic::Ordering::SeqCst;
            loop {
                let request = talk.request().await?;
                if request.line() == "POST /token" {
                    let number = handed_out.fetch_add(1, SeqCst) + 1;
                    let body = format!(
                        "{{\"access_token\":\"t{number}\",\"token_type\":\"bearer\",\"expires_in\":{expires_in}}}"
                    );
                    talk.answer(200, "", body).await?;
                } else if request.header("authorization") == Some(&format!("Bearer t{}", handed_out.load(SeqCst))) {
                    talk.page(&[1]).await?;
                } else {
                    talk.answer(refusal, "", "no").await?;
                }
            }
        }
    })
    .await
}

fn token_url(source: &Source) -> String {
    format!("{}://{}/token", source.scheme, source.address)
}

async fn prepared(fetcher: &mut BoxedFetcher) -> bool {
    connect(fetcher).await;
    matches!(fetcher.send(permit(), &from_start()).await.expect("answered"), Reply::Prepared { .. })
}

fn lines(requests: &[Request]) -> Vec<&str> {
    requests.iter().map(|request| request.line().split('?').next().expect("a path")).collect()
}

#[tokio::test]
async fn a_token_from_the_host_of_the_source_takes_a_permit_of_its_own() {
    let source = source_with_tokens(3600).await;
    let mut fetcher = fetcher_with(spec(&source, &oauth2(&token_url(&source))), api_secret()).await;
    connect(&mut fetcher).await;
    assert_eq!(source.bytes(), b"", "connecting asks for nothing");
    assert!(prepared(&mut fetcher).await);
    assert_eq!(poll(&mut fetcher).await.expect("a page"), ["1"]);
    assert_eq!(poll(&mut fetcher).await.expect("with the same token"), ["1"]);
    let requests = source.requests();
    assert_eq!(lines(&requests), ["POST /token", "GET /events", "GET /events"]);
    assert_eq!(requests[0].body, "grant_type=client_credentials&scope=events%3Aread+x&audience=orders");
    // `cli+ent:s%3Aecret`
    assert_eq!(requests[0].header("authorization"), Some("Basic Y2xpK2VudDpzJTNBZWNyZXQ="));
    assert_eq!(source.connections(), 1);
}

#[tokio::test]
async fn a_token_from_another_host_is_fetched_while_connecting() {
    let tokens = source_with_tokens(3600).await;
    let source = open_source().await;
    // Another name of the same machine is another host.
    let elsewhere = format!("http://localhost:{}/token", tokens.address.port());
    let mut fetcher = fetcher_with(spec(&source, &oauth2(&elsewhere)), api_secret()).await;
    poll(&mut fetcher).await.expect("a page");
    poll(&mut fetcher).await.expect("a page");
    assert_eq!(lines(&tokens.requests()), ["POST /token"]);
    assert_eq!(lines(&source.requests()), ["GET /events", "GET /events"]);
    assert_eq!(source.requests()[1].header("authorization"), Some("Bearer t1"));
}

#[tokio::test]
async fn another_port_of_the_host_of_the_source_is_the_same_host() {
    let tokens = source_with_tokens(3600).await;
    let source = open_source().await;
    let mut fetcher = fetcher_with(spec(&source, &oauth2(&token_url(&tokens))), api_secret()).await;
    connect(&mut fetcher).await;
    assert_eq!(tokens.bytes(), b"");
    assert!(prepared(&mut fetcher).await);
    poll(&mut fetcher).await.expect("a page");
    assert_eq!((lines(&tokens.requests()), lines(&source.requests())), (vec!["POST /token"], vec!["GET /events"]));
}

#[tokio::test]
async fn a_token_whose_time_comes_between_connecting_and_sending_is_used_once_more() {
    // It is to be renewed after half a second.
    let tokens = source_with_tokens(1).await;
    let source = open_source().await;
    let mut fetcher = fetcher_with(spec(&source, &oauth2(&token_url(&tokens))), api_secret()).await;
    assert!(prepared(&mut fetcher).await);
    poll(&mut fetcher).await.expect("a page");
    connect(&mut fetcher).await;
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    let reply = fetcher.send(permit(), &from_start()).await.expect("the connection that stood is the one it needs");
    assert!(matches!(reply, Reply::Page(_)));
    assert!(prepared(&mut fetcher).await, "then a new one is asked for");
}

#[rstest]
#[case::it_is_no_good(401)]
#[case::it_may_too_little(403)]
#[tokio::test]
async fn a_token_that_the_source_refuses_is_dropped(#[case] refusal: u16) {
    let source = source_refusing_with(refusal, 3600).await;
    let mut fetcher = fetcher_with(spec(&source, &oauth2(&token_url(&source))), api_secret()).await;
    assert!(prepared(&mut fetcher).await);
    // Somebody else takes a token, and only the last one is good.
    let mut other = fetcher_with(spec(&source, &oauth2(&token_url(&source))), api_secret()).await;
    assert!(prepared(&mut other).await);
    poll_failing(&mut fetcher).await;
    assert!(prepared(&mut fetcher).await, "a new token is asked for");
    assert_eq!(poll(&mut fetcher).await.expect("a page"), ["1"]);
}

#[tokio::test]
async fn a_token_that_is_expired_when_it_comes_is_still_used_once() {
    let source = source_with_tokens(0).await;
    let mut fetcher = fetcher_with(spec(&source, &oauth2(&token_url(&source))), api_secret()).await;
    for _ in 0..2 {
        assert!(prepared(&mut fetcher).await);
        assert_eq!(poll(&mut fetcher).await.expect("a page"), ["1"]);
    }
}

#[rstest]
#[case::on_the_source("127.0.0.1")]
#[case::elsewhere("localhost")]
#[tokio::test]
async fn a_refusal_of_the_token_endpoint_is_named_by_its_code(#[case] host: &str) {
    let source = Source::that(|mut talk| async move {
        loop {
            talk.request().await?;
            talk.answer(400, "", "{\"error\":\"invalid_client\",\"error_description\":\"must not be shown\"}").await?;
        }
    })
    .await;
    let url = format!("http://{host}:{}/token", source.address.port());
    let mut fetcher = fetcher_with(spec(&source, &oauth2(&url)), api_secret()).await;
    let error = match fetcher.connect().await {
        Err(error) => error,
        Ok(()) => fetcher.send(permit(), &from_start()).await.err().expect("refused").error,
    };
    assert!(matches!(error, FetchError::AuthenticationFailed { .. }), "{error}");
    assert!(error.to_string().contains("400 (invalid_client)"), "{error}");
    assert!(!error.to_string().contains("must not be shown"));
}

/// The failure of a token request. Of one to another host only the error is known.
async fn token_failure(http: Value) -> Failure {
    let mut fetcher = fetcher_with(http, api_secret()).await;
    match fetcher.connect().await {
        Err(error) => Failure { error, progress: Progress::NeverLeft },
        Ok(()) => fetcher.send(permit(), &from_start()).await.err().expect("no token"),
    }
}

fn tokens_at(host: &str, tokens: &Source) -> Value {
    // Under one name it is the host of the source, under the other it is not.
    let url = format!("http://{host}:{}/token", tokens.address.port());
    json!({ "url": "http://127.0.0.1:9/", "auth": oauth2(&url), "plaintextCredentials": "Allow", "timeout": "500ms" })
}

#[rstest]
#[case::too_often(429, "Retry-After: 7\r\n", ReachableReason::RateLimited, Some(7), "")]
#[case::away(503, "Retry-After: 9\r\n", ReachableReason::ServerError, Some(9), "")]
#[case::broken(500, "", ReachableReason::ServerError, None, "")]
#[case::too_slow_for_it(408, "", ReachableReason::ServerError, None, "")]
#[case::no_such_client(401, "", ReachableReason::AuthenticationFailed, None, "its Secrets")]
#[case::not_this_client(403, "", ReachableReason::AuthenticationFailed, None, "its Secrets")]
#[case::moved(302, "", ReachableReason::AuthenticationFailed, None, "`http.auth.oauth2.tokenURL`")]
#[case::nowhere(404, "", ReachableReason::AuthenticationFailed, None, "`http.auth.oauth2.tokenURL`")]
#[tokio::test]
async fn a_token_endpoint_that_is_limited_or_down_is_no_wrong_credential(
    #[values("127.0.0.1", "localhost")] host: &str,
    #[case] status: u16,
    #[case] headers: &'static str,
    #[case] reason: ReachableReason,
    #[case] wait: Option<u64>,
    #[case] hint: &str,
) {
    let tokens = Source::that(move |mut talk| async move {
        talk.request().await?;
        talk.answer(status, headers, "must not be shown").await?;
        talk.hold().await
    })
    .await;
    let failure = token_failure(tokens_at(host, &tokens)).await;
    let said = failure.to_string();
    assert_eq!(
        (failure.error.reason(), failure.error.retry_after()),
        (reason, wait.map(Duration::from_secs)),
        "{said}"
    );
    assert!(said.contains(&format!("the token endpoint answered {status}")) && said.contains(hint), "{said}");
    assert!(reason == ReachableReason::AuthenticationFailed || !said.contains("check"), "{said}");
    assert!(!said.contains("must not be shown"), "{said}");
    assert_eq!(read_to_end(&failure), host == "127.0.0.1", "the row of the source learns of its own host");
}

#[rstest]
#[case(504)]
#[case(524)]
#[tokio::test]
async fn a_token_request_to_the_source_for_which_a_gateway_stopped_waiting_may_still_be_served(#[case] status: u16) {
    let tokens = Source::that(move |mut talk| async move {
        talk.request().await?;
        talk.answer(status, "", "").await?;
        talk.hold().await
    })
    .await;
    let failure = token_failure(tokens_at("127.0.0.1", &tokens)).await;
    assert!(may_be_served(&failure), "{failure}");
    assert_eq!(failure.error.reason(), ReachableReason::ServerError);
}

#[rstest]
#[case::too_large(70_000, 70_000, "too large")]
#[case::cut(100, 50, "before its answer was complete")]
#[tokio::test]
async fn a_token_that_does_not_come_whole_is_not_called_late(
    #[values("127.0.0.1", "localhost")] host: &str,
    #[case] length: usize,
    #[case] sent: usize,
    #[case] says: &str,
) {
    let tokens = Source::that(move |mut talk| async move {
        talk.request().await?;
        talk.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(sent))).await?;
        talk.close().await
    })
    .await;
    let failure = token_failure(tokens_at(host, &tokens)).await;
    let said = failure.to_string();
    assert_eq!(failure.error.reason(), ReachableReason::ConnectionFailed);
    assert!(said.contains("token") && said.contains(says) && !said.contains("within"), "{said}");
    assert_eq!(may_be_served(&failure), host == "127.0.0.1");
}

#[rstest]
#[case::limited(429, ReachableReason::RateLimited)]
#[case::a_gateway(504, ReachableReason::ServerError)]
#[tokio::test]
async fn a_refusal_of_the_token_endpoint_that_does_not_come_whole_is_known_by_its_status(
    #[values("127.0.0.1", "localhost")] host: &str,
    #[case] status: u16,
    #[case] reason: ReachableReason,
) {
    let tokens = Source::that(move |mut talk| async move {
        talk.request().await?;
        talk.answer(status, "Retry-After: 7\r\n", "x".repeat(70_000)).await?;
        talk.hold().await
    })
    .await;
    let failure = token_failure(tokens_at(host, &tokens)).await;
    assert_eq!((failure.error.reason(), failure.error.retry_after()), (reason, Some(Duration::from_secs(7))));
    assert_eq!(may_be_served(&failure), host == "127.0.0.1");
}

#[rstest]
#[case::on_the_source("127.0.0.1", ReachableReason::Timeout)]
#[case::elsewhere("localhost", ReachableReason::ConnectionFailed)]
#[tokio::test]
async fn a_token_that_does_not_come_in_time_is_called_late(#[case] host: &str, #[case] reason: ReachableReason) {
    let tokens = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{").await?;
        talk.hold().await
    })
    .await;
    let failure = token_failure(tokens_at(host, &tokens)).await;
    assert_eq!(failure.error.reason(), reason, "{failure}");
    assert!(failure.to_string().contains("within 500ms"), "{failure}");
}

#[tokio::test]
async fn a_rotated_client_secret_drops_the_token() {
    let source = source_with_tokens(3600).await;
    let vault = api_secret();
    let mut fetcher = fetcher_with(spec(&source, &oauth2(&token_url(&source))), vault.clone()).await;
    assert!(prepared(&mut fetcher).await);
    vault.put_secret("orders-api", &[("id", "cli ent"), ("secret", "another")]);
    assert!(Fetcher::reload_credentials(&mut *fetcher).await.expect("readable"));
    assert!(prepared(&mut fetcher).await);
}
