//! TLS of servers that do not keep to it, or make much of it.

use std::sync::{Arc, Mutex};

use headgate::fetch::FetchError;
use rustls::{HandshakeKind, ServerConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    tls::{Authority, trusting, with_ca},
    world::{connect, fetcher_with, may_be_served, poll, read, send},
};

/// A source of which each connection, one after the other, does this when its first request has come. Its URL.
async fn by_hand<T>(
    acceptor: impl Fn(usize) -> TlsAcceptor + Send + 'static,
    answer: impl Fn(TlsStream<TcpStream>) -> T + Send + Sync + 'static,
) -> String
where
    T: Future<Output = std::io::Result<()>> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://{}/events", listener.local_addr().expect("its address"));
    tokio::spawn(async move {
        for number in 0.. {
            let (socket, _) = listener.accept().await.expect("a connection");
            let mut stream = acceptor(number).accept(socket).await.expect("a handshake");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a request"));
            }
            answer(stream).await.expect("answered");
        }
    });
    url
}

#[tokio::test]
async fn tls_that_breaks_in_the_middle_of_an_answer_is_no_failed_handshake() {
    let authority = Authority::new();
    let acceptor = authority.issues("127.0.0.1").acceptor(None);
    let head_was_read = Arc::new(Notify::new());
    let go_on = head_was_read.clone();
    let url = by_hand(
        move |_| acceptor.clone(),
        move |mut stream| {
            let go_on = go_on.clone();
            async move {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[{\"id\":1},").await?;
                stream.flush().await?;
                go_on.notified().await;
                stream.get_mut().0.write_all(b"no record of TLS").await
            }
        },
    )
    .await;
    let mut fetcher = fetcher_with(trusting(&url), with_ca(&authority)).await;
    connect(&mut fetcher).await;
    let mut page = send(&mut fetcher).await.expect("the head");
    head_was_read.notify_one();
    let (ids, outcome) = read(&mut page).await;
    let failure = outcome.expect_err("broken");
    assert_eq!(ids, ["1"]);
    assert!(matches!(&failure.error, FetchError::ConnectionFailed { detail } if detail.contains("TLS")), "{failure}");
    assert!(may_be_served(&failure));
}

#[tokio::test]
async fn of_the_tickets_that_a_server_sends_one_is_kept() {
    let authority = Authority::new();
    let acceptor = authority.issues("127.0.0.1").acceptor(None);
    // Tickets are sent on the first connection alone.
    let sending = move |number| {
        let mut config = ServerConfig::clone(acceptor.config());
        config.send_tls13_tickets = if number == 0 { 8 } else { 0 };
        TlsAcceptor::from(Arc::new(config))
    };
    let handshakes = Arc::new(Mutex::new(Vec::new()));
    let seen = handshakes.clone();
    let url = by_hand(sending, move |mut stream| {
        seen.lock().expect("the list").push(stream.get_ref().1.handshake_kind().expect("it is over"));
        async move {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n[]").await?;
            stream.shutdown().await
        }
    })
    .await;
    let mut fetcher = fetcher_with(trusting(&url), with_ca(&authority)).await;
    for _ in 0..3 {
        poll(&mut fetcher).await.expect("a page");
    }
    let handshakes = handshakes.lock().expect("the list").clone();
    assert_eq!(handshakes, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Full]);
}
