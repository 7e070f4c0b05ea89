//! How a body is said to travel.

use std::time::Duration;

use super::{
    UNASKED, UNSPEAKABLE,
    peer::{Peer, page},
};

/// Longer than a poll takes, shorter than the gap: the connection idles.
const WHILE_IT_IDLES: Duration = Duration::from_millis(60);

pub(super) async fn one_byte_a_second(peer: &mut Peer) -> Option<()> {
    peer.request().await?;
    peer.begin_chunks().await?;
    let body = format!("[{{\"id\":1,\"note\":\"{UNSPEAKABLE}");
    for byte in body.bytes().cycle() {
        peer.chunk(&[byte]).await?;
        peer.wait(Duration::from_secs(1)).await;
    }
    None
}

pub(super) async fn http_1_0(peer: &mut Peer) -> Option<()> {
    let asked = peer.request().await?;
    peer.say(format!("HTTP/1.0 200 OK\r\n\r\n{}", page((asked.after + 1..).take(3)))).await
}

pub(super) async fn length_too_long(peer: &mut Peer) -> Option<()> {
    peer.request().await?;
    peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[\"{UNSPEAKABLE}\"]")).await
}

pub(super) async fn length_too_short(peer: &mut Peer) -> Option<()> {
    peer.request().await?;
    let rest = UNSPEAKABLE.repeat(10);
    peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[{{\"note\":\"{rest}\"}}]")).await?;
    peer.hold().await
}

pub(super) async fn two_lengths(peer: &mut Peer) -> Option<()> {
    peer.request().await?;
    peer.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 10\r\n\r\n[{\"id\":1}]").await?;
    peer.hold().await
}

pub(super) async fn early_close(peer: &mut Peer) -> Option<()> {
    peer.request().await?;
    peer.begin_chunks().await?;
    peer.say(format!("ff\r\n[{{\"note\":\"{UNSPEAKABLE}")).await
}

pub(super) async fn reset(peer: &mut Peer) -> Option<()> {
    peer.request().await?;
    peer.begin_chunks().await?;
    peer.chunk(format!("[{{\"note\":\"{UNSPEAKABLE}").as_bytes()).await?;
    // What was said is to be read before the reset.
    peer.wait(WHILE_IT_IDLES).await;
    peer.end_with_a_reset();
    Some(())
}

/// A chunk of a size that cannot be.
pub(super) async fn chunk(peer: &mut Peer, size: &str) -> Option<()> {
    peer.request().await?;
    peer.begin_chunks().await?;
    peer.say(format!("{size}\r\n[\"{UNSPEAKABLE}\"")).await?;
    peer.hold().await
}

/// The same small chunk without end.
pub(super) async fn endless_chunks(peer: &mut Peer, chunk: &str) -> Option<()> {
    peer.request().await?;
    peer.begin_chunks().await?;
    peer.chunk(b"[").await?;
    peer.say_for_ever(chunk.repeat(100)).await
}

pub(super) async fn endless_trailers(peer: &mut Peer) -> Option<()> {
    peer.request().await?;
    peer.begin_chunks().await?;
    peer.chunk(b"[]").await?;
    peer.say("0\r\n").await?;
    peer.say_for_ever(format!("X-Sum: {UNSPEAKABLE}\r\n").repeat(100)).await
}

/// An answer to no request, whose ids would move the cursor far ahead.
fn unasked() -> String {
    let body = format!("[{{\"id\":9000000,\"note\":\"{UNASKED}\"}}]");
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

pub(super) async fn second_answer(peer: &mut Peer) -> Option<()> {
    loop {
        let asked = peer.request().await?;
        let body = page((asked.after + 1..).take(3));
        let first = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        peer.say([first, unasked()].concat()).await?;
    }
}

pub(super) async fn late_second_answer(peer: &mut Peer) -> Option<()> {
    loop {
        let asked = peer.request().await?;
        peer.answer("", page((asked.after + 1..).take(3))).await?;
        peer.wait(WHILE_IT_IDLES).await;
        peer.say(unasked()).await?;
    }
}
