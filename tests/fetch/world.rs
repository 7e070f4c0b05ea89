//! What a fetcher stands in: an EventSource, Secrets, permits.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use headgate::{
    api::{EventSourceSpec, Source, event_source::Http},
    clock::Moment,
    event::{Cursor, EventId, StreamName},
    fetch::{
        Failure, Fetcher, Item, OpenError, Page, PageRequest, Progress, Reply, Transports,
        credentials::{Credentials, CredentialsError, Keys},
        http::{Egress, HttpTransports, Proxies},
    },
    permit::{Attempt, Permit},
};
use secrecy::SecretSlice;
use serde_json::{Value, json};

/// The send limit of the permits here. Longer than that of DESIGN 4, so that a busy machine fails no test; those about
/// late permits have their own.
const SEND_WITHIN: Duration = Duration::from_secs(10);

/// An EventSource `orders` with this `http` and `mapping` in a namespace of the test's own.
fn event_source(namespace: &str, http: Value, mapping: &Value) -> Arc<Source> {
    let http: Http = serde_json::from_value(http).expect("a spec");
    let spec: EventSourceSpec = serde_json::from_value(json!({ "mapping": mapping })).expect("a spec");
    Arc::new(Source {
        stream: StreamName::new(namespace, "orders"),
        uid: "uid".to_owned(),
        generation: 1,
        spec: EventSourceSpec { http: Some(http), ..spec },
        deleting: false,
        has_finalizer: false,
        was_polled: false,
        poll_requested_at: None,
        shares_endpoint_with: None,
    })
}

type Object = BTreeMap<String, Vec<u8>>;

/// The Secrets and ConfigMaps of one namespace.
#[derive(Default)]
pub(crate) struct Vault {
    objects: Mutex<BTreeMap<(&'static str, String), Object>>,
    error: Mutex<Option<CredentialsError>>,
}

impl Vault {
    pub(crate) fn empty() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn with_secret(name: &str, keys: &[(&str, &str)]) -> Arc<Self> {
        let vault = Self::empty();
        vault.put_secret(name, keys);
        vault
    }

    pub(crate) fn put_secret(&self, name: &str, keys: &[(&str, &str)]) {
        self.put("Secret", name, keys);
    }

    pub(crate) fn put_config_map(&self, name: &str, keys: &[(&str, &str)]) {
        self.put("ConfigMap", name, keys);
    }

    /// From now on the API server does not answer.
    pub(crate) fn fall_silent(&self) {
        self.answer_with(CredentialsError::Unavailable);
    }

    /// From now on the operator has no right to read anything.
    pub(crate) fn forbid(&self) {
        self.answer_with(CredentialsError::Forbidden);
    }

    fn answer_with(&self, error: CredentialsError) {
        *self.error.lock().expect("the vault") = Some(error);
    }

    fn put(&self, kind: &'static str, name: &str, keys: &[(&str, &str)]) {
        let keys = keys.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect();
        self.objects.lock().expect("the vault").insert((kind, name.to_owned()), keys);
    }

