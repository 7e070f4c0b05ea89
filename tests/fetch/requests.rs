//! What a request says, and which specs are refused before one is made.

use headgate::fetch::OpenError;
use rstest::rstest;
use serde_json::{Value, json};

use crate::{
    raw::{Request, Source},
    world::{Vault, after, connect, fetcher, fetcher_with, from_start, open, permit},
};

/// What arrives for a spec.
async fn arrives(http: Value, vault: std::sync::Arc<Vault>, page: &headgate::fetch::PageRequest) -> Request {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.page(&[]).await
    })
    .await;
    let mut spec = json!({ "url": source.url() });
    let members = spec.as_object_mut().expect("an object");
    members.extend(http.as_object().expect("an object").clone());
    let mut fetcher = fetcher_with(spec, vault).await;
    connect(&mut fetcher).await;
    fetcher.send(permit(), page).await.expect("answered");
    source.requests().remove(0)
}

#[tokio::test]
async fn the_first_page_is_asked_for_without_a_cursor() {
    let request = arrives(json!({}), Vault::empty(), &from_start()).await;
    assert_eq!(request.line(), "GET /events?limit=1000");
}

#[tokio::test]
async fn cursor_and_limit_travel_in_their_parameters() {
    let http = json!({
        "query": [{ "name": "expand", "value": "a b" }, { "name": "expand", "value": "c&d" }],
        "cursor": { "afterID": { "param": "since" } },
        "limitParam": "n",
    });
    let request = arrives(http, Vault::empty(), &after("01JD/8?")).await;
    assert_eq!(request.line(), "GET /events?expand=a+b&expand=c%26d&since=01JD%2F8%3F&n=1000");
}

#[tokio::test]
async fn no_limit_is_sent_without_a_parameter_for_it() {
    let request = arrives(json!({ "limitParam": "" }), Vault::empty(), &from_start()).await;
    assert_eq!(request.line(), "GET /events");
}

#[tokio::test]
async fn a_request_says_who_asks_and_carries_no_trace() {
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.page(&[]).await
    })
    .await;
    let mut fetcher = fetcher(json!({ "url": source.url() })).await;
    connect(&mut fetcher).await;
    let permit = permit();
    let attempt = permit.attempt().to_string();
    fetcher.send(permit, &from_start()).await.expect("answered");
    let request = source.requests().remove(0);
    assert_eq!(request.header("headgate-attempt"), Some(attempt.as_str()));
    assert_eq!(request.header("headgate-replica"), Some("headgate-0.a1b2"));
    assert_eq!(request.header("host"), Some(source.address.to_string().as_str()));
    assert!(request.header("user-agent").is_some_and(|agent| agent.starts_with("headgate/")));
    assert_eq!((request.header("traceparent"), request.header("content-length")), (None, None));
}

#[tokio::test]
async fn headers_and_query_take_values_from_secrets_without_the_line_end_of_a_file() {
    let vault = Vault::with_secret("orders-api", &[("tenant", "acme\n"), ("key", "k1\r\n")]);
    let http = json!({
        "headers": [
            { "name": "X-Tenant", "valueFrom": { "secretKeyRef": { "name": "orders-api", "key": "tenant" } } },
            { "name": "Accept", "value": "application/vnd.orders+json" },
        ],
        "query": [{ "name": "key", "valueFrom": { "secretKeyRef": { "name": "orders-api", "key": "key" } } }],
        "plaintextCredentials": "Allow",
    });
    let request = arrives(http, vault, &from_start()).await;
    assert_eq!(request.line(), "GET /events?key=k1&limit=1000");
    assert_eq!(request.header("x-tenant"), Some("acme"));
    assert_eq!(request.header("accept"), Some("application/vnd.orders+json"));
}

#[rstest]
#[case::no_url(json!({ "url": "events" }), "http.url")]
#[case::another_scheme(json!({ "url": "ftp://host/" }), "http.url")]
#[case::credentials_in_the_url(json!({ "url": "https://me:hunter2@host/" }), "http.url")]
#[case::cursor_in_the_url(json!({ "url": "https://host/?afterId=1" }), "http.url")]
#[case::cursor_in_the_query(json!({ "url": "https://host/", "query": [{ "name": "limit", "value": "1" }] }), "http.query")]
#[case::one_name_for_both(json!({ "url": "https://host/", "limitParam": "afterId" }), "http.limitParam")]
#[case::no_cursor(json!({ "url": "https://host/", "cursor": {} }), "http.cursor")]
#[case::host(json!({ "url": "https://host/", "headers": [{ "name": "Host", "value": "x" }] }), "http.headers")]
#[case::length(json!({ "url": "https://host/", "headers": [{ "name": "content-length", "value": "1" }] }), "http.headers")]
#[case::name(json!({ "url": "https://host/", "headers": [{ "name": "a b", "value": "x" }] }), "http.headers")]
#[case::value(json!({ "url": "https://host/", "headers": [{ "name": "a", "value": "x\r\ny: z" }] }), "http.headers")]
#[case::neither(json!({ "url": "https://host/", "headers": [{ "name": "a" }] }), "http.headers")]
#[case::twice(
    json!({ "url": "https://host/", "headers": [{ "name": "authorization", "value": "x" }],
            "auth": { "bearer": { "tokenSecretRef": { "name": "orders-api", "key": "token" } } } }),
    "http.headers"
)]
#[case::no_auth(json!({ "url": "https://host/", "auth": {} }), "http.auth")]
#[case::plaintext_auth(
    json!({ "url": "http://host/", "auth": { "bearer": { "tokenSecretRef": { "name": "orders-api", "key": "token" } } } }),
    "http.plaintextCredentials"
)]
#[case::plaintext_header(
    json!({ "url": "HTTP://host/", "headers": [{ "name": "a", "valueFrom": { "secretKeyRef": { "name": "orders-api", "key": "token" } } }] }),
    "http.plaintextCredentials"
)]
#[case::no_time(json!({ "url": "https://host/", "timeout": "0s" }), "http.timeout")]
#[case::no_room(json!({ "url": "https://host/", "maxResponseBytes": 0 }), "http.maxResponseBytes")]
#[tokio::test]
async fn a_spec_that_cannot_be_asked_for_names_its_field(#[case] http: Value, #[case] expected: &str) {
    let vault = Vault::with_secret("orders-api", &[("token", "t")]);
    match open(http, vault).await {
        Err(OpenError::InvalidSpec { field, detail }) => {
            assert_eq!(field, expected, "{detail}");
            assert!(!detail.contains("hunter2"));
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
}
