//! What stands before a body.

use std::net::SocketAddr;

use super::{
    UNSPEAKABLE,
    peer::{Peer, page},
};

/// What a century is, in seconds.
const CENTURY: u64 = 100 * 365 * 86_400;

pub(super) async fn silence(peer: &mut Peer) -> Option<()> {
    peer.request().await?;
    peer.hold().await
}

pub(super) async fn banner(peer: &mut Peer) -> Option<()> {
    peer.say(format!("220 {UNSPEAKABLE} ESMTP\r\n")).await?;
    peer.request().await?;
    peer.hold().await
}

/// Begins a head, and goes on with the same piece until the reader has had enough.
pub(super) async fn endless(peer: &mut Peer, beginning: &str, piece: &str) -> Option<()> {
    peer.request().await?;
    peer.say(beginning).await?;
    peer.say_for_ever(piece.repeat(100)).await
}

pub(super) async fn endless_interim(peer: &mut Peer) -> Option<()> {
    peer.request().await?;
    let hint = format!("HTTP/1.1 103 Early Hints\r\nLink: <{UNSPEAKABLE}>\r\n\r\n");
    peer.say_for_ever(format!("HTTP/1.1 100 Continue\r\n\r\n{hint}").repeat(20)).await
}

pub(super) async fn interim(peer: &mut Peer) -> Option<()> {
    loop {
        let asked = peer.request().await?;
        peer.say("HTTP/1.1 100 Continue\r\n\r\n").await?;
        peer.say(format!("HTTP/1.1 103 Early Hints\r\nLink: <{UNSPEAKABLE}>\r\n\r\n")).await?;
        peer.answer("", page((asked.after + 1..).take(3))).await?;
    }
}

pub(super) async fn switching_protocols(peer: &mut Peer) -> Option<()> {
    peer.request().await?;
    peer.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await?;
    peer.say_for_ever(UNSPEAKABLE).await
}

pub(super) async fn retry_after_a_century(peer: &mut Peer) -> Option<()> {
    loop {
        peer.request().await?;
        let body = UNSPEAKABLE;
        let length = body.len();
        peer.say(format!(
            "HTTP/1.1 429 Too Many Requests\r\nRetry-After: {CENTURY}\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await?;
    }
}

pub(super) async fn redirect(peer: &mut Peer, elsewhere: SocketAddr) -> Option<()> {
    loop {
        peer.request().await?;
        let location = format!("http://{elsewhere}/events?{UNSPEAKABLE}");
        peer.say(format!(
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\nRefresh: 0; url={location}\r\n\
             Content-Length: 0\r\n\r\n"
        ))
        .await?;
    }
}

pub(super) async fn other_coding(peer: &mut Peer) -> Option<()> {
    loop {
        peer.request().await?;
        peer.answer("Content-Encoding: br\r\n", UNSPEAKABLE).await?;
    }
}
