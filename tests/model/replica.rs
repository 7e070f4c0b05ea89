//! What a replica does with one source: src/loader, reserve.rs to append.rs.

use crate::{
    properties::Milestone,
    protocol::{Protocol, State, Step},
    row::{Append, Appended, Token},
    source::{Request, Stage, ids},
    variants::Broken,
};

/// Where a replica is in its pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    Idle,
    Connected,
    /// The row has granted a reservation; the answer is on its way. `closes` is none once the send limit has passed.
    Granted {
        token: Token,
        wait: u8,
        closes: Option<u8>,
    },
    /// The answer came, and there is a permit (src/permit.rs).
    Permitted {
        token: Token,
        opens: u8,
        closes: Option<u8>,
    },
    /// The permit was checked and the request is not yet written. Only where these are two steps.
    Checked {
        token: Token,
    },
    Reading(Response),
    /// The response is over, and what is left of it is to be committed. `closes`: it was read to its end.
    Holding {
        response: Response,
        closes: bool,
    },
    /// ABORT of an attempt that provably is not in flight.
    Owing {
        token: Token,
        next_start: u8,
    },
}

/// What a replica has of a response.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Response {
    pub(crate) token: Token,
    /// The next append of this attempt.
    pub(crate) part: u8,
    pub(crate) received: u8,
    /// Since the first byte, up to `min_interval`. It comes as soon as the request is at the source, which is the worst
    /// case: a later one only widens the gap.
    pub(crate) first_byte: u8,
    /// The end of an append whose answer was lost: it comes again before any other.
    pub(crate) trying: Option<u8>,
}

