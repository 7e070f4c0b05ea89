use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{io::AsyncReadExt, net::TcpStream};

use super::{super::wire, Visits};

/// One connection, as an attack sees it. `None` of any step ends the attack: the reader has gone.
pub(super) struct Peer {
    stream: TcpStream,
    unread: wire::Unread,
    visits: Arc<Mutex<Visits>>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) after: u64,
    pub(super) limit: u64,
}

impl Peer {
    pub(super) fn new(stream: TcpStream, visits: Arc<Mutex<Visits>>) -> Self {
        // Best effort: without it only the timing of small pieces changes.
        let _ = stream.set_nodelay(true);
        Self { stream, unread: wire::Unread::default(), visits }
    }

    /// Waits for a whole request.
    pub(super) async fn request(&mut self) -> Option<Asked> {
        let request = wire::read_request(&mut self.stream, &mut self.unread).await.ok()??;
        if !request.is_whole {
            return None;
        }
        self.visits.lock().expect("no holder panics").requests.push(request.started);
        let after = request.after.and_then(|id| id.parse().ok()).unwrap_or(0);
        Some(Asked { after, limit: request.limit })
    }

    /// Sends bytes as they are.
    pub(super) async fn say(&mut self, bytes: impl AsRef<[u8]>) -> Option<()> {
        wire::write_whole(&mut self.stream, bytes.as_ref()).await.ok()
    }

    /// Sends the same bytes until the reader goes.
    pub(super) async fn say_for_ever(&mut self, bytes: impl AsRef<[u8]>) -> Option<()> {
        loop {
            self.say(&bytes).await?;
        }
    }

    /// Answers with a body of a known length.
    pub(super) async fn answer(&mut self, headers: &str, body: impl AsRef<[u8]>) -> Option<()> {
        let body = body.as_ref();
        let head = format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
        self.say([head.as_bytes(), body].concat()).await
    }

    /// Begins an answer whose length is not known.
    pub(super) async fn begin_chunks(&mut self) -> Option<()> {
        self.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await
    }

    pub(super) async fn chunk(&mut self, bytes: &[u8]) -> Option<()> {
        let size = format!("{:x}\r\n", bytes.len());
        self.say([size.as_bytes(), bytes, b"\r\n"].concat()).await
    }

    pub(super) async fn wait(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Keeps the connection, without a word, until the reader goes.
    pub(super) async fn hold(&mut self) -> Option<()> {
        while self.stream.read_u8().await.is_ok() {}
        None
    }

    /// From now on the end of the connection is a reset.
    pub(super) fn end_with_a_reset(&self) {
        // Where it fails the connection closes, which is an attack as well.
        let _ = self.stream.set_zero_linger();
    }
}

/// A JSON array of good events.
pub(super) fn page(ids: impl IntoIterator<Item = u64>) -> String {
    let items: Vec<String> = ids.into_iter().map(|id| format!("{{\"id\":{id}}}")).collect();
    format!("[{}]", items.join(","))
}