    fn get(&self, kind: &'static str, name: &str) -> Result<Keys, CredentialsError> {
        if let Some(error) = *self.error.lock().expect("the vault") {
            return Err(error);
        }
        let objects = self.objects.lock().expect("the vault");
        let keys = objects.get(&(kind, name.to_owned())).ok_or(CredentialsError::NotFound)?;
        Ok(keys.iter().map(|(key, value)| (key.clone(), SecretSlice::from(value.clone()))).collect())
    }
}

/// The vaults of all tests by namespace. Loading the TLS roots takes a while, so all tests share one set of transports.
static VAULTS: Mutex<BTreeMap<String, Arc<Vault>>> = Mutex::new(BTreeMap::new());
static TRANSPORTS: LazyLock<HttpTransports> = LazyLock::new(|| transports(Proxies::none()));

struct Vaults;

impl Vaults {
    fn of(namespace: &str) -> Arc<Vault> {
        VAULTS.lock().expect("the vaults").get(namespace).expect("the namespace of an EventSource").clone()
    }
}

#[async_trait]
impl Credentials for Vaults {
    async fn secret(&self, namespace: &str, name: &str) -> Result<Keys, CredentialsError> {
        Self::of(namespace).get("Secret", name)
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Keys, CredentialsError> {
        Self::of(namespace).get("ConfigMap", name)
    }
}

/// Sources of tests are at one address of loopback, and no other of it is allowed.
fn transports(proxies: Proxies) -> HttpTransports {
    let here = [IpAddr::V4(Ipv4Addr::LOCALHOST).into(), IpAddr::V6(Ipv6Addr::LOCALHOST).into()];
    let egress = Egress::new(&here, &[]);
    HttpTransports::with_proxies(Arc::new(Vaults), "headgate-0.a1b2", egress, proxies).expect("the TLS roots")
}

pub(crate) type BoxedFetcher = Box<dyn Fetcher>;

/// A fetcher for `http` with no Secrets and no proxy.
pub(crate) async fn fetcher(http: Value) -> BoxedFetcher {
    fetcher_with(http, Vault::empty()).await
}

pub(crate) async fn fetcher_with(http: Value, vault: Arc<Vault>) -> BoxedFetcher {
    open(http, vault).await.expect("the spec is right")
}

pub(crate) async fn fetcher_mapping(http: Value, mapping: Value) -> BoxedFetcher {
    open_over(&TRANSPORTS, http, &mapping, Vault::empty()).await.expect("the spec is right")
}

pub(crate) async fn open(http: Value, vault: Arc<Vault>) -> Result<BoxedFetcher, OpenError> {
    open_over(&TRANSPORTS, http, &json!({}), vault).await
}

pub(crate) async fn fetcher_behind(proxies: Proxies, http: Value) -> BoxedFetcher {
    open_over(&transports(proxies), http, &json!({}), Vault::empty()).await.expect("the spec is right")
}

async fn open_over(
    transports: &HttpTransports,
    http: Value,
    mapping: &Value,
    vault: Arc<Vault>,
) -> Result<BoxedFetcher, OpenError> {
    static NAMESPACES: AtomicUsize = AtomicUsize::new(0);
    let namespace = format!("shop-{}", NAMESPACES.fetch_add(1, SeqCst));
    VAULTS.lock().expect("the vaults").insert(namespace.clone(), vault);
    transports.open(&event_source(&namespace, http, mapping)).await
}

/// A permit for now.
pub(crate) fn permit() -> Permit {
    permit_in(Duration::ZERO)
}

/// A permit for a slot that lies ahead.
pub(crate) fn permit_in(wait: Duration) -> Permit {
    permit_for(wait, SEND_WITHIN)
}

pub(crate) fn permit_for(wait: Duration, send_within: Duration) -> Permit {
    let now = Moment::now();
    Permit::new(Attempt::random(), now, now.at, wait, send_within)
}

/// A permit whose reservation was answered after its send limit.
pub(crate) fn expired_permit() -> Permit {
    let now = Moment::now();
    Permit::new(Attempt::random(), now, now.at + SEND_WITHIN * 2, Duration::ZERO, SEND_WITHIN)
}

pub(crate) fn from_start() -> PageRequest {
    PageRequest { after: Cursor::Start, limit: 1000 }
}

pub(crate) fn after(id: &str) -> PageRequest {
    PageRequest { after: Cursor::After(EventId::new(id).expect("an id")), limit: 1000 }
}

/// SEND, for a page.
pub(crate) async fn send(fetcher: &mut BoxedFetcher) -> Result<Box<dyn Page>, Failure> {
    match fetcher.send(permit(), &from_start()).await? {
        Reply::Page(page) => Ok(page),
        Reply::Prepared { .. } => panic!("a page was asked for"),
    }
}

/// The ids of a page up to its end or its failure.
pub(crate) async fn read(page: &mut Box<dyn Page>) -> (Vec<String>, Result<(), Failure>) {
    let mut ids = Vec::new();
    loop {
        match page.next().await {
            Ok(Some(items)) => ids.extend(items.iter().map(Item::id).map(ToString::to_string)),
            Ok(None) => return (ids, Ok(())),
            Err(failure) => return (ids, Err(failure)),
        }
    }
}

/// CONNECT, SEND and the whole page.
pub(crate) async fn poll(fetcher: &mut BoxedFetcher) -> Result<Vec<String>, Failure> {
    connect(fetcher).await;
    let mut page = send(fetcher).await?;
    let (ids, outcome) = read(&mut page).await;
    outcome.map(|()| ids)
}

pub(crate) async fn connect(fetcher: &mut BoxedFetcher) {
    fetcher.connect().await.expect("the source can be connected to");
}

/// CONNECT and a SEND that fails.
pub(crate) async fn poll_failing(fetcher: &mut BoxedFetcher) -> Failure {
    connect(fetcher).await;
    refused(fetcher).await
}

/// A SEND that fails.
pub(crate) async fn refused(fetcher: &mut BoxedFetcher) -> Failure {
    match send(fetcher).await {
        Ok(_) => panic!("the source answered with a page"),
        Err(failure) => failure,
    }
}

pub(crate) fn may_be_served(failure: &Failure) -> bool {
    matches!(failure.progress, Progress::MayBeServed { .. })
}

pub(crate) fn read_to_end(failure: &Failure) -> bool {
    matches!(failure.progress, Progress::ReadToEnd { .. })
}
