//! No secret in any error, debug text or log, whatever goes wrong.

use std::{
    io,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

use crate::{
    raw::Source,
    world::{Vault, fetcher_with, from_start, open, permit, read},
};

const MARKER: &str = "hunter2";

/// Collects the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("the log").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn every_kind_of_auth(token_url: &str) -> Vec<Value> {
    let key = json!({ "name": "secret", "key": "value" });
    vec![
        json!({ "bearer": { "tokenSecretRef": key } }),
        json!({ "basic": { "secretRef": { "name": "secret" } } }),
        json!({ "header": { "name": "x-api-key", "valueSecretRef": key } }),
        json!({ "oauth2": { "tokenURL": token_url, "clientIDSecretRef": key, "clientSecretSecretRef": key } }),
    ]
}

/// Each answer shows the secrets back, as a debugging proxy would.
async fn mirror(status: u16) -> Source {
    Source::that(move |mut talk| async move {
        loop {
            let request = talk.request().await?;
            let headers = format!("X-Echo: {MARKER}\r\nRetry-After: {MARKER}\r\nLocation: http://{MARKER}/\r\n");
            let body = format!("{{\"access_token\":\"{MARKER}\",\"error\":\"{MARKER}\",\"asked\":{:?}}}", request.head);
            talk.answer(status, &headers, body).await?;
        }
    })
    .await
}

#[tokio::test]
async fn no_secret_is_ever_shown() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_max_level(tracing::Level::TRACE).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    tracing::info!("the log is on");
    let mut shown = Vec::new();
    for status in [200, 302, 400, 401, 403, 429, 500] {
        let source = mirror(status).await;
        for auth in every_kind_of_auth(&source.url()) {
            let vault = Vault::with_secret("secret", &[("value", MARKER), ("username", "me"), ("password", MARKER)]);
            let from_secret = json!({ "secretKeyRef": { "name": "secret", "key": "value" } });
            let http = json!({
                "url": source.url(),
                "auth": auth,
                "headers": [{ "name": "X-Tenant", "valueFrom": from_secret }],
                "query": [{ "name": "key", "valueFrom": from_secret }],
                "plaintextCredentials": "Allow",
            });
            let mut fetcher = fetcher_with(http, vault).await;
            for _ in 0..2 {
                if let Err(error) = fetcher.connect().await {
                    shown.push(format!("{error} {error:?}"));
                    continue;
                }
                match fetcher.send(permit(), &from_start()).await {
                    Ok(headgate::fetch::Reply::Page(mut page)) => match read(&mut page).await {
                        (ids, Ok(())) => shown.push(format!("{ids:?}")),
                        (_, Err(failure)) => shown.push(format!("{failure} {failure:?}")),
                    },
                    Ok(headgate::fetch::Reply::Prepared { .. }) => {}
                    Err(failure) => shown.push(format!("{failure} {failure:?}")),
                }
            }
        }
    }
    // What cannot even be sent.
    let broken = format!("{MARKER}\n{MARKER}");
    let vault =
        Vault::with_secret("secret", &[("value", &broken), ("username", &format!("{MARKER}:")), ("password", "x")]);
    for auth in every_kind_of_auth("https://host/token") {
        if let Err(error) = open(json!({ "url": "https://host/", "auth": auth }), vault.clone()).await {
            shown.push(format!("{error} {error:?}"));
        }
    }
    let shown = shown.concat();
    assert!(shown.len() > 1000, "errors were seen");
    assert!(!shown.contains(MARKER), "{shown}");
    let log = String::from_utf8(log.0.lock().expect("the log").clone()).expect("text");
    assert!(log.contains("the log is on"));
    assert!(!log.contains(MARKER), "{log}");
}
