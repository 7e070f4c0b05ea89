//! Reading a response, EXTEND beside it, and COMMIT of what it brought: src/loader/exchange.rs and append.rs.

use crate::{
    properties::Milestone,
    protocol::{Protocol, State, Step},
    replica::{Phase, Response},
    row::{Appended, Token},
    source::Stage,
    variants::Broken,
};

impl Protocol {
    pub(crate) fn response_steps(&self, state: &mut State, step: Step) {
        match step {
            Step::Extend(it) => self.extend(state, it),
            Step::StreamOn(it) => {
                if let Some(request) = state.source.of(it)
                    && request.stage == Stage::Serving
                {
                    request.heard_of = self.times.serves_silent_peer;
                }
            }
            Step::GiveUp { replica, extended } => self.give_up(state, replica, extended),
            Step::AppendPrefix(it) => self.append_prefix(state, it, false),
            Step::AppendPrefixAnswerLost(it) => self.append_prefix(state, it, true),
            Step::Append(it) => self.append_rest(state, it, false),
            Step::AppendAnswerLost(it) => self.append_rest(state, it, true),
            Step::AppendAgain(it) => self.append_again(state, it),
            Step::ErrorRead(it) => self.error_read(state, it),
            _ => {}
        }
    }

    /// The source ends a response, or cuts it.
    pub(crate) fn end_body(&self, state: &mut State, at: usize, whole: bool) {
        state.source.requests[at].stage = Stage::Over;
        let Some(it) = state.source.requests[at].by else {
            state.source.requests.remove(at);
            return;
        };
        self.hear_the_end(state, it, whole);
    }

    /// The replica sees that its response is over.
    pub(crate) fn hear_the_end(&self, state: &mut State, it: usize, whole: bool) {
        if let Phase::Reading(response) = state.replicas[it].phase.clone() {
            state.replicas[it].phase = Phase::Holding { response, closes: whole };
            self.end_if_nothing_is_left(state, it);
        }
    }

    fn extend(&self, state: &mut State, it: usize) {
        let Phase::Reading(response) = state.replicas[it].phase.clone() else { return };
        if self.variant.is(Broken::LeaseOnly) || self.variant.is(Broken::NoInFlightDeadline) {
            return;
        }
        if !self.extend_row(state, it, response.token) {
            self.superseded(state, it);
        }
    }

    fn superseded(&self, state: &mut State, it: usize) {
        self.pass(state, Milestone::Superseded);
        state.replicas[it].fence_is_mine = false;
        self.end_pass(state, it);
    }

    /// The response is over for the replica, and perhaps not for the source: the row stays shut. What came since the last
    /// append is dropped; a cut body shows what happens where it is kept.
    fn give_up(&self, state: &mut State, it: usize, extended: bool) {
        state.faults_left -= 1;
        self.pass(state, Milestone::GivenUp);
        let Phase::Reading(response) = state.replicas[it].phase.clone() else { return };
        let committed_to = state.row.cursor;
        if let Some(at) = state.source.sent_by(it) {
            state.source.excuse(at, committed_to);
        }
        if extended {
            self.extend_row(state, it, response.token);
        }
        if self.variant.is(Broken::AbortReleases) {
            state.row.abort(self.variant, response.token, self.next_start(&response));
        }
        self.end_pass(state, it);
    }

    fn extend_row(&self, state: &mut State, it: usize, token: Token) -> bool {
        let extended = state.row.extend(token, self.times.in_flight);
        if extended && let Some(request) = state.source.of(it) {
            // Its sender lived until now, so the source goes on.
            request.heard_of = request.heard_of.max(self.times.serves_silent_peer);
        }
        extended
    }

    pub(crate) fn next_start(&self, response: &Response) -> u8 {
        self.times.min_interval - response.first_byte
    }

    fn append_prefix(&self, state: &mut State, it: usize, answer_lost: bool) {
        let Phase::Reading(response) = state.replicas[it].phase.clone() else { return };
        if response.trying.is_some() || response.received == state.replicas[it].cursor {
            return;
        }
        state.faults_left -= u8::from(answer_lost);
        let answer = self.append(state, it, &response, None);
        self.appended(state, it, response.received, answer, answer_lost, false);
    }

    fn append_rest(&self, state: &mut State, it: usize, answer_lost: bool) {
        let Phase::Holding { response, closes } = state.replicas[it].phase.clone() else { return };
        state.faults_left -= u8::from(answer_lost);
        let close = closes.then(|| self.next_start(&response));
        let answer = self.append(state, it, &response, close);
        if answer_lost && closes && response.received == state.replicas[it].cursor {
            // Nothing but the closing was lost: ABORT does that too.
            self.owe(state, it, &response);
            return;
        }
        self.appended(state, it, response.received, answer, answer_lost, closes);
    }

    /// An error that was read to its end.
    fn error_read(&self, state: &mut State, it: usize) {
        if let Phase::Holding { response, closes: true } = state.replicas[it].phase.clone()
            && response.received == state.replicas[it].cursor
        {
            self.owe(state, it, &response);
        }
    }

    fn owe(&self, state: &mut State, it: usize, response: &Response) {
        let next_start = self.next_start(response);
        self.end_pass(state, it);
        state.replicas[it].phase = Phase::Owing { token: response.token, next_start };
    }

    fn append(&self, state: &mut State, it: usize, response: &Response, close: Option<u8>) -> Appended {
        let append = response.append(state.replicas[it].cursor, close);
        let fence_is_mine = state.replicas[it].fence_is_mine;
        self.append_to_row(state, fence_is_mine, append)
    }

    /// What the replica makes of the answer.
    fn appended(&self, state: &mut State, it: usize, after: u8, answer: Appended, answer_lost: bool, closed: bool) {
        if answer_lost {
            if let Phase::Reading(response) | Phase::Holding { response, .. } = &mut state.replicas[it].phase {
                response.trying = Some(after);
            }
            return;
        }
        if answer == Appended::Refused {
            self.superseded(state, it);
            return;
        }
        let replica = &mut state.replicas[it];
        replica.cursor = after;
        if let Phase::Reading(response) | Phase::Holding { response, .. } = &mut replica.phase {
            response.part += 1;
            response.trying = None;
        }
        if closed {
            self.end_pass(state, it);
        } else {
            self.end_if_nothing_is_left(state, it);
        }
    }

    fn append_again(&self, state: &mut State, it: usize) {
        let (response, closes) = match state.replicas[it].phase.clone() {
            Phase::Reading(response) => (response, false),
            Phase::Holding { response, closes } => (response, closes),
            _ => return,
        };
        let Some(after) = response.trying else { return };
        // A row that is closed was closed by the try whose answer was lost.
        let closed = closes && state.row.attempt != Some(response.token);
        let again = Response { received: after, ..response };
        let close = closed.then(|| self.next_start(&again));
        let answer = self.append(state, it, &again, close);
        if answer == Appended::DoneBefore {
            self.pass(state, Milestone::AppendedBefore);
        }
        self.appended(state, it, after, answer, false, closed);
    }

    /// A response that may not be closed ends with its last append.
    fn end_if_nothing_is_left(&self, state: &mut State, it: usize) {
        if let Phase::Holding { response, closes: false } = &state.replicas[it].phase
            && response.trying.is_none()
            && response.received == state.replicas[it].cursor
        {
            self.end_pass(state, it);
        }
    }
}
