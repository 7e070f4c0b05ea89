//! What a source wants to be asked with: headers, query and TLS, with the values of its Secrets filled in.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use rustls::ClientConfig;
use secrecy::{ExposeSecret, SecretString};

use super::{
    by_content::Digest,
    endpoint::Endpoint,
    oauth2::ClientCredentials,
    request::address,
    secrets::{Reading, sensitive},
    tls::{self, Special, TlsConfigs},
};
use crate::{
    api::event_source::{Auth, CaKind, Format, Http, NameValue, PlaintextCredentials, Tls, is_reserved_header},
    fetch::{OpenError, credentials::Credentials},
};

/// One resolved reading of a spec. It holds secrets, so it has no `Debug`.
pub(super) struct Access {
    pub(super) headers: HeaderMap,
    pub(super) query: Vec<(String, SecretString)>,
    pub(super) tls: Arc<ClientConfig>,
    /// For a token endpoint on another host.
    pub(super) token_tls: Arc<ClientConfig>,
    pub(super) client_credentials: Option<ClientCredentials>,
    values: Digest,
}

impl Access {
    /// Reads the Secrets that the spec names and checks what only their values tell.
    pub(super) async fn read(
        http: &Http,
        namespace: &str,
        credentials: &dyn Credentials,
        configs: &TlsConfigs,
    ) -> Result<Self, OpenError> {
        let (_, source) = address("http.url", &http.url)?;
        refuse_plaintext_credentials(http, &source)?;
        let mut reading = Reading::new(credentials, namespace);
        let mut headers = headers(http, &mut reading).await?;
        let query = query(http, &mut reading).await?;
        let client_credentials = match &http.auth {
            Some(auth) => authorize(auth, &mut headers, &mut reading).await?,
            None => None,
        };
        let (tls, token_tls) = match &http.tls {
            Some(tls) => {
                // On the host of the source the source's own trust counts.
                let tokens_elsewhere =
                    client_credentials.as_ref().is_some_and(|client| client.endpoint.host != source.host);
                special_tls(tls, tokens_elsewhere, &mut reading, configs).await?
            }
            None => (configs.shared().clone(), configs.shared().clone()),
        };
        Ok(Self { headers, query, tls, token_tls, client_credentials, values: reading.into_digest() })
    }

    /// Whether both readings found the same values.
    pub(super) fn same_values(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

/// The API server checks this as well; here it holds for objects that went around the rule.
fn refuse_plaintext_credentials(http: &Http, source: &Endpoint) -> Result<(), OpenError> {
    if http.plaintext_credentials == PlaintextCredentials::Allow {
        return Ok(());
    }
    let secret = http.auth.is_some()
        || http.headers.iter().chain(&http.query).any(|item| item.value_from.is_some())
        || http.tls.as_ref().is_some_and(|tls| tls.client_cert_secret_ref.is_some());
    let token_url = http.auth.as_ref().and_then(|auth| auth.oauth2.as_ref()).map(|oauth2| oauth2.token_url.as_str());
    let tokens = token_url.map(|url| address("http.auth.oauth2.tokenURL", url)).transpose()?;
    // As they were parsed: `http:host` is plain too.
    if secret && !(source.https && tokens.is_none_or(|(_, tokens)| tokens.https)) {
        return Err(invalid(
            "http.plaintextCredentials",
            "a Secret would travel unencrypted over http; use https, or set `Allow`",
        ));
    }
    Ok(())
}

async fn headers(http: &Http, reading: &mut Reading<'_>) -> Result<HeaderMap, OpenError> {
    const FIELD: &str = "http.headers";
    let mut headers = HeaderMap::new();
    for item in &http.headers {
        let name = header_name(FIELD, &item.name)?;
        if name == AUTHORIZATION && http.auth.is_some() {
            return Err(invalid(FIELD, "`Authorization` is set by `http.auth`"));
        }
        let value = match value_of(FIELD, item, reading).await? {
            Value::Plain(text) => HeaderValue::from_str(text).map_err(|_| {
                invalid(FIELD, &format!("the value of `{name}` holds a character that no header can carry"))
            })?,
            Value::Secret(text) => sensitive(FIELD, text.expose_secret())?,
        };
        headers.append(name, value);
    }
    if !headers.contains_key(ACCEPT) {
        headers.insert(ACCEPT, HeaderValue::from_static(accepted(http)));
    }
    Ok(headers)
}

fn accepted(http: &Http) -> &'static str {
    match http.decode.format {
        Format::JSON => "application/json, application/cloudevents-batch+json;q=0.9, */*;q=0.1",
        Format::NDJSON => "application/x-ndjson, */*;q=0.1",
    }
}

async fn query(http: &Http, reading: &mut Reading<'_>) -> Result<Vec<(String, SecretString)>, OpenError> {
    let mut query = Vec::with_capacity(http.query.len());
    for item in &http.query {
        let value = match value_of("http.query", item, reading).await? {
            Value::Plain(text) => SecretString::from(text),
            Value::Secret(text) => text,
        };
        query.push((item.name.clone(), value));
    }
    Ok(query)
}

enum Value<'a> {
    Plain(&'a str),
    Secret(SecretString),
}

async fn value_of<'a>(
    field: &'static str,
    item: &'a NameValue,
    reading: &mut Reading<'_>,
) -> Result<Value<'a>, OpenError> {
    match (&item.value, &item.value_from) {
        (Some(text), None) => Ok(Value::Plain(text)),
        (None, Some(from)) => Ok(Value::Secret(reading.text_of(field, &from.secret_key_ref).await?)),
        _ => Err(invalid(field, &format!("`{}` needs exactly one of `value` and `valueFrom`", item.name))),
    }
}

