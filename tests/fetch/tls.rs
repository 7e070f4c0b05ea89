//! TLS: whom to trust, who I am, and that the handshake lies outside the permit.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use headgate::fetch::{Failure, FetchError, OpenError, Progress};
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use rstest::rstest;
use rustls::{RootCertStore, ServerConfig, crypto::aws_lc_rs, server::WebPkiClientVerifier};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    raw::Source,
    world::{
        BoxedFetcher, Vault, connect, fetcher, fetcher_with, from_start, open, permit_for, poll, poll_failing, refused,
        send,
    },
};

/// A certificate authority of the test's own.
pub(crate) struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
pub(crate) struct Identity {
    certificate: Certificate,
    key: KeyPair,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn issues(&self, name: &str) -> Identity {
        self.issues_with(&CertificateParams::new([name.to_owned()]).expect("parameters"))
    }

    fn issues_with(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity { certificate, key }
    }

    fn pem(&self) -> String {
        self.certificate.pem()
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).expect("a root");
        Arc::new(roots)
    }
}

impl Identity {
    pub(crate) fn acceptor(&self, clients_of: Option<&Authority>) -> TlsAcceptor {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = match clients_of {
            Some(authority) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(authority.roots(), provider).build().expect("a verifier"),
            ),
            None => builder.with_no_client_auth(),
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let config = builder.with_single_cert(vec![self.certificate.der().clone()], key).expect("a configuration");
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Answers every request on a TLS connection with one event.
async fn steady(acceptor: TlsAcceptor) -> Source {
    Source::over_tls(acceptor, |mut talk| async move {
        loop {
            talk.request().await?;
            talk.page(&[1]).await?;
        }
    })
    .await
}

pub(crate) fn trusting(url: &str) -> Value {
    json!({ "url": url, "tls": { "caRef": { "kind": "ConfigMap", "name": "ca" } } })
}

pub(crate) fn with_ca(authority: &Authority) -> Arc<Vault> {
    let vault = Vault::empty();
    vault.put_config_map("ca", &[("ca.crt", &authority.pem())]);
    vault
}

async fn trusting_fetcher(source: &Source, authority: &Authority) -> BoxedFetcher {
    fetcher_with(trusting(&source.url()), with_ca(authority)).await
}

#[rstest]
#[case("ConfigMap")]
#[case("Secret")]
#[tokio::test]
async fn a_custom_authority_is_trusted(#[case] kind: &str) {
    let authority = Authority::new();
    let source = steady(authority.issues("127.0.0.1").acceptor(None)).await;
    let vault = Vault::with_secret("ca-of-secret", &[("root.pem", &authority.pem())]);
    vault.put_config_map("ca-of-secret", &[("root.pem", &authority.pem())]);
    let ca = json!({ "kind": kind, "name": "ca-of-secret", "key": "root.pem" });
    let mut fetcher = fetcher_with(json!({ "url": source.url(), "tls": { "caRef": ca } }), vault).await;
    assert_eq!(poll(&mut fetcher).await.expect("a page"), ["1"]);
    assert_eq!(poll(&mut fetcher).await.expect("a page"), ["1"]);
    assert_eq!(source.connections(), 1);
}

/// A link on which everything that comes from the source takes `delay`. Its address.
async fn slow_link(source: &Source, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let source = source.address;
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.expect("a connection");
        let mut far = TcpStream::connect(source).await.expect("the source");
        let ((mut from_near, mut to_near), (mut from_far, mut to_far)) = (near.split(), far.split());
        let answers = async {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = from_far.read(&mut piece).await {
                sleep(delay).await;
                to_near.write_all(&piece[..length]).await.ok();
            }
        };
        tokio::join!(tokio::io::copy(&mut from_near, &mut to_far), answers)
    });
    address
}

#[tokio::test]
async fn a_slow_handshake_lies_outside_the_permit() {
    let authority = Authority::new();
    let source = steady(authority.issues("127.0.0.1").acceptor(None)).await;
    let link = slow_link(&source, Duration::from_secs(1)).await;
    let mut fetcher = fetcher_with(trusting(&format!("https://{link}/events")), with_ca(&authority)).await;
    connect(&mut fetcher).await;
    let permit = permit_for(Duration::ZERO, Duration::from_millis(500));
    fetcher.send(permit, &from_start()).await.expect("sent on a connection that stood");
}