impl Response {
    /// COMMIT of what came since `cursor_before`.
    pub(crate) fn append(&self, cursor_before: u8, close: Option<u8>) -> Append {
        Append { attempt: self.token, part: self.part, cursor_before, cursor_after: self.received, close }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Replica {
    /// Whether holder and fence of the row are the ones it knows.
    pub(crate) fence_is_mine: bool,
    pub(crate) cursor: u8,
    pub(crate) phase: Phase,
    /// The replica's own timer, where that is all there is.
    pub(crate) rest: u8,
}

impl Replica {
    pub(crate) fn new() -> Self {
        Self { fence_is_mine: false, cursor: 0, phase: Phase::Idle, rest: 0 }
    }

    pub(crate) fn token(&self) -> Option<Token> {
        match &self.phase {
            Phase::Idle | Phase::Connected => None,
            Phase::Granted { token, .. }
            | Phase::Permitted { token, .. }
            | Phase::Checked { token }
            | Phase::Owing { token, .. } => Some(*token),
            Phase::Reading(response) | Phase::Holding { response, .. } => Some(response.token),
        }
    }

    /// A reset takes the token from the row, and no later one of the row is this one.
    pub(crate) fn lose_token(&mut self) {
        if let Phase::Granted { token, .. } | Phase::Permitted { token, .. } = &mut self.phase {
            *token = Token::TAKEN;
        }
    }

    /// ADOPT tells the cursor.
    pub(crate) fn forget_what_it_will_be_told(&mut self) {
        if self.phase == Phase::Idle && !self.fence_is_mine {
            self.cursor = 0;
        }
    }

    pub(crate) fn tick(&mut self, min_interval: u8) {
        self.rest = self.rest.saturating_sub(1);
        match &mut self.phase {
            Phase::Granted { closes, .. } => *closes = closes.and_then(|left| left.checked_sub(1)),
            Phase::Permitted { opens, closes, .. } => {
                *opens = opens.saturating_sub(1);
                *closes = closes.and_then(|left| left.checked_sub(1));
            }
            Phase::Reading(response) | Phase::Holding { response, .. } => {
                response.first_byte = (response.first_byte + 1).min(min_interval);
            }
            Phase::Owing { next_start, .. } => *next_start = next_start.saturating_sub(1),
            Phase::Idle | Phase::Connected | Phase::Checked { .. } => {}
        }
    }
}

impl Protocol {
    /// Whether it tries. Who has adopted last is not told that another has, and with the Lease alone everybody tries.
    pub(crate) fn believes(&self, replica: &Replica) -> bool {
        replica.fence_is_mine || self.variant.is(Broken::LeaseOnly)
    }

    pub(crate) fn replica_steps(&self, state: &mut State, step: Step) {
        match step {
            Step::Adopt(it) => {
                for (other, replica) in state.replicas.iter_mut().enumerate() {
                    replica.fence_is_mine = other == it;
                }
                state.replicas[it].cursor = state.row.cursor;
            }
            Step::Connect(it) => state.replicas[it].phase = Phase::Connected,
            Step::Reserve(it) => self.reserve(state, it, None),
            Step::ReserveClosing(it) => {
                if let Phase::Owing { token, next_start } = state.replicas[it].phase {
                    self.reserve(state, it, Some((token, next_start)));
                }
            }
            Step::ReserveAnswered(it) => {
                if let Phase::Granted { token, wait, closes } = state.replicas[it].phase {
                    state.replicas[it].phase = Phase::Permitted { token, opens: wait, closes };
                }
            }
            Step::ReserveAnswerLost(it) => {
                state.faults_left -= 1;
                if let Phase::Granted { token, .. } = state.replicas[it].phase {
                    state.replicas[it].phase = Phase::Owing { token, next_start: self.times.at_most_ahead };
                    self.pass(state, Milestone::GrantLost);
                }
            }
            Step::Check(it) => {
                if let Phase::Permitted { token, opens: 0, closes: Some(_) } = state.replicas[it].phase {
                    state.replicas[it].phase = Phase::Checked { token };
                }
            }
            Step::Send(it) => self.send(state, it),
            Step::NeverLeft(it) => {
                if let Phase::Permitted { token, opens, closes } = state.replicas[it].phase {
                    state.replicas[it].phase = Phase::Owing { token, next_start: opens };
                    if closes.is_none() {
                        self.pass(state, Milestone::PermitTooLate);
                    }
                }
            }
            Step::Abort(it) => {
                if let Phase::Owing { token, next_start } = state.replicas[it].phase {
                    state.row.abort(self.variant, token, next_start);
                    state.replicas[it].phase = Phase::Idle;
                }
            }
            Step::DropAbort(it) => state.replicas[it].phase = Phase::Idle,
            Step::Reset(it) => {
                state.faults_left -= 1;
                self.rewind(state);
                state.replicas[it].fence_is_mine = true;
                state.replicas[it].cursor = 0;
            }
            Step::FenceOff(it) => {
                state.faults_left -= u8::from(state.replicas[it].fence_is_mine);
                state.replicas[it].fence_is_mine = false;
            }
            Step::Crash(it) => self.crash(state, it),
            Step::CrashInAppend(it) => self.crash_in_append(state, it),
            _ => self.response_steps(state, step),
        }
    }

    /// The statement reaches the row at once: one that is under way for longer only leaves less of the permit.
    fn reserve(&self, state: &mut State, it: usize, ended: Option<(Token, u8)>) {
        if self.variant.is(Broken::LeaseOnly) {
            let replica = &mut state.replicas[it];
            replica.cursor = state.row.cursor;
            replica.phase = Phase::Permitted { token: Token::NOBODYS, opens: replica.rest, closes: None };
            return;
        }
        let mine = Token(u8::try_from(it).unwrap_or_default());
        if !self.variant.is(Broken::TokensRepeat) && ended.is_none() {
            // Whatever still carries an older token of this replica: this one is another.
            state.row.forget_what_nobody_can_ask(|token| token != mine);
        }
        let was_open = state.row.deadline > 0 && ended.is_some_and(|(token, _)| state.row.attempt == Some(token));
        let replica = &mut state.replicas[it];
        match state.row.reserve(self.variant, &self.times, replica.fence_is_mine, replica.cursor, mine, ended) {
            Some(wait) => {
                let token = state.row.attempt.unwrap_or(mine);
                replica.phase = Phase::Granted { token, wait, closes: Some(wait + self.times.send_within) };
                if was_open {
                    self.pass(state, Milestone::ClosedByTheNext);
                }
            }
            None if replica.fence_is_mine && replica.cursor == state.row.cursor => {}
            None => {
                if !replica.fence_is_mine {
                    self.pass(state, Milestone::FencedReserveRefused);
                }
                // Adopts it again.
                state.replicas[it].fence_is_mine = false;
                state.replicas[it].phase = Phase::Idle;
            }
        }
    }

    fn send(&self, state: &mut State, it: usize) {
        let unchecked = self.variant.is(Broken::NoSendCheck) || self.variant.is(Broken::LeaseOnly);
        let token = match state.replicas[it].phase {
            Phase::Permitted { token, opens: 0, closes } if closes.is_some() || unchecked => token,
            Phase::Checked { token } => token,
            _ => return,
        };
        let replica = &mut state.replicas[it];
        let after = replica.cursor;
        let response = Response { token, part: 0, received: after, first_byte: 0, trying: None };
        replica.phase = Phase::Reading(response);
        replica.rest = self.rest();
        state.source.requests.push(Request {
            by: Some(it),
            after,
            sent_to: after,
            stage: Stage::OnItsWay(self.times.on_its_way),
            heard_of: self.times.serves_silent_peer,
            // A request that was reserved before a reset and sent after it belongs to what the reset repeats.
            excused: token == Token::TAKEN,
        });
        for (already, now) in Milestone::SENT_AFTER {
            if state.passed & already.bit() != 0 && (now != Milestone::PrefixSurvives || after > 0) {
                self.pass(state, now);
            }
        }
    }

    fn crash(&self, state: &mut State, it: usize) {
        state.faults_left -= 1;
        let committed_to = state.row.cursor;
        if let Phase::Reading(response) = &state.replicas[it].phase
            && response.part > 0
            && state.row.attempt == Some(response.token)
        {
            self.pass(state, Milestone::CrashAfterPrefix);
        }
        if let Some(at) = state.source.sent_by(it) {
            state.source.excuse(at, committed_to);
            self.pass(state, Milestone::CrashInFlight);
        }
        state.source.leave(it);
        state.replicas[it] = Replica::new();
    }

    fn crash_in_append(&self, state: &mut State, it: usize) {
        let (response, close) = match &state.replicas[it].phase {
            Phase::Reading(response) => (response, None),
            Phase::Holding { response, closes } => (response, closes.then(|| self.next_start(response))),
            _ => return,
        };
        let (token, append) = (response.token, response.append(state.replicas[it].cursor, close));
        if state.under_way.is_some() || self.variant.is(Broken::TokensRepeat) {
            return;
        }
        state.row.rename(token, Token::OF_THE_DEAD);
        state.under_way = Some(Append { attempt: Token::OF_THE_DEAD, ..append });
        self.crash(state, it);
    }

    /// Ends the pass of a replica.
    pub(crate) fn end_pass(&self, state: &mut State, it: usize) {
        state.source.leave(it);
        state.replicas[it].phase = Phase::Idle;
        state.replicas[it].rest = self.rest();
    }

    /// Of a timer that only counts where the row does not.
    fn rest(&self) -> u8 {
        if self.variant.is(Broken::LeaseOnly) { self.times.min_interval } else { 0 }
    }

    /// One COMMIT in the row and in the store.
    pub(crate) fn append_to_row(&self, state: &mut State, fence_is_mine: bool, append: Append) -> Appended {
        let before_deadline = state.row.deadline > 0;
        let answer = state.row.append(self.variant, &self.times, append);
        if answer == Appended::Applied {
            let appended = ids(append.cursor_before, append.cursor_after);
            state.stored_twice |= state.stored & appended != 0;
            state.stored |= appended;
            state.source.fresh &= !appended;
            if appended != 0 && !before_deadline {
                self.pass(state, Milestone::LateCommit);
            }
            if appended != 0 && !fence_is_mine {
                self.pass(state, Milestone::CommitOfFencedHolder);
            }
        }
        answer
    }
}
