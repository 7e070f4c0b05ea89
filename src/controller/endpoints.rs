//! Which EventSources of a namespace ask the same URL. Two objects with one URL are two sources to the gate, so the
//! younger one says so (SharedEndpoint). Kept incrementally: a change costs as much as the URL has users.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use url::Url;

use crate::event::StreamName;

/// The sources of all namespaces by URL.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    users: HashMap<Endpoint, BTreeSet<User>>,
    places: HashMap<StreamName, (Endpoint, User)>,
}

/// One URL in one namespace. Written differently but meant the same counts as one: host case, default port, empty path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Endpoint {
    namespace: String,
    url: String,
}

/// Ordered by age; the name decides between objects of one second (the resolution of creationTimestamp).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct User {
    created: Timestamp,
    stream: StreamName,
}

impl Endpoints {
    /// Notes that `stream` asks `url`. Returns the other streams whose elder changed by it.
    pub(super) fn enter(&mut self, stream: &StreamName, url: &str, created: Timestamp) -> Vec<StreamName> {
        let endpoint = Endpoint { namespace: stream.namespace().to_owned(), url: normalized(url) };
        let user = User { created, stream: stream.clone() };
        let place = (endpoint, user);
        if self.places.get(stream) == Some(&place) {
            return Vec::new();
        }
        let mut changed = self.leave(stream);
        let (endpoint, user) = place.clone();
        let users = self.users.entry(endpoint).or_default();
        users.insert(user);
        if users.first().is_some_and(|eldest| eldest.stream == *stream) {
            changed.extend(users.iter().skip(1).map(|user| user.stream.clone()));
        }
        self.places.insert(stream.clone(), place);
        changed
    }

    /// Notes that `stream` asks nothing any more. Returns the other streams whose elder changed by it.
    pub(super) fn leave(&mut self, stream: &StreamName) -> Vec<StreamName> {
        let Some((endpoint, user)) = self.places.remove(stream) else { return Vec::new() };
        let Some(users) = self.users.get_mut(&endpoint) else { return Vec::new() };
        let was_eldest = users.first() == Some(&user);
        users.remove(&user);
        let orphaned = if was_eldest { users.iter().map(|user| user.stream.clone()).collect() } else { Vec::new() };
        if users.is_empty() {
            self.users.remove(&endpoint);
        }
        orphaned
    }

    /// The oldest other user of this stream's URL, unless this stream is the oldest itself.
    pub(super) fn elder(&self, stream: &StreamName) -> Option<StreamName> {
        let (endpoint, _) = self.places.get(stream)?;
        let eldest = &self.users.get(endpoint)?.first()?.stream;
        (eldest != stream).then(|| eldest.clone())
    }
}

fn normalized(url: &str) -> String {
    Url::parse(url).map_or_else(|_| url.to_owned(), String::from)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;

    const URL: &str = "http://orders.test/events";

    fn stream(name: &str) -> StreamName {
        StreamName::new("shop", name)
    }

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_younger_of_two_names_the_older() {
        let mut endpoints = Endpoints::default();
        assert!(endpoints.enter(&stream("old"), URL, second(1)).is_empty());
        assert!(endpoints.enter(&stream("young"), URL, second(2)).is_empty());
        assert_eq!(endpoints.elder(&stream("old")), None);
        assert_eq!(endpoints.elder(&stream("young")), Some(stream("old")));
    }

    #[test]
    fn an_older_object_seen_later_makes_the_first_one_young() {
        let mut endpoints = Endpoints::default();
        endpoints.enter(&stream("young"), URL, second(2));
        assert_eq!(endpoints.enter(&stream("old"), URL, second(1)), [stream("young")]);
        assert_eq!(endpoints.elder(&stream("young")), Some(stream("old")));
    }

    #[test]
    fn when_the_eldest_leaves_the_next_one_takes_its_place() {
        let mut endpoints = Endpoints::default();
        for (name, created) in [("a", 1), ("b", 2), ("c", 3)] {
            endpoints.enter(&stream(name), URL, second(created));
        }
        assert_eq!(endpoints.leave(&stream("a")), [stream("b"), stream("c")]);
        assert_eq!(endpoints.elder(&stream("b")), None);
        assert_eq!(endpoints.elder(&stream("c")), Some(stream("b")));
    }

    #[test]
    fn namespaces_do_not_see_each_other() {
        let mut endpoints = Endpoints::default();
        endpoints.enter(&stream("a"), URL, second(1));
        let other = StreamName::new("other", "a");
        endpoints.enter(&other, URL, second(2));
        assert_eq!(endpoints.elder(&other), None);
    }

    #[test]
    fn one_url_in_two_spellings_is_one_endpoint() {
        let mut endpoints = Endpoints::default();
        endpoints.enter(&stream("a"), "http://Orders.test:80/events", second(1));
        endpoints.enter(&stream("b"), URL, second(2));
        assert_eq!(endpoints.elder(&stream("b")), Some(stream("a")));
    }

    /// The index against the definition, over random histories: what it says, and that it names whoever changed.
    #[test]
    fn the_index_says_what_a_full_comparison_says() {
        for seed in 0..200 {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut endpoints = Endpoints::default();
            let mut truth: HashMap<StreamName, (String, Timestamp)> = HashMap::new();
            let mut said: HashMap<StreamName, Option<StreamName>> = HashMap::new();
            for _ in 0..60 {
                let subject = stream(&format!("s{}", random.random_range(0..6)));
                let changed = if random.random_bool(0.7) {
                    let url = format!("http://host{}.test/", random.random_range(0..2));
                    let created = second(random.random_range(0..4));
                    truth.insert(subject.clone(), (url.clone(), created));
                    endpoints.enter(&subject, &url, created)
                } else {
                    truth.remove(&subject);
                    said.remove(&subject);
                    endpoints.leave(&subject)
                };
                for name in changed.into_iter().chain(truth.contains_key(&subject).then_some(subject)) {
                    said.insert(name.clone(), endpoints.elder(&name));
                }
                for (name, (url, created)) in &truth {
                    let eldest = truth
                        .iter()
                        .filter(|(_, (other, _))| other == url)
                        .min_by_key(|(name, (_, created))| (*created, (*name).clone()))
                        .map(|(name, _)| name.clone())
                        .filter(|eldest| eldest != name);
                    assert_eq!(said[name], eldest, "seed {seed}, {name} of {created}");
                }
            }
        }
    }
}
