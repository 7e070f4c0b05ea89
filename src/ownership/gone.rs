//! Which source Leases belong to no object any more.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::event::StreamName;

/// Since when the object of each Lease has been gone.
#[derive(Debug, Default)]
pub struct Gone {
    since: HashMap<StreamName, Instant>,
}

impl Gone {
    /// Looks again. `gone` are the Leases without an object now; returns those that have been so for `long`.
    ///
    /// Call it only with a complete set of objects.
    pub fn look(&mut self, gone: HashSet<StreamName>, long: Duration, now: Instant) -> Vec<StreamName> {
        self.since.retain(|stream, _| gone.contains(stream));
        for stream in gone {
            self.since.entry(stream).or_insert(now);
        }
        let mut over: Vec<_> =
            self.since.iter().filter(|(_, since)| now - **since >= long).map(|(stream, _)| stream.clone()).collect();
        over.sort_unstable();
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_goes_when_its_object_has_been_gone_for_long_and_an_object_that_came_back_counts_anew() {
        let (mut gone, start, long) = (Gone::default(), Instant::now(), Duration::from_mins(10));
        let orders = StreamName::new("shop", "orders");
        let only = || HashSet::from([orders.clone()]);
        assert!(gone.look(only(), long, start).is_empty());
        assert!(gone.look(HashSet::new(), long, start + long / 2).is_empty());
        assert!(gone.look(only(), long, start + long).is_empty());
        assert_eq!(gone.look(only(), long, start + long * 2), std::slice::from_ref(&orders));
    }
}
