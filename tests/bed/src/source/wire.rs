//! HTTP/1.1 on a raw socket, as far as a fake source needs it.

use std::fmt::Write as _;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use url::form_urlencoded;

use crate::clock;

/// The longest request head that is taken.
const LONGEST_HEAD: usize = 64 * 1024;

/// A request as it came.
#[derive(Debug)]
pub(super) struct Request {
    pub source: String,
    pub path: String,
    pub after: Option<String>,
    pub limit: u64,
    headers: Vec<(String, String)>,
    pub started: u64,
    pub parsed: u64,
}

impl Request {
    /// The value of a header; empty when it is not there.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }
}

/// Reads the next request; `None` when the peer is done.
pub(super) async fn read_request(stream: &mut TcpStream, unread: &mut Vec<u8>) -> std::io::Result<Option<Request>> {
    let mut started = if unread.is_empty() { None } else { Some(clock::now_us()) };
    loop {
        if let Some(end) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
            let parsed = clock::now_us();
            let head = String::from_utf8_lossy(&unread[..end]).into_owned();
            unread.drain(..end + 4);
            return Ok(Some(parse(&head, started.unwrap_or(parsed), parsed)));
        }
        if unread.len() > LONGEST_HEAD {
            return Err(std::io::Error::other("the request head is too long"));
        }
        let read = stream.read_buf(unread).await?;
        started.get_or_insert_with(clock::now_us);
        if read == 0 {
            return Ok(None);
        }
    }
}

fn parse(head: &str, started: u64, parsed: u64) -> Request {
    let mut lines = head.split("\r\n");
    let target = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let source = path.trim_start_matches('/').split('/').next().unwrap_or_default().to_owned();
    let parameter = |name: &str| {
        form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    };
    let header = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    Request {
        source,
        path: path.to_owned(),
        after: parameter("afterId"),
        limit: parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(1000),
        headers: lines.filter_map(header).collect(),
        started,
        parsed,
    }
}

/// A response head.
pub(super) fn head(status: u16, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Status\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").expect("a String takes every write");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// Writes all of it.
pub(super) async fn write_whole(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await
}

/// Writes as much as the peer takes and says how much that was, also when it failed.
pub(super) async fn write_counted(stream: &mut TcpStream, bytes: &[u8]) -> (usize, std::io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]).await {
            Ok(0) => return (written, Err(std::io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}
