//! CONNECT: from a name to a standing, encrypted, silent connection.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;
use url::Host;

use super::{
    egress::Egress,
    endpoint::Endpoint,
    line::{GatedSocket, Line},
    names::Names,
    patience::ACKNOWLEDGED_WITHIN,
    proxy::{Proxies, Proxy, tunnel},
    tls,
};
use crate::{
    fetch::FetchError,
    mutation::{self, Mutation},
};

/// Name, TCP, proxy and TLS together; at most `http.timeout`. Slow links need seconds, a black hole must not hold the
/// source for long.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A silence before the first keepalive, and between the following ones: nine that are not answered end the connection, a
/// minute after the peer fell silent. They also keep balancers from forgetting a source that computes for long.
const SILENT_FOR: Duration = Duration::from_secs(15);
const NEXT_KEEPALIVE_AFTER: Duration = Duration::from_secs(5);
const _: () = assert!(ACKNOWLEDGED_WITHIN.as_secs() < SILENT_FOR.as_secs(), "a lost keepalive would end a silence");

/// Between the attempts at the addresses of one name (RFC 8305 recommends 250 ms).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// The most addresses of a family that are tried. The attempts run side by side, so this bounds the sockets that one CONNECT
/// opens; the last of both families begins after 4 s at most.
const MOST_OF_A_FAMILY: usize = 8;

/// A peer that was connected to within this is near: it fills any buffer of ours before we have looked at it once.
const NEAR: Duration = Duration::from_millis(2);

/// What the kernel receives ahead of us from a peer that is near; it travels again after a crash. Enough for 8 MB/s at that
/// distance, and more nearer. Farther away a window of this size would be slow.
const NEAR_RECEIVE_BUFFER: usize = 16 * 1024;

/// A byte stream of whatever layers a connection has.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// How this process reaches other hosts.
pub(super) struct Dialer {
    pub(super) names: Box<dyn Names>,
    pub(super) egress: Egress,
    pub(super) proxies: Proxies,
    /// For the way to a proxy; the special roots and client certificate of a source are for the source alone.
    pub(super) proxy_tls: Arc<ClientConfig>,
}

impl Dialer {
    /// Connects to `endpoint`, through the proxy that is meant for it if there is one. All bytes pass `line`.
    ///
    /// # Errors
    /// [`FetchError::ConnectionFailed`], [`FetchError::AddressRefused`] or [`FetchError::TlsFailed`], with the step that
    /// failed and what to do.
    pub(super) async fn dial(
        &self,
        endpoint: &Endpoint,
        tls: &Arc<ClientConfig>,
        line: Arc<Line>,
        within: Duration,
    ) -> Result<Box<dyn Stream>, FetchError> {
        let until = Instant::now() + within;
        let late = |step: &str| format!("{step} took longer than {within:?}");
        let broken = |detail| FetchError::ConnectionFailed { detail };

        let proxy = self.proxies.for_endpoint(endpoint)?;
        let first_hop = proxy.as_ref().map_or(endpoint, Proxy::endpoint);
        let addresses = self.first_addresses(endpoint, proxy.as_ref(), until).await?;
        let socket = timeout_at(until, connect(first_hop, addresses))
            .await
            .map_err(|_| broken(late(&format!("a TCP connection to {first_hop}"))))??;
        let mut stream: Box<dyn Stream> = Box::new(GatedSocket::new(socket, line));
        if let Some(proxy) = &proxy {
            stream = timeout_at(until, self.through(proxy, endpoint, stream))
                .await
                .map_err(|_| broken(late(&format!("the tunnel through the proxy {first_hop}"))))??;
        }
        if !endpoint.https {
            return Ok(stream);
        }
        timeout_at(until, encrypt(endpoint, tls, stream))
            .await
            .map_err(|_| FetchError::TlsFailed { detail: late(&format!("the handshake with {endpoint}")) })?
    }

