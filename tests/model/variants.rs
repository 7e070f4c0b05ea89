//! The protocol as built, the ways to break it that the model must tell from it, and the worlds it is not made for.

use crate::{
    properties::{ATOMIC, GAP, NO_OVERLAP, ONCE},
    protocol::Times,
};

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Built,
    Broken(Broken),
    Outside(Outside),
}

/// One rule left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Whoever believes in its Lease sends, by a timer of its own; the row compares the cursor alone.
    LeaseOnly,
    /// RESERVE asks for the gap and not for a request in flight.
    NoInFlightDeadline,
    /// SEND whenever the answer of RESERVE comes.
    NoSendCheck,
    /// The permit is checked, and then the request is written: a pause may fall between.
    CheckThenSend,
    /// COMMIT compares the cursor and not the attempt.
    CommitByCursor,
    /// A request that the client ends is closed in the row.
    AbortReleases,
    /// Attempts are counted in the row, and a reset makes the row anew.
    TokensRepeat,
    /// The gap counts from the slot of the grant and not from the first byte.
    GapFromTheSlot,
    /// COMMIT compares the attempt and neither cursor nor part.
    CommitByAttempt,
}

/// A world in which the assumptions of the protocol do not hold: what remains possible, and is said in the documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outside {
    /// The source goes on serving a peer of which it hears nothing for longer than D.
    SilentPeerServedBeyondDeadline,
    /// Request bytes travel for longer than D.
    SlowWay,
    /// A replica streams a body for longer than D while its EXTEND does not reach the database.
    StoreOutOfReach,
}

impl Variant {
    pub(crate) fn is(self, broken: Broken) -> bool {
        self == Self::Broken(broken)
    }
}

impl Broken {
    pub(crate) const ALL: [Self; 9] = [
        Self::LeaseOnly,
        Self::NoInFlightDeadline,
        Self::NoSendCheck,
        Self::CheckThenSend,
        Self::CommitByCursor,
        Self::AbortReleases,
        Self::TokensRepeat,
        Self::GapFromTheSlot,
        Self::CommitByAttempt,
    ];

    /// The promises that it must be seen to break.
    pub(crate) fn breaks(self) -> &'static [&'static str] {
        match self {
            Self::LeaseOnly | Self::NoSendCheck | Self::CheckThenSend => &[NO_OVERLAP, GAP, ONCE],
            Self::NoInFlightDeadline => &[NO_OVERLAP, ONCE],
            Self::CommitByCursor | Self::TokensRepeat => &[NO_OVERLAP, GAP],
            Self::AbortReleases => &[NO_OVERLAP],
            Self::GapFromTheSlot => &[GAP],
            Self::CommitByAttempt => &[ATOMIC],
        }
    }

    /// The faults it needs: most rules are there for pauses alone.
    pub(crate) fn faults(self) -> u8 {
        u8::from(matches!(self, Self::AbortReleases | Self::TokensRepeat | Self::CommitByAttempt))
    }
}

impl Outside {
    pub(crate) const ALL: [Self; 3] = [Self::SilentPeerServedBeyondDeadline, Self::SlowWay, Self::StoreOutOfReach];

    pub(crate) fn times(self) -> Times {
        let usual = Times::usual();
        match self {
            Self::SilentPeerServedBeyondDeadline => Times { serves_silent_peer: usual.in_flight + 1, ..usual },
            Self::SlowWay => Times { on_its_way: usual.in_flight + 1, ..usual },
            Self::StoreOutOfReach => usual,
        }
    }

    pub(crate) fn breaks(self) -> &'static [&'static str] {
        match self {
            Self::SilentPeerServedBeyondDeadline | Self::StoreOutOfReach => &[NO_OVERLAP],
            Self::SlowWay => &[NO_OVERLAP, GAP],
        }
    }
}
