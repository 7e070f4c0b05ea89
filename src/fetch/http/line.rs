//! The send check: the one place through which every byte for a source leaves this process.
//!
//! A connection is built of layers, and two of them are watched here:
//!
//! ```text
//! hyper (HTTP/1.1)  ->  Heard  ->  TLS, if any  ->  GatedSocket  ->  write system call
//! ```
//!
//! - [`GatedSocket`] stands *below* TLS, so the permit is spent by the function that makes the system call, after all
//!   encryption. What it has not let pass has not left.
//! - [`Heard`] stands *above* TLS, because the first byte must belong to the answer. Below TLS the first bytes after a
//!   request are often session tickets that the server sent before the request reached it; a gap anchored at them would
//!   be too short at the source.
//!
//! An interim answer (100, 103) counts as heard. That is safe: whatever a server sends after a request, the request has
//! arrived there before.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use super::patience::Patience;
use crate::{clock::Moment, permit::Permit};

/// The most that is read of an answer before its head is complete. HTTP's own limit is on each head, and a source that
/// sends interim answers (100, 103) without end would keep a core busy until `http.timeout` strikes. Ample for a head of
/// 64 KiB, some interim ones before it, and what is read ahead of the body.
///
/// It counts above TLS. Records of TLS that bring no byte to HTTP (session tickets, empty ones) are counted nowhere: a server
/// that sends them without end keeps a core busy until `http.timeout`, though others get their turn between two reads.
const MOST_BEFORE_THE_HEAD: usize = 256 * 1024;

/// What one connection may do now, and what came of its last request. Shared by the layers of the connection.
pub(super) struct Line(Mutex<State>);

struct State {
    stance: Stance,
    /// No TLS layer between this socket and HTTP: bytes that wait unread belong to no TLS record but to HTTP.
    cleartext: bool,
    /// What may still be read of an answer whose head is not complete; none when it is, or nothing was asked.
    before_the_head: Option<usize>,
}

enum Stance {
    /// Writes pass: the handshakes of CONNECT, or a host that is no source.
    Open,
    /// Every write is refused.
    Standing,
    /// The next write spends the permit.
    Armed(Permit),
    /// The permit could not be spent, nothing left, and every write is refused.
    Kept(Kept),
    /// The first bytes of the request left; the rest may follow.
    Left { first_byte: Option<Instant> },
}

/// Why an armed connection let nothing pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// The permit was outside its time.
    PermitExpired,
    /// The peer had closed the connection, or had sent something nobody asked for.
    Dead,
}

/// How far the request of the last [`Line::arm`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    NeverLeft(Kept),
    Left { first_byte: Option<Instant> },
}

impl Line {
    /// A line on which writes pass until [`Line::stand`].
    pub(super) fn open() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { stance: Stance::Open, cleartext: false, before_the_head: None })))
    }

    /// From now on nothing leaves without a permit.
    pub(super) fn stand(&self, cleartext: bool) {
        *self.state() = State { stance: Stance::Standing, cleartext, before_the_head: None };
    }

    /// The request is over: nothing leaves without another permit.
    pub(super) fn disarm(&self) {
        self.state().stance = Stance::Standing;
    }

    /// Lets one request leave.
    pub(super) fn arm(&self, permit: Permit) {
        let mut state = self.state();
        state.stance = Stance::Armed(permit);
        state.before_the_head = Some(MOST_BEFORE_THE_HEAD);
    }

    /// The head of the answer is complete.
    pub(super) fn answered(&self) {
        self.state().before_the_head = None;
    }

    /// How far the request came. A permit that is still unspent has let nothing pass.
    pub(super) fn reach(&self) -> Reach {
        match self.state().stance {
            Stance::Open | Stance::Standing | Stance::Armed(_) => Reach::NeverLeft(Kept::Dead),
            Stance::Kept(kept) => Reach::NeverLeft(kept),
            Stance::Left { first_byte } => Reach::Left { first_byte },
        }
    }

    fn heard(&self, bytes: usize, now: Instant) -> io::Result<()> {
        let mut state = self.state();
        if let Stance::Left { first_byte } = &mut state.stance {
            first_byte.get_or_insert(now);
        }
        if let Some(left) = &mut state.before_the_head {
            *left = left.checked_sub(bytes).ok_or(io::ErrorKind::QuotaExceeded)?;
        }
        Ok(())
    }

    /// Makes the one write system call that a permit is good for. It is never tried again: whatever keeps it from
    /// writing, the request stays here.
    fn spend(&self, socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state();
        let Stance::Armed(permit) = std::mem::replace(&mut state.stance, Stance::Kept(Kept::Dead)) else {
            return Err(refused());
        };
        still_open(socket, state.cleartext)?;
        if let Err(unspendable) = permit.spend(Moment::now()) {
            state.stance = Stance::Kept(Kept::PermitExpired);
            return Err(io::Error::other(unspendable));
        }
        let written = socket.try_write(bytes)?;
        state.stance = Stance::Left { first_byte: None };
        Ok(written)
    }

    // No section that holds this lock can panic; going on is right either way.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the socket without taking from it. A peer that closed an idle connection, or said goodbye on it (408), is
