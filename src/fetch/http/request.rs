//! The request of a page, built before the gate opens.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Uri,
    header::{ACCEPT_ENCODING, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT},
};
use secrecy::ExposeSecret;
use url::{Position, Url};

use super::{
    access::{Access, invalid},
    endpoint::Endpoint,
};
use crate::{
    api::event_source::Http,
    fetch::{OpenError, PageRequest},
    permit::Attempt,
};

/// Who asks, for the access log of the source. Neither holds a secret.
static ATTEMPT: HeaderName = HeaderName::from_static("headgate-attempt");
static REPLICA: HeaderName = HeaderName::from_static("headgate-replica");

/// The parts of a spec that make a request.
pub(super) struct Template {
    pub(super) endpoint: Endpoint,
    url: Url,
    cursor_param: String,
    /// `None`: no limit is sent.
    limit_param: Option<String>,
}

impl Template {
    pub(super) fn of(http: &Http) -> Result<Self, OpenError> {
        let (url, endpoint) = address("http.url", &http.url)?;
        let cursor_param = match &http.cursor.after_id {
            Some(after_id) if !after_id.param.is_empty() => after_id.param.clone(),
            _ => return Err(invalid("http.cursor", "`afterID.param` must be set")),
        };
        let limit_param = http.limit_param().map(str::to_owned);
        let template = Self { endpoint, url, cursor_param, limit_param };
        template.refuse_ambiguous(http)?;
        Ok(template)
    }

    /// A cursor or limit given twice would leave it to the source which one counts.
    fn refuse_ambiguous(&self, http: &Http) -> Result<(), OpenError> {
        let ours = |name: &str| name == self.cursor_param || Some(name) == self.limit_param.as_deref();
        if self.limit_param.as_ref() == Some(&self.cursor_param) {
            return Err(invalid("http.limitParam", "it is also the parameter of the cursor"));
        }
        if self.url.query_pairs().any(|(name, _)| ours(&name)) {
            return Err(invalid("http.url", "its query holds the parameter of the cursor or of the limit"));
        }
        if http.query.iter().any(|item| ours(&item.name)) {
            return Err(invalid("http.query", "it holds the parameter of the cursor or of the limit"));
        }
        Ok(())
    }

    /// `None` when the address grows longer than a request line can be.
    pub(super) fn request(
        &self,
        access: &Access,
        authorization: Option<&HeaderValue>,
        page: &PageRequest,
        sender: &Sender<'_>,
    ) -> Option<Request<Full<Bytes>>> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = self.target(access, page)?;
        let headers = request.headers_mut();
        *headers = access.headers.clone();
        sender.sign(headers, &self.url)?;
        if let Some(token) = authorization {
            headers.insert(hyper::header::AUTHORIZATION, token.clone());
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        Some(request)
    }

    fn target(&self, access: &Access, page: &PageRequest) -> Option<Uri> {
        let mut url = self.url.clone();
        {
            let mut pairs = url.query_pairs_mut();
            for (name, value) in &access.query {
                pairs.append_pair(name, value.expose_secret());
            }
            if let Some(id) = page.after.id() {
                pairs.append_pair(&self.cursor_param, id.as_str());
            }
            if let Some(name) = &self.limit_param {
                pairs.append_pair(name, &page.limit.to_string());
            }
        }
        if url.query() == Some("") {
            url.set_query(None);
        }
        origin_form(&url)
    }
}

/// Who sends a request, and for which reservation.
pub(super) struct Sender<'a> {
    pub(super) replica: &'a HeaderValue,
    pub(super) attempt: Option<Attempt>,
}

impl Sender<'_> {
    /// Sets the headers that every request carries. `None` cannot happen for a URL with a host.
    pub(super) fn sign(&self, headers: &mut HeaderMap, url: &Url) -> Option<()> {
        let host = &url[Position::BeforeHost..Position::AfterPort];
        headers.insert(HOST, HeaderValue::from_str(host).ok()?);
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(super::USER_AGENT));
        headers.insert(&REPLICA, self.replica.clone());
        if let Some(attempt) = self.attempt {
            headers.insert(&ATTEMPT, HeaderValue::from_str(&attempt.to_string()).ok()?);
        }
        Some(())
    }
}

/// Path and query, as they stand in the request line.
pub(super) fn origin_form(url: &Url) -> Option<Uri> {
    url[Position::BeforePath..Position::AfterQuery].parse().ok()
}

/// A URL that can be asked.
pub(super) fn address(field: &'static str, text: &str) -> Result<(Url, Endpoint), OpenError> {
    let url = Url::parse(text).map_err(|error| invalid(field, &format!("it is no URL ({error})")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(field, "it holds credentials; put them into a Secret and name it in `http.auth.basic`"));
    }
    let endpoint = Endpoint::of(&url).ok_or_else(|| invalid(field, "it must begin with http:// or https://"))?;
    Ok((url, endpoint))
}