    /// Those of the endpoint itself, or of the proxy on the way, which the administrator of the operator chose.
    async fn first_addresses(
        &self,
        endpoint: &Endpoint,
        proxy: Option<&Proxy>,
        until: Instant,
    ) -> Result<Vec<SocketAddr>, FetchError> {
        let Some(proxy) = proxy else {
            return self.permitted(endpoint, self.resolve(endpoint, until).await?);
        };
        if let Some(address) = literal(endpoint) {
            self.permitted(endpoint, vec![address])?;
        }
        self.resolve(proxy.endpoint(), until).await
    }

    async fn resolve(&self, endpoint: &Endpoint, until: Instant) -> Result<Vec<SocketAddr>, FetchError> {
        if let Some(address) = literal(endpoint) {
            return Ok(vec![address]);
        }
        let name = endpoint.host_name();
        let found = self.names.addresses(&name, endpoint.port, until).await;
        found.map_err(|error| FetchError::ConnectionFailed { detail: format!("the name `{name}` {error}") })
    }

    /// Those of the addresses that may be connected to.
    ///
    /// # Errors
    /// When none may be.
    fn permitted(&self, endpoint: &Endpoint, mut found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, FetchError> {
        let refused = found.iter().find_map(|it| Some((it.ip(), self.egress.refuses(it.ip())?)));
        found.retain(|it| self.egress.refuses(it.ip()).is_none());
        match refused {
            Some((address, what)) if found.is_empty() => Err(refuse(endpoint, address, what)),
            _ => Ok(found),
        }
    }

    async fn through(
        &self,
        proxy: &Proxy,
        endpoint: &Endpoint,
        mut stream: Box<dyn Stream>,
    ) -> Result<Box<dyn Stream>, FetchError> {
        if proxy.endpoint().https {
            stream = encrypt(proxy.endpoint(), &self.proxy_tls, stream).await?;
        }
        tunnel(proxy, endpoint, &mut stream).await?;
        Ok(stream)
    }
}

async fn encrypt(
    endpoint: &Endpoint,
    tls: &Arc<ClientConfig>,
    stream: Box<dyn Stream>,
) -> Result<Box<dyn Stream>, FetchError> {
    let name = ServerName::try_from(endpoint.host_name())
        .map_err(|_| FetchError::TlsFailed { detail: format!("`{}` cannot stand in a certificate", endpoint.host) })?;
    match TlsConnector::from(tls.clone()).connect(name, stream).await {
        Ok(encrypted) => Ok(Box::new(encrypted)),
        Err(error) => Err(tls::handshake_failed(endpoint, &error)),
    }
}

/// Connects to the addresses of a name, the next one when one failed or did not answer for a while, and keeps the first
/// connection that stands.
async fn connect(endpoint: &Endpoint, addresses: Vec<SocketAddr>) -> Result<TcpStream, FetchError> {
    let mut waiting = in_turns(addresses).into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut first_error = None;
    loop {
        attempts.extend(waiting.next().map(connect_to));
        let outcome = if waiting.len() == 0 {
            attempts.next().await
        } else {
            let Ok(outcome) = timeout(NEXT_ADDRESS_AFTER, attempts.next()).await else { continue };
            outcome
        };
        match outcome {
            Some(Ok(socket)) => return Ok(socket),
            Some(Err(error)) => first_error = first_error.or(Some(error)),
            None => return Err(FetchError::ConnectionFailed { detail: unreachable(endpoint, first_error.as_ref()) }),
        }
    }
}

/// The address of a host that is one.
fn literal(endpoint: &Endpoint) -> Option<SocketAddr> {
    match endpoint.host {
        Host::Ipv4(address) => Some((address, endpoint.port).into()),
        Host::Ipv6(address) => Some((address, endpoint.port).into()),
        Host::Domain(_) => None,
    }
}

fn refuse(endpoint: &Endpoint, address: IpAddr, what: &str) -> FetchError {
    FetchError::AddressRefused {
        detail: format!(
            "`{}` is {address}, {what}; use another URL, or let the administrator name it in `--allow-addresses`",
            endpoint.host
        ),
    }
}

/// In the order of the resolver, families taken in turns (RFC 8305, 4).
fn in_turns(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_ipv6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (mut one, mut other): (Vec<_>, Vec<_>) = found.into_iter().partition(|it| it.is_ipv6() == first_is_ipv6);
    one.truncate(MOST_OF_A_FAMILY);
    other.truncate(MOST_OF_A_FAMILY);
    let mut other = other.into_iter();
    let mut turns: Vec<_> = one.into_iter().flat_map(|address| [Some(address), other.next()]).flatten().collect();
    turns.extend(other);
    turns
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let asked = Instant::now();
    let socket = TcpStream::connect(address).await?;
    let receive_buffer = receive_buffer(asked.elapsed());
    socket.set_nodelay(true)?;
    // A connection that is given up must not go on sending from the kernel (R3): closing resets it.
    socket.set_zero_linger()?;
    let options = SockRef::from(&socket);
    if let Some(bytes) = receive_buffer {
        options.set_recv_buffer_size(bytes)?;
    }
    options.set_tcp_keepalive(&TcpKeepalive::new().with_time(SILENT_FOR).with_interval(NEXT_KEEPALIVE_AFTER))?;
    Ok(socket)
}

/// Of a peer to which connecting took so long; none: the kernel's choice.
fn receive_buffer(connecting_took: Duration) -> Option<usize> {
    let is_near = connecting_took < NEAR && !mutation::is(Mutation::WholeBodies);
    is_near.then_some(NEAR_RECEIVE_BUFFER)
}

fn unreachable(endpoint: &Endpoint, error: Option<&io::Error>) -> String {
    match error {
        None => format!("the name `{}` has no address; check `http.url`", endpoint.host),
        Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            format!("{endpoint} refused the connection; is the source running, and is the port right?")
        }
        Some(error) => format!("{endpoint} cannot be reached ({})", error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, Ipv6Addr},
        sync::Mutex,
    };

