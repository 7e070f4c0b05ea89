//! The Leases as this replica knows them, kept up to date event by event. One event costs one map operation, however many
//! Leases there are.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::api::coordination::v1::Lease;

use super::{
    Peers,
    lease::{self, MemberLease, Seen, SourceLease, Standing, Version},
};
use crate::{event::StreamName, store::Holder};

/// All member Leases and source Leases.
#[derive(Debug, Default)]
pub struct View {
    members: BTreeMap<Arc<str>, MemberLease>,
    /// The holder of each member Lease that names one.
    live: HashMap<Holder, Arc<str>>,
    sources: HashMap<StreamName, SourceLease>,
    /// What a list that is being read has shown so far, and what was written meanwhile.
    listed: Option<Listed>,
    synced: bool,
    /// The newest resourceVersion that the watch has shown.
    shown: u64,
}

#[derive(Debug, Default)]
struct Listed {
    members: HashSet<Arc<str>>,
    sources: HashSet<StreamName>,
}

/// What an event changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The Lease of a source, from one holder to another. An edit that keeps the holder is reported too.
    Source { stream: StreamName, from: Option<Holder>, to: Option<Holder> },
    /// A new incarnation lives.
    Joined(MemberLease),
    /// An incarnation ended. This was its last Lease.
    Ended { last: MemberLease, by: End },
    /// A sign of life; `altered` when it also says something new of itself.
    Renewed { lease: MemberLease, altered: bool },
    /// A certificate of death was seen, or removed: nobody lives or dies by it.
    Certificate,
}

/// How an incarnation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Its Lease was deleted.
    Deleted,
    /// Another member declared it dead.
    Declared,
    /// Somebody edited its Lease, which names nobody now.
    Released,
    /// Somebody edited its Lease, which names another holder now. This is how it stands.
    Renamed(MemberLease),
}

impl View {
    /// A Lease that the watch shows. An older version than the one that is known changes nothing.
    pub fn apply(&mut self, lease: &Lease) -> Option<Change> {
        self.note_shown(lease);
        self.take(lease)
    }

    /// A Lease of an answer to me. A watch shows all Leases in the order of their versions, so an answer that it has
    /// overtaken says nothing new; it must not bring back a Lease that was shown deleted meanwhile.
    pub fn apply_answer(&mut self, lease: &Lease) -> Option<Change> {
        let overtaken = Version::of(lease).number().is_some_and(|version| version <= self.shown);
        if overtaken { None } else { self.take(lease) }
    }

    fn note_shown(&mut self, lease: &Lease) {
        self.shown = std::cmp::max(self.shown, Version::of(lease).number().unwrap_or_default());
    }

    fn take(&mut self, lease: &Lease) -> Option<Change> {
        match lease::read(lease) {
            Seen::Source(source) => self.apply_source(source),
            Seen::Member(member) => self.apply_member(member),
            Seen::Other => self.lose_source(lease),
        }
    }

    /// A Lease that is no more what it was known as ends as one that was deleted does: a source's Lease is found by its labels,
    /// and whoever lacks one claims it anew. That of a member its holder writes anew, with the next renewal.
    fn lose_source(&mut self, unlabelled: &Lease) -> Option<Change> {
        let name = unlabelled.metadata.name.as_deref()?;
        // By hand only, so it may take a while.
        let known = self.sources.values().find(|known| SourceLease::name_of(&known.stream) == name)?;
        if Version::of(unlabelled).is_older_than(&known.version) {
            return None;
        }
        let stream = known.stream.clone();
        self.remove_source(&stream)
    }

    /// A Lease was deleted; `lease` is its last state.
    pub fn delete(&mut self, lease: &Lease) -> Option<Change> {
        self.note_shown(lease);
        match lease::read(lease) {
            Seen::Source(gone) => {
                let known = self.sources.get(&gone.stream)?;
                // Created anew since.
                if gone.version.is_older_than(&known.version) {
                    return None;
                }
                self.remove_source(&gone.stream)
            }
            Seen::Member(gone) => self.remove_member(&gone.name),
            Seen::Other => None,
        }
    }

    /// A list begins: what it does not show is gone when it ends.
    pub fn begin_list(&mut self) {
        self.listed = Some(Listed::default());
    }

    /// The list has ended.
    pub fn end_list(&mut self) -> Vec<Change> {
        self.synced = true;
        let Some(listed) = self.listed.take() else { return Vec::new() };
        let members: Vec<_> = self.members.keys().filter(|name| !listed.members.contains(*name)).cloned().collect();
        let sources: Vec<_> = self.sources.keys().filter(|stream| !listed.sources.contains(*stream)).cloned().collect();
        let members: Vec<Change> = members.iter().filter_map(|name| self.remove_member(name)).collect();
        members.into_iter().chain(sources.iter().filter_map(|stream| self.remove_source(stream))).collect()
    }

