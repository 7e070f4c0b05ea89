//! The row of one source in `headgate.source`, and what each statement of src/store/postgres/sql does to it.
//!
//! A statement locks the row first and then reads the clock, so each is one step. Times are what remains of them: a row
//! that waits the same lengths behaves the same, whatever the clock shows.

use crate::{
    protocol::Times,
    variants::{Broken, Variant},
};

/// The name of one reservation. A random token is never chosen twice, so all that matters of it is who still holds it:
/// the replica of that number, or nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Token(pub(crate) u8);

impl Token {
    /// Carried by the row, held by no replica.
    pub(crate) const NOBODYS: Self = Self(u8::MAX);
    /// Held by a replica, and taken from the row by a reset.
    pub(crate) const TAKEN: Self = Self(u8::MAX - 1);
    /// Carried by a statement whose sender crashed.
    pub(crate) const OF_THE_DEAD: Self = Self(u8::MAX - 2);
}

/// Fence and holder are not here but with the replicas: whether a replica's fence is the row's is all the row compares.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) cursor: u8,
    pub(crate) attempt: Option<Token>,
    pub(crate) closed_attempt: Option<Token>,
    pub(crate) parts: u8,
    pub(crate) deadline: u8,
    pub(crate) not_before: u8,
    pub(crate) slot: u8,
    /// Only for tokens that are counted.
    pub(crate) counter: u8,
}

/// What `append.sql` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    Applied,
    DoneBefore,
    Refused,
}

/// What COMMIT is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Append {
    pub(crate) attempt: Token,
    pub(crate) part: u8,
    pub(crate) cursor_before: u8,
    pub(crate) cursor_after: u8,
    /// `next_start_in` of the last append of a response; any other one extends.
    pub(crate) close: Option<u8>,
}

impl Row {
    pub(crate) fn new() -> Self {
        Self {
            cursor: 0,
            attempt: None,
            closed_attempt: None,
            parts: 0,
            deadline: 0,
            not_before: 0,
            slot: 0,
            counter: 0,
        }
    }

    pub(crate) fn tick(&mut self) {
        self.deadline = self.deadline.saturating_sub(1);
        self.not_before = self.not_before.saturating_sub(1);
        self.slot = self.slot.saturating_sub(1);
    }

    /// reserve.sql: with `ended`, as if abort.sql came before it, but only together. Returns how long until the slot.
    pub(crate) fn reserve(
        &mut self,
        variant: Variant,
        times: &Times,
        fence_is_mine: bool,
        cursor: u8,
        attempt: Token,
        ended: Option<(Token, u8)>,
    ) -> Option<u8> {
        let mut closed = self.clone();
        if let Some((attempt, next_start)) = ended {
            closed.abort(variant, attempt, next_start);
        }
        let nothing_in_flight =
            closed.attempt.is_none() || closed.deadline == 0 || variant.is(Broken::NoInFlightDeadline);
        let granted =
            fence_is_mine && self.cursor == cursor && nothing_in_flight && closed.not_before <= times.at_most_ahead;
        if !granted {
            return None;
        }
        *self = closed;
        self.counter += u8::from(variant.is(Broken::TokensRepeat));
        self.attempt = Some(if variant.is(Broken::TokensRepeat) { Token(self.counter) } else { attempt });
        self.closed_attempt = None;
        self.parts = 0;
        self.slot = self.not_before;
        self.deadline = self.slot + times.send_within + times.in_flight;
        let arrives_within = match variant {
            Variant::Broken(Broken::GapFromTheSlot) => 0,
            Variant::Broken(Broken::NoInFlightDeadline) => times.send_within,
            _ => times.send_within + times.in_flight,
        };
        self.not_before = self.slot + arrives_within + times.min_interval;
        Some(self.slot)
    }

    /// extend.sql: it only ever lengthens.
    pub(crate) fn extend(&mut self, attempt: Token, by: u8) -> bool {
        let mine = self.attempt == Some(attempt);
        if mine {
            self.deadline = self.deadline.max(by);
        }
        mine
    }

    /// append.sql: compare-and-set on attempt and cursor; no fence, no deadline.
    pub(crate) fn append(&mut self, variant: Variant, times: &Times, append: Append) -> Appended {
        let attempt_is_mine = self.attempt == Some(append.attempt);
        let cursor_is_mine = self.cursor == append.cursor_before;
        let mine = match variant {
            Variant::Broken(Broken::LeaseOnly | Broken::CommitByCursor) => cursor_is_mine,
            Variant::Broken(Broken::CommitByAttempt) => attempt_is_mine,
            _ => attempt_is_mine && cursor_is_mine && self.parts <= append.part,
        };
        if mine {
            self.cursor = append.cursor_after;
            self.parts = append.part + 1;
            match append.close {
                Some(next_start) => self.close(variant, append.attempt, next_start),
                None => self.deadline = self.deadline.max(times.in_flight),
            }
            return Appended::Applied;
        }
        let known = self.attempt == Some(append.attempt) || self.closed_attempt == Some(append.attempt);
        if known && self.parts > append.part { Appended::DoneBefore } else { Appended::Refused }
    }

    /// abort.sql.
    pub(crate) fn abort(&mut self, variant: Variant, attempt: Token, next_start: u8) {
        if self.attempt == Some(attempt) {
            self.close(variant, attempt, next_start);
        }
    }

    fn close(&mut self, variant: Variant, attempt: Token, next_start: u8) {
        self.attempt = None;
        self.closed_attempt = Some(attempt);
        if !variant.is(Broken::GapFromTheSlot) {
            self.not_before = next_start.max(self.slot);
        }
    }

    /// reset.sql and forget.sql: the cursor goes back, an open attempt gets a token that nobody holds, the waits stay.
    pub(crate) fn rewind(&mut self, variant: Variant) {
        self.cursor = 0;
        self.attempt = self.attempt.map(|_| Token::NOBODYS);
        if variant.is(Broken::TokensRepeat) {
            self.counter = 0;
        }
    }

    /// The same token by another name.
    pub(crate) fn rename(&mut self, from: Token, to: Token) {
        for token in [&mut self.attempt, &mut self.closed_attempt].into_iter().flatten() {
            if *token == from {
                *token = to;
            }
        }
    }

    /// Forgets what no step can tell from its absence.
    pub(crate) fn forget_what_nobody_can_ask(&mut self, held: impl Fn(Token) -> bool) {
        if self.closed_attempt.is_some_and(|token| !held(token)) {
            self.closed_attempt = None;
        }
        if self.attempt.is_some_and(|token| !held(token)) {
            self.attempt = Some(Token::NOBODYS);
        }
        if self.attempt.is_none() {
            self.deadline = 0;
        }
        if self.attempt.is_none_or(|token| token == Token::NOBODYS) && self.closed_attempt.is_none() {
            self.parts = 0;
        }
    }
}
