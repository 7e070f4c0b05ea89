//! What is answered to one request, and the sending of it with an exact account.

use std::time::Duration;

use tokio::net::TcpStream;

use super::{
    fault::Fault,
    feed::Feed,
    wire::{self, Unread},
};
use crate::{
    access_log::{Access, Delivered, RetryAfter},
    clock,
};

/// Pieces a slow body is sent in.
const SLOW_PIECES: usize = 20;

/// Stands in a header and in the body of every answer that brings no usable event: whoever repeats it in a log, a
/// condition or an error has shown what a source sent.
pub const UNSPEAKABLE: &str = "hunter2";

/// The plan of one answer.
pub(super) struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// For each event of the body in written order: its index, and where its last byte ends.
    events: Vec<(u64, usize)>,
    manner: Manner,
    /// How long the first byte is waited for.
    thinks_for: Duration,
    retry_after: Option<RetryAfter>,
}

/// How the body goes out.
enum Manner {
    AtOnce,
    Over(Duration),
    CutAfter(usize),
    /// Nothing, and the end of the request is noticed this late.
    Never {
        noticed_after: Duration,
    },
}

/// Decides what is answered.
pub(super) fn plan(feed: &Feed, fault: Option<&Fault>, after: u64, limit: u64, available: u64) -> Answer {
    let page = |after: u64, limit: u64| (after + 1..=available.min(after.saturating_add(limit))).collect::<Vec<_>>();
    match fault {
        None => Answer::page(feed, &page(after, limit)),
        Some(Fault::Status(status)) => Answer::status(*status),
        Some(Fault::RateLimited { seconds, as_date }) => {
            let asked = RetryAfter { seconds: *seconds, as_date: *as_date };
            let mut answer = Answer { retry_after: Some(asked), ..Answer::status(429) };
            answer.headers.extend(retry_after(asked));
            answer
        }
        Some(Fault::Redirect) => {
            let mut answer = Answer::status(302);
            answer.headers.push(("location", format!("/{}/events?redirected=yes", feed.name)));
            answer
        }
        Some(Fault::SlowBody { ms }) => {
            let mut answer = Answer::page(feed, &page(after, limit));
            answer.manner = Manner::Over(Duration::from_millis(*ms));
            answer
        }
        Some(Fault::CutBody { share }) => Answer::page(feed, &page(after, limit)).cut_after(*share),
        Some(Fault::NeverAnswers) => Answer::never(Duration::ZERO),
        Some(Fault::NoticesLate { ms }) => Answer::never(Duration::from_millis(*ms)),
        Some(Fault::Thinks { ms }) => {
            Answer { thinks_for: Duration::from_millis(*ms), ..Answer::page(feed, &page(after, limit)) }
        }
        Some(Fault::Unsorted) => Answer::page(feed, &page(after, limit).into_iter().rev().collect::<Vec<_>>()),
        Some(Fault::Repeats) => {
            Answer::page(feed, &page(after, limit).into_iter().flat_map(|index| [index, index]).collect::<Vec<_>>())
        }
        Some(Fault::MoreThanAsked) => Answer::page(feed, &page(after, limit.saturating_mul(2))),
        Some(Fault::IgnoresAfterId) => Answer::page(feed, &page(0, limit)),
        Some(Fault::BadItem) => {
            Answer::page_with_bad_item(feed, &page(after, limit), format!("{{\"type\":\"{UNSPEAKABLE}\"}}"))
        }
        // From the first page a stream would learn that its ids are no numbers.
        Some(Fault::NoNumber) if after == 0 => Answer::page(feed, &page(after, limit)),
        Some(Fault::NoNumber) => {
            Answer::page_with_bad_item(feed, &page(after, limit), format!("{{\"id\":\"{UNSPEAKABLE}\"}}"))
        }
        Some(Fault::OtherContent) => Answer::items(page(after, limit).iter().map(|&index| {
            let other = feed.event(index).replacen("order.placed", UNSPEAKABLE, 1);
            (Some(index), other)
        })),
        Some(Fault::NotJson) => Answer::text(format!("<html>{UNSPEAKABLE}</html>")),
        Some(Fault::WrongShape) => Answer::text(format!("{{\"data\":[{{\"id\":1}}],\"errors\":[\"{UNSPEAKABLE}\"]}}")),
        Some(Fault::Padding { bytes }) => Answer::text(format!("[{}]", " ".repeat(*bytes))),
    }
}

