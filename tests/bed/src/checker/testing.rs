//! Builders of log lines and faults that read as sentences.

use super::{Nemesis, NemesisKind};
use crate::{
    access_log::{Access, Delivered},
    source::FaultKind,
};

/// A request to this source that went well: it took 3 ms and delivered nothing.
pub(crate) fn access(source: &str) -> Builder {
    Builder(Access {
        source: source.to_owned(),
        path: format!("/{source}/events"),
        replica: "a".to_owned(),
        attempt: "00".to_owned(),
        connection: 1,
        after: 0,
        limit: 1000,
        accepted: 0,
        started: 0,
        parsed: 0,
        first_byte: None,
        ended: 0,
        status: 200,
        fault: FaultKind::None,
        delivered: Vec::new(),
        complete: true,
    })
    .at_us(0)
}

pub(crate) struct Builder(Access);

impl Builder {
    pub(crate) fn by(mut self, replica: &str) -> Self {
        replica.clone_into(&mut self.0.replica);
        self
    }

    pub(crate) fn at_ms(self, at: u64) -> Self {
        self.at_us(at * 1000)
    }

    pub(crate) fn at_us(mut self, at: u64) -> Self {
        (self.0.started, self.0.parsed, self.0.first_byte, self.0.ended) = (at, at, Some(at + 1000), at + 3000);
        self
    }

    pub(crate) fn lasting_ms(mut self, time: u64) -> Self {
        self.0.ended = self.0.started + time * 1000;
        self
    }

    pub(crate) fn after(mut self, index: u64) -> Self {
        self.0.after = index;
        self
    }

    pub(crate) fn delivering(mut self, first: u64, last: u64) -> Self {
        self.0.delivered.push(Delivered { first, last });
        self
    }

    pub(crate) fn fault(mut self, fault: FaultKind) -> Self {
        self.0.fault = fault;
        self
    }

    pub(crate) fn incomplete(mut self) -> Self {
        self.0.complete = false;
        self
    }

    pub(crate) fn build(self) -> Access {
        self.0
    }
}

/// SIGKILL at this many milliseconds.
pub(crate) fn killed(replica: &str, at_ms: u64) -> Nemesis {
    Nemesis { replica: replica.to_owned(), kind: NemesisKind::Killed, from: at_ms * 1000, until: at_ms * 1000 }
}

/// SIGSTOP and SIGCONT at these many milliseconds.
pub(crate) fn paused(replica: &str, from_ms: u64, until_ms: u64) -> Nemesis {
    Nemesis { replica: replica.to_owned(), kind: NemesisKind::Paused, from: from_ms * 1000, until: until_ms * 1000 }
}