    use async_trait::async_trait;
    use futures::FutureExt;
    use tokio::net::TcpListener;

    use super::{
        super::{names::LookupError, tls::TlsConfigs},
        *,
    };

    #[tokio::test]
    async fn a_socket_resets_when_it_closes_and_asks_a_silent_peer_whether_it_lives() {
        let listener = listening_at(HERE, 0).await;
        let socket = connect_to(listener.local_addr().expect("its address")).await.expect("a connection");
        let options = SockRef::from(&socket);
        assert_eq!(options.linger().expect("an option"), Some(Duration::ZERO));
        assert!(options.tcp_nodelay().expect("an option") && options.keepalive().expect("an option"));
    }

    /// A name that leads elsewhere each time it is asked for; the last answer stays.
    struct Changing(Mutex<Vec<Vec<IpAddr>>>);

    #[async_trait]
    impl Names for Changing {
        async fn addresses(&self, _: &str, port: u16, _: Instant) -> Result<Vec<SocketAddr>, LookupError> {
            let mut answers = self.0.lock().expect("the answers");
            let now = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
            Ok(now.into_iter().map(|address| (address, port).into()).collect())
        }
    }

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    const NOWHERE: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

    /// An address that is allowed, and refuses.
    fn dead(number: u8) -> IpAddr {
        Ipv4Addr::new(127, 0, 1, number).into()
    }

    /// A listener at one address of loopback.
    async fn listening_at(address: IpAddr, port: u16) -> TcpListener {
        TcpListener::bind((address, port)).await.expect("a port")
    }

    /// The first connection to `orders.example` whose addresses are these in turn. One address of loopback is allowed.
    struct Dialing {
        dialer: Dialer,
        endpoint: Endpoint,
    }

    impl Dialing {
        fn to(port: u16, answers: &[&[IpAddr]]) -> Self {
            let names = Changing(Mutex::new(answers.iter().map(|answer| answer.to_vec()).collect()));
            let tls = TlsConfigs::load().expect("the roots");
            let dialer = Dialer {
                names: Box::new(names),
                egress: Egress::new(&[HERE.into(), NOWHERE.into(), "127.0.1.0/24".parse().expect("a network")], &[]),
                proxies: Proxies::none(),
                proxy_tls: tls.shared().clone(),
            };
            let host = Host::Domain("orders.example".to_owned());
            Self { dialer, endpoint: Endpoint { https: false, host, port } }
        }

