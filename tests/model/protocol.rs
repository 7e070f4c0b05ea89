//! The row protocol (DESIGN 4) as a state machine: several replicas that all believe to hold one source, its row, and the
//! source. Any of them may take any of its steps at any time or never, so a pause lies wherever one can lie: only what is
//! one statement, or the check of a permit with the write behind it, is one step.

use std::hash::Hash;

use stateright::{Model, Property};

use crate::{
    properties::{self, Milestone},
    replica::{Phase, Replica},
    row::{Append, Appended, Row, Token},
    source::{Source, Stage},
    variants::{Broken, Outside, Variant},
};

/// The times of the protocol, in ticks.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    /// G, from start to start as the source sees it.
    pub(crate) min_interval: u8,
    /// S, from the slot to the write.
    pub(crate) send_within: u8,
    /// D, from the last sign of the sender.
    pub(crate) in_flight: u8,
    /// A slot this far ahead is given.
    pub(crate) at_most_ahead: u8,
    /// A request is at the source at most this long after it was written.
    pub(crate) on_its_way: u8,
    /// The source serves a peer of which it hears nothing for at most this long, from the write on.
    pub(crate) serves_silent_peer: u8,
}

/// How far the model goes.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    pub(crate) replicas: usize,
    /// Events that the source has.
    pub(crate) events: u8,
    /// Events of one response at most.
    pub(crate) page: u8,
    /// Crashes, lost answers, cut bodies, given-up requests, resets and fences raised from outside, together.
    pub(crate) faults: u8,
}

/// One check: a protocol, the times it runs with, and how far.
#[derive(Clone, Debug)]
pub(crate) struct Protocol {
    pub(crate) variant: Variant,
    pub(crate) times: Times,
    pub(crate) bounds: Bounds,
    /// Look for what must be reachable, instead of what must not be.
    pub(crate) milestones: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) row: Row,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) source: Source,
    /// A COMMIT whose sender crashed, and that the database still runs.
    pub(crate) under_way: Option<Append>,
    pub(crate) faults_left: u8,
    /// Ids in the store since the last reset, as bits.
    pub(crate) stored: u8,
    /// An id was appended that was there.
    pub(crate) stored_twice: bool,
    /// What has happened on the way, if that is looked for.
    pub(crate) passed: u16,
}

/// The steps, named as the verbs of src/store/mod.rs and as DESIGN 4 names them. A number is a replica, or, where the
/// source acts, a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Tick,
    Adopt(usize),
    Connect(usize),
    /// The statement is issued, so the timer of S runs, and the row decides.
    Reserve(usize),
    /// The same statement, and it closes the attempt before: one that is over and that no statement was spent on.
    ReserveClosing(usize),
    ReserveAnswered(usize),
    ReserveAnswerLost(usize),
    /// Only where check and write are two steps.
    Check(usize),
    /// The permit is spent and the request written.
    Send(usize),
    /// The permit came too late, the connection was dead, or the task was told to stop.
    NeverLeft(usize),
    Arrive(usize),
    Serve(usize),
    EndBody(usize),
    CutBody(usize),
    Extend(usize),
    /// The client ends the request (`http.timeout`, an item it cannot use); the source may go on serving. `extended`: the
    /// EXTEND of a request that is given up reached the row.
    GiveUp {
        replica: usize,
        extended: bool,
    },
    /// COMMIT of a complete prefix; the attempt stays open.
    AppendPrefix(usize),
    AppendPrefixAnswerLost(usize),
    /// COMMIT of what is left; closes the attempt where that is allowed.
    Append(usize),
    AppendAnswerLost(usize),
    /// COMMIT again, after a lost answer.
    AppendAgain(usize),
    /// The response was an error or brought nothing, and was read to its end: ABORT instead of COMMIT, or the next RESERVE.
    ErrorRead(usize),
    Abort(usize),
    /// The task ends before its ABORT was answered: nobody sends it again.
    DropAbort(usize),
    Reset(usize),
    Forget,
    /// A replica is declared dead, rightly or not.
    FenceOff(usize),
    Crash(usize),
    /// The process dies with its COMMIT under way to the database.
    CrashInAppend(usize),
    /// The database runs that COMMIT.
    AppendOfTheDead,
    /// The body goes on although the sender's EXTEND does not reach the row.
    StreamOn(usize),
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            row: Row::new(),
            replicas: vec![Replica::new(); self.bounds.replicas],
            source: Source::new(self.times.min_interval),
            under_way: None,
            faults_left: self.bounds.faults,
            stored: 0,
            stored_twice: false,
            passed: 0,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if !state.source.holds_time() {
            steps.push(Step::Tick);
        }
        for replica in 0..state.replicas.len() {
            self.steps_of_replica(state, replica, steps);
        }
        for (at, request) in state.source.requests.iter().enumerate() {
            match request.stage {
                Stage::OnItsWay(_) => steps.push(Step::Arrive(at)),
                Stage::Serving => {
                    if request.sent_to < self.bounds.events.min(request.after + self.bounds.page) {
                        steps.push(Step::Serve(at));
                    }
                    steps.push(Step::EndBody(at));
                    if state.faults_left > 0 {
                        steps.push(Step::CutBody(at));
                    }
                }
                Stage::Over => {}
            }
        }
        if state.under_way.is_some() {
            steps.push(Step::AppendOfTheDead);
        }
        if state.faults_left > 0 {
            steps.push(Step::Forget);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Tick => {
                state.row.tick();
                for replica in &mut state.replicas {
                    replica.tick(self.times.min_interval);
                }
                for cut in state.source.tick(self.times.min_interval, state.row.cursor) {
                    self.hear_the_end(&mut state, cut, false);
                }
            }
            Step::Arrive(at) => {
                state.source.arrive(at, self.times.min_interval);
                state.hear(at);
            }
            Step::Serve(at) => {
                state.source.serve(at);
                state.hear(at);
            }
            Step::EndBody(at) => self.end_body(&mut state, at, true),
            Step::CutBody(at) => {
                state.faults_left -= 1;
                self.end_body(&mut state, at, false);
            }
            Step::Forget => {
                state.faults_left -= 1;
                self.rewind(&mut state);
            }
            Step::AppendOfTheDead => {
                if let Some(append) = state.under_way.take()
                    && self.append_to_row(&mut state, true, append) == Appended::Applied
                {
                    self.pass(&mut state, Milestone::CommitOfTheDead);
                }
            }
            _ => self.replica_steps(&mut state, step),
        }
        if state.row.attempt != Some(Token::OF_THE_DEAD) {
            // It can only be refused.
            state.under_way = None;
        }
        if !self.variant.is(Broken::TokensRepeat) {
            let State { row, replicas, under_way, .. } = &mut state;
            let held = |token| {
                under_way.is_some() && token == Token::OF_THE_DEAD
                    || replicas.iter().any(|replica| replica.token() == Some(token))
            };
            row.forget_what_nobody_can_ask(held);
        }
        for replica in &mut state.replicas {
            replica.forget_what_it_will_be_told();
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        if self.milestones { properties::reachable() } else { properties::promised() }
    }
}