#[tokio::test]
async fn the_first_byte_over_tls_belongs_to_the_answer_and_not_to_a_session_ticket() {
    let authority = Authority::new();
    let source = Source::over_tls(authority.issues("127.0.0.1").acceptor(None), |mut talk| async move {
        talk.request().await?;
        sleep(Duration::from_millis(500)).await;
        talk.page(&[1]).await
    })
    .await;
    // The server sends its tickets when the handshake is done; over this link they arrive after the request has left.
    let link = slow_link(&source, Duration::from_millis(200)).await;
    let mut fetcher = fetcher_with(trusting(&format!("https://{link}/events")), with_ca(&authority)).await;
    connect(&mut fetcher).await;
    let page = send(&mut fetcher).await.expect("answered");
    assert!(page.first_byte() >= source.last_answer());
}

#[tokio::test]
async fn an_unknown_authority_is_refused_with_the_way_out() {
    let source = steady(Authority::new().issues("127.0.0.1").acceptor(None)).await;
    let error = fetcher(json!({ "url": source.url() })).await.connect().await.unwrap_err();
    assert!(matches!(&error, FetchError::TlsFailed { detail } if detail.contains("http.tls.caRef")), "{error}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    let source = steady(authority.issues("other.example").acceptor(None)).await;
    let error = trusting_fetcher(&source, &authority).await.connect().await.unwrap_err();
    assert!(matches!(&error, FetchError::TlsFailed { detail } if detail.contains("for another name")), "{error}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let authority = Authority::new();
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("parameters");
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let source = steady(authority.issues_with(&params).acceptor(None)).await;
    let error = trusting_fetcher(&source, &authority).await.connect().await.unwrap_err();
    assert!(matches!(&error, FetchError::TlsFailed { detail } if detail.contains("has expired")), "{error}");
}

#[tokio::test]
async fn a_port_without_tls_is_named() {
    let source = Source::that(|mut talk| async move {
        talk.say("HTTP/1.1 400 Bad Request\r\n\r\n").await?;
        talk.hold().await
    })
    .await;
    let url = source.url().replace("http://", "https://");
    let error = fetcher(json!({ "url": url })).await.connect().await.unwrap_err();
    assert!(matches!(&error, FetchError::TlsFailed { detail } if detail.contains("does not speak TLS")), "{error}");
}

#[tokio::test]
async fn a_client_certificate_is_shown() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let source = steady(servers.issues("127.0.0.1").acceptor(Some(&clients))).await;
    let client = clients.issues("headgate");
    let vault = with_ca(&servers);
    vault.put_secret("client", &[("tls.crt", &client.certificate.pem()), ("tls.key", &client.key.serialize_pem())]);
    let mut http = trusting(&source.url());
    http["tls"]["clientCertSecretRef"] = json!({ "name": "client" });
    let mut fetcher = fetcher_with(http, vault).await;
    assert_eq!(poll(&mut fetcher).await.expect("a page"), ["1"]);
}

#[tokio::test]
async fn a_missing_client_certificate_is_named() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let source = steady(servers.issues("127.0.0.1").acceptor(Some(&clients))).await;
    let mut fetcher = trusting_fetcher(&source, &servers).await;
    // TLS 1.3 tells the client only after its handshake is done: here while RESERVE would run.
    connect(&mut fetcher).await;
    source.said_goodbye(1).await;
    let failure = send_in(Duration::from_millis(20), &mut fetcher).await;
    assert!(names_the_client_certificate(&failure.error), "{failure}");
    assert_eq!(failure.progress, Progress::NeverLeft);
    assert_eq!(source.bytes(), b"");
}

#[tokio::test]
async fn a_missing_client_certificate_is_named_by_an_alert_that_comes_after_the_request_too() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let source = steady(servers.issues("127.0.0.1").acceptor(Some(&clients))).await;
    let link = slow_link(&source, Duration::from_millis(300)).await;
    let mut fetcher = fetcher_with(trusting(&format!("https://{link}/events")), with_ca(&servers)).await;
    connect(&mut fetcher).await;
    let failure = refused(&mut fetcher).await;
    assert!(names_the_client_certificate(&failure.error), "{failure}");
    assert_eq!(failure.progress, Progress::MayBeServed { first_byte: None });
    assert_eq!(source.bytes(), b"");
}

