//! What is kept of TLS sessions, so that the next handshake with a server is a shorter one.

use rustls::{
    NamedGroup,
    client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
};
use rustls_pki_types::ServerName;

/// Eight times the number of servers that are remembered: rustls counts tickets.
const SESSIONS: usize = 256;

/// One ticket of each server, the last that it sent. rustls would keep eight, each of up to 64 KB as the server likes, and with
/// a copy of its certificates, of up to 64 KB too: a megabyte for each source with an authority or a certificate of its own,
/// for as long as the source is there and in no budget. One is as good: a source has one connection at a time. It still is no
/// small thing where a server means harm: 128 KB of TLS 1.3, and as much of TLS 1.2 if it speaks that in turn.
#[derive(Debug)]
pub(super) struct Tickets(ClientSessionMemoryCache);

impl Default for Tickets {
    fn default() -> Self {
        Self(ClientSessionMemoryCache::new(SESSIONS))
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.0.set_tls12_session(server, session);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(server)
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.0.remove_tls12_session(server);
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        while self.0.take_tls13_ticket(&server).is_some() {}
        self.0.insert_tls13_ticket(server, ticket);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(server)
    }
}
