//! What the access log of one run says of the manners of a candidate.

use std::collections::BTreeMap;

use crate::access_log::Access;
use crate::checker::GAP_US;

/// Requests and what they brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Requests {
    pub count: usize,
    /// Those that started less than 200 ms after the one before them at the same source.
    pub early: usize,
    /// Events that were sent more than once.
    pub again: u64,
    /// When the first one started.
    pub first: u64,
}

impl Requests {
    /// Of these entries; none of none.
    pub(super) fn of(accesses: &[Access]) -> Option<Self> {
        let mut by_source: BTreeMap<&str, Vec<&Access>> = BTreeMap::new();
        for access in accesses {
            by_source.entry(&access.source).or_default().push(access);
        }
        let (mut early, mut again) = (0, 0);
        for accesses in by_source.values_mut() {
            accesses.sort_by_key(|access| access.started);
            early += accesses.windows(2).filter(|pair| pair[1].started - pair[0].started < GAP_US).count();
            again += sent_again(accesses);
        }
        let first = accesses.iter().map(|access| access.started).min()?;
        Some(Self { count: accesses.len(), early, again, first })
    }
}

/// How many events were sent beyond the first time each.
fn sent_again(accesses: &[&Access]) -> u64 {
    let mut runs: Vec<_> = accesses.iter().flat_map(|access| &access.delivered).collect();
    runs.sort_by_key(|run| run.first);
    let (mut again, mut highest) = (0, 0);
    for run in runs {
        again += highest.min(run.last).saturating_sub(run.first - 1);
        highest = highest.max(run.last);
    }
    again
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::access;

    #[test]
    fn a_request_is_early_beside_its_own_source_alone() {
        let accesses = [
            access("orders").at_ms(0).delivering(1, 10).build(),
            access("orders").at_ms(150).delivering(11, 20).build(),
            access("orders").at_ms(350).build(),
            access("returns").at_ms(20).delivering(1, 10).build(),
        ];
        let requests = Requests::of(&accesses).unwrap();
        assert_eq!((requests.count, requests.early, requests.again, requests.first), (4, 1, 0, accesses[0].started));
    }

    #[test]
    fn an_event_counts_each_time_it_is_sent_beyond_the_first() {
        let accesses = [
            access("orders").at_ms(0).delivering(1, 10).build(),
            access("orders").at_ms(300).delivering(6, 15).build(),
            access("orders").at_ms(600).delivering(1, 10).build(),
        ];
        assert_eq!(Requests::of(&accesses).unwrap().again, 15);
    }
}
