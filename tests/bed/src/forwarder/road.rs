//! What becomes of the bytes of one connection.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// Pieces of up to [`PIECE`] bytes that are under way at the same time.
const UNDER_WAY: usize = 256;
const PIECE: usize = 16 * 1024;

/// The condition of a piece of network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    Open,
    /// Connections are closed, and new ones at once.
    Cut,
    /// Bytes arrive this much later.
    Slow {
        up: Duration,
        down: Duration,
    },
    /// Connections stay, and what is sent one way vanishes, the end of a connection included. One that lost bytes is
    /// closed when the road is another: TCP would never let what comes later pass for the next bytes.
    Swallows(Way),
}

/// One of the two directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

impl Road {
    pub(super) fn swallows(self, way: Way) -> bool {
        self == Self::Swallows(way)
    }

    pub(super) fn delay(self, way: Way) -> Duration {
        match (self, way) {
            (Self::Slow { up, .. }, Way::Up) => up,
            (Self::Slow { down, .. }, Way::Down) => down,
            _ => Duration::ZERO,
        }
    }
}

/// Carries bytes both ways until both ends have closed, or bytes were lost and others would follow.
pub(super) async fn between(client: TcpStream, server: TcpStream, road: watch::Receiver<Road>) -> std::io::Result<()> {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = carry(Way::Up, from_client, to_server, road.clone());
    let down = carry(Way::Down, from_server, to_client, road);
    tokio::try_join!(up, down).map(drop)
}

type Piece = (Instant, Vec<u8>);

/// One direction. The only error is that bytes were lost.
async fn carry(way: Way, from: OwnedReadHalf, to: OwnedWriteHalf, road: watch::Receiver<Road>) -> std::io::Result<()> {
    let (queue, pieces) = mpsc::channel(UNDER_WAY);
    let (taken, ()) = tokio::join!(take(way, from, queue, road), deliver(pieces, to));
    taken
}

async fn take(
    way: Way,
    mut from: OwnedReadHalf,
    queue: mpsc::Sender<Piece>,
    mut road: watch::Receiver<Road>,
) -> std::io::Result<()> {
    let hole = || Err(std::io::ErrorKind::ConnectionReset.into());
    let mut lost = false;
    let mut buffer = vec![0; PIECE];
    loop {
        let read = tokio::select! {
            _ = road.wait_for(|road| !road.swallows(way)), if lost => return hole(),
            read = from.read(&mut buffer) => read,
        };
        // An end that broke off is an end: what it had sent is still under way.
        let count = read.unwrap_or(0);
        let condition = *road.borrow();
        if condition.swallows(way) {
            lost = true;
            if count == 0 {
                let _ = road.wait_for(|road| !road.swallows(way)).await;
                return hole();
            }
        } else if lost {
            return hole();
        } else if count == 0
            || queue.send((Instant::now() + condition.delay(way), buffer[..count].to_vec())).await.is_err()
        {
            return Ok(());
        }
    }
}

/// Writes the pieces in their order, none before it is due, and closes this direction after the last one.
async fn deliver(mut pieces: mpsc::Receiver<Piece>, mut to: OwnedWriteHalf) {
    while let Some((due, bytes)) = pieces.recv().await {
        sleep_until(due).await;
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
