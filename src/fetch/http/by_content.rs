//! Digests of what was read, by which it is compared and shared without being kept.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use sha2::{Digest as _, Sha256};

/// What texts in their order come to. No `Debug`: a short secret can be guessed from it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn of(texts: &[&[u8]]) -> Self {
        let mut digesting = Digesting::default();
        for text in texts {
            digesting.add(text);
        }
        digesting.finish()
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A digest that is being made.
#[derive(Default)]
pub(super) struct Digesting(Sha256);

impl Digesting {
    /// Its length goes before it, so that it matters where one text ends and the next begins.
    pub(super) fn add(&mut self, text: &[u8]) {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
    }

    pub(super) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// Values that are made once for all who have the same content, and that go with the last of these.
pub(super) struct ByContent<T>(Mutex<Made<T>>);

struct Made<T> {
    values: HashMap<Digest, Weak<T>>,
    /// With this many entries those whose values are gone are swept out.
    sweep_at: usize,
}

/// Fewer entries are not worth looking at.
const FEW: usize = 16;

impl<T> Default for ByContent<T> {
    fn default() -> Self {
        Self(Mutex::new(Made { values: HashMap::new(), sweep_at: FEW }))
    }
}

impl<T> ByContent<T> {
    /// The value of this content; made here if nobody has it. Others wait meanwhile, as a thousand sources that are opened
    /// together want the same one.
    pub(super) fn get_or_make<E>(
        &self,
        content: Digest,
        make: impl FnOnce() -> Result<Arc<T>, E>,
    ) -> Result<Arc<T>, E> {
        // What is made under the lock is entered in one step, so a panic leaves nothing half done.
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = made.values.get(&content).and_then(Weak::upgrade) {
            return Ok(value);
        }
        let value = make()?;
        if made.values.len() >= made.sweep_at {
            made.values.retain(|_, value| value.strong_count() > 0);
            made.sweep_at = FEW.max(2 * made.values.len());
        }
        made.values.insert(content, Arc::downgrade(&value));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn made(shared: &ByContent<String>, text: &str) -> Arc<String> {
        let make = || Ok::<_, Infallible>(Arc::new(text.to_owned()));
        shared.get_or_make(Digest::of(&[text.as_bytes()]), make).unwrap_or_else(|never| match never {})
    }

    #[test]
    fn texts_are_told_apart_wherever_one_ends_and_the_next_begins() {
        let split = |texts: [&[u8]; 2]| Digest::of(&texts);
        assert!(split([b"ab", b"c"]) != split([b"a", b"bc"]));
        assert!(split([b"ab", b"c"]) == split([b"ab", b"c"]));
    }

    #[test]
    fn contents_that_come_and_go_leave_no_entries_behind() {
        let shared = ByContent::default();
        let kept: Vec<_> = (0..40).map(|number| made(&shared, &number.to_string())).collect();
        for number in 100..10_000 {
            made(&shared, &number.to_string());
        }
        let entries = shared.0.lock().expect("no panic").values.len();
        assert!(entries <= 2 * kept.len() + FEW, "{entries}");
        assert!(kept.iter().all(|one| Arc::ptr_eq(one, &made(&shared, one))));
    }
}
