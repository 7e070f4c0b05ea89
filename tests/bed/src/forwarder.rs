//! A piece of network that can fail: a TCP port on loopback whose connections lead to a server, until they are cut, slowed
//! down, or swallowed.

mod road;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::road::{Road, Way};
use crate::place::Place;

/// Longer than the head of any request for a tunnel.
const LONGEST_HEAD: usize = 4096;

/// Forwards to one server. Dropped, it closes everything.
#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddr,
    road: watch::Sender<Road>,
    accepting: JoinHandle<()>,
}

/// What a client says before its bytes are forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeting {
    None,
    /// `CONNECT`, as it is said to an HTTP proxy.
    Tunnel,
}

impl Forwarder {
    /// Listens on a port of its own.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn to(server: SocketAddr) -> Result<Self> {
        Self::after(Greeting::None, server).await
    }

    /// An HTTP proxy whose tunnels all lead to one server.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn as_proxy_to(server: SocketAddr) -> Result<Self> {
        Self::after(Greeting::Tunnel, server).await
    }

    async fn after(greeting: Greeting, server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on loopback")?;
        let address = listener.local_addr()?;
        let (road, condition) = watch::channel(Road::Open);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, greeting, server, condition.clone()));
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

    /// From now on the road is like this.
    pub fn becomes(&self, road: Road) {
        self.road.send_replace(road);
    }

    /// Closes every connection, and lets none come about.
    pub fn cut(&self) {
        self.becomes(Road::Cut);
    }

    /// Lets new connections through again.
    pub fn heal(&self) {
        self.becomes(Road::Open);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One connection, as long as the road is not cut. It ends with the forwarder too.
async fn carry(client: TcpStream, greeting: Greeting, server: SocketAddr, mut road: watch::Receiver<Road>) {
    let condition = road.clone();
    let through = async {
        let mut client = client;
        client.set_nodelay(true)?;
        if greeting == Greeting::Tunnel {
            open_tunnel(&mut client, condition.clone()).await?;
        }
        let upstream = TcpStream::connect(server).await?;
        upstream.set_nodelay(true)?;
        road::between(client, upstream, condition).await
    };
    tokio::select! {
        biased;
        // An error says that the forwarder was dropped.
        _ = road.wait_for(|road| *road == Road::Cut) => {}
        // How a connection ended is for its two ends to judge.
        _ = through => {}
    }
}

/// Reads the request for a tunnel and grants it, over the same road that the bytes will take.
async fn open_tunnel(client: &mut TcpStream, mut road: watch::Receiver<Road>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < LONGEST_HEAD {
        head.push(client.read_u8().await?);
    }
    let condition = *road.borrow();
    if condition.swallows(Way::Up) || condition.swallows(Way::Down) {
        let _ = road.wait_for(|road| *road != condition).await;
        return Err(std::io::ErrorKind::ConnectionReset.into());
    }
    tokio::time::sleep(condition.delay(Way::Up) + condition.delay(Way::Down)).await;
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await
}

#[cfg(test)]
mod tests;
