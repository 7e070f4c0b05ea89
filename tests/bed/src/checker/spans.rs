//! Stretches of time, both ends in microseconds.

/// From and until.
pub(super) type Span = (u64, u64);

/// The same time in stretches that neither touch nor overlap, in order.
pub(super) fn union(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut merged: Vec<Span> = Vec::new();
    for (from, until) in spans.into_iter().filter(|(from, until)| from < until) {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(until),
            _ => merged.push((from, until)),
        }
    }
    merged
}

/// What lies in both, each as [`union`] gives it.
pub(super) fn common(some: &[Span], others: &[Span]) -> Vec<Span> {
    let both = |&(from, until): &Span, other: &Span| (from.max(other.0), until.min(other.1));
    union(some.iter().flat_map(|span| others.iter().map(move |other| both(span, other))).collect())
}

/// What these leave of all time, as [`union`] gives them.
pub(super) fn rest(spans: &[Span]) -> Vec<Span> {
    let ends = std::iter::once(0).chain(spans.iter().map(|span| span.1));
    let begins = spans.iter().map(|span| span.0).chain(std::iter::once(u64::MAX));
    union(ends.zip(begins).collect())
}

/// How much of them lies within this one.
pub(super) fn length_within((from, until): Span, spans: Vec<Span>) -> u64 {
    common(&union(spans), &[(from, until)]).iter().map(|(from, until)| until - from).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_counts_once() {
        assert_eq!(union(vec![(5, 7), (1, 3), (2, 4), (7, 9), (11, 11)]), [(1, 4), (5, 9)]);
        assert_eq!(length_within((2, 6), vec![(1, 3), (2, 4), (5, 9)]), 3);
    }

    #[test]
    fn what_is_left_and_what_is_common_make_a_whole() {
        assert_eq!(rest(&[(1, 4), (5, 9)]), [(0, 1), (4, 5), (9, u64::MAX)]);
        assert_eq!(common(&[(1, 4), (5, 9)], &[(3, 6), (8, 20)]), [(3, 4), (5, 6), (8, 9)]);
        assert_eq!(rest(&[]), [(0, u64::MAX)]);
    }
}
