use crate::event::EventId;

/// More are given up for one that never comes by.
const MOST: usize = 16;

/// Up to which events a stream of opaque ids is read again, as the store keeps it (migration 8).
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Those that have not come by.
    ids: Vec<EventId>,
    too_many: bool,
    /// How many events were stored when the ids were written, as long as none of them came by.
    covers: Option<u64>,
}

impl Marks {
    /// Whether events come again.
    pub(super) fn is_read_again(&self) -> bool {
        self.too_many || !self.ids.is_empty()
    }

    /// The stream begins again at `start`, after so many events were stored.
    pub(super) fn reset(&mut self, cursor: Option<&EventId>, start: Option<&EventId>, events_stored: u64) {
        let covered = self.is_read_again() && self.covers == Some(events_stored);
        let cursor = cursor.filter(|id| !covered && !self.ids.contains(id));
        self.ids.extend(cursor.cloned());
        let count = self.ids.len();
        self.ids.retain(|id| Some(id) != start);
        self.covers = (self.ids.len() == count).then_some(events_stored);
        self.too_many |= self.ids.len() > MOST;
    }

    /// An item was set aside beyond them.
    pub(super) fn cover_no_more(&mut self) {
        self.covers = None;
    }

    pub(super) fn came_by<'a>(&mut self, ids: impl Iterator<Item = &'a EventId>) {
        for id in ids {
            if let Some(place) = self.ids.iter().position(|mark| mark == id) {
                self.ids.swap_remove(place);
                self.covers = None;
            }
        }
    }
}
