//! How long the network may take to acknowledge what was written (R3 in DESIGN 2).
//!
//! `TCP_USER_TIMEOUT` bounds that, but not that alone: while it is set, Linux also ends a silent connection at the first
//! keepalive that is not answered, however many probes it may send (`tcp_keepalive_timer`; tried with Linux 6.18: one lost
//! packet ends a source's silence of 20 s). A source that computes for minutes before it answers would not survive a network
//! that loses a packet now and then. So the option is set before a write, and taken off when nothing can be unacknowledged.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

/// Bytes that the peer's kernel has not acknowledged for this long end the connection. Not more than D, the time a
/// reservation lasts beyond the last EXTEND (at least 2 s), or bytes delayed by the network could arrive beside the next
/// request. The kernel counts from the first time that it sends them again, some 0.2 s later in a network of today.
pub(super) const UNACKNOWLEDGED_FOR: Duration = Duration::from_secs(2);

/// So long after a write either its bytes are acknowledged or the connection has ended, also where it took the kernel
/// seconds to send them again. Shorter than the silence before the first keepalive ([`super::dial`]).
pub(super) const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(10);

/// What is to be known of the last write.
#[derive(Default)]
pub(super) struct Patience {
    /// When its bytes are acknowledged. None: they are, and the option is off.
    acknowledged: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// To be called before bytes are written.
    pub(super) fn ends(&mut self, socket: &TcpStream) -> io::Result<()> {
        if let Some(acknowledged) = &mut self.acknowledged {
            acknowledged.as_mut().reset(Instant::now() + ACKNOWLEDGED_WITHIN);
            return Ok(());
        }
        SockRef::from(socket).set_tcp_user_timeout(Some(UNACKNOWLEDGED_FOR))?;
        self.acknowledged = Some(Box::pin(sleep(ACKNOWLEDGED_WITHIN)));
        Ok(())
    }

    /// To be called while an answer is waited for.
    pub(super) fn returns(&mut self, socket: &TcpStream, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(acknowledged) = &mut self.acknowledged else { return Ok(()) };
        if let Poll::Ready(()) = acknowledged.as_mut().poll(cx) {
            self.acknowledged = None;
            SockRef::from(socket).set_tcp_user_timeout(None)?;
        }
        Ok(())
    }
}
