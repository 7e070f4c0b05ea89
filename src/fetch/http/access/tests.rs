use std::{
    collections::BTreeMap,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use async_trait::async_trait;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rstest::rstest;
use secrecy::SecretSlice;
use serde_json::{Value as Json, json};

use super::*;
use crate::fetch::credentials::{CredentialsError, Keys};

/// Loading the roots of the system takes a while.
static CONFIGS: LazyLock<TlsConfigs> = LazyLock::new(|| TlsConfigs::load().expect("the TLS roots"));

/// Objects that count how often they are read. A Secret and a ConfigMap of one name have the same keys.
#[derive(Default)]
struct Vault {
    objects: BTreeMap<&'static str, Vec<(&'static str, String)>>,
    reads: AtomicUsize,
}

impl Vault {
    fn with(mut self, name: &'static str, keys: &[(&'static str, &str)]) -> Self {
        self.objects.insert(name, keys.iter().map(|(key, value)| (*key, (*value).to_owned())).collect());
        self
    }

    fn get(&self, name: &str) -> Result<Keys, CredentialsError> {
        self.reads.fetch_add(1, SeqCst);
        let keys = self.objects.get(name).ok_or(CredentialsError::NotFound)?;
        Ok(keys.iter().map(|(key, value)| ((*key).to_owned(), SecretSlice::from(value.clone().into_bytes()))).collect())
    }

    async fn read(&self, http: Json) -> Result<Access, OpenError> {
        let http: Http = serde_json::from_value(http).expect("a spec");
        Access::read(&http, "shop", self, &CONFIGS).await
    }
}

#[async_trait]
impl Credentials for Vault {
    async fn secret(&self, _: &str, name: &str) -> Result<Keys, CredentialsError> {
        self.get(name)
    }

    async fn config_map(&self, _: &str, name: &str) -> Result<Keys, CredentialsError> {
        self.get(name)
    }
}

/// A certificate that signs itself, as PEM, and its key.
fn identity(name: &str) -> (String, String) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

fn trusting(kind: &str) -> Json {
    json!({ "url": "https://host/", "tls": { "caRef": { "kind": kind, "name": "ca", "key": "ca.crt" } } })
}

fn with_oauth2(mut http: Json, token_url: &str) -> Json {
    http["auth"] = json!({ "oauth2": {
        "tokenURL": token_url,
        "clientIDSecretRef": { "name": "client", "key": "id" },
        "clientSecretSecretRef": { "name": "client", "key": "secret" },
    } });
    http
}

#[tokio::test]
async fn sources_that_trust_the_same_authorities_share_them_and_nothing_is_kept_when_they_are_gone() {
    let (ca, _) = identity("ca");
    let vault =
        |ca: &str| Vault::default().with("ca", &[("ca.crt", ca)]).with("client", &[("id", "me"), ("secret", "s")]);
    let http = with_oauth2(trusting("ConfigMap"), "https://elsewhere/token");
    let one = vault(&ca).read(http.clone()).await.expect("readable");
    let two = vault(&ca).read(http.clone()).await.expect("readable");
    assert!(Arc::ptr_eq(&one.tls, &two.tls) && Arc::ptr_eq(&one.token_tls, &two.token_tls));
    assert!(!Arc::ptr_eq(&one.tls, &one.token_tls));
    let other = vault(&identity("other").0).read(http).await.expect("readable");
    assert!(!Arc::ptr_eq(&one.tls, &other.tls) && !Arc::ptr_eq(&one.token_tls, &other.token_tls));
    assert!(one.same_values(&two) && !one.same_values(&other));

    let kept = [Arc::downgrade(&one.tls), Arc::downgrade(&one.token_tls)];
    drop((one, two));
    assert!(kept.iter().all(|kept| kept.upgrade().is_none()));
}

#[tokio::test]
async fn a_token_endpoint_on_the_host_of_the_source_takes_no_roots_of_its_own() {
    let vault = Vault::default().with("ca", &[("ca.crt", &identity("ca").0)]);
    let vault = vault.with("client", &[("id", "me"), ("secret", "s")]);
    let access = vault.read(with_oauth2(trusting("ConfigMap"), "https://host:8443/token")).await.expect("readable");
    assert!(Arc::ptr_eq(&access.token_tls, CONFIGS.shared()));
}

#[tokio::test]
async fn a_secret_that_holds_certificate_key_and_authority_is_read_once() {
    let (certificate, key) = identity("orders");
    let vault = Vault::default().with("ca", &[("ca.crt", &certificate), ("tls.crt", &certificate), ("tls.key", &key)]);
    let mut http = trusting("Secret");
    http["tls"]["clientCertSecretRef"] = json!({ "name": "ca" });
    vault.read(http).await.expect("readable");
    assert_eq!(vault.reads.load(SeqCst), 1);
}

#[rstest]
#[case::no_slashes("http:host/", "https://host/token")]
#[case::a_tab_in_the_scheme("ht\ttp://host/", "https://host/token")]
#[case::blanks("  http://host/", "https://host/token")]
#[case::token_endpoint("https://host/", "http:host/token")]
#[tokio::test]
async fn no_secret_travels_over_http_however_it_is_written(#[case] url: &str, #[case] token_url: &str) {
    let vault = Vault::default().with("client", &[("id", "me"), ("secret", "s")]);
    let error = vault.read(with_oauth2(json!({ "url": url }), token_url)).await.err().expect("refused");
    assert!(matches!(error, OpenError::InvalidSpec { field: "http.plaintextCredentials", .. }), "{error}");
}

#[rstest]
#[case("Host")]
#[case("Proxy-Connection")]
#[case("proxy-anything")]
#[case("If-Anything")]
#[case("headgate-anything")]
#[tokio::test]
async fn a_header_that_the_api_server_would_refuse_is_refused_here_too(#[case] name: &str) {
    let http = json!({ "url": "https://host/", "headers": [{ "name": name, "value": "x" }] });
    let error = Vault::default().read(http).await.err().expect("refused");
    assert!(matches!(error, OpenError::InvalidSpec { field: "http.headers", .. }), "{error}");
}

#[tokio::test]
async fn a_client_certificate_that_cannot_be_used_says_what_is_wrong_with_it() {
    let (certificate, key) = identity("orders");
    let (_, other_key) = identity("orders");
    let pem = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
    let http = json!({ "url": "https://host/", "tls": { "clientCertSecretRef": { "name": "client" } } });
    for (certificate, key, says) in [
        (certificate.clone(), other_key, "the private key does not fit the certificate"),
        (pem("CERTIFICATE"), key, "the certificate cannot be read"),
        (certificate, pem("PRIVATE KEY"), "the private key is none that can be used"),
    ] {
        let vault = Vault::default().with("client", &[("tls.crt", &certificate), ("tls.key", &key)]);
        let error = vault.read(http.clone()).await.err().expect("refused");
        assert!(matches!(error, OpenError::InvalidSpec { field: "http.tls.clientCertSecretRef", .. }), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}
