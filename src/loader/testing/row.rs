use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use super::marks::Marks;
use crate::{
    clock::Moment,
    event::{Cursor, Event, EventId, IdKind, SetAside, SetAsideReason},
    permit::Attempt,
    store::{
        Abort, Adopt, Adopted, Answer, Append, Appended, Close, Epoch, Extend, Fence, Forget, Holder, Reserve,
        Reserved, Reset, Row, Then,
    },
};

/// One row of the gate with its events, following the row protocol of DESIGN 4 to the letter. Its clock is tokio's.
#[derive(Debug)]
pub(in crate::loader) struct FakeRow {
    pub(in crate::loader) holder: Option<Holder>,
    pub(in crate::loader) fence: Fence,
    pub(in crate::loader) epoch: Epoch,
    uid: String,
    pub(in crate::loader) cursor: Cursor,
    id_path: String,
    pub(in crate::loader) attempt: Option<Attempt>,
    pub(in crate::loader) deadline: Option<Instant>,
    pub(in crate::loader) not_before: Instant,
    kind: Option<IdKind>,
    pub(in crate::loader) progressive: bool,
    events_stored: u64,
    /// In the order in which they were stored.
    pub(in crate::loader) events: Vec<Event>,
    known: HashMap<String, usize>,
    marks: Marks,
    pub(in crate::loader) set_aside: Vec<SetAside>,
    /// Who adopted it, in order.
    pub(in crate::loader) adopters: Vec<Holder>,
    commits: BTreeMap<([u8; 16], i32), Appended>,
}

impl FakeRow {
    pub(super) fn new(adopt: &Adopt) -> Self {
        Self {
            holder: None,
            fence: Fence(0),
            epoch: adopt.epoch,
            uid: adopt.uid.clone(),
            cursor: adopt.start.clone(),
            id_path: adopt.id_path.clone(),
            attempt: None,
            deadline: None,
            not_before: Instant::now(),
            kind: None,
            progressive: true,
            events_stored: 0,
            events: Vec::new(),
            known: HashMap::new(),
            marks: Marks::default(),
            set_aside: Vec::new(),
            adopters: Vec::new(),
            commits: BTreeMap::new(),
        }
    }

    /// The ids of the stored events, in the order in which they were stored.
    pub(in crate::loader) fn ids(&self) -> Vec<&str> {
        self.events.iter().map(|event| event.id.as_str()).collect()
    }

    fn in_flight_for(&self) -> Duration {
        match (self.attempt, self.deadline) {
            (Some(_), Some(deadline)) => deadline.saturating_duration_since(Instant::now()),
            _ => Duration::ZERO,
        }
    }

    fn starts_in(&self) -> Duration {
        self.not_before.saturating_duration_since(Instant::now())
    }

    pub(super) fn row(&self) -> Row {
        Row {
            holder: self.holder.clone(),
            fence: self.fence,
            epoch: self.epoch,
            cursor: self.cursor.clone(),
            attempt: self.attempt,
            in_flight_for: self.in_flight_for(),
            starts_in: self.starts_in(),
        }
    }

    fn refused<T>(&self) -> Answer<T> {
        Answer::Refused(Some(self.row()))
    }

    fn adopted(&self, start_ignored: bool) -> Adopted {
        Adopted {
            fence: self.fence,
            epoch: self.epoch,
            cursor: self.cursor.clone(),
            id_kind: self.kind,
            progressive: self.progressive,
            events_stored: self.events_stored,
            in_flight_for: self.in_flight_for(),
            starts_in: self.starts_in(),
            start_ignored,
            id_path: self.id_path.clone(),
        }
    }

    pub(super) fn adopt(&mut self, adopt: &Adopt) -> Answer<Adopted> {
        if adopt.in_doubt && self.holder.as_ref() != Some(&adopt.holder) {
            return self.refused();
        }
        let ignored = self.uid != adopt.uid && self.cursor != adopt.start;
        if self.cursor == Cursor::Start {
            self.id_path.clone_from(&adopt.id_path);
        }
        if self.uid != adopt.uid {
            self.uid.clone_from(&adopt.uid);
            let reads_on = self.id_path == adopt.id_path;
            self.epoch = if reads_on { adopt.epoch } else { self.epoch.min(adopt.epoch) };
        }
        self.fence.0 += 1;
        self.holder = Some(adopt.holder.clone());
        self.adopters.push(adopt.holder.clone());
        Answer::Applied(self.adopted(ignored))
    }

    pub(super) fn reset(&mut self, reset: &Reset) -> Answer<Adopted> {
        if self.holder.as_ref() != Some(&reset.holder) || self.fence != reset.fence || reset.epoch <= self.epoch {
            return self.refused();
        }
        self.fence.0 += 1;
        self.epoch = reset.epoch;
        if !self.events.is_empty() {
            let cursor = self.cursor.id().filter(|_| self.kind != Some(IdKind::Number));
            if cursor.is_some_and(|id| self.set_aside.iter().any(|item| item.id == *id)) {
                self.marks.cover_no_more();
            }
            self.marks.reset(cursor, reset.start.id(), self.events_stored);
        }
        self.cursor = reset.start.clone();
        (self.kind, self.progressive) = (None, true);
        self.id_path.clone_from(&reset.id_path);
        self.attempt = self.attempt.map(|_| Attempt::random());
        Answer::Applied(self.adopted(false))
    }