/// found out here, one system call before the request would leave.
fn still_open(socket: &TcpStream, cleartext: bool) -> io::Result<()> {
    match SockRef::from(socket).peek(&mut [MaybeUninit::uninit()]) {
        Ok(0) => Err(io::ErrorKind::ConnectionAborted.into()),
        Ok(_) if cleartext => Err(io::ErrorKind::InvalidData.into()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "a write without a permit")
}

/// The socket of a connection. It asks the line before each write system call.
pub(super) struct GatedSocket {
    socket: TcpStream,
    line: Arc<Line>,
    patience: Patience,
}

impl GatedSocket {
    pub(super) fn new(socket: TcpStream, line: Arc<Line>) -> Self {
        Self { socket, line, patience: Patience::default() }
    }
}

impl AsyncRead for GatedSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.patience.returns(&this.socket, cx)?;
        Pin::new(&mut this.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for GatedSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let armed = match self.line.state().stance {
            Stance::Open | Stance::Left { .. } => false,
            Stance::Armed(_) => true,
            Stance::Standing | Stance::Kept(_) => return Poll::Ready(Err(refused())),
        };
        let this = &mut *self;
        this.patience.ends(&this.socket)?;
        if !armed {
            return Pin::new(&mut this.socket).poll_write(cx, buf);
        }
        // Tokio may say "not now" to share the thread fairly. The permit is spent after that.
        ready!(this.socket.poll_write_ready(cx))?;
        Poll::Ready(this.line.spend(&this.socket, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Notes when the first byte of an answer was read, and bounds what comes before the end of its head.
pub(super) struct Heard<S> {
    stream: S,
    line: Arc<Line>,
}

impl<S> Heard<S> {
    pub(super) fn new(stream: S, line: Arc<Line>) -> Self {
        Self { stream, line }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let bytes = buf.filled().len() - before;
        Poll::Ready(if bytes > 0 { self.line.heard(bytes, Instant::now()) } else { Ok(()) })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::{
        super::patience::{ACKNOWLEDGED_WITHIN, UNACKNOWLEDGED_FOR},
        *,
    };
    use crate::permit::Attempt;

    async fn pair() -> (GatedSocket, Arc<Line>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let socket = TcpStream::connect(listener.local_addr().expect("its address")).await.expect("a connection");
        let (peer, _) = listener.accept().await.expect("the other end");
        let line = Line::open();
        line.stand(true);
        (GatedSocket::new(socket, line.clone()), line, peer)
    }

    fn permit(wait: Duration, send_within: Duration) -> Permit {
        let now = Moment::now();
        Permit::new(Attempt::random(), now, now.at, wait, send_within)
    }

    fn good() -> Permit {
        permit(Duration::ZERO, Duration::from_mins(1))
    }

    /// What the peer got once this end is gone.
    async fn received(socket: GatedSocket, mut peer: TcpStream) -> Vec<u8> {
        drop(socket);
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).await.expect("the end");
        bytes
    }

    #[tokio::test]
    async fn a_write_without_a_permit_is_refused_and_nothing_leaves() {
        let (mut socket, _, peer) = pair().await;
        assert_eq!(socket.write(b"GET /").await.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(received(socket, peer).await, b"");
    }

    #[tokio::test]
    async fn a_permit_lets_one_request_leave_and_the_next_one_needs_another() {
        let (mut socket, line, peer) = pair().await;
        line.arm(good());
        socket.write_all(b"one").await.expect("the permit is good");
        socket.write_all(b"more of one").await.expect("the rest of the request");
        assert_eq!(line.reach(), Reach::Left { first_byte: None });
        line.disarm();
        assert!(socket.write_all(b"again").await.is_err());
        assert_eq!(received(socket, peer).await, b"onemore of one");
    }

    #[tokio::test]
    async fn nothing_leaves_outside_the_time_of_the_permit() {
        for late_or_early in
            [permit(Duration::ZERO, Duration::ZERO), permit(Duration::from_mins(1), Duration::from_mins(1))]
        {
            let (mut socket, line, peer) = pair().await;
            tokio::time::sleep(Duration::from_millis(2)).await;
            line.arm(late_or_early);
            assert!(socket.write_all(b"GET /").await.is_err());
            assert!(socket.write_all(b"GET /").await.is_err(), "the permit is gone");
            assert_eq!(line.reach(), Reach::NeverLeft(Kept::PermitExpired));
            assert_eq!(received(socket, peer).await, b"");
        }
    }

    #[tokio::test]
    async fn nothing_leaves_on_a_connection_that_the_peer_has_closed() {
        let (mut socket, line, mut peer) = pair().await;
        peer.shutdown().await.expect("closed");
        line.arm(good());
        assert!(socket.write_all(b"GET /").await.is_err());
        assert_eq!(line.reach(), Reach::NeverLeft(Kept::Dead));
        assert_eq!(received(socket, peer).await, b"");
    }

    #[tokio::test]
    async fn nothing_leaves_on_a_connection_that_holds_an_answer_to_no_request() {
        let (mut socket, line, mut peer) = pair().await;
        peer.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.expect("sent");
        socket.socket.readable().await.expect("arrived");
        line.arm(good());
        assert!(socket.write_all(b"GET /").await.is_err());
        assert_eq!(line.reach(), Reach::NeverLeft(Kept::Dead));
    }

    #[tokio::test]
    async fn what_was_written_must_be_acknowledged_soon_and_a_silence_behind_it_may_last() {
        let (mut socket, line, _peer) = pair().await;
        let given_up_after =
            |socket: &GatedSocket| SockRef::from(&socket.socket).tcp_user_timeout().expect("an option");
        line.arm(good());
        tokio::time::pause();
        for _ in 0..2 {
            socket.write_all(b"GET /").await.expect("the permit is good");
            assert_eq!(given_up_after(&socket), Some(UNACKNOWLEDGED_FOR));
            let silence = ACKNOWLEDGED_WITHIN + Duration::from_secs(1);
            tokio::time::timeout(silence, socket.read_u8()).await.expect_err("silence");
            assert_eq!(given_up_after(&socket), None, "one lost keepalive would end the connection");
        }
    }

    #[tokio::test]
    async fn the_first_byte_is_noted_once_and_only_for_an_answer() {
        let (socket, line, mut peer) = pair().await;
        let mut heard = Heard::new(socket, line.clone());
        line.arm(good());
        heard.write_all(b"GET /").await.expect("the permit is good");
        peer.write_all(b"1").await.expect("sent");
        heard.read_u8().await.expect("heard");
        let Reach::Left { first_byte: Some(first) } = line.reach() else { panic!("heard nothing") };
        peer.write_all(b"2").await.expect("sent");
        heard.read_u8().await.expect("heard");
        assert_eq!(line.reach(), Reach::Left { first_byte: Some(first) });
    }
}
