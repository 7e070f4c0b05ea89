//! TLS: one provider (aws-lc-rs), one shared configuration for all sources that need nothing special, and one for those
//! that need the same.

use std::{io, sync::Arc};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, RootCertStore,
    client::{Resumption, WantsClientCert},
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{
    by_content::{ByContent, Digest},
    endpoint::Endpoint,
    tickets::Tickets,
};
use crate::fetch::FetchError;

/// The roots of the process, the configuration that most sources share, and those that some do.
pub(super) struct TlsConfigs {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    shared: Arc<ClientConfig>,
    authorities: ByContent<RootCertStore>,
    special: ByContent<ClientConfig>,
}

/// The authorities of a PEM text.
pub(super) struct Authorities {
    content: Digest,
    roots: Arc<RootCertStore>,
}

/// The roots or the provider cannot be used. Found at start.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    #[error("SSL_CERT_FILE or SSL_CERT_DIR is set, but no certificate could be read from there")]
    NoCertificates,
    #[error("cannot set up TLS")]
    Setup(#[from] rustls::Error),
}

/// What a source needs beyond the shared configuration. Holds a private key: no `Debug`.
#[derive(Default)]
pub(super) struct Special {
    /// The only roots to trust.
    pub(super) authorities: Option<Authorities>,
    pub(super) client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Special {
    fn content(&self) -> Digest {
        let mut texts: Vec<&[u8]> = vec![b"special"];
        texts.push(self.authorities.as_ref().map_or(b"", |authorities| authorities.content.as_bytes()));
        if let Some((chain, key)) = &self.client {
            texts.push(key.secret_der());
            texts.extend(chain.iter().map(AsRef::as_ref));
        }
        Digest::of(&texts)
    }
}

impl TlsConfigs {
    pub(super) fn load() -> Result<Self, TlsSetupError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = Arc::new(roots()?);
        let shared = Arc::new(finished(trusting(&provider, &roots)?.with_no_client_auth()));
        Ok(Self { provider, roots, shared, authorities: ByContent::default(), special: ByContent::default() })
    }

    pub(super) fn shared(&self) -> &Arc<ClientConfig> {
        &self.shared
    }

    /// For hosts beside a source that has authorities of its own: these and the default ones, and no client certificate.
    pub(super) fn widened(&self, authorities: &Authorities) -> Result<Arc<ClientConfig>, rustls::Error> {
        self.special.get_or_make(Digest::of(&[b"widened", authorities.content.as_bytes()]), || {
            let mut roots = RootCertStore::clone(&self.roots);
            roots.extend(authorities.roots.roots.iter().cloned());
            Ok(Arc::new(finished(trusting(&self.provider, &Arc::new(roots))?.with_no_client_auth())))
        })
    }

    /// The certificates of a PEM text as the only roots; `None` when it holds none.
    pub(super) fn authorities(&self, pem: &[u8]) -> Option<Authorities> {
        let content = Digest::of(&[pem]);
        let parse = || {
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).filter_map(Result::ok));
            if store.is_empty() { Err(()) } else { Ok(Arc::new(store)) }
        };
        let roots = self.authorities.get_or_make(content, parse).ok()?;
        Some(Authorities { content, roots })
    }

    /// # Errors
    /// When the client's certificate or key cannot be used, or one does not fit the other.
    pub(super) fn special(&self, special: Special) -> Result<Arc<ClientConfig>, rustls::Error> {
        let content = special.content();
        let Special { authorities, client } = special;
        self.special.get_or_make(content, || {
            let roots = authorities.map_or_else(|| self.roots.clone(), |authorities| authorities.roots);
            let trusting = trusting(&self.provider, &roots)?;
            let config = match client {
                Some((chain, key)) => trusting.with_client_auth_cert(chain, key)?,
                None => trusting.with_no_client_auth(),
            };
            Ok(Arc::new(finished(config)))
        })
    }
}

fn trusting(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
) -> Result<rustls::ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    Ok(ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots.clone()))
}

fn finished(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // The default, written down because it is part of the promise: 0-RTT data can be replayed by the network.
    config.enable_early_data = false;
    config.resumption = Resumption::store(Arc::<Tickets>::default());
    config
}

/// The roots of the system, where `SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured; Mozilla's when there are none, as in an
/// image built from scratch. Variables that are set but lead nowhere are an error: somebody relies on them.
fn roots() -> Result<RootCertStore, TlsSetupError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if !store.is_empty() {
        return Ok(store);
    }
    if ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|name| std::env::var_os(name).is_some()) {
        return Err(TlsSetupError::NoCertificates);
    }
    store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    Ok(store)
}

