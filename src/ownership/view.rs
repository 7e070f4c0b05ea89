//! The Leases as this replica knows them, kept up to date event by event. One event costs one map operation, however many
//! Leases there are.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::coordination::v1::Lease;

mod progress;

use self::progress::{Key, Progress};
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
    progress: Progress,
    synced: bool,
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
    /// A Lease that the watch shows. An older version than an answer has told of already changes nothing.
    pub fn apply(&mut self, lease: &Lease) -> Vec<Change> {
        let change = self.identify(lease).and_then(|(key, seen)| self.take(&key, seen, &Version::of(lease)));
        self.watched(lease, change)
    }

    /// The watch shows that a Lease was deleted; `lease` is its last state.
    pub fn delete(&mut self, lease: &Lease) -> Vec<Change> {
        let created_anew = |known: &Version| Version::of(lease).is_older_than(known);
        let gone = self.identify(lease).filter(|(key, _)| !self.version(key).is_some_and(created_anew));
        let change = gone.and_then(|(key, _)| self.remove(&key));
        self.watched(lease, change)
    }

    /// A Lease of an answer to me. A watch shows all Leases in the order of their versions, so an answer that it has
    /// overtaken says nothing new; it must not bring back a Lease that was shown deleted meanwhile.
    pub fn apply_answer(&mut self, lease: &Lease) -> Option<Change> {
        let version = Version::of(lease);
        let (key, seen) = self.identify(lease).filter(|_| !self.progress.has_shown(&version))?;
        let change = self.take(&key, seen, &version)?;
        self.progress.answered(key, &version);
        Some(change)
    }

    /// A list begins, and is asked for then: it tells of all that was written before, and what it does not show is gone when it
    /// ends.
    pub fn begin_list(&mut self) {
        self.progress.begin_list();
    }

    /// A Lease that the list shows. It is as it was when the list was taken, so only what an answer has told since the list began
    /// may be newer. That its version is older than what was known before says that the API server was restored from a backup.
    pub fn apply_listed(&mut self, lease: &Lease) -> Option<Change> {
        let (version, identified) = (Version::of(lease), self.identify(lease));
        let readable = identified.as_ref().filter(|(_, seen)| *seen != Seen::Other);
        self.progress.listed(readable.map(|(key, _)| key.clone()), &version);
        let (key, seen) = identified?;
        let known = self.version(&key);
        if known.is_some_and(|known| self.progress.is_ahead(&key, known)) {
            return self.take(&key, seen, &version);
        }
        if known.is_some_and(|known| version.is_older_than(known)) {
            self.progress.went_back();
        }
        self.put(&key, seen)
    }

    /// The list has ended.
    pub fn end_list(&mut self) -> Vec<Change> {
        self.synced = true;
        let Some(there) = self.progress.end_list() else { return Vec::new() };
        let members = self.members.keys().cloned().map(Key::Member);
        let gone: Vec<Key> =
            members.chain(self.sources.keys().cloned().map(Key::Source)).filter(|key| !there.contains(key)).collect();
        gone.iter().filter_map(|key| self.remove(key)).collect()
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

    /// Which Lease it is, and what stands in it. A source's Lease is known by its labels, and by its name too once it is known:
    /// without one of its labels it ends as one that was deleted does, and is claimed anew. That of a member its holder writes anew,
    /// with the next renewal.
    fn identify(&self, lease: &Lease) -> Option<(Key, Seen)> {
        let seen = lease::read(lease);
        let key = match &seen {
            Seen::Member(member) => Key::Member(member.name.clone()),
            Seen::Source(source) => Key::Source(source.stream.clone()),
            Seen::Other => {
                // By hand only, so it may take a while.
                let name = lease.metadata.name.as_deref()?;
                let known = self.sources.keys().find(|stream| SourceLease::name_of(stream) == name)?;
                Key::Source(known.clone())
            }
        };
        Some((key, seen))
    }

    /// The version in which a Lease is known.
    fn version(&self, key: &Key) -> Option<&Version> {
        match key {
            Key::Member(name) => self.members.get(name).map(|known| &known.version),
            Key::Source(stream) => self.sources.get(stream).map(|known| &known.version),
        }
    }

    /// What is said of a version of a Lease, unless it is known in a newer one.
    fn take(&mut self, key: &Key, seen: Seen, version: &Version) -> Option<Change> {
        let is_old = |known: &Version| version == known || version.is_older_than(known);
        if self.version(key).is_some_and(is_old) { None } else { self.put(key, seen) }
    }

    fn put(&mut self, key: &Key, seen: Seen) -> Option<Change> {
        match seen {
            Seen::Member(member) => self.put_member(member),
            Seen::Source(source) => self.put_source(source),
            Seen::Other => self.remove(key),
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Change> {
        match key {
            Key::Member(name) => self.remove_member(name),
            Key::Source(stream) => self.remove_source(stream),
        }
    }

    /// What an event of the watch has changed, and what follows from that it has come so far.
    fn watched(&mut self, lease: &Lease, change: Option<Change>) -> Vec<Change> {
        let mut changes = Vec::from_iter(change);
        for (version, key) in self.progress.watched(&Version::of(lease)) {
            if self.version(&key).and_then(Version::number) == Some(version) {
                changes.extend(self.remove(&key));
            }
        }
        changes
    }

    fn put_source(&mut self, lease: SourceLease) -> Option<Change> {
        let known = self.sources.get(&lease.stream);
        if known == Some(&lease) {
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

    fn put_member(&mut self, lease: MemberLease) -> Option<Change> {
        if self.members.get(&lease.name) == Some(&lease) {
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
