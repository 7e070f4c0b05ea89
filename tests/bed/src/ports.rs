//! Free TCP ports on loopback.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};
use rand::RngExt;

/// Below this, ports are well known.
const LOWEST: u16 = 12_000;

/// A port that nobody listens on now. It lies below the kernel's ephemeral range: an outgoing connection can never take it,
/// so a server that was stopped gets its own port back when it starts again.
pub fn free_port() -> Result<u16> {
    let ephemeral = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768);
    let range = if ephemeral > LOWEST + 1000 { LOWEST..ephemeral } else { LOWEST..u16::MAX };
    let mut random = rand::rng();
    (0..1000)
        .map(|_| random.random_range(range.clone()))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .context("find a free port on 127.0.0.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_never_given_out() {
        let mut taken = Vec::new();
        for _ in 0..200 {
            let port = free_port().expect("a port");
            taken.push(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free"));
        }
    }
}
