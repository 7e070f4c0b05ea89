//! Asks one HTTP source: CONNECT, then SEND.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    Shared,
    access::{Access, invalid},
    answer::{Meaning, broken, explain, explain_behind_an_answer, gateway_timeout, judge, never_left, read_to_end},
    connection::{Connection, Passage, Unread},
    dial::CONNECT_WITHIN,
    endpoint::Endpoint,
    inflate::Inflate,
    line::Reach,
    oauth2::Token,
    page::{Answered, DRAIN_BYTES, HttpPage, IdleSlot, NoItems},
    request::{Sender, Template},
};
use crate::{
    api::{
        Source,
        event_source::{Http, NameValue},
    },
    deadline::{self, TimeOver},
    fetch::{Failure, FetchError, Fetcher, OpenError, PageRequest, Progress, Reply, decode::Decoder},
    permit::Permit,
};

/// The fetcher of one source.
pub(super) struct HttpFetcher {
    shared: Arc<Shared>,
    source: Arc<Source>,
    template: Template,
    decoder: Decoder,
    access: Access,
    token: Option<Token>,
    /// What it connected for. A token whose time comes between CONNECT and SEND is used once more: it is renewed long before
    /// it expires.
    next: Next,
    idle: IdleSlot,
    timeout: Duration,
    limit: u64,
}

/// What the next request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Page,
    /// A token from the host of the source: it is a request to the source as any other.
    Token,
}

impl HttpFetcher {
    pub(super) async fn open(shared: Arc<Shared>, source: Arc<Source>, http: &Http) -> Result<Self, OpenError> {
        let template = Template::of(http)?;
        let decoder = Decoder::new(&http.decode, &source.spec.mapping)?;
        let (timeout, limit) = (http.timeout(), http.max_response_bytes());
        if timeout.is_zero() {
            return Err(invalid("http.timeout", "it must be longer than nothing"));
        }
        if limit == 0 {
            return Err(invalid("http.maxResponseBytes", "it must be more than nothing"));
        }
        let access = read_access(&shared, &source, http).await?;
        let idle = IdleSlot::default();
        Ok(Self { shared, source, template, decoder, access, token: None, next: Next::Page, idle, timeout, limit })
    }

    /// Whether a token is wanted first, and whether its endpoint is the source's own host, any port of it: "every request
    /// to the host counts" (DESIGN 1).
    fn choose_next(&self) -> Next {
        match &self.access.client_credentials {
            Some(client) if client.endpoint.host == self.template.endpoint.host && !self.has_token() => Next::Token,
            _ => Next::Page,
        }
    }

    fn has_token(&self) -> bool {
        self.token.as_ref().is_some_and(|token| token.is_good(Instant::now()))
    }

    fn endpoint(&self, next: Next) -> &Endpoint {
        match (next, &self.access.client_credentials) {
            (Next::Token, Some(client)) => &client.endpoint,
            _ => &self.template.endpoint,
        }
    }

    fn connect_within(&self) -> Duration {
        CONNECT_WITHIN.min(self.timeout)
    }

    /// Fetches a token from a host that is not the source's.
    async fn fetch_token_elsewhere(&mut self) -> Result<(), FetchError> {
        let Some(client) = &self.access.client_credentials else { return Ok(()) };
        if self.has_token() || self.choose_next() == Next::Token {
            return Ok(());
        }
        let within = self.connect_within();
        let until = Instant::now() + within;
        let named = |error: FetchError| in_token_request(error, &client.endpoint);
        let (tls, dialer) = (&self.access.token_tls, &self.shared.dialer);
        let mut connection =
            Connection::open(&client.endpoint, Passage::Free, tls, dialer, within).await.map_err(named)?;
        let sender = Sender { replica: &self.shared.replica, attempt: None };
        let request = client.request(&sender).ok_or_else(unaskable)?;
        let late = || FetchError::ConnectionFailed {
            detail: format!("the token endpoint {} gave no answer within {within:?}", client.endpoint),
        };
        let response = timeout_at(until, connection.exchange(request))
            .await
            .map_err(|_| late())?
            .map_err(|error| named(explain(&client.endpoint, &error)))?;
        let (head, mut body) = response.into_parts();
        let body = connection.read_out(&mut body, DRAIN_BYTES, until).await;
        let body = body.map_err(|unread| no_token(unread, &client.endpoint, late));
        self.token = Some(token(&Response::from_parts(head, ()), body)?);
        Ok(())
    }

