//! TLS in front of the fake source, with a certificate of an authority that nobody knows.

use std::{net::SocketAddr, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// Accepts TLS on a port of its own and passes the bytes on, until it is dropped.
pub(crate) struct TlsFront {
    address: SocketAddr,
    authority: String,
    accepting: JoinHandle<()>,
}

impl TlsFront {
    pub(crate) async fn before(source: SocketAddr) -> Self {
        Self::called("127.0.0.1", source).await
    }

    /// As [`TlsFront::before`], but it shows the certificate of this name.
    pub(crate) async fn called(name: &str, source: SocketAddr) -> Self {
        let (authority, config) = identity(name);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                // A handshake that fails, or a peer that goes, ends this connection and no other.
                tokio::spawn(async move {
                    let (near, far) = tokio::join!(acceptor.accept(near), TcpStream::connect(source));
                    copy_bidirectional(&mut near?, &mut far?).await
                });
            }
        });
        Self { address, authority, accepting }
    }

    /// The URL of one source behind it.
    pub(crate) fn url(&self, source: &str) -> String {
        format!("https://{}/{source}/events", self.address)
    }

    /// The certificate of the authority, as PEM.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A new authority, and a server of this name that it vouches for.
fn identity(name: &str) -> (String, ServerConfig) {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = params.self_signed(&key).expect("a certificate").pem();
    let issuer = Issuer::new(params, key);

    let key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new([name.to_owned()]).expect("parameters");
    let certificate = server.signed_by(&key, &issuer).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a configuration");
    (authority, config)
}