/// Adds what `auth` asks for. OAuth2 adds nothing yet: its token comes later.
async fn authorize(
    auth: &Auth,
    headers: &mut HeaderMap,
    reading: &mut Reading<'_>,
) -> Result<Option<ClientCredentials>, OpenError> {
    match auth {
        Auth { bearer: Some(bearer), basic: None, header: None, oauth2: None } => {
            const FIELD: &str = "http.auth.bearer.tokenSecretRef";
            let token = reading.text_of(FIELD, &bearer.token_secret_ref).await?;
            headers.insert(AUTHORIZATION, sensitive(FIELD, &format!("Bearer {}", token.expose_secret()))?);
        }
        Auth { bearer: None, basic: Some(basic), header: None, oauth2: None } => {
            const FIELD: &str = "http.auth.basic.secretRef";
            let username = reading.text(FIELD, &basic.secret_ref.name, "username").await?;
            let password = reading.text(FIELD, &basic.secret_ref.name, "password").await?;
            headers.insert(AUTHORIZATION, basic_authorization(FIELD, &username, &password)?);
        }
        Auth { bearer: None, basic: None, header: Some(header), oauth2: None } => {
            const FIELD: &str = "http.auth.header.valueSecretRef";
            let name = header_name("http.auth.header.name", &header.name)?;
            let value = reading.text_of(FIELD, &header.value_secret_ref).await?;
            headers.insert(name, sensitive(FIELD, value.expose_secret())?);
        }
        Auth { bearer: None, basic: None, header: None, oauth2: Some(oauth2) } => {
            return ClientCredentials::read(oauth2, reading).await.map(Some);
        }
        _ => return Err(invalid("http.auth", "exactly one of `bearer`, `basic`, `header`, `oauth2` must be set")),
    }
    Ok(None)
}

/// `Authorization: Basic …`
pub(super) fn basic_authorization(
    field: &'static str,
    username: &SecretString,
    password: &SecretString,
) -> Result<HeaderValue, OpenError> {
    if username.expose_secret().contains(':') {
        return Err(invalid(field, "a user name with a colon cannot be sent by basic authentication"));
    }
    let pair = SecretString::from(format!("{}:{}", username.expose_secret(), password.expose_secret()));
    sensitive(field, &format!("Basic {}", BASE64_STANDARD.encode(pair.expose_secret())))
}

/// The configurations for the source and for a token endpoint elsewhere.
async fn special_tls(
    tls: &Tls,
    tokens_elsewhere: bool,
    reading: &mut Reading<'_>,
    configs: &TlsConfigs,
) -> Result<(Arc<ClientConfig>, Arc<ClientConfig>), OpenError> {
    let mut special = Special::default();
    let mut token_tls = configs.shared().clone();
    if let Some(reference) = &tls.ca_ref {
        let pem = reading.authority(reference).await?;
        let authorities = configs.authorities(pem.expose_secret()).ok_or_else(|| OpenError::CANotFound {
            kind: match reference.kind {
                CaKind::ConfigMap => "ConfigMap",
                CaKind::Secret => "Secret",
            },
            name: reference.name.clone(),
            detail: format!("holds no PEM certificate under `{}`", reference.key),
        })?;
        if tokens_elsewhere {
            token_tls = configs.widened(&authorities).map_err(|error| unusable(&error))?;
        }
        special.authorities = Some(authorities);
    }
    if let Some(reference) = &tls.client_cert_secret_ref {
        const FIELD: &str = "http.tls.clientCertSecretRef";
        let chain = reading.bytes(FIELD, &reference.name, "tls.crt").await?;
        let key = reading.bytes(FIELD, &reference.name, "tls.key").await?;
        let chain = tls::chain(chain.expose_secret()).ok_or_else(|| {
            invalid(FIELD, &format!("Secret `{}` holds no PEM certificate under `tls.crt`", reference.name))
        })?;
        let key = tls::private_key(key.expose_secret()).ok_or_else(|| {
            invalid(FIELD, &format!("Secret `{}` holds no PEM private key under `tls.key`", reference.name))
        })?;
        special.client = Some((chain, key));
    }
    Ok((configs.special(special).map_err(|error| unusable(&error))?, token_tls))
}

/// The provider was found to work at start, so what it refuses is the client's certificate or key.
fn unusable(error: &rustls::Error) -> OpenError {
    let detail = match error {
        rustls::Error::InconsistentKeys(_) => "the private key does not fit the certificate",
        rustls::Error::InvalidCertificate(_) => "the certificate cannot be read",
        _ => "the private key is none that can be used: RSA, ECDSA or Ed25519",
    };
    invalid("http.tls.clientCertSecretRef", detail)
}

fn header_name(field: &'static str, name: &str) -> Result<HeaderName, OpenError> {
    let parsed = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| invalid(field, &format!("`{name}` cannot be the name of a header")))?;
    // The API server refuses it too; here it holds for objects that went around the rule.
    if is_reserved_header(name) {
        return Err(invalid(field, &format!("`{name}` is set by Headgate or by the protocol")));
    }
    Ok(parsed)
}

pub(super) fn invalid(field: &'static str, detail: &str) -> OpenError {
    OpenError::InvalidSpec { field, detail: detail.to_owned() }
}

#[cfg(test)]
mod tests;