    /// The request, and the connection it will leave on.
    fn prepare(&mut self, permit: &Permit, page: &PageRequest) -> Result<Outgoing, FetchError> {
        let next = self.next;
        let connection = self.idle.take().filter(|connection| &connection.endpoint == self.endpoint(next));
        let connection = connection.ok_or_else(|| FetchError::ConnectionFailed {
            detail: format!("no connection to {} stood when the gate opened", self.endpoint(next)),
        })?;
        let sender = Sender { replica: &self.shared.replica, attempt: Some(permit.attempt()) };
        let request = if let (Next::Token, Some(client)) = (next, &self.access.client_credentials) {
            client.request(&sender)
        } else {
            let token = self.token.as_mut().map(Token::take_for_request);
            self.template.request(&self.access, token.as_ref(), page, &sender)
        };
        Ok(Outgoing { next, connection, request: request.ok_or_else(unaskable)? })
    }

    /// Sends a prepared request when its permit opens.
    async fn exchange(
        &self,
        mut connection: Connection,
        request: Request<Full<Bytes>>,
        permit: Permit,
    ) -> Result<(Response<()>, Answered), Failure> {
        // A reservation that was answered too slowly: the connection is as good as before.
        let too_late = |permit: &Permit| permit.closes() < permit.opens().max(Instant::now());
        if !too_late(&permit) {
            sleep_until(permit.opens()).await;
        }
        if too_late(&permit) {
            self.idle.put(connection);
            return Err(never_left(FetchError::PermitExpired));
        }
        if !connection.stands().await {
            return Err(broken(&connection, None, self.timeout));
        }
        connection.line.arm(permit);
        let until = Instant::now() + self.timeout;
        let response = match deadline::before(until, connection.exchange(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(broken(&connection, Some(&error), self.timeout)),
            Err(TimeOver) => return Err(broken(&connection, None, self.timeout)),
        };
        let (head, body) = response.into_parts();
        let Reach::Left { first_byte: Some(first_byte) } = connection.line.reach() else {
            // An answer without a first byte cannot be.
            return Err(broken(&connection, None, self.timeout));
        };
        let answered = Answered { connection, body, first_byte, until, timeout: self.timeout };
        Ok((Response::from_parts(head, ()), answered))
    }

    async fn take_token(&mut self, head: &Response<()>, mut answered: Answered) -> Result<Reply, Failure> {
        let first_byte = answered.first_byte;
        let body = answered.connection.read_out(&mut answered.body, DRAIN_BYTES, answered.until).await;
        let late = || FetchError::Timeout { after: self.timeout };
        let body = body.map_err(|unread| no_token(unread, &answered.connection.endpoint, late));
        let is_read = body.is_ok();
        let token = match gateway_timeout(head.status(), head.headers(), self.timeout) {
            Some(error) => Err(error),
            None => token(head, body),
        };
        let failed = |error| {
            if is_read {
                read_to_end(error, first_byte)
            } else {
                Failure { error, progress: Progress::MayBeServed { first_byte: Some(first_byte) } }
            }
        };
        let token = token.map_err(failed);
        if is_read {
            self.idle.put(answered.connection);
        }
        self.token = Some(token?);
        Ok(Reply::Prepared { first_byte })
    }

    async fn open_page(
        &mut self,
        head: &Response<()>,
        mut answered: Answered,
        asked: &PageRequest,
    ) -> Result<Reply, Failure> {
        let first_byte = answered.first_byte;
        // Of 403 too: a scope that was granted meanwhile is in the next token alone.
        if matches!(head.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            self.token = None;
        }
        let error = match judge(head.status(), head.headers(), self.sends_credentials(), self.timeout) {
            Meaning::Page => match Inflate::new(head.headers(), self.limit) {
                Ok(inflate) => {
                    let page =
                        HttpPage::new(head, answered, inflate, self.decoder.page(&asked.after), self.idle.clone());
                    return Ok(Reply::Page(Box::new(page)));
                }
                Err(error) => error,
            },
            Meaning::NoEvents => {
                // The protocol gives 204 no body; this only lets the connection see that.
                if answered.connection.read_out(&mut answered.body, 0, answered.until).await.is_ok() {
                    self.idle.put(answered.connection);
                }
                return Ok(Reply::Page(Box::new(NoItems { first_byte })));
            }
            Meaning::Failed(error) => error,
        };
        Err(answered.fail(&self.idle, error).await)
    }

    fn sends_credentials(&self) -> bool {
        self.source.spec.http.as_ref().is_some_and(|http| {
            let is_one =
                |item: &NameValue| item.value_from.is_some() || item.name.eq_ignore_ascii_case("authorization");
            http.auth.is_some() || http.headers.iter().chain(&http.query).any(is_one)
        })
    }
}

struct Outgoing {
    next: Next,
    connection: Connection,
    request: Request<Full<Bytes>>,
}

#[async_trait]
impl Fetcher for HttpFetcher {
    async fn connect(&mut self) -> Result<(), FetchError> {
        self.fetch_token_elsewhere().await?;
        self.next = self.choose_next();
        let endpoint = self.endpoint(self.next);
        if let Some(mut connection) = self.idle.take()
            && &connection.endpoint == endpoint
            && !connection.is_stale()
            && connection.stands().await
        {
            self.idle.put(connection);
            return Ok(());
        }
        let (tls, dialer) = (&self.access.tls, &self.shared.dialer);
        let connection = Connection::open(endpoint, Passage::Gated, tls, dialer, self.connect_within()).await?;
        self.idle.put(connection);
        Ok(())
    }

