//! The remote source: it serves whatever arrives, checks no token, and goes on for a while when its peer is gone.

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// Written, and at the source within this.
    OnItsWay(u8),
    Serving,
    /// The response is over.
    Over,
}

/// One request, from the write to the end of its response, and as long as its sender holds what came.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Request {
    /// The replica that hears the response; none when it crashed or gave up.
    pub(crate) by: Option<usize>,
    /// The cursor it asks after.
    pub(crate) after: u8,
    /// The last id that was transported.
    pub(crate) sent_to: u8,
    pub(crate) stage: Stage,
    /// For how long the source goes on when it hears nothing of its peer. At zero the sender is past its deadline.
    pub(crate) heard_of: u8,
    /// What it transports may be transported again: its sender crashed, was silent past its deadline or gave up, or the
    /// stream was reset.
    pub(crate) excused: bool,
}

/// The source, and what it sees.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    pub(crate) requests: Vec<Request>,
    /// Since the last request arrived, up to `min_interval`.
    pub(crate) since_arrival: u8,
    /// Ids whose next transport is no repetition, as bits.
    pub(crate) fresh: u8,
    /// Two requests arrived less than `min_interval` apart.
    pub(crate) too_soon: bool,
    /// An id was transported again without an excuse.
    pub(crate) repeated: bool,
}

/// The ids after `after` up to `to`, as bits.
pub(crate) fn ids(after: u8, to: u8) -> u8 {
    (after..to).fold(0, |bits, id| bits | 1 << id)
}

impl Source {
    pub(crate) fn new(min_interval: u8) -> Self {
        Self { requests: Vec::new(), since_arrival: min_interval, fresh: u8::MAX, too_soon: false, repeated: false }
    }

    pub(crate) fn of(&mut self, replica: usize) -> Option<&mut Request> {
        self.requests.iter_mut().find(|request| request.by == Some(replica))
    }

    pub(crate) fn sent_by(&self, replica: usize) -> Option<usize> {
        self.requests.iter().position(|request| request.by == Some(replica))
    }

    pub(crate) fn serving(&self) -> usize {
        self.requests.iter().filter(|request| request.stage == Stage::Serving).count()
    }

    pub(crate) fn arrive(&mut self, at: usize, min_interval: u8) {
        self.too_soon |= self.since_arrival < min_interval;
        self.since_arrival = 0;
        self.requests[at].stage = Stage::Serving;
    }

    /// Transports the next event of a response.
    pub(crate) fn serve(&mut self, at: usize) {
        let request = &mut self.requests[at];
        let id = ids(request.sent_to, request.sent_to + 1);
        request.sent_to += 1;
        self.repeated |= self.fresh & id == 0;
        if !request.excused {
            self.fresh &= !id;
        }
    }

    /// What this request brought and nobody committed may come again, once.
    pub(crate) fn excuse(&mut self, at: usize, committed_to: u8) {
        let request = &mut self.requests[at];
        if request.excused {
            return;
        }
        request.excused = true;
        self.fresh |= ids(request.after.max(committed_to), request.sent_to.max(committed_to));
    }

    /// A reset: everything may come again.
    pub(crate) fn excuse_all(&mut self) {
        self.fresh = u8::MAX;
        for request in &mut self.requests {
            request.excused = true;
        }
    }

    /// The replica hears no more of its request: the source may go on serving it.
    pub(crate) fn leave(&mut self, replica: usize) {
        if let Some(request) = self.of(replica) {
            request.by = None;
        }
        self.requests.retain(|request| request.by.is_some() || request.stage != Stage::Over);
    }

    /// Time may not pass a request that must arrive now.
    pub(crate) fn holds_time(&self) -> bool {
        self.requests.iter().any(|request| request.stage == Stage::OnItsWay(0))
    }

    /// Returns the replicas whose response was cut, because the source heard nothing of them.
    pub(crate) fn tick(&mut self, min_interval: u8, committed_to: u8) -> Vec<usize> {
        self.since_arrival = (self.since_arrival + 1).min(min_interval);
        let mut cut = Vec::new();
        for at in 0..self.requests.len() {
            let request = &mut self.requests[at];
            if let Stage::OnItsWay(left) = &mut request.stage {
                *left -= 1;
            }
            if request.heard_of == 0 {
                continue;
            }
            request.heard_of -= 1;
            if request.heard_of == 0 {
                if request.stage == Stage::Serving {
                    request.stage = Stage::Over;
                    cut.extend(request.by);
                }
                self.excuse(at, committed_to);
            }
        }
        self.requests.retain(|request| request.by.is_some() || request.stage != Stage::Over);
        cut
    }
}
