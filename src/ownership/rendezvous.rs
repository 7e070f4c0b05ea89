//! Rendezvous hashing: which member a source would rather live on. Every replica of every version computes the same.

/// The hash of a member or a stream, made once and combined cheaply: 10,000 orphans over 30 members are 300,000 scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(u64);

impl Key {
    /// The key of a name. Stable for ever: two versions of Headgate run side by side during a rolling update and must
    /// rank alike.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self(mix(fnv1a(name)))
    }
}

/// How much `stream` wants to live on `member`: the higher, the better.
#[must_use]
pub fn score(stream: Key, member: Key) -> u64 {
    mix(stream.0 ^ member.0)
}

/// FNV-1a, 64 bits: spreads the bytes, [`mix`] then spreads the bits.
pub(super) fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The finalizer of splitmix64.
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_the_same_in_every_version() {
        assert_eq!(score(Key::of("shop/orders"), Key::of("headgate-0")), 11_509_621_015_731_396_955);
    }

    #[test]
    fn every_member_is_first_choice_of_its_share() {
        let members: Vec<Key> = (0..10).map(|n| Key::of(&format!("headgate-7d9c6b5f4-{n}"))).collect();
        let mut firsts = [0_u32; 10];
        for n in 0..10_000 {
            let stream = Key::of(&format!("shop/source-{n}"));
            let best = (0..10).max_by_key(|&m| score(stream, members[m])).unwrap();
            firsts[best] += 1;
        }
        assert!(firsts.iter().all(|&count| (850..1150).contains(&count)), "{firsts:?}");
    }
}
