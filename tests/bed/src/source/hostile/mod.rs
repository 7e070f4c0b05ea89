//! Sources that attack their reader. Each has a port of its own, because some attack before a request has told them which
//! source is meant, and each notes when it was connected to and when it was asked.
//!
//! A source of `source` misbehaves and keeps an exact account of what it delivered; one of these keeps none, breaks HTTP
//! and JSON as it likes, and puts [`UNSPEAKABLE`] wherever a careless reader would repeat it.
//!
//! | file | attacks with |
//! |---|---|
//! | `heads` | what stands before a body: no answer, no end of it, another address, a wait of a century |
//! | `framing` | how a body is said to travel: lengths, chunks, trailers, a second answer behind the first |
//! | `bodies` | what a body holds: no end, no text, a bomb, ids that are none |

mod bodies;
mod framing;
mod heads;
mod peer;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};

use self::peer::Peer;
pub use super::answer::UNSPEAKABLE;
use crate::clock;

/// Stands in every event that comes in an answer to no request: it must never be stored.
pub const UNASKED: &str = "nobody-asked-for-this";

/// One way to attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attack {
    // Heads.
    /// Takes the request, and nothing comes.
    Silence,
    /// Speaks before it is asked, and not HTTP.
    Banner,
    /// A status line that never ends.
    EndlessStatusLine,
    /// A header that never ends.
    EndlessHeader,
    /// Headers, each of them short, that never end.
    EndlessHeaders,
    /// 100 and 103 answers, as fast as they are taken, and never the final one.
    EndlessInterim,
    /// 100 and 103, and then a good answer.
    Interim,
    /// 101 to something that nobody asked for.
    SwitchingProtocols,
    /// 429 with a `Retry-After` of a hundred years.
    RetryAfterACentury,
    /// 307 to another host.
    RedirectElsewhere(SocketAddr),
    /// A coding that was not offered.
    OtherCoding,

    // Framing.
    /// One byte of a body in each second.
    OneByteASecond,
    /// HTTP/1.0, whose body ends with the connection.
    Http10,
    /// Says the body is longer than it is, and closes.
    LengthTooLong,
    /// Says the body is shorter than it is, and keeps the connection.
    LengthTooShort,
    /// Says two lengths.
    TwoLengths,
    /// Closes in the middle of a chunk.
    EarlyClose,
    /// Resets the connection in the middle of a body.
    Reset,
    /// A chunk of `2^64` bytes.
    HugeChunk,
    /// A chunk whose size is no number.
    ChunkOfNoSize,
    /// Small chunks without end.
    EndlessChunks,
    /// Chunks of one byte, each with a long extension, without end.
    EndlessExtensions,
    /// Trailers without end.
    EndlessTrailers,
    /// A good answer, and in the same write another one.
    SecondAnswer,
    /// A good answer, and another one while the connection idles.
    LateSecondAnswer,

    // Bodies.
    /// An array of spaces without end.
    EndlessSpace,
    /// Good events in good order, without end.
    EndlessItems,
    /// A key without end.
    EndlessKey,
    /// 64 MiB of spaces in 70 KB.
    GzipBomb,
    /// gzip data that is none after a while.
    CorruptGzip,
    /// A million small items, in an object, so that they must be held until its end.
    MillionItems,
    /// One payload of 100 MB.
    LargePayload,
    /// A payload nested 20,000 deep.
    DeepPayload,
    /// 100,000 open brackets where an item should be, and no end.
    DeepNowhere,
    /// A payload that is not UTF-8.
    InvalidUtf8,
    /// Always the same id, whatever was asked.
    DuplicateIds,
    /// Ids that fall, in a page that is not complete.
    FallingIds,
    /// Ids with a fraction.
    FloatIds,
    /// An id of 100,000 digits.
    LongId,
}