    async fn send(&mut self, permit: Permit, page: &PageRequest) -> Result<Reply, Failure> {
        let Outgoing { next, connection, request } = self.prepare(&permit, page).map_err(never_left)?;
        let (head, answered) = self.exchange(connection, request, permit).await?;
        match next {
            Next::Token => self.take_token(&head, answered).await,
            Next::Page => self.open_page(&head, answered, page).await,
        }
    }

    async fn reload_credentials(&mut self) -> Result<bool, OpenError> {
        let Some(http) = &self.source.spec.http else { return Ok(false) };
        let access = read_access(&self.shared, &self.source, http).await?;
        if self.access.same_values(&access) {
            return Ok(false);
        }
        self.access = access;
        self.token = None;
        // It may have been authenticated with the old client certificate.
        drop(self.idle.take());
        Ok(true)
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }
}

async fn read_access(shared: &Shared, source: &Source, http: &Http) -> Result<Access, OpenError> {
    Access::read(http, source.stream.namespace(), &*shared.credentials, &shared.tls).await
}

fn unaskable() -> FetchError {
    FetchError::ConnectionFailed { detail: "the address of the request is too long to be sent".to_owned() }
}

/// The token in an answer. Of a refusal whose body could not be read the status says enough.
fn token(head: &Response<()>, body: Result<Vec<u8>, FetchError>) -> Result<Token, FetchError> {
    let body = if head.status() == StatusCode::OK { body? } else { body.unwrap_or_default() };
    Token::from_answer(head, &body, Instant::now())
}

/// Why the answer of the token endpoint at `endpoint` could not be read.
fn no_token(unread: Unread, endpoint: &Endpoint, late: impl FnOnce() -> FetchError) -> FetchError {
    let error = match unread {
        Unread::Late => return late(),
        Unread::Broke(error) => explain_behind_an_answer(endpoint, &error),
        Unread::TooLarge => FetchError::ConnectionFailed {
            detail: format!("its answer is too large for one (more than {DRAIN_BYTES} bytes)"),
        },
    };
    in_token_request(error, endpoint)
}

/// Says that it was the token endpoint that could not be reached.
fn in_token_request(error: FetchError, endpoint: &Endpoint) -> FetchError {
    let named = |detail: String| format!("while asking {endpoint} for a token: {detail}");
    match error {
        FetchError::ConnectionFailed { detail } => FetchError::ConnectionFailed { detail: named(detail) },
        FetchError::TlsFailed { detail } => FetchError::TlsFailed { detail: named(detail) },
        other => other,
    }
}