/// A date comes with the `Date` of the answer, as from any server with a clock (RFC 9110, 6.6.1).
fn retry_after(RetryAfter { seconds, as_date }: RetryAfter) -> Vec<(&'static str, String)> {
    if !as_date {
        return vec![("retry-after", seconds.to_string())];
    }
    let now = jiff::Timestamp::now();
    let date = |time: jiff::Timestamp| time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    vec![("date", date(now)), ("retry-after", date(now + jiff::SignedDuration::from_secs(i64::from(seconds))))]
}

impl Answer {
    /// An answer without events.
    pub(super) fn status(status: u16) -> Self {
        let body = format!("{{\"status\":{status},\"detail\":\"{UNSPEAKABLE}\"}}");
        Self { status, ..Self::text(body) }
    }

    fn never(noticed_after: Duration) -> Self {
        Self { manner: Manner::Never { noticed_after }, ..Self::status(200) }
    }

    fn text(body: String) -> Self {
        let headers = vec![("x-note", UNSPEAKABLE.to_owned())];
        Self { headers, body: body.into_bytes(), ..Self::items(std::iter::empty()) }
    }

    fn page(feed: &Feed, indexes: &[u64]) -> Self {
        Self::items(indexes.iter().map(|&index| (Some(index), feed.event(index))))
    }

    fn page_with_bad_item(feed: &Feed, indexes: &[u64], bad: String) -> Self {
        let middle = indexes.len() / 2;
        let mut bad = Some(bad);
        Self::items(indexes.iter().enumerate().map(move |(place, &index)| match bad.take_if(|_| place == middle) {
            Some(bad) => (None, bad),
            None => (Some(index), feed.event(index)),
        }))
    }

    /// Only this share of the body goes out, and never all of it.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share needs no more"
    )]
    fn cut_after(mut self, share: f64) -> Self {
        let cut = (self.body.len() as f64 * share) as usize;
        self.manner = Manner::CutAfter(cut.min(self.body.len() - 1));
        self
    }

    fn items(items: impl Iterator<Item = (Option<u64>, String)>) -> Self {
        let mut body = vec![b'['];
        let mut events = Vec::new();
        for (index, text) in items {
            if body.len() > 1 {
                body.push(b',');
            }
            body.extend_from_slice(text.as_bytes());
            events.extend(index.map(|index| (index, body.len())));
        }
        body.push(b']');
        let (manner, thinks_for) = (Manner::AtOnce, Duration::ZERO);
        Self { status: 200, headers: Vec::new(), body, events, manner, thinks_for, retry_after: None }
    }

    /// Sends it and writes into `access` what the network stack took.
    pub(super) async fn send(
        self,
        stream: &mut TcpStream,
        unread: &mut Unread,
        access: &mut Access,
    ) -> std::io::Result<()> {
        access.status = self.status;
        // Whatever the peer sends or closes ends it; what it sends is the next request.
        if let Manner::Never { noticed_after } = self.manner {
            let gone = unread.read_more(stream).await;
            tokio::time::sleep(noticed_after).await;
            return gone.map(drop);
        }
        if !self.thinks_for.is_zero()
            && let Ok(gone) = tokio::time::timeout(self.thinks_for, unread.read_more(stream)).await
        {
            return gone.map(drop);
        }
        let length = self.body.len().to_string();
        let mut headers = vec![("content-type", "application/json"), ("content-length", length.as_str())];
        headers.extend(self.headers.iter().map(|(name, value)| (*name, value.as_str())));
        access.first_byte = Some(clock::now_us());
        wire::write_whole(stream, &wire::head(self.status, &headers)).await?;
        access.retry_after = self.retry_after;
        let (written, sent) = self.send_body(stream).await;
        let taken: Vec<u64> = self.events.iter().filter(|(_, end)| *end <= written).map(|(index, _)| *index).collect();
        access.delivered = Delivered::runs(&taken);
        access.complete = written == self.body.len();
        sent
    }

    async fn send_body(&self, stream: &mut TcpStream) -> (usize, std::io::Result<()>) {
        match self.manner {
            Manner::AtOnce => wire::write_counted(stream, &self.body).await,
            Manner::CutAfter(cut) => wire::write_counted(stream, &self.body[..cut]).await,
            Manner::Over(time) => {
                let mut written = 0;
                for piece in self.body.chunks(self.body.len().div_ceil(SLOW_PIECES)) {
                    tokio::time::sleep(time / u32::try_from(SLOW_PIECES).expect("a small constant")).await;
                    let (count, sent) = wire::write_counted(stream, piece).await;
                    written += count;
                    if sent.is_err() {
                        return (written, sent);
                    }
                }
                (written, Ok(()))
            }
            Manner::Never { .. } => (0, Ok(())),
        }
    }
}