    /// Whether a list was read to its end at least once. Until then, absence says nothing.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    #[must_use]
    pub fn source(&self, stream: &StreamName) -> Option<&SourceLease> {
        self.sources.get(stream)
    }

    pub fn sources(&self) -> impl Iterator<Item = &SourceLease> {
        self.sources.values()
    }

    #[must_use]
    pub fn member(&self, name: &str) -> Option<&MemberLease> {
        self.members.get(name)
    }

    /// All member Leases, certificates of death among them, in the order of their names.
    pub fn members(&self) -> impl Iterator<Item = &MemberLease> {
        self.members.values()
    }

    /// The member Lease of a holder that lives.
    #[must_use]
    pub fn live(&self, holder: &Holder) -> Option<&MemberLease> {
        self.members.get(self.live.get(holder)?)
    }

    #[must_use]
    pub fn is_live(&self, holder: &Holder) -> bool {
        self.live.contains_key(holder)
    }

    /// The member that does what one of them has to do: it stays, and has a database, if there is such a one.
    #[must_use]
    pub fn first_member(&self) -> Option<&Holder> {
        let live = || self.members.values().filter_map(|lease| Some((lease, lease.holder()?)));
        let stays = |lease: &MemberLease| !lease.state.draining;
        live()
            .find(|(lease, _)| stays(lease) && lease.state.has_database())
            .or_else(|| live().find(|(lease, _)| stays(lease)))
            .or_else(|| live().next())
            .map(|(_, holder)| holder)
    }

    /// The members beside `me`, a replica of this pod template.
    #[must_use]
    pub fn peers(&self, me: Option<&Holder>, template: &str) -> Peers {
        let others = || self.members.values().filter(|lease| lease.holder().is_some_and(|holder| Some(holder) != me));
        Peers {
            holders: self.synced.then(|| others().filter_map(|lease| lease.holder().cloned()).collect()),
            of_another_template: others().any(|lease| *lease.template != *template),
        }
    }

    fn apply_source(&mut self, lease: SourceLease) -> Option<Change> {
        if let Some(listed) = &mut self.listed {
            listed.sources.insert(lease.stream.clone());
        }
        let known = self.sources.get(&lease.stream);
        if known.is_some_and(|known| lease.version == known.version || lease.version.is_older_than(&known.version)) {
            return None;
        }
        let from = known.and_then(|known| known.holder.clone());
        let (stream, to) = (lease.stream.clone(), lease.holder.clone());
        self.sources.insert(stream.clone(), lease);
        Some(Change::Source { stream, from, to })
    }

    fn remove_source(&mut self, stream: &StreamName) -> Option<Change> {
        let gone = self.sources.remove(stream)?;
        Some(Change::Source { stream: gone.stream, from: gone.holder, to: None })
    }

    fn apply_member(&mut self, lease: MemberLease) -> Option<Change> {
        if let Some(listed) = &mut self.listed {
            listed.members.insert(lease.name.clone());
        }
        let known = self.members.get(&lease.name);
        if known.is_some_and(|known| lease.version == known.version || lease.version.is_older_than(&known.version)) {
            return None;
        }
        let known = self.members.insert(lease.name.clone(), lease.clone());
        if let Some(holder) = known.as_ref().and_then(MemberLease::holder) {
            self.live.remove(holder);
        }
        if let Some(holder) = lease.holder() {
            self.live.insert(holder.clone(), lease.name.clone());
        }
        Some(match known {
            Some(last) if last.holder().is_some() && last.holder() != lease.holder() => {
                let by = match lease.standing {
                    Standing::Alive(_) => End::Renamed(lease),
                    Standing::Dead(_) => End::Declared,
                    Standing::Released => End::Released,
                };
                Change::Ended { last, by }
            }
            Some(known) if lease.holder().is_some() => {
                let flags = |lease: &MemberLease| (lease.state.draining, lease.state.has_database());
                Change::Renewed { altered: flags(&known) != flags(&lease), lease }
            }
            None if lease.holder().is_some() => Change::Joined(lease),
            _ => Change::Certificate,
        })
    }

    fn remove_member(&mut self, name: &str) -> Option<Change> {
        let last = self.members.remove(name)?;
        let Some(holder) = last.holder() else { return Some(Change::Certificate) };
        self.live.remove(holder);
        Some(Change::Ended { last, by: End::Deleted })
    }
}

#[cfg(test)]
mod tests;
