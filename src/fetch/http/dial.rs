//! CONNECT: from a name to a standing, encrypted, silent connection.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout_at},
};
use tokio_rustls::TlsConnector;
use url::Host;

use super::{
    endpoint::Endpoint,
    line::{GatedSocket, Line},
    proxy::{Proxies, Proxy, tunnel},
    tls,
};
use crate::fetch::FetchError;

/// Name, TCP, proxy and TLS together; at most `http.timeout`. Slow links need seconds, a black hole must not hold the
/// source for long.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Request bytes that the peer's kernel has not acknowledged for this long end the connection (`TCP_USER_TIMEOUT`). Not
/// more than D, the time a reservation lasts beyond the last EXTEND (at least 2 s), or bytes delayed by the network could
/// arrive beside the next request (R3 in DESIGN 2).
const UNACKNOWLEDGED_FOR: Duration = Duration::from_secs(2);

/// Between the attempts at the addresses of one name (RFC 8305 recommends 250 ms).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// A byte stream of whatever layers a connection has.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Connects to `endpoint`, through the proxy that is meant for it if there is one. All bytes pass `line`.
///
/// # Errors
/// [`FetchError::ConnectionFailed`] or [`FetchError::TlsFailed`], with the step that failed and what to do.
pub(super) async fn dial(
    endpoint: &Endpoint,
    tls: &Arc<ClientConfig>,
    proxies: &Proxies,
    line: Arc<Line>,
    within: Duration,
) -> Result<Box<dyn Stream>, FetchError> {
    let until = tokio::time::Instant::now() + within;
    let late = |step: &str| format!("{step} took longer than {within:?}");
    let broken = |detail| FetchError::ConnectionFailed { detail };

    let proxy = proxies.for_endpoint(endpoint)?;
    let first_hop = proxy.as_ref().map_or(endpoint, Proxy::endpoint);
    let socket = timeout_at(until, connect(first_hop))
        .await
        .map_err(|_| broken(late(&format!("a TCP connection to {first_hop}"))))??;
    let mut stream: Box<dyn Stream> = Box::new(GatedSocket::new(socket, line));
    if let Some(proxy) = &proxy {
        stream = timeout_at(until, through(proxy, endpoint, tls, stream))
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

async fn through(
    proxy: &Proxy,
    endpoint: &Endpoint,
    tls: &Arc<ClientConfig>,
    mut stream: Box<dyn Stream>,
) -> Result<Box<dyn Stream>, FetchError> {
    if proxy.endpoint().https {
        stream = encrypt(proxy.endpoint(), tls, stream).await?;
    }
    tunnel(proxy, endpoint, &mut stream).await?;
    Ok(stream)
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

/// Connects to the addresses of a name, a quarter of a second apart, and keeps the first connection that stands.
async fn connect(endpoint: &Endpoint) -> Result<TcpStream, FetchError> {
    let addresses = resolve(endpoint).await?;
    let mut attempts: FuturesUnordered<_> = (0u32..)
        .zip(addresses)
        .map(|(place, address)| async move {
            sleep(NEXT_ADDRESS_AFTER * place).await;
            connect_to(address).await
        })
        .collect();
    let mut first_error = None;
    while let Some(outcome) = attempts.next().await {
        match outcome {
            Ok(socket) => return Ok(socket),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(FetchError::ConnectionFailed { detail: unreachable(endpoint, first_error.as_ref()) })
}

/// The addresses of the endpoint in the order of the resolver, families taken in turns.
async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, FetchError> {
    let found: Vec<SocketAddr> = match &endpoint.host {
        Host::Ipv4(address) => vec![(*address, endpoint.port).into()],
        Host::Ipv6(address) => vec![(*address, endpoint.port).into()],
        Host::Domain(name) => tokio::net::lookup_host((name.as_str(), endpoint.port))
            .await
            .map_err(|error| FetchError::ConnectionFailed {
                detail: format!(
                    "the name `{name}` has no address ({error}); check `http.url` and the DNS of the cluster"
                ),
            })?
            .collect(),
    };
    let first_is_ipv6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (mut one, mut other): (Vec<_>, Vec<_>) = found.into_iter().partition(|it| it.is_ipv6() == first_is_ipv6);
    // Two addresses of a family are tried at most: the rest of the list would not fit into the connect limit.
    one.truncate(2);
    other.truncate(2);
    let mut other = other.into_iter();
    let mut turns: Vec<_> = one.into_iter().flat_map(|address| [Some(address), other.next()]).flatten().collect();
    turns.extend(other);
    Ok(turns)
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    // A connection that is given up must not go on sending from the kernel (R3): closing resets it.
    socket.set_zero_linger()?;
    let options = SockRef::from(&socket);
    options.set_tcp_user_timeout(Some(UNACKNOWLEDGED_FOR))?;
    options.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5)),
    )?;
    Ok(socket)
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
