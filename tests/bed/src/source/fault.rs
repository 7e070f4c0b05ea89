//! What can go wrong with one request, chosen per request.

use serde::{Deserialize, Serialize};

/// One way to misbehave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Fault {
    /// Answers with this status and a small body.
    Status(u16),
    /// 429 with `Retry-After` in seconds, or as the date that many seconds ahead.
    RateLimited { seconds: u32, as_date: bool },
    /// Spreads the body over this many milliseconds.
    SlowBody { ms: u64 },
    /// Ends the connection in the middle of the body, after this share of its bytes.
    CutBody { share: f64 },
    /// 302 to another path of the same source.
    Redirect,
    /// Reads the request and never answers; ends when the client goes away.
    NeverAnswers,
    /// As [`Fault::NeverAnswers`], and notices this many milliseconds late that the client has gone: until then it serves.
    NoticesLate { ms: u64 },
    /// Sends the first byte only after this many milliseconds, if the client is still there.
    Thinks { ms: u64 },
    /// Sends the page in falling order.
    Unsorted,
    /// Sends each event of the page twice.
    Repeats,
    /// Sends twice as many events as were asked for.
    MoreThanAsked,
    /// Sends from the beginning, whatever `afterId` says.
    IgnoresAfterId,
    /// One item of the page (in its middle) has no id.
    BadItem,
    /// One item of each page but the first (in its middle) has a text for an id, where those of all others are numbers.
    NoNumber,
    /// Sends the events of the page with other content under the same ids.
    OtherContent,
    /// 200 with a page for people.
    NotJson,
    /// 200 with a JSON object in which two arrays may be the events.
    WrongShape,
    /// 200 with an array of this many spaces.
    Padding { bytes: usize },
}

/// The name of a fault, as it stands in the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FaultKind {
    None,
    Status,
    RateLimited,
    SlowBody,
    CutBody,
    Redirect,
    NeverAnswers,
    NoticesLate,
    Thinks,
    Unsorted,
    Repeats,
    MoreThanAsked,
    IgnoresAfterId,
    BadItem,
    NoNumber,
    OtherContent,
    NotJson,
    WrongShape,
    Padding,
}

impl From<Option<&Fault>> for FaultKind {
    fn from(fault: Option<&Fault>) -> Self {
        match fault {
            None => Self::None,
            Some(Fault::Status(_)) => Self::Status,
            Some(Fault::RateLimited { .. }) => Self::RateLimited,
            Some(Fault::SlowBody { .. }) => Self::SlowBody,
            Some(Fault::CutBody { .. }) => Self::CutBody,
            Some(Fault::Redirect) => Self::Redirect,
            Some(Fault::NeverAnswers) => Self::NeverAnswers,
            Some(Fault::NoticesLate { .. }) => Self::NoticesLate,
            Some(Fault::Thinks { .. }) => Self::Thinks,
            Some(Fault::Unsorted) => Self::Unsorted,
            Some(Fault::Repeats) => Self::Repeats,
            Some(Fault::MoreThanAsked) => Self::MoreThanAsked,
            Some(Fault::IgnoresAfterId) => Self::IgnoresAfterId,
            Some(Fault::BadItem) => Self::BadItem,
            Some(Fault::NoNumber) => Self::NoNumber,
            Some(Fault::OtherContent) => Self::OtherContent,
            Some(Fault::NotJson) => Self::NotJson,
            Some(Fault::WrongShape) => Self::WrongShape,
            Some(Fault::Padding { .. }) => Self::Padding,
        }
    }
}

/// A fault and how often it comes, between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chance {
    pub of: f64,
    pub fault: Fault,
}
