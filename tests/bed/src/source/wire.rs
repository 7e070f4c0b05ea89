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
    /// Its head came to the end.
    pub is_whole: bool,
}

impl Request {
    /// The value of a header; empty when it is not there.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }
}

/// What a peer has sent and nobody has taken yet.
#[derive(Debug, Default)]
pub(super) struct Unread {
    bytes: Vec<u8>,
    /// When the first of these bytes were read.
    since: Option<u64>,
}

impl Unread {
    /// Waits for more. Returns whether there is more to come.
    pub(super) async fn read_more(&mut self, stream: &mut TcpStream) -> std::io::Result<bool> {
        let read = stream.read_buf(&mut self.bytes).await?;
        if read > 0 {
            self.since.get_or_insert_with(clock::now_us);
        }
        Ok(read > 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes a request off, as far as it came. What follows its head came no later than that.
    fn take(&mut self, length: usize, is_whole: bool) -> Request {
        let parsed = clock::now_us();
        let head = String::from_utf8_lossy(&self.bytes[..length]).into_owned();
        self.bytes.drain(..(length + 4).min(self.bytes.len()));
        let started = self.since.take().unwrap_or(parsed);
        self.since = (!self.bytes.is_empty()).then_some(parsed);
        parse(&head, started, parsed, is_whole)
    }
}

/// Reads the next request; `None` when the peer is done. One that breaks off before the end of its head is none that can be
/// answered, but it was sent.
pub(super) async fn read_request(stream: &mut TcpStream, unread: &mut Unread) -> std::io::Result<Option<Request>> {
    loop {
        if let Some(end) = unread.bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok(Some(unread.take(end, true)));
        }
        let breaks_off = unread.bytes.len() > LONGEST_HEAD
            || match unread.read_more(stream).await {
                Ok(more) => !more,
                Err(error) if unread.is_empty() => return Err(error),
                Err(_) => true,
            };
        if breaks_off {
            let length = unread.bytes.len();
            return Ok((length > 0).then(|| unread.take(length, false)));
        }
    }
}

fn parse(head: &str, started: u64, parsed: u64, is_whole: bool) -> Request {
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
        is_whole,
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