impl Attack {
    /// As a Kubernetes object may be called.
    #[must_use]
    pub fn name(self) -> String {
        let variant = format!("{self:?}");
        let word = variant.split('(').next().unwrap_or_default();
        let mut name = String::new();
        for letter in word.chars() {
            if letter.is_ascii_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    /// Serves one connection; `None` when the reader has gone.
    async fn on(self, peer: &mut Peer) -> Option<()> {
        match self {
            Self::Silence => heads::silence(peer).await,
            Self::Banner => heads::banner(peer).await,
            Self::EndlessStatusLine => heads::endless(peer, "HTTP/1.1 200 ", UNSPEAKABLE).await,
            Self::EndlessHeader => heads::endless(peer, "HTTP/1.1 200 OK\r\nX-Note: ", UNSPEAKABLE).await,
            Self::EndlessHeaders => heads::endless(peer, "HTTP/1.1 200 OK\r\n", "X-Note: hunter2\r\n").await,
            Self::EndlessInterim => heads::endless_interim(peer).await,
            Self::Interim => heads::interim(peer).await,
            Self::SwitchingProtocols => heads::switching_protocols(peer).await,
            Self::RetryAfterACentury => heads::retry_after_a_century(peer).await,
            Self::RedirectElsewhere(elsewhere) => heads::redirect(peer, elsewhere).await,
            Self::OtherCoding => heads::other_coding(peer).await,
            Self::OneByteASecond => framing::one_byte_a_second(peer).await,
            Self::Http10 => framing::http_1_0(peer).await,
            Self::LengthTooLong => framing::length_too_long(peer).await,
            Self::LengthTooShort => framing::length_too_short(peer).await,
            Self::TwoLengths => framing::two_lengths(peer).await,
            Self::EarlyClose => framing::early_close(peer).await,
            Self::Reset => framing::reset(peer).await,
            Self::HugeChunk => framing::chunk(peer, "10000000000000000").await,
            Self::ChunkOfNoSize => framing::chunk(peer, UNSPEAKABLE).await,
            Self::EndlessChunks => framing::endless_chunks(peer, "10\r\n                \r\n").await,
            Self::EndlessExtensions => framing::endless_chunks(peer, "1;note=hunter2\r\n \r\n").await,
            Self::EndlessTrailers => framing::endless_trailers(peer).await,
            Self::SecondAnswer => framing::second_answer(peer).await,
            Self::LateSecondAnswer => framing::late_second_answer(peer).await,
            Self::EndlessSpace => bodies::endless_space(peer).await,
            Self::EndlessItems => bodies::endless_items(peer).await,
            Self::EndlessKey => bodies::endless_key(peer).await,
            Self::GzipBomb => bodies::gzip_bomb(peer).await,
            Self::CorruptGzip => bodies::corrupt_gzip(peer).await,
            Self::MillionItems => bodies::million_items(peer).await,
            Self::LargePayload => bodies::large_payload(peer).await,
            Self::DeepPayload => bodies::deep_payload(peer).await,
            Self::DeepNowhere => bodies::deep_nowhere(peer).await,
            Self::InvalidUtf8 => bodies::invalid_utf8(peer).await,
            Self::DuplicateIds => bodies::duplicate_ids(peer).await,
            Self::FallingIds => bodies::falling_ids(peer).await,
            Self::FloatIds => bodies::float_ids(peer).await,
            Self::LongId => bodies::long_id(peer).await,
        }
    }
}

/// What came to one of them, in microseconds of [`crate::clock`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Visits {
    /// When connections were accepted.
    pub connections: Vec<u64>,
    /// When the first bytes of requests were read.
    pub requests: Vec<u64>,
}

impl Visits {
    /// The shortest time between the starts of two requests.
    #[must_use]
    pub fn smallest_gap(&self) -> Option<u64> {
        let mut requests = self.requests.clone();
        requests.sort_unstable();
        requests.windows(2).map(|pair| pair[1] - pair[0]).min()
    }
}

/// Attacks whoever connects, until it is dropped.
pub struct HostileSource {
    attack: Attack,
    address: SocketAddr,
    visits: Arc<Mutex<Visits>>,
    _serving: JoinSet<()>,
}

impl HostileSource {
    /// Listens on a port of loopback.
    ///
    /// # Errors
    /// When there is none.
    pub fn start(attack: Attack) -> Result<Self> {
        let listener = listen().context("cannot listen on loopback")?;
        let address = listener.local_addr().context("cannot read the address listened on")?;
        let visits = Arc::new(Mutex::new(Visits::default()));
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, attack, visits.clone()));
        Ok(Self { attack, address, visits, _serving: serving })
    }

    #[must_use]
    pub fn name(&self) -> String {
        self.attack.name()
    }

    #[must_use]
    pub fn attack(&self) -> Attack {
        self.attack
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    /// What came so far.
    ///
    /// # Panics
    /// Never: nobody panics while noting.
    #[must_use]
    pub fn visits(&self) -> Visits {
        self.visits.lock().expect("no holder panics").clone()
    }
}

/// Its connections hold little that is written and not yet read: an attack without end would else spend more on what
/// nobody reads than its victim does on the rest.
fn listen() -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_send_buffer_size(32 * 1024)?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    socket.listen(64)
}

async fn accept(listener: TcpListener, attack: Attack, visits: Arc<Mutex<Visits>>) {
    // They end with this task.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        visits.lock().expect("no holder panics").connections.push(clock::now_us());
        let mut peer = Peer::new(stream, visits.clone());
        connections.spawn(async move {
            // `None` is a reader that has gone: what all of these wait for.
            let _gone = attack.on(&mut peer).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attack_is_called_as_an_object_may_be() {
        assert_eq!(Attack::EndlessStatusLine.name(), "endless-status-line");
        assert_eq!(Attack::RedirectElsewhere("127.0.0.1:1".parse().unwrap()).name(), "redirect-elsewhere");
        assert_eq!(Attack::Http10.name(), "http10");
    }

    #[test]
    fn the_smallest_gap_is_between_neighbours_whatever_the_order_they_were_noted_in() {
        let visits = Visits { requests: vec![900, 100, 400], ..Visits::default() };
        assert_eq!(visits.smallest_gap(), Some(300));
        assert_eq!(Visits::default().smallest_gap(), None);
    }
}
