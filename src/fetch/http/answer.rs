//! What a status and its headers mean, and what a broken exchange means.

use std::{io, time::Duration};

use hyper::{
    StatusCode,
    header::{DATE, HeaderMap, RETRY_AFTER},
};
use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use tokio::time::Instant;

use super::{
    connection::Connection,
    endpoint::Endpoint,
    line::{Kept, Reach},
    tls,
};
use crate::fetch::{Failure, FetchError, LONGEST_RETRY_AFTER, Progress};

/// What a status says of the response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A body to decode.
    Page,
    /// 204: nothing new, and no body that would say so.
    NoEvents,
    Failed(FetchError),
}

/// Judges the head of a response to a request that had `timeout`. 206 is no page: no range was asked for.
pub(super) fn judge(
    status: StatusCode,
    headers: &HeaderMap,
    asked_with_credentials: bool,
    timeout: Duration,
) -> Meaning {
    if let Some(error) = gateway_timeout(status, headers, timeout) {
        return Meaning::Failed(error);
    }
    let retry_after = || retry_after(headers, Timestamp::now());
    let number = status.as_u16();
    Meaning::Failed(match status {
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION => return Meaning::Page,
        StatusCode::NO_CONTENT => return Meaning::NoEvents,
        StatusCode::UNAUTHORIZED if asked_with_credentials => FetchError::AuthenticationFailed {
            detail:
                "the source answered 401; check `http.auth`, `http.headers` and `http.query`, and the Secrets they name"
                    .to_owned(),
        },
        StatusCode::UNAUTHORIZED => FetchError::AuthenticationFailed {
            detail: "the source answered 401 and wants credentials; set `http.auth`".to_owned(),
        },
        StatusCode::FORBIDDEN => forbidden(retry_after()),
        StatusCode::TOO_MANY_REQUESTS => FetchError::RateLimited { status: number, retry_after: retry_after() },
        // 304 answers a condition, and none was sent.
        status if status.is_redirection() && status != StatusCode::NOT_MODIFIED => {
            FetchError::Redirected { status: number }
        }
        _ => FetchError::ServerError { status: number, retry_after: retry_after() },
    })
}

/// With a wait it is a limit in other words, such as the secondary ones of GitHub.
fn forbidden(retry_after: Option<Duration>) -> FetchError {
    let detail = match retry_after {
        Some(_) => {
            "it asks to be left alone for a while; if that goes on, check `http.auth` and the rights of its credentials"
        }
        None => "this request may not read it; check `http.auth` and the rights of its credentials",
    };
    FetchError::Forbidden { detail: detail.to_owned(), retry_after }
}

/// 504, or 524 in the words of delivery networks: who answers has stopped waiting for whom it had asked. `None` for any other
/// status.
pub(super) fn gateway_timeout(status: StatusCode, headers: &HeaderMap, timeout: Duration) -> Option<FetchError> {
    let status = status.as_u16();
    let retry_after = || retry_after(headers, Timestamp::now());
    matches!(status, 504 | 524).then(|| FetchError::GatewayTimeout {
        status,
        retry_after: retry_after(),
        after: timeout,
    })
}

/// What `error` says of a request whose response was read to its end. Behind a gateway that stopped waiting it may go on, and
/// another one beside it would be a second one in flight (P1).
pub(super) fn read_to_end(error: FetchError, first_byte: Instant) -> Failure {
    let progress = match error {
        FetchError::GatewayTimeout { .. } => Progress::MayBeServed { first_byte: Some(first_byte) },
        _ => Progress::ReadToEnd { first_byte },
    };
    Failure { error, progress }
}

/// `Retry-After` in seconds or as a date. A date is measured from the `Date` of the same response where there is one, so
/// that it is the source's clock on both sides.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let sent = headers.get(DATE).and_then(|value| date(value.to_str().ok()?)).unwrap_or(now);
        Duration::try_from(date(text)?.duration_since(sent)).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

/// A date in any form of RFC 9110, 5.6.7, the two obsolete ones too, which a recipient must understand. The first parser takes
/// more than the form of today, such as `+0000` for `GMT`; the second one nothing else than the three.
fn date(text: &str) -> Option<Timestamp> {
    let strict = || Timestamp::try_from(httpdate::parse_http_date(text).ok()?).ok();
    DateTimeParser::new().parse_timestamp(text).ok().or_else(strict)
}

/// The request that `connection` was armed for broke, with `error` or because its time was over (`None`).
pub(super) fn broken(connection: &Connection, error: Option<&hyper::Error>, timeout: Duration) -> Failure {
    let endpoint = &connection.endpoint;
    match connection.line.reach() {
        Reach::NeverLeft(Kept::PermitExpired) => never_left(FetchError::PermitExpired),
        Reach::NeverLeft(Kept::Dead) if connection.has_served() => never_left(FetchError::ClosedWhileIdle),
        Reach::NeverLeft(Kept::Dead) => never_left(closed_unused(endpoint, error.or_else(|| connection.error()))),
        Reach::Left { first_byte } => Failure {
            error: match error {
                None => FetchError::Timeout { after: timeout },
                Some(error) if connection.has_served() => explain_behind_an_answer(endpoint, error),
                Some(error) => explain(endpoint, error),
            },
            progress: Progress::MayBeServed { first_byte },
        },
    }
}