fn names_the_client_certificate(error: &FetchError) -> bool {
    matches!(error, FetchError::TlsFailed { detail } if detail.contains("http.tls.clientCertSecretRef"))
}

/// A SEND that fails, for a slot that lies ahead.
async fn send_in(wait: Duration, fetcher: &mut BoxedFetcher) -> Failure {
    let permit = permit_for(wait, Duration::from_secs(10));
    fetcher.send(permit, &from_start()).await.err().expect("refused")
}

#[tokio::test]
async fn certificates_that_cannot_be_used_name_their_object() {
    let client = Authority::new().issues("headgate");
    let other = Authority::new().issues("headgate");
    let http = json!({ "url": "https://host/", "tls": { "clientCertSecretRef": { "name": "client" } } });
    for (certificate, key) in [
        (client.certificate.pem(), other.key.serialize_pem()),
        ("no certificate".to_owned(), client.key.serialize_pem()),
        (client.certificate.pem(), "no key".to_owned()),
    ] {
        let vault = Vault::with_secret("client", &[("tls.crt", &certificate), ("tls.key", &key)]);
        let error = open(http.clone(), vault).await.err().expect("refused");
        assert!(matches!(error, OpenError::InvalidSpec { field: "http.tls.clientCertSecretRef", .. }), "{error}");
    }
    for vault in [Vault::empty(), Vault::empty(), Vault::empty()].into_iter().zip([None, Some("other"), Some("ca.crt")])
    {
        let (vault, key) = vault;
        if let Some(key) = key {
            vault.put_config_map("ca", &[(key, "no certificate")]);
        }
        let error = open(trusting("https://host/"), vault).await.err().expect("refused");
        assert!(matches!(error, OpenError::CANotFound { kind: "ConfigMap", .. }), "{error}");
    }
}

#[tokio::test]
async fn a_connection_that_died_over_tls_ends_in_an_error_with_nothing_sent() {
    let authority = Authority::new();
    let source = Source::over_tls(authority.issues("127.0.0.1").acceptor(None), |mut talk| async move {
        talk.request().await?;
        talk.page(&[1]).await?;
        talk.close().await
    })
    .await;
    let mut fetcher = trusting_fetcher(&source, &authority).await;
    poll(&mut fetcher).await.expect("a page");
    source.said_goodbye(1).await;
    let failure = refused(&mut fetcher).await;
    assert_eq!(failure.progress, Progress::NeverLeft, "{failure}");
    assert_eq!(source.requests().len(), 1);
    poll(&mut fetcher).await.expect("over a new connection");
}

#[tokio::test]
async fn a_source_that_ends_tls_without_an_answer_is_not_asked_again() {
    let authority = Authority::new();
    let source = Source::over_tls(authority.issues("127.0.0.1").acceptor(None), |mut talk| async move {
        talk.request().await?;
        talk.close().await
    })
    .await;
    let mut fetcher = trusting_fetcher(&source, &authority).await;
    let failure = poll_failing(&mut fetcher).await;
    assert_eq!(failure.progress, Progress::MayBeServed { first_byte: None });
    assert_eq!((source.connections(), source.requests().len()), (1, 1));
}

#[tokio::test]
async fn a_token_endpoint_elsewhere_is_trusted_by_the_custom_authority_too() {
    let authority = Authority::new();
    let tokens = Source::over_tls(authority.issues("localhost").acceptor(None), |mut talk| async move {
        talk.request().await?;
        talk.answer(200, "", "{\"access_token\":\"t\",\"expires_in\":\"3600\"}").await
    })
    .await;
    let source = steady(authority.issues("127.0.0.1").acceptor(None)).await;
    let vault = with_ca(&authority);
    vault.put_secret("client", &[("id", "me"), ("secret", "s")]);
    let mut http = trusting(&source.url());
    http["auth"] = json!({ "oauth2": {
        "tokenURL": format!("https://localhost:{}/token", tokens.address.port()),
        "clientIDSecretRef": { "name": "client", "key": "id" },
        "clientSecretSecretRef": { "name": "client", "key": "secret" },
    } });
    let mut fetcher = fetcher_with(http, vault).await;
    poll(&mut fetcher).await.expect("a page");
    poll(&mut fetcher).await.expect("a page");
    assert_eq!((tokens.requests().len(), source.requests().len()), (1, 2));
}
