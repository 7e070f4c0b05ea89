use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::*;

async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = client.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

async fn connect(forwarder: &Forwarder) -> TcpStream {
    TcpStream::connect(forwarder.address()).await.expect("it listens")
}

async fn answers(connection: &mut TcpStream) -> bool {
    let mut byte = [0];
    connection.write_all(b"x").await.is_ok() && connection.read_exact(&mut byte).await.is_ok()
}

#[tokio::test]
async fn a_cut_closes_what_is_open_and_what_comes_until_it_is_healed() {
    let forwarder = Forwarder::to(echo().await).await.expect("a port");
    let mut before = connect(&forwarder).await;
    assert!(answers(&mut before).await);
    forwarder.cut();
    assert!(!answers(&mut before).await, "an open connection is closed");
    assert!(!answers(&mut connect(&forwarder).await).await, "a new one too");
    forwarder.heal();
    assert!(answers(&mut connect(&forwarder).await).await);
    assert!(!answers(&mut before).await, "what was cut stays cut");
}

#[tokio::test]
async fn a_slow_road_brings_every_byte_later_and_in_order() {
    let forwarder = Forwarder::to(echo().await).await.expect("a port");
    let mut connection = connect(&forwarder).await;
    let (up, down) = (Duration::from_millis(60), Duration::from_millis(40));
    forwarder.becomes(Road::Slow { up, down });
    let begun = Instant::now();
    connection.write_all(b"first ").await.expect("it is open");
    forwarder.heal();
    connection.write_all(b"second").await.expect("it is open");
    let mut echoed = [0; 12];
    connection.read_exact(&mut echoed).await.expect("everything comes");
    assert_eq!(&echoed, b"first second");
    assert!(begun.elapsed() < Duration::from_secs(5));
    forwarder.becomes(Road::Slow { up, down });
    let begun = Instant::now();
    assert!(answers(&mut connection).await);
    assert!(begun.elapsed() >= up + down, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_swallowing_road_keeps_connections_and_loses_what_goes_one_way() {
    let forwarder = Forwarder::to(echo().await).await.expect("a port");
    for way in [Way::Up, Way::Down] {
        forwarder.heal();
        let (mut asked, mut idle) = (connect(&forwarder).await, connect(&forwarder).await);
        assert!(answers(&mut asked).await && answers(&mut idle).await);
        forwarder.becomes(Road::Swallows(way));
        let waited = timeout(Duration::from_millis(100), answers(&mut asked)).await;
        assert!(waited.is_err(), "neither an answer nor an end: {way:?}");
        forwarder.heal();
        assert!(!answers(&mut asked).await, "a connection with a hole is closed: {way:?}");
        assert!(answers(&mut idle).await, "one that lost nothing goes on: {way:?}");
    }
}

#[tokio::test]
async fn a_proxy_grants_a_tunnel_and_then_forwards() {
    let forwarder = Forwarder::as_proxy_to(echo().await).await.expect("a port");
    let mut connection = connect(&forwarder).await;
    connection.write_all(b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n").await.expect("it is open");
    let mut granted = [0; 26];
    connection.read_exact(&mut granted).await.expect("an answer");
    assert!(granted.starts_with(b"HTTP/1.1 200 ") && granted.ends_with(b"\r\n\r\n"));
    assert!(answers(&mut connection).await);
}
