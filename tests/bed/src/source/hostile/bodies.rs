//! What a body holds.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

use super::{
    UNSPEAKABLE,
    peer::{Peer, page},
};

const MIB: usize = 1024 * 1024;

pub(super) async fn endless_space(peer: &mut Peer) -> Option<()> {
    peer.request().await?;
    peer.begin_chunks().await?;
    peer.chunk(b"[").await?;
    endless(peer, &[b' '; 16 * 1024]).await
}

pub(super) async fn endless_items(peer: &mut Peer) -> Option<()> {
    let asked = peer.request().await?;
    peer.begin_chunks().await?;
    peer.chunk(b"[").await?;
    let mut next = asked.after + 1;
    loop {
        let items = page(next..next + 100);
        let items = items.trim_matches(['[', ']']);
        peer.chunk(format!("{items},").as_bytes()).await?;
        next += 100;
    }
}

pub(super) async fn endless_key(peer: &mut Peer) -> Option<()> {
    peer.request().await?;
    peer.begin_chunks().await?;
    peer.chunk(b"{\"").await?;
    endless(peer, UNSPEAKABLE.repeat(2_000).as_bytes()).await
}

pub(super) async fn gzip_bomb(peer: &mut Peer) -> Option<()> {
    // A member per megabyte: deflating all of it would take the reader's patience.
    let bomb = gzip(&vec![b' '; MIB]).repeat(64);
    loop {
        peer.request().await?;
        peer.answer("Content-Encoding: gzip\r\n", &bomb).await?;
    }
}

pub(super) async fn corrupt_gzip(peer: &mut Peer) -> Option<()> {
    let mut body = gzip(format!("[\"{UNSPEAKABLE}\"").as_bytes());
    let middle = body.len() / 2;
    body[middle..].fill(0xFF);
    loop {
        peer.request().await?;
        peer.answer("Content-Encoding: gzip\r\n", &body).await?;
    }
}

pub(super) async fn million_items(peer: &mut Peer) -> Option<()> {
    peer.request().await?;
    peer.begin_chunks().await?;
    peer.chunk(b"{\"data\":[").await?;
    for thousand in 0..1_000 {
        let items = page(thousand * 1_000 + 1..=thousand * 1_000 + 1_000);
        peer.chunk(format!("{},", items.trim_matches(['[', ']'])).as_bytes()).await?;
    }
    peer.chunk(b"{\"id\":1000001}]}").await?;
    peer.say("0\r\n\r\n").await
}

pub(super) async fn large_payload(peer: &mut Peer) -> Option<()> {
    peer.request().await?;
    let length = 100 * 1_000_000;
    peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n[{{\"id\":1,\"note\":\"")).await?;
    peer.say_for_ever(UNSPEAKABLE.repeat(10_000)).await
}

pub(super) async fn deep_payload(peer: &mut Peer) -> Option<()> {
    loop {
        let asked = peer.request().await?;
        let (open, close) = ("[".repeat(20_000), "]".repeat(20_000));
        let (deep, good) = (asked.after + 1, asked.after + 2);
        peer.answer("", format!("[{{\"id\":{deep},\"data\":{open}{close}}},{{\"id\":{good}}}]")).await?;
    }
}

pub(super) async fn deep_nowhere(peer: &mut Peer) -> Option<()> {
    loop {
        peer.request().await?;
        peer.answer("", "[".repeat(100_000)).await?;
    }
}

pub(super) async fn invalid_utf8(peer: &mut Peer) -> Option<()> {
    loop {
        peer.request().await?;
        peer.answer("", [b"[{\"id\":1,\"note\":\"", UNSPEAKABLE.as_bytes(), b"\xC3\x28\xFF\"}]"].concat()).await?;
    }
}

pub(super) async fn duplicate_ids(peer: &mut Peer) -> Option<()> {
    loop {
        let asked = peer.request().await?;
        let full = usize::try_from(asked.limit).unwrap_or(usize::MAX);
        peer.answer("", page(std::iter::repeat_n(7, full))).await?;
    }
}

pub(super) async fn falling_ids(peer: &mut Peer) -> Option<()> {
    loop {
        let asked = peer.request().await?;
        let (first, last) = (asked.after + 1, asked.after + asked.limit.max(2));
        peer.answer("", page((first..=last).rev())).await?;
    }
}

pub(super) async fn float_ids(peer: &mut Peer) -> Option<()> {
    loop {
        peer.request().await?;
        peer.answer("", format!("[{{\"id\":1.5,\"note\":\"{UNSPEAKABLE}\"}},{{\"id\":1e3}}]")).await?;
    }
}

pub(super) async fn long_id(peer: &mut Peer) -> Option<()> {
    loop {
        peer.request().await?;
        peer.answer("", format!("[{{\"id\":{}}}]", "7".repeat(100_000))).await?;
    }
}

/// Chunks of these bytes until the reader goes.
async fn endless(peer: &mut Peer, bytes: &[u8]) -> Option<()> {
    loop {
        peer.chunk(bytes).await?;
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("a Vec takes every write");
    encoder.finish().expect("a Vec takes every write")
}