impl State {
    /// What the source sends is at once in the memory of the replica, or of its machine.
    fn hear(&mut self, at: usize) {
        let request = &self.source.requests[at];
        if let Some(it) = request.by
            && let Phase::Reading(response) = &mut self.replicas[it].phase
        {
            if request.sent_to == request.after {
                response.first_byte = 0;
            }
            response.received = request.sent_to;
        }
    }
}

impl Protocol {
    /// RESET and FORGET: nobody's fence is the row's any more.
    pub(crate) fn rewind(&self, state: &mut State) {
        state.row.rewind(self.variant);
        for replica in &mut state.replicas {
            replica.fence_is_mine = false;
            if !self.variant.is(Broken::TokensRepeat) {
                replica.lose_token();
            }
        }
        state.stored = 0;
        state.source.excuse_all();
    }

    pub(crate) fn pass(&self, state: &mut State, milestone: Milestone) {
        if self.milestones {
            state.passed |= milestone.bit();
        }
    }

    fn steps_of_replica(&self, state: &State, it: usize, steps: &mut Vec<Step>) {
        let replica = &state.replicas[it];
        let fault = state.faults_left > 0;
        match &replica.phase {
            Phase::Idle => {
                steps.push(Step::Adopt(it));
                if self.believes(replica) {
                    steps.push(Step::Connect(it));
                    if fault {
                        steps.push(Step::Reset(it));
                    }
                }
            }
            Phase::Connected => steps.push(Step::Reserve(it)),
            Phase::Granted { .. } => {
                steps.push(Step::ReserveAnswered(it));
                if fault {
                    steps.push(Step::ReserveAnswerLost(it));
                }
            }
            Phase::Permitted { .. } => {
                if self.variant.is(Broken::CheckThenSend) {
                    steps.push(Step::Check(it));
                } else {
                    steps.push(Step::Send(it));
                }
                steps.push(Step::NeverLeft(it));
            }
            Phase::Checked { .. } => steps.push(Step::Send(it)),
            Phase::Reading(response) => {
                steps.extend([Step::Extend(it), Step::AppendPrefix(it)]);
                if response.trying.is_some() {
                    steps.push(Step::AppendAgain(it));
                }
                if self.variant == Variant::Outside(Outside::StoreOutOfReach) {
                    steps.push(Step::StreamOn(it));
                }
                if fault {
                    steps.push(Step::AppendPrefixAnswerLost(it));
                    steps.extend([true, false].map(|extended| Step::GiveUp { replica: it, extended }));
                }
            }
            Phase::Holding { response, .. } => {
                if response.trying.is_some() {
                    steps.push(Step::AppendAgain(it));
                } else {
                    steps.extend([Step::Append(it), Step::ErrorRead(it)]);
                    if fault {
                        steps.push(Step::AppendAnswerLost(it));
                    }
                }
            }
            Phase::Owing { .. } => {
                steps.extend([Step::Abort(it), Step::DropAbort(it), Step::ReserveClosing(it)]);
            }
        }
        if fault {
            steps.extend([Step::FenceOff(it), Step::Crash(it), Step::CrashInAppend(it)]);
        }
    }
}
