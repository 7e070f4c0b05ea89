//! A line to a server that a test can cut, or on which the answer of a committed statement is lost.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// Passes bytes on, until it is told otherwise.
pub(super) struct Link {
    address: SocketAddr,
    is_cut: watch::Sender<bool>,
    /// The answer of the nth statement from now on is lost; 0 = none is.
    loses: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Link {
    pub(super) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (is_cut, cut) = watch::channel(false);
        let loses = Arc::new(AtomicUsize::new(0));
        let lost = Arc::clone(&loses);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (lost, mut cut) = (Arc::clone(&lost), cut.clone());
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(server).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    // The first of the three that ends closes both sides.
                    tokio::select! {
                        () = pass(from_client, to_server) => {}
                        () = answers(from_server, to_client, &lost) => {}
                        _ = cut.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        Self { address, is_cut, loses, accepting }
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The way to this server's URL over this line.
    pub(super) fn url(&self, url: &str) -> String {
        let mut url = url::Url::parse(url).unwrap();
        url.set_port(Some(self.port())).unwrap();
        url.to_string()
    }

    /// Nothing passes any more, and nobody gets through.
    pub(super) fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// The nth statement from now on (1 = the next) is carried out, but its answer does not arrive: the line breaks.
    pub(super) fn lose_answer(&self, nth: usize) {
        self.loses.store(nth, Ordering::SeqCst);
    }

    /// Whether an answer is still to be lost.
    pub(super) fn will_lose_an_answer(&self) -> bool {
        self.loses.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

/// Passes the server's messages on. While an answer is to be lost they are held back up to "ready for query", which the
/// server sends once the transaction is committed.
async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, lost: &AtomicUsize) {
    let (mut held, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        held.extend_from_slice(&buffer[..read]);
        if lost.load(Ordering::SeqCst) > 0 {
            match whole_answer(&held) {
                None => continue,
                // A statement that is only prepared completes no command, and its answer is needed.
                Some(types) if types.contains(&b'C') && lost.fetch_sub(1, Ordering::SeqCst) == 1 => return,
                Some(_) => {}
            }
        }
        if to.write_all(&held).await.is_err() {
            return;
        }
        held.clear();
    }
}

/// The types of the messages of an answer that ends in "ready for query"; None while it is not whole.
fn whole_answer(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut types = Vec::new();
    while let Some((&kind, rest)) = bytes.split_first() {
        let length = usize::try_from(u32::from_be_bytes(rest.first_chunk().copied()?)).ok()?;
        bytes = rest.get(length..)?;
        types.push(kind);
    }
    (types.last() == Some(&b'Z')).then_some(types)
}

/// The address in a server's URL.
pub(super) fn address_of(url: &str) -> SocketAddr {
    let url = url::Url::parse(url).unwrap();
    let host = url.host_str().unwrap_or("127.0.0.1");
    let port = url.port().unwrap_or(5432);
    std::net::ToSocketAddrs::to_socket_addrs(&(host, port)).unwrap().next().unwrap()
}
