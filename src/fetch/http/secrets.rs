//! Reads what a spec names in Secrets and ConfigMaps, and remembers its digest, so that a later reading can be compared.

use std::collections::{HashMap, hash_map::Entry};

use hyper::header::HeaderValue;
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::by_content::{Digest, Digesting};
use crate::{
    api::event_source::{CaKind, CaRef, SecretKeyRef},
    fetch::{
        OpenError,
        credentials::{Credentials, CredentialsError, Keys},
    },
};

/// One reading of everything that a source names. Each object is read once.
pub(super) struct Reading<'a> {
    credentials: &'a dyn Credentials,
    namespace: &'a str,
    secrets: HashMap<String, Keys>,
    /// Of every value that was read, in the order of the spec.
    values: Digesting,
}

impl<'a> Reading<'a> {
    pub(super) fn new(credentials: &'a dyn Credentials, namespace: &'a str) -> Self {
        Self { credentials, namespace, secrets: HashMap::new(), values: Digesting::default() }
    }

    /// The digest of all that was read. The values themselves are not kept: a trust bundle has hundreds of KB.
    pub(super) fn into_digest(self) -> Digest {
        self.values.finish()
    }

    /// The data of a Secret, which may hold several of the values.
    async fn secret(&mut self, name: &str) -> Result<&Keys, CredentialsError> {
        match self.secrets.entry(name.to_owned()) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => Ok(unknown.insert(self.credentials.secret(self.namespace, name).await?)),
        }
    }

    /// The bytes under a key of a Secret.
    pub(super) async fn bytes(
        &mut self,
        field: &'static str,
        name: &str,
        key: &str,
    ) -> Result<SecretSlice<u8>, OpenError> {
        let keys = self.secret(name).await.map_err(|error| match error {
            CredentialsError::NotFound => OpenError::SecretNotFound { field, name: name.to_owned() },
            CredentialsError::Forbidden => OpenError::Forbidden { kind: "Secret", field, name: name.to_owned() },
            CredentialsError::Unavailable => OpenError::Unavailable { field },
        })?;
        let missing = || OpenError::SecretKeyMissing { field, name: name.to_owned(), key: key.to_owned() };
        let value = keys.get(key).ok_or_else(missing)?.clone();
        self.values.add(value.expose_secret());
        Ok(value)
    }

    /// The text under a key of a Secret. One line end at its end is taken off: `kubectl create secret --from-file` of a
    /// file written by an editor or `echo` puts it there, and no credential ends in one.
    pub(super) async fn text(&mut self, field: &'static str, name: &str, key: &str) -> Result<SecretString, OpenError> {
        let bytes = self.bytes(field, name, key).await?;
        let text = std::str::from_utf8(bytes.expose_secret()).map_err(|_| OpenError::InvalidSpec {
            field,
            detail: format!("Secret `{name}` holds no UTF-8 text under `{key}`"),
        })?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        Ok(SecretString::from(text.strip_suffix('\r').unwrap_or(text)))
    }

    pub(super) async fn text_of(
        &mut self,
        field: &'static str,
        reference: &SecretKeyRef,
    ) -> Result<SecretString, OpenError> {
        self.text(field, &reference.name, &reference.key).await
    }

    /// The PEM text of a certificate authority.
    pub(super) async fn authority(&mut self, reference: &CaRef) -> Result<SecretSlice<u8>, OpenError> {
        let CaRef { kind, name, key } = reference;
        // Named once, and nothing else names a ConfigMap.
        let (kind, found) = match kind {
            CaKind::ConfigMap => {
                let keys = self.credentials.config_map(self.namespace, name).await;
                ("ConfigMap", keys.map(|mut keys| keys.remove(key)))
            }
            CaKind::Secret => ("Secret", self.secret(name).await.map(|keys| keys.get(key).cloned())),
        };
        let field = "http.tls.caRef";
        let missing = |detail: String| OpenError::CANotFound { kind, name: name.clone(), detail };
        let found = found.map_err(|error| match error {
            CredentialsError::NotFound => missing("does not exist in the namespace of the EventSource".to_owned()),
            CredentialsError::Forbidden => OpenError::Forbidden { kind, field, name: name.clone() },
            CredentialsError::Unavailable => OpenError::Unavailable { field },
        })?;
        let value = found.ok_or_else(|| missing(format!("has no key `{key}`")))?;
        self.values.add(value.expose_secret());
        Ok(value)
    }
}

/// A header value that is never shown.
pub(super) fn sensitive(field: &'static str, text: &str) -> Result<HeaderValue, OpenError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| OpenError::InvalidSpec {
        field,
        detail: "the Secret holds a character that no header can carry (a line end inside?)".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}
