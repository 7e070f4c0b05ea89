//! A source made of a raw socket. A test says what each connection does; the source records every byte that arrives.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tokio_rustls::TlsAcceptor;

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: String,
    /// When its first byte arrived.
    pub(crate) at: Instant,
}

impl Request {
    /// Method and target.
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().expect("a request line").trim_end_matches(" HTTP/1.1")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

#[derive(Default)]
struct Record {
    bytes: Vec<u8>,
    requests: Vec<Request>,
    last_answer: Option<Instant>,
}

/// A running source; it ends with the value.
pub(crate) struct Source {
    pub(crate) address: SocketAddr,
    pub(crate) scheme: &'static str,
    record: Arc<Mutex<Record>>,
    accepted: watch::Receiver<usize>,
    goodbyes: watch::Receiver<usize>,
    task: AbortHandle,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Source {
    /// Each connection does what `talk` says; its number counts from 1.
    pub(crate) async fn that<F, T>(talk: F) -> Self
    where
        F: Fn(Talk) -> T + Send + Sync + 'static,
        T: Future<Output = Option<()>> + Send + 'static,
    {
        Self::start("http", move |socket, talker| {
            let talk = talk(Talk { stream: Box::new(socket), ..talker });
            Box::pin(async move {
                talk.await;
            })
        })
        .await
    }

    /// As [`Source::that`], behind TLS.
    pub(crate) async fn over_tls<F, T>(acceptor: TlsAcceptor, talk: F) -> Self
    where
        F: Fn(Talk) -> T + Send + Sync + 'static,
        T: Future<Output = Option<()>> + Send + 'static,
    {
        let talk = Arc::new(talk);
        Self::start("https", move |socket, talker| {
            let (acceptor, talk) = (acceptor.clone(), talk.clone());
            Box::pin(async move {
                match acceptor.accept(socket).await {
                    Ok(stream) => {
                        talk(Talk { stream: Box::new(stream), ..talker }).await;
                    }
                    // Its last word was an alert.
                    Err(_) => talker.goodbye(),
                }
            })
        })
        .await
    }

    async fn start(
        scheme: &'static str,
        serve: impl Fn(tokio::net::TcpStream, Talk) -> futures::future::BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let record = Arc::new(Mutex::new(Record::default()));
        let (count, accepted) = watch::channel(0);
        let (goodbye, goodbyes) = watch::channel(0);
        let records = record.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                count.send_modify(|count| *count += 1);
                let number = *count.borrow();
                let talker = Talk {
                    number,
                    stream: Box::new(tokio::io::empty()),
                    record: records.clone(),
                    goodbye: goodbye.clone(),
                };
                connections.spawn(serve(socket, talker));
            }
        })
        .abort_handle();
        Self { address, scheme, record, accepted, goodbyes, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}/events", self.scheme, self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.record.lock().expect("the record").requests.clone()
    }

    /// Every byte that arrived, over all connections.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.record.lock().expect("the record").bytes.clone()
    }

    pub(crate) fn connections(&self) -> usize {
        *self.accepted.borrow()
    }

    /// Waits until so many connections were made.
    pub(crate) async fn connected(&self, connections: usize) {
        self.accepted.clone().wait_for(|count| *count >= connections).await.expect("the source runs");
    }

    /// Waits until the source has said so many goodbyes. On the loopback device they have arrived then.
    pub(crate) async fn said_goodbye(&self, times: usize) {
        self.goodbyes.clone().wait_for(|count| *count >= times).await.expect("the source runs");
    }

    /// When the first byte of the last answer was handed to the socket.
    pub(crate) fn last_answer(&self) -> Instant {
        self.record.lock().expect("the record").last_answer.expect("an answer")
    }
}

/// One connection of a source, as its test script sees it. `None` ends the script: the peer is gone.
pub(crate) struct Talk {
    pub(crate) number: usize,
    stream: Box<dyn Stream>,
    record: Arc<Mutex<Record>>,
    goodbye: watch::Sender<usize>,
}

impl Talk {
    /// Waits for a whole request.
    pub(crate) async fn request(&mut self) -> Option<Request> {
        let mut bytes = vec![self.byte().await?];
        let at = Instant::now();
        while !bytes.ends_with(b"\r\n\r\n") {
            bytes.push(self.byte().await?);
        }
        let head = String::from_utf8(bytes).expect("a head is text");
        let mut request = Request { head, body: String::new(), at };
        let length = request.header("content-length").map_or(0, |value| value.parse().expect("a length"));
        for _ in 0..length {
            request.body.push(self.byte().await?.into());
        }
        self.record.lock().expect("the record").requests.push(request.clone());
        Some(request)
    }

    async fn byte(&mut self) -> Option<u8> {
        let byte = self.stream.read_u8().await.ok()?;
        self.record.lock().expect("the record").bytes.push(byte);
        Some(byte)
    }

    /// Sends bytes as they are.
    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) -> Option<()> {
        self.record.lock().expect("the record").last_answer = Some(Instant::now());
        self.stream.write_all(bytes.as_ref()).await.ok()?;
        self.stream.flush().await.ok()
    }

    /// Answers 200 with a page of events.
    pub(crate) async fn page(&mut self, ids: &[u64]) -> Option<()> {
        self.answer(200, "", items(ids)).await
    }

    /// Answers with a status, header lines and a body.
    pub(crate) async fn answer(&mut self, status: u16, headers: &str, body: impl AsRef<[u8]>) -> Option<()> {
        let body = body.as_ref();
        let head = format!("HTTP/1.1 {status} Whatever\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
        self.say([head.as_bytes(), body].concat()).await
    }

    /// Ends the connection from this side.
    pub(crate) async fn close(mut self) -> Option<()> {
        let closed = self.stream.shutdown().await.ok();
        self.goodbye();
        closed
    }

    /// Lets the test know that what it waits for was said.
    pub(crate) fn goodbye(&self) {
        self.goodbye.send_modify(|count| *count += 1);
    }

    /// Keeps the connection until the peer ends it, and records what still arrives.
    pub(crate) async fn hold(mut self) -> Option<()> {
        while self.byte().await.is_some() {}
        None
    }

    /// The bare stream, for a proxy.
    pub(crate) fn into_stream(self) -> Box<dyn Stream> {
        self.stream
    }
}

/// A JSON array of events with these ids.
pub(crate) fn items(ids: &[u64]) -> String {
    let items: Vec<String> = ids.iter().map(|id| format!("{{\"id\":{id}}}")).collect();
    format!("[{}]", items.join(","))
}
