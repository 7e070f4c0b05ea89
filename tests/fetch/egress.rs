//! Addresses that the operator does not connect to, whoever names them: these tests allow one address of loopback, and ask
//! for another. What a name leads to is tested where it is resolved (`fetch::http::dial`).

use futures::FutureExt;
use headgate::fetch::{FetchError, http::Proxies};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    raw::Source,
    world::{BoxedFetcher, Vault, fetcher, fetcher_behind, fetcher_with},
};

/// Somebody who is never to be connected to.
async fn forbidden() -> TcpListener {
    TcpListener::bind("127.0.0.2:0").await.expect("a port")
}

fn url(listener: &TcpListener) -> String {
    format!("http://{}/latest", listener.local_addr().expect("its address"))
}

async fn is_refused(mut fetcher: BoxedFetcher, listener: &TcpListener) {
    let error = fetcher.connect().await.expect_err("it may not connect");
    assert_eq!(error.reason().as_str(), "AddressRefused");
    assert!(
        matches!(&error, FetchError::AddressRefused { detail } if detail.contains("127.0.0.2, a loopback")),
        "{error}"
    );
    assert!(listener.accept().now_or_never().is_none(), "it was connected to");
}

#[tokio::test]
async fn a_url_with_such_an_address_is_refused_and_nothing_is_connected_to() {
    let listener = forbidden().await;
    is_refused(fetcher(json!({ "url": url(&listener) })).await, &listener).await;
}

#[tokio::test]
async fn a_refused_address_is_refused_in_ipv6_clothes_too() {
    let listener = forbidden().await;
    let port = listener.local_addr().expect("its address").port();
    let mut fetcher = fetcher(json!({ "url": format!("http://[::ffff:127.0.0.2]:{port}/latest") })).await;
    let error = fetcher.connect().await.expect_err("it may not connect");
    assert!(matches!(error, FetchError::AddressRefused { .. }), "{error}");
    assert!(listener.accept().now_or_never().is_none(), "it was connected to");
}

#[tokio::test]
async fn a_token_endpoint_with_such_an_address_is_refused_and_sees_no_secret() {
    let (listener, source) = (forbidden().await, Source::that(|_| async { None }).await);
    let reference = |key: &str| json!({ "name": "orders-api", "key": key });
    let oauth2 = json!({
        "tokenURL": url(&listener),
        "clientIDSecretRef": reference("id"),
        "clientSecretSecretRef": reference("secret"),
    });
    let http = json!({ "url": source.url(), "auth": { "oauth2": oauth2 }, "plaintextCredentials": "Allow" });
    let vault = Vault::with_secret("orders-api", &[("id", "me"), ("secret", "hunter2")]);
    is_refused(fetcher_with(http, vault).await, &listener).await;
}

#[tokio::test]
async fn a_proxy_is_not_asked_for_such_an_address() {
    let (listener, proxy) = (forbidden().await, Source::that(|_| async { None }).await);
    let proxies = Proxies::all(&format!("http://{}", proxy.address), "");
    is_refused(fetcher_behind(proxies, json!({ "url": url(&listener) })).await, &listener).await;
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
async fn a_proxy_of_the_operator_may_be_at_such_an_address() {
    let listener = forbidden().await;
    let proxy = format!("http://{}", listener.local_addr().expect("its address"));
    let mut fetcher = fetcher_behind(Proxies::all(&proxy, ""), json!({ "url": "http://orders.example/events" })).await;
    let (_, accepted) = tokio::join!(fetcher.connect(), async {
        let (asked, _) = listener.accept().await?;
        asked.readable().await
    });
    accepted.expect("the proxy is asked");
}
