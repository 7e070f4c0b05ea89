//! The port itself. Whoever can reach it may open connections and say nothing, or not read the answer; each would hold a file
//! descriptor for ever, and the sources need theirs.
//!
//! So a connection is for one request, and over after a while; and there are few at a time. One more takes the place of the
//! oldest, so that a probe gets its answer beside any number of those that are silent.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::timeout,
};

/// Many times what probes and scrapers need at a time.
const MOST_CONNECTIONS: usize = 64;

/// From the connection to the last byte of the answer: more than a scraper waits for.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// Answers on this port for as long as it is polled.
pub(super) async fn serve(mut listener: TcpListener, router: Router) -> Infallible {
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        // That of axum: where the process has no descriptor left, it waits for one.
        let (stream, _) = Listener::accept(&mut listener).await;
        connections.retain(|connection| !connection.is_finished());
        if connections.len() == MOST_CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        let connection = timeout(ANSWERED_WITHIN, answer(stream, router.clone()));
        connections.push_back(tokio::spawn(connection).abort_handle());
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    // What breaks a connection is the peer's doing.
    let _ = connection.await;
}

#[cfg(test)]
mod tests {
    use std::{io, net::SocketAddr};

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::JoinHandle,
    };

    use super::*;

    /// A port that answers one probe.
    struct Port {
        address: SocketAddr,
        serving: JoinHandle<Infallible>,
    }

    impl Port {
        async fn open() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("its address");
            let serving = tokio::spawn(serve(listener, Router::new().route("/livez", get(async || "ok\n"))));
            Self { address, serving }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.expect("a connection")
        }

        /// The whole answer to a probe, which ends with the connection.
        async fn probe(&self) -> String {
            let mut connection = self.connect().await;
            connection.write_all(b"GET /livez HTTP/1.1\r\nhost: here\r\n\r\n").await.expect("it is read");
            let mut answer = String::new();
            timeout(2 * ANSWERED_WITHIN, connection.read_to_string(&mut answer)).await.expect("an end").expect("text");
            answer
        }
    }

    impl Drop for Port {
        fn drop(&mut self) {
            self.serving.abort();
        }
    }

    /// Waits until the other side has closed a connection.
    async fn closed(mut connection: TcpStream) {
        let end = timeout(2 * ANSWERED_WITHIN, connection.read_u8()).await.expect("it is closed");
        let kind = end.expect_err("nothing is said").kind();
        assert!(matches!(kind, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset), "{kind}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_or_not_all_is_closed() {
        let port = Port::open().await;
        closed(port.connect().await).await;
        let mut begun = port.connect().await;
        begun.write_all(b"GET /livez HTTP/1.1\r\n").await.expect("it is read");
        closed(begun).await;
    }

    #[tokio::test]
    async fn a_probe_is_answered_beside_any_number_of_silent_connections_of_which_few_stay() {
        let port = Port::open().await;
        let mut silent = Vec::new();
        for _ in 0..4 * MOST_CONNECTIONS {
            silent.push(port.connect().await);
        }
        let answer = port.probe().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\nok\n"), "{answer}");
        for oldest in silent.drain(..3 * MOST_CONNECTIONS) {
            closed(oldest).await;
        }
    }
}