/// A new connection ended before its first request left. Under TLS 1.3 a server judges our certificate, or that we have none,
/// when the handshake is over for us.
fn closed_unused(endpoint: &Endpoint, error: Option<&hyper::Error>) -> FetchError {
    match error.and_then(|error| tls::rustls_error(error)) {
        Some(error) => FetchError::TlsFailed { detail: tls::explain(endpoint, error) },
        None => FetchError::ConnectionFailed {
            detail: format!(
                "{endpoint} did not wait for the first request on a new connection; nothing was sent on it"
            ),
        },
    }
}

pub(super) fn never_left(error: FetchError) -> Failure {
    Failure { error, progress: Progress::NeverLeft }
}

/// An error of hyper in words. Its own texts hold no content, but tell users little.
pub(super) fn explain(endpoint: &Endpoint, error: &hyper::Error) -> FetchError {
    match tls::rustls_error(error) {
        // Under TLS 1.3 a server judges the handshake when it is over for us.
        Some(error @ rustls::Error::AlertReceived(_)) => {
            return FetchError::TlsFailed { detail: tls::explain(endpoint, error) };
        }
        Some(error) => return tls::broke_off(endpoint, error),
        None => {}
    }
    let too_much = io_kind(error) == Some(io::ErrorKind::QuotaExceeded);
    let detail = if error.is_parse_too_large() || too_much {
        format!("the head of the answer of {endpoint} is too large")
    } else if error.is_parse() {
        format!("the answer of {endpoint} is not HTTP/1.1")
    } else {
        match io_kind(error) {
            Some(io::ErrorKind::TimedOut) => format!("the network to {endpoint} stopped acknowledging"),
            Some(io::ErrorKind::ConnectionReset) => format!("{endpoint} reset the connection"),
            None | Some(io::ErrorKind::UnexpectedEof) => {
                format!("{endpoint} closed the connection before its answer was complete")
            }
            Some(kind) => format!("the connection to {endpoint} broke ({kind})"),
        }
    };
    FetchError::ConnectionFailed { detail }
}

/// As [`explain`], where the connection had brought an answer, or the head of one.
pub(super) fn explain_behind_an_answer(endpoint: &Endpoint, error: &hyper::Error) -> FetchError {
    match tls::rustls_error(error) {
        Some(error) => tls::broke_off(endpoint, error),
        None => explain(endpoint, error),
    }
}

fn io_kind(error: &hyper::Error) -> Option<io::ErrorKind> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        source = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use rstest::rstest;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn headers(retry_after: &str, date: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(retry_after).expect("a header value"));
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::from_str(date).expect("a header value"));
        }
        headers
    }

    #[rstest]
    #[case::seconds("7", None, Some(7))]
    #[case::more_than_a_day("100000", None, Some(86_400))]
    #[case::more_than_fits("99999999999999999999999", None, Some(86_400))]
    #[case::a_date_by_our_clock("Sun, 06 Nov 1994 08:49:47 GMT", None, Some(10))]
    #[case::a_date_by_the_clock_of_the_source(
        "Sun, 06 Nov 2044 08:49:57 GMT",
        Some("Sun, 06 Nov 2044 08:49:37 GMT"),
        Some(20)
    )]
    #[case::a_date_of_rfc_850("Sunday, 06-Nov-94 08:49:47 GMT", None, Some(10))]
    #[case::a_date_of_asctime("Sun Nov  6 08:49:47 1994", Some("Sun Nov  6 08:49:27 1994"), Some(20))]
    #[case::a_date_with_an_offset("Sun, 6 Nov 1994 10:49:47 +0200", None, Some(10))]
    #[case::a_date_that_has_passed("Sun, 06 Nov 1994 08:00:00 GMT", None, Some(0))]
    #[case::nonsense("soon", None, None)]
    #[case::empty("", None, None)]
    fn retry_after_is_read_in_every_form(#[case] text: &str, #[case] date: Option<&str>, #[case] seconds: Option<u64>) {
        let now: Timestamp = "1994-11-06T08:49:37Z".parse().expect("a time");
        assert_eq!(retry_after(&headers(text, date), now), seconds.map(Duration::from_secs));
    }

    #[rstest]
    #[case(301)]
    #[case(302)]
    #[case(303)]
    #[case(307)]
    #[case(308)]
    fn a_redirect_is_a_failure(#[case] status: u16) {
        let code = StatusCode::from_u16(status).expect("a status");
        assert_eq!(judge(code, &HeaderMap::new(), false, TIMEOUT), Meaning::Failed(FetchError::Redirected { status }));
    }

    #[rstest]
    #[case(206)]
    #[case(304)]
    #[case(404)]
    #[case(410)]
    #[case(500)]
    fn a_status_that_brings_no_page_is_named(#[case] status: u16) {
        let code = StatusCode::from_u16(status).expect("a status");
        let error = FetchError::ServerError { status, retry_after: None };
        assert_eq!(judge(code, &HeaderMap::new(), false, TIMEOUT), Meaning::Failed(error));
    }
}
