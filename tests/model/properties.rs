//! What must hold in every state, and what must be reachable so that it means something.

use stateright::Property;

use crate::{
    protocol::{Protocol, State},
    source::ids,
};

/// P1.
pub(crate) const NO_OVERLAP: &str = "P1 the source serves at most one request";
/// P2.
pub(crate) const GAP: &str = "P2 requests arrive at least minInterval apart";
/// P3.
pub(crate) const ONCE: &str =
    "P3 an id is transported again only after a crash, a silence past the deadline, an unusable response or a reset";
/// P4.
pub(crate) const ATOMIC: &str = "P4 the store holds each event up to the cursor once";

/// The promises of DESIGN 2 that the row protocol makes.
pub(crate) fn promised() -> Vec<Property<Protocol>> {
    vec![
        Property::always(NO_OVERLAP, |_, state: &State| state.source.serving() <= 1),
        Property::always(GAP, |_, state: &State| !state.source.too_soon),
        Property::always(ONCE, |_, state: &State| !state.source.repeated),
        Property::always(ATOMIC, |_, state: &State| !state.stored_twice && state.stored == ids(0, state.row.cursor)),
    ]
}

/// What must happen on some way through the model: a model in which it cannot would keep every promise and prove nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Milestone {
    CrashInFlight,
    Takeover,
    CrashAfterPrefix,
    PrefixSurvives,
    GivenUp,
    WaitedOut,
    LateCommit,
    CommitOfFencedHolder,
    CommitOfTheDead,
    FencedReserveRefused,
    PermitTooLate,
    GrantLost,
    AppendedBefore,
    Superseded,
    ClosedByTheNext,
}

impl Milestone {
    /// A request that is sent after the first is the second.
    pub(crate) const SENT_AFTER: [(Self, Self); 3] = [
        (Self::CrashInFlight, Self::Takeover),
        (Self::CrashAfterPrefix, Self::PrefixSurvives),
        (Self::GivenUp, Self::WaitedOut),
    ];

    pub(crate) fn bit(self) -> u16 {
        1 << self as u16
    }
}

fn passed(state: &State, milestone: Milestone) -> bool {
    state.passed & milestone.bit() != 0
}

/// One property for each milestone.
pub(crate) fn reachable() -> Vec<Property<Protocol>> {
    use Milestone as M;
    vec![
        Property::sometimes("a source goes on after a crash in flight", |_, it| passed(it, M::Takeover)),
        Property::sometimes("a committed prefix outlives the crash of its sender", |_, it| {
            passed(it, M::PrefixSurvives)
        }),
        Property::sometimes("a source goes on after a request that was given up", |_, it| passed(it, M::WaitedOut)),
        Property::sometimes("a commit after its deadline is accepted", |_, it| passed(it, M::LateCommit)),
        Property::sometimes("a commit of a fenced holder is accepted", |_, it| passed(it, M::CommitOfFencedHolder)),
        Property::sometimes("a commit of a dead replica is accepted", |_, it| passed(it, M::CommitOfTheDead)),
        Property::sometimes("a reservation of a fenced holder is refused", |_, it| passed(it, M::FencedReserveRefused)),
        Property::sometimes("a permit comes too late to be spent", |_, it| passed(it, M::PermitTooLate)),
        Property::sometimes("the answer of a granted reservation is lost", |_, it| passed(it, M::GrantLost)),
        Property::sometimes("an append whose answer was lost is known again", |_, it| passed(it, M::AppendedBefore)),
        Property::sometimes("a response is superseded", |_, it| passed(it, M::Superseded)),
        Property::sometimes("a reservation closes the attempt before it", |_, it| passed(it, M::ClosedByTheNext)),
        Property::sometimes("everything is stored", |model: &Protocol, it: &State| {
            it.stored == ids(0, model.bounds.events)
        }),
    ]
}