/// The chain of a client certificate; `None` when the PEM text holds none.
pub(super) fn chain(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!chain.is_empty()).then_some(chain)
}

/// The first private key of a PEM text.
pub(super) fn private_key(pem: &[u8]) -> Option<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem).ok()
}

/// The TLS error inside an error, if there is one.
pub(super) fn rustls_error<'a>(mut error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    loop {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // An `io::Error` skips the error it wraps when asked for its source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        error = match inner {
            Some(inner) => inner,
            None => error.source()?,
        };
    }
}

/// The failure of a handshake in words, with what to do.
pub(super) fn handshake_failed(endpoint: &Endpoint, error: &io::Error) -> FetchError {
    let detail = match rustls_error(error) {
        Some(error) => explain(endpoint, error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            format!("{endpoint} closed the connection during the handshake; does it speak TLS on this port?")
        }
        None => format!("the connection to {endpoint} broke during the handshake ({})", error.kind()),
    };
    FetchError::TlsFailed { detail }
}

/// A TLS error in words, with what to do. Names of certificates are left out: they come from the peer.
pub(super) fn explain(endpoint: &Endpoint, error: &rustls::Error) -> String {
    use CertificateError as Certificate;
    match error {
        rustls::Error::InvalidCertificate(Certificate::UnknownIssuer) => {
            format!("the certificate of {endpoint} is signed by an unknown authority; name it in `http.tls.caRef`")
        }
        rustls::Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => {
            format!("the certificate of {endpoint} is for another name; `http.url` must use a name that it holds")
        }
        rustls::Error::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            format!("the certificate of {endpoint} has expired; renew it at the source")
        }
        rustls::Error::InvalidCertificate(Certificate::NotValidYet | Certificate::NotValidYetContext { .. }) => {
            format!("the certificate of {endpoint} is not valid yet; check the clocks")
        }
        rustls::Error::InvalidCertificate(Certificate::Revoked) => {
            format!("the certificate of {endpoint} is revoked; renew it at the source")
        }
        rustls::Error::InvalidCertificate(_) => {
            format!("the certificate of {endpoint} cannot be used; renew it at the source")
        }
        rustls::Error::AlertReceived(alert) if is_of_our_certificate(*alert) => {
            format!("{endpoint} refused the client certificate ({alert:?}); check `http.tls.clientCertSecretRef`")
        }
        rustls::Error::AlertReceived(alert) => format!("{endpoint} ended the handshake with the alert {alert:?}"),
        rustls::Error::InvalidMessage(_) => {
            format!("{endpoint} does not speak TLS on this port; check the scheme and port of `http.url`")
        }
        rustls::Error::PeerIncompatible(_) => format!("{endpoint} offers no TLS 1.2 or 1.3 that can be agreed on"),
        _ => format!("no TLS with {endpoint}: its handshake breaks the protocol"),
    }
}

/// A TLS error when the handshake is long over: the connection broke, unless it is about our certificate, which a server may
/// judge late.
pub(super) fn broke_off(endpoint: &Endpoint, error: &rustls::Error) -> FetchError {
    let detail = match error {
        rustls::Error::AlertReceived(alert) if is_of_our_certificate(*alert) => {
            return FetchError::TlsFailed { detail: explain(endpoint, error) };
        }
        rustls::Error::AlertReceived(alert) => format!("{endpoint} ended the connection with the TLS alert {alert:?}"),
        _ => format!("what {endpoint} sent breaks the TLS of the connection"),
    };
    FetchError::ConnectionFailed { detail }
}

fn is_of_our_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied
    )
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use rustls::Error;

    use super::*;
    use crate::api::ReachableReason;

    #[rstest]
    #[case::a_server_that_goes(
        Error::AlertReceived(AlertDescription::InternalError),
        ReachableReason::ConnectionFailed
    )]
    #[case::damage(Error::DecryptError, ReachableReason::ConnectionFailed)]
    #[case::a_late_judgement(Error::AlertReceived(AlertDescription::CertificateRequired), ReachableReason::TLSFailed)]
    fn when_the_handshake_is_over_only_an_alert_about_our_certificate_is_a_failed_one(
        #[case] error: Error,
        #[case] reason: ReachableReason,
    ) {
        let url = url::Url::parse("https://orders.example/").expect("a URL");
        let endpoint = Endpoint::of(&url).expect("of HTTP");
        assert_eq!(broke_off(&endpoint, &error).reason(), reason);
    }
}
