//! A piece of network that can fail: a TCP port on loopback whose connections lead to a server, until they are cut.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::place::Place;

/// What becomes of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Road {
    Open,
    /// Connections are closed, and new ones at once.
    Cut,
}

/// Forwards to one server. Dropped, it closes everything.
#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddr,
    road: watch::Sender<Road>,
    accepting: JoinHandle<()>,
}

impl Forwarder {
    /// Listens on a port of its own.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn to(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on loopback")?;
        let address = listener.local_addr()?;
        let (road, condition) = watch::channel(Road::Open);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, condition.clone()));
            }
        });
        Ok(Self { address, road, accepting })
    }

    /// A forwarder to the API server of a kubeconfig, and a kubeconfig of this name that leads through it.
    ///
    /// # Errors
    /// When the kubeconfig names no address of a server, or cannot be written.
    pub async fn to_api_server(kubeconfig: &Path, place: &Place, name: &str) -> Result<(Self, PathBuf)> {
        let text = std::fs::read_to_string(kubeconfig).context("cannot read a kubeconfig")?;
        let (_, rest) = text.split_once("https://").context("the kubeconfig names no server")?;
        let server: String = rest.chars().take_while(|c| c.is_ascii_digit() || ".:[]".contains(*c)).collect();
        let forwarder = Self::to(server.parse().context("the server of the kubeconfig is no address")?).await?;
        let through = text.replace(&server, &forwarder.address.to_string());
        let through = place.write_secret(name, &through)?;
        Ok((forwarder, through))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection, and lets none come about.
    pub fn cut(&self) {
        self.road.send_replace(Road::Cut);
    }

    /// Lets new connections through again.
    pub fn heal(&self) {
        self.road.send_replace(Road::Open);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One connection, as long as the road is open. It ends with the forwarder too.
async fn carry(mut client: TcpStream, server: SocketAddr, mut road: watch::Receiver<Road>) {
    let through = async {
        let mut upstream = TcpStream::connect(server).await?;
        copy_bidirectional(&mut client, &mut upstream).await
    };
    tokio::select! {
        biased;
        // An error says that the forwarder was dropped.
        _ = road.wait_for(|road| *road == Road::Cut) => {}
        // How a connection ended is for its two ends to judge.
        _ = through => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = client.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn answers(connection: &mut TcpStream) -> bool {
        let mut byte = [0];
        connection.write_all(b"x").await.is_ok() && connection.read_exact(&mut byte).await.is_ok()
    }

    #[tokio::test]
    async fn a_cut_closes_what_is_open_and_what_comes_until_it_is_healed() {
        let forwarder = Forwarder::to(echo().await).await.expect("a port");
        let connect = async || TcpStream::connect(forwarder.address()).await.expect("it listens");
        let mut before = connect().await;
        assert!(answers(&mut before).await);
        forwarder.cut();
        assert!(!answers(&mut before).await, "an open connection is closed");
        assert!(!answers(&mut connect().await).await, "a new one too");
        forwarder.heal();
        assert!(answers(&mut connect().await).await);
        assert!(!answers(&mut before).await, "what was cut stays cut");
    }
}
