//! Behind a proxy: a tunnel that stands before the gate, and nothing that could be repeated.

use headgate::fetch::{FetchError, Progress, http::Proxies};
use serde_json::json;
use tokio::net::TcpStream;

use crate::{
    raw::Source,
    world::{BoxedFetcher, connect, fetcher_behind, poll, poll_failing},
};

/// A proxy that opens every tunnel.
async fn proxy() -> Source {
    Source::that(|mut talk| async move {
        let request = talk.request().await?;
        let target = request.line().strip_prefix("CONNECT ")?.to_owned();
        let mut far = TcpStream::connect(target).await.ok()?;
        talk.say("HTTP/1.1 200 Connection established\r\n\r\n").await?;
        tokio::io::copy_bidirectional(&mut talk.into_stream(), &mut far).await.ok()?;
        None
    })
    .await
}

async fn source() -> Source {
    Source::that(|mut talk| async move {
        loop {
            talk.request().await?;
            talk.page(&[1]).await?;
        }
    })
    .await
}

async fn behind(proxy: &Source, except: &str, source: &Source) -> BoxedFetcher {
    let proxies = Proxies::all(&format!("http://me:hunter2@{}", proxy.address), except);
    fetcher_behind(proxies, json!({ "url": source.url() })).await
}

#[tokio::test]
async fn behind_a_proxy_the_tunnel_to_the_source_stands_before_the_gate() {
    let (proxy, source) = (proxy().await, source().await);
    let mut fetcher = behind(&proxy, "", &source).await;
    connect(&mut fetcher).await;
    source.connected(1).await;
    assert_eq!((proxy.connections(), source.bytes()), (1, vec![]));
    assert_eq!(poll(&mut fetcher).await.expect("a page"), ["1"]);
    assert_eq!(poll(&mut fetcher).await.expect("a page"), ["1"]);
    assert_eq!((proxy.connections(), source.connections(), source.requests().len()), (1, 1, 2));
}

#[tokio::test]
async fn the_proxy_sees_the_tunnel_and_its_own_credentials_and_no_request() {
    let (proxy, source) = (proxy().await, source().await);
    let mut fetcher = behind(&proxy, "", &source).await;
    poll(&mut fetcher).await.expect("a page");
    let requests = proxy.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].line(), format!("CONNECT {}", source.address));
    assert_eq!(requests[0].header("proxy-authorization"), Some("Basic bWU6aHVudGVyMg=="));
    assert_eq!(source.requests()[0].header("proxy-authorization"), None);
}

#[tokio::test]
async fn behind_a_proxy_a_request_without_an_answer_is_not_sent_again() {
    let proxy = proxy().await;
    let source = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.close().await
    })
    .await;
    let mut fetcher = behind(&proxy, "", &source).await;
    let failure = poll_failing(&mut fetcher).await;
    assert_eq!(failure.progress, Progress::MayBeServed { first_byte: None });
    assert_eq!((proxy.connections(), source.connections(), source.requests().len()), (1, 1, 1));
}

#[tokio::test]
async fn a_proxy_that_refuses_the_tunnel_is_named_with_the_way_out() {
    let proxy = Source::that(|mut talk| async move {
        talk.request().await?;
        talk.answer(403, "", "no tunnels to this port").await
    })
    .await;
    let source = source().await;
    let error = behind(&proxy, "", &source).await.connect().await.unwrap_err();
    assert!(
        matches!(&error, FetchError::ConnectionFailed { detail } if detail.contains("403") && detail.contains("NO_PROXY")),
        "{error}"
    );
    assert!(!error.to_string().contains("hunter2"));
    assert_eq!(source.connections(), 0);
}

#[tokio::test]
async fn a_host_that_is_excepted_is_reached_directly() {
    let (proxy, source) = (proxy().await, source().await);
    let mut fetcher = behind(&proxy, "127.0.0.1", &source).await;
    poll(&mut fetcher).await.expect("a page");
    assert_eq!((proxy.connections(), source.connections()), (0, 1));
}

#[tokio::test]
async fn a_proxy_of_another_kind_is_refused() {
    let source = source().await;
    let proxies = Proxies::all("socks5://127.0.0.1:1080", "");
    let mut fetcher = fetcher_behind(proxies, json!({ "url": source.url() })).await;
    let error = fetcher.connect().await.unwrap_err();
    assert!(error.to_string().contains("NO_PROXY"), "{error}");
}