        async fn connect(&self) -> Result<SocketAddr, FetchError> {
            let addresses = self.dialer.first_addresses(&self.endpoint, None, Instant::now() + CONNECT_WITHIN).await?;
            connect(&self.endpoint, addresses).await.map(|socket| socket.peer_addr().expect("a peer"))
        }
    }

    #[test]
    fn little_is_received_ahead_of_the_reader_from_a_peer_that_is_near_and_a_far_one_is_not_slowed_down() {
        assert_eq!(receive_buffer(Duration::from_micros(80)), Some(NEAR_RECEIVE_BUFFER));
        assert_eq!(receive_buffer(Duration::from_millis(3)), None);
    }

    #[tokio::test]
    async fn the_next_address_of_a_name_is_tried_when_the_first_one_refuses() {
        let listener = listening_at(HERE, 0).await;
        let there = listener.local_addr().expect("its address");
        let dialing = Dialing::to(there.port(), &[&[NOWHERE, HERE]]);
        assert_eq!(dialing.connect().await, Ok(there));
    }

    #[tokio::test]
    async fn a_name_is_reached_though_the_first_addresses_of_its_family_are_dead() {
        let listener = listening_at(HERE, 0).await;
        let there = listener.local_addr().expect("its address");
        let dialing = Dialing::to(there.port(), &[&[dead(1), dead(2), dead(3), dead(4), dead(5), HERE]]);
        assert_eq!(dialing.connect().await, Ok(there));
    }

    #[test]
    fn addresses_are_tried_in_the_order_of_the_resolver_and_families_in_turns_as_far_as_the_time_lasts() {
        let six = |number| SocketAddr::from((Ipv6Addr::from(number), 443));
        let four = |number| SocketAddr::from((Ipv4Addr::new(10, 0, 0, number), 443));
        assert_eq!(
            in_turns(vec![six(1), six(2), six(3), four(1), four(2)]),
            [six(1), four(1), six(2), four(2), six(3)]
        );
        assert_eq!(in_turns(vec![four(1), six(1), six(2), six(3)]), [four(1), six(1), six(2), six(3)]);
        let tried = in_turns((0..100).map(six).chain((0..100).map(four)).collect());
        assert_eq!((tried[14], tried[15]), (six(7), four(7)));
        let attempts = u32::try_from(tried.len()).expect("a few");
        assert!(NEXT_ADDRESS_AFTER * attempts <= CONNECT_WITHIN / 2, "the last one has time to answer");
    }

    #[tokio::test]
    async fn a_name_that_changes_to_an_address_that_is_refused_is_not_followed() {
        let listener = listening_at(HERE, 0).await;
        let there = listener.local_addr().expect("its address");
        let port_of_another = listening_at(ELSEWHERE, there.port()).await;
        let dialing = Dialing::to(there.port(), &[&[HERE], &[ELSEWHERE]]);
        assert_eq!(dialing.connect().await, Ok(there));
        let refused = dialing.connect().await.expect_err("it leads to another");
        assert!(matches!(&refused, FetchError::AddressRefused { detail } if detail.contains("127.0.0.2")), "{refused}");
        assert!(port_of_another.accept().now_or_never().is_none(), "it was connected to");
    }

    #[tokio::test]
    async fn of_the_addresses_of_a_name_only_those_that_are_permitted_are_tried() {
        let (refused, allowed) = (listening_at(ELSEWHERE, 0).await, HERE);
        let port = refused.local_addr().expect("its address").port();
        let error =
            Dialing::to(port, &[&[ELSEWHERE, ELSEWHERE, allowed]]).connect().await.expect_err("nobody is there");
        assert!(matches!(&error, FetchError::ConnectionFailed { detail } if detail.contains("refused")), "{error}");
        assert!(refused.accept().now_or_never().is_none(), "it was connected to");
    }
}