    pub(super) fn reserve(&mut self, reserve: &Reserve, issued: Moment) -> Answer<Reserved> {
        let now = Instant::now();
        let closes = reserve.ended.filter(|ended| self.attempt == Some(ended.attempt)).map(|ended| ended.close);
        let wait = closes.map_or(self.starts_in(), |close| close.next_start_in);
        let in_flight_for = if closes.is_some() { Duration::ZERO } else { self.in_flight_for() };
        let mine = self.holder.as_ref() == Some(&reserve.holder) && self.fence == reserve.fence;
        if !mine || self.cursor != reserve.cursor || !in_flight_for.is_zero() || wait > reserve.at_most_ahead {
            return Answer::Refused(Some(Row { in_flight_for, starts_in: wait, ..self.row() }));
        }
        let slot = now + wait;
        self.attempt = Some(reserve.attempt);
        self.deadline = Some(slot + reserve.send_within + reserve.in_flight);
        self.not_before = slot + reserve.send_within + reserve.in_flight + reserve.min_interval;
        Answer::Applied(Reserved { wait, issued })
    }

    pub(super) fn extend(&mut self, extend: &Extend) -> Answer<()> {
        if self.attempt != Some(extend.attempt) {
            return self.refused();
        }
        self.deadline = Some(Instant::now() + extend.by);
        Answer::Applied(())
    }

    pub(super) fn abort(&mut self, abort: &Abort) -> Answer<()> {
        if self.attempt != Some(abort.attempt) {
            return self.refused();
        }
        self.close(abort.close);
        Answer::Applied(())
    }

    fn close(&mut self, close: Close) {
        self.attempt = None;
        self.deadline = None;
        self.not_before = Instant::now() + close.next_start_in;
    }

    pub(super) fn append(&mut self, append: &Append) -> Answer<Appended> {
        let name = (append.attempt.to_bytes(), append.part);
        if let Some(done) = self.commits.get(&name) {
            return Answer::Applied(*done);
        }
        if self.attempt != Some(append.attempt) || self.cursor != append.cursor_before {
            return self.refused();
        }
        let mut appended = Appended::default();
        if append.events.len() + append.set_aside.len() > 0 {
            self.kind = self.kind.or(append.id_kind);
        }
        let looks_up = append.looks_up || self.marks.is_read_again() || self.kind == Some(IdKind::Number);
        for event in append.events.iter() {
            self.store(event, looks_up, &mut appended);
        }
        self.marks.came_by(append.events.iter().map(|event| &event.id));
        self.set_aside.extend(append.set_aside.iter().cloned());
        self.marks.came_by(append.set_aside.iter().map(|item| &item.id));
        let conflicts = append.set_aside.iter().filter(|item| item.reason == SetAsideReason::ConflictingEvent);
        appended.conflicting += conflicts.count() as u64;
        self.cursor = append.cursor_after.clone();
        self.progressive &= !append.not_ascending;
        self.events_stored += appended.stored;
        appended.events_stored = self.events_stored;
        match append.then {
            Then::Closes(close) => self.close(close),
            Then::GoesOn { in_flight } => self.deadline = self.deadline.max(Some(Instant::now() + in_flight)),
        }
        if !append.events.is_empty() {
            self.commits.insert(name, appended);
        }
        Answer::Applied(appended)
    }

    pub(super) fn find_stored(&self, ids: &[&EventId]) -> HashSet<EventId> {
        let aside = |id: &EventId| !self.events.is_empty() && self.set_aside.iter().any(|item| item.id == *id);
        let came = |id: &EventId| self.known.contains_key(id.as_str()) || aside(id);
        ids.iter().filter(|id| !self.marks.is_read_again() && came(id)).map(|id| (*id).clone()).collect()
    }

    pub(super) fn has_older(&self, id: &EventId) -> bool {
        let is_kept = |event: &Event| self.known.contains_key(event.id.as_str());
        match self.known.get(id.as_str()) {
            Some(place) => *place == 0 || self.events[..*place].iter().any(is_kept),
            None => self.set_aside.iter().any(|item| item.id == *id) && self.events.iter().any(is_kept),
        }
    }

    /// Retention: nobody knows the first so many events any more.
    pub(in crate::loader) fn drop_first(&mut self, events: usize) {
        for event in &self.events[..events] {
            self.known.remove(event.id.as_str());
        }
    }

    /// As the real one, it finds a stored event only where it looks for it.
    fn store(&mut self, event: &Event, looks_up: bool, appended: &mut Appended) {
        match self.known.get(event.id.as_str()).filter(|_| looks_up) {
            None => {
                self.known.insert(event.id.as_str().to_owned(), self.events.len());
                self.events.push(event.clone());
                appended.stored += 1;
            }
            Some(place) if self.events[*place].payload == event.payload => appended.repeated += 1,
            Some(_) => appended.conflicting += 1,
        }
    }

    pub(super) fn forget(&mut self, forget: &Forget) -> Answer<()> {
        if self.uid != forget.uid {
            return self.refused();
        }
        self.fence.0 += 1;
        self.attempt = self.attempt.map(|_| Attempt::random());
        self.cursor = Cursor::Start;
        self.events.clear();
        self.known.clear();
        self.marks = Marks::default();
        self.events_stored = 0;
        Answer::Applied(())
    }
}
