//! The certificates, keys and tokens of a control plane, and the kubeconfig that opens it.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::place::write_secret;

/// Files that kube-apiserver is started with; the same ones after a restart.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    pub(super) authority: PathBuf,
    pub(super) server_certificate: PathBuf,
    pub(super) server_key: PathBuf,
    pub(super) account_signing_key: PathBuf,
    pub(super) account_public_key: PathBuf,
    pub(super) tokens: PathBuf,
}

impl Credentials {
    /// Those in `directory`, made now if there are none. The server's certificate is good for loopback, the names of the
    /// `kubernetes` Service, and the given addresses.
    pub(super) fn in_directory(directory: &Path, addresses: &[IpAddr], admin_token: &str) -> Result<Self> {
        let made = Self {
            authority: directory.join("ca.crt"),
            server_certificate: directory.join("apiserver.crt"),
            server_key: directory.join("apiserver.key"),
            account_signing_key: directory.join("service-accounts.key"),
            account_public_key: directory.join("service-accounts.pub"),
            tokens: directory.join("tokens.csv"),
        };
        // The tokens are written last: where they are, everything is.
        if !made.tokens.exists() {
            made.write_certificates(addresses).context("make the certificates of a control plane")?;
            write_secret(&made.tokens, &format!("{admin_token},admin,admin,\"system:masters\"\n"))?;
        }
        Ok(made)
    }

    fn write_certificates(&self, addresses: &[IpAddr]) -> Result<()> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.distinguished_name.push(DnType::CommonName, "headgate test control plane");
        let authority_key = KeyPair::generate()?;
        write_secret(&self.authority, &authority.self_signed(&authority_key)?.pem())?;

        let names = ["127.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let names = names.into_iter().map(str::to_owned).chain(addresses.iter().map(IpAddr::to_string));
        let mut server = CertificateParams::new(names.collect::<Vec<_>>())?;
        server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        let server_key = KeyPair::generate()?;
        let issuer = Issuer::new(authority, authority_key);
        write_secret(&self.server_certificate, &server.signed_by(&server_key, &issuer)?.pem())?;
        write_secret(&self.server_key, &server_key.serialize_pem())?;

        let accounts = KeyPair::generate()?;
        write_secret(&self.account_signing_key, &accounts.serialize_pem())?;
        fs::write(&self.account_public_key, accounts.public_key_pem()).context("write a public key")
    }
}

/// The text of a kubeconfig with one server and one bearer token.
pub(crate) fn kubeconfig(server: &str, authority: &Path, token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: headgate\n\
         clusters: [{{name: headgate, cluster: {{server: \"{server}\", certificate-authority: \"{}\"}}}}]\n\
         users: [{{name: headgate, user: {{token: \"{token}\"}}}}]\n\
         contexts: [{{name: headgate, context: {{cluster: headgate, user: headgate}}}}]\n",
        authority.display()
    )
}
