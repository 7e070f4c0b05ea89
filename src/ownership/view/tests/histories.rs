//! Random histories of an API server, of one replica's watch of it, and of the answers that the replica is given.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

/// The Leases of so many sources.
const SOURCES: usize = 4;

/// All Leases in one version, as the API server has them: the version and the holder of each.
type State = BTreeMap<String, (u64, u32)>;

/// One write: a Lease that was written, or deleted.
#[derive(Clone)]
struct Entry {
    name: String,
    holder: Option<u32>,
}

/// How far the watch has come.
enum Watch {
    /// It has failed, or has not begun yet.
    Broken,
    /// It said that a list begins, and is about to ask for it.
    Begun,
    /// What is left of a list that was taken at this version.
    Listing { rest: Vec<(String, (u64, u32))>, at: u64 },
    /// It has shown all up to this version.
    Following(u64),
}

/// An API server, and a replica that looks at it.
struct History {
    rng: StdRng,
    state: State,
    /// All states, the first of which is that before the first write; and the write that led to each of the others.
    states: Vec<State>,
    log: Vec<Entry>,
    watch: Watch,
    /// Answers under way to the replica.
    answers: Vec<(String, u64, u32)>,
    view: View,
    /// What the view must not go back behind, for each Lease: what it has shown of it, and when the watch showed its deletion.
    floor: BTreeMap<String, u64>,
    /// The API server was restored, and not listed since.
    restored: bool,
    /// It was ever restored. No list need show that, and then answers are not believed before the watch has come to them.
    was_restored: bool,
}

impl History {
    fn of(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            state: State::new(),
            states: vec![State::new()],
            log: Vec::new(),
            watch: Watch::Broken,
            answers: Vec::new(),
            view: View::default(),
            floor: BTreeMap::new(),
            restored: false,
            was_restored: false,
        }
    }

    fn now(&self) -> u64 {
        self.log.len() as u64
    }

    fn any(&mut self) -> String {
        format!("source-{}", self.rng.random_range(0..SOURCES))
    }

    /// Somebody writes a Lease, or deletes it; a write of mine is answered some time.
    fn write(&mut self) {
        let (name, mine) = (self.any(), self.rng.random_bool(0.5));
        let holder = (!self.state.contains_key(&name) || self.rng.random_bool(0.6)).then(|| self.rng.random());
        self.log.push(Entry { name: name.clone(), holder });
        match holder {
            Some(holder) => drop(self.state.insert(name.clone(), (self.now(), holder))),
            None => drop(self.state.remove(&name)),
        }
        self.states.push(self.state.clone());
        if mine && let Some(holder) = holder {
            self.answers.push((name, self.now(), holder));
        }
    }

    /// An answer arrives, whichever. What it says is known from then on, if it is still so.
    fn answer(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let nth = self.rng.random_range(0..self.answers.len());
        let (name, version, holder) = self.answers.swap_remove(nth);
        self.view.apply_answer(&lease(&name, version, holder));
        if !self.was_restored && self.state.get(&name) == Some(&(version, holder)) {
            assert_eq!(self.known(&name), Some((version, holder)), "{name} is as I was told");
        }
    }

    fn watch(&mut self) {
        match &mut self.watch {
            Watch::Broken => {
                self.view.begin_list();
                self.watch = Watch::Begun;
            }
            Watch::Begun => {
                let (rest, at) = (self.state.clone().into_iter().collect(), self.now());
                self.watch = Watch::Listing { rest, at };
            }
            Watch::Listing { rest, at } => {
                if let Some((name, (version, holder))) = rest.pop() {
                    self.view.apply_listed(&lease(&name, version, holder));
                } else {
                    self.watch = Watch::Following(*at);
                    self.view.end_list();
                    self.restored = false;
                }
            }
            Watch::Following(at) => {
                let Some(entry) = self.log.get(usize::try_from(*at).unwrap()) else { return };
                *at += 1;
                let lease = lease(&entry.name, *at, entry.holder.unwrap_or_default());
                if entry.holder.is_some() {
                    self.view.apply(&lease);
                } else {
                    self.floor.insert(entry.name.clone(), *at);
                    self.view.delete(&lease);
                }
            }
        }
    }

    /// etcd comes back as it was at an earlier version, and the connections break.
    fn restore(&mut self) {
        let version = self.rng.random_range(0..self.states.len());
        self.states.truncate(version + 1);
        self.log.truncate(version);
        self.state = self.states[version].clone();
        self.answers.clear();
        self.watch = Watch::Broken;
        (self.restored, self.was_restored) = (true, true);
        self.floor.clear();
    }

    fn known(&self, name: &str) -> Option<(u64, u32)> {
        let known = self.view.source(&StreamName::new("shop", name))?;
        Some((known.version.number().unwrap(), known.holder.as_ref().unwrap().as_str().parse().unwrap()))
    }

    fn assert_nothing_went_back(&mut self) {
        if self.restored {
            return;
        }
        for name in (0..SOURCES).map(|nth| format!("source-{nth}")) {
            let Some((version, _)) = self.known(&name) else { continue };
            let floor = self.floor.entry(name.clone()).or_default();
            assert!(version >= *floor, "{name} is known as of {version}, and was as of {floor}");
            *floor = version;
        }
    }

    /// All that is under way arrives.
    fn assert_all_is_known_in_the_end(&mut self) {
        while !self.answers.is_empty() {
            self.answer();
        }
        self.log.push(Entry { name: "last".to_owned(), holder: Some(0) });
        self.state.insert("last".to_owned(), (self.now(), 0));
        self.states.push(self.state.clone());
        while !matches!(self.watch, Watch::Following(at) if at == self.now()) {
            self.watch();
        }
        let known: State = self
            .view
            .sources()
            .map(|lease| lease.stream.name().to_owned())
            .map(|name| (name.clone(), self.known(&name).unwrap()))
            .collect();
        assert_eq!(known, self.state);
    }
}

fn lease(name: &str, version: u64, holder: u32) -> Lease {
    let (stream, holder) = (StreamName::new("shop", name), Holder::new(&holder.to_string()));
    versioned(SourceLease::give(&stream, None, &holder, "pod", Timestamp::UNIX_EPOCH), u32::try_from(version).unwrap())
}

#[test]
fn over_a_thousand_random_histories_what_is_known_never_goes_back_and_is_complete_in_the_end() {
    for seed in 0..1_000 {
        let mut history = History::of(seed);
        let restores = seed % 4 == 0;
        for _ in 0..150 {
            match history.rng.random_range(0..100) {
                0..=29 => history.write(),
                30..=49 => history.answer(),
                // The list begins again from the start when it is in the middle of one.
                50 | 51 => history.watch = Watch::Broken,
                52 if restores => history.restore(),
                _ => history.watch(),
            }
            history.assert_nothing_went_back();
        }
        history.assert_all_is_known_in_the_end();
    }
}
