//! Finds the values of several paths in one JSON text, in one pass that also proves the text to be valid JSON.

use std::fmt;

use serde::{
    Deserializer as _,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Deserializer, value::RawValue};

use super::path::{Path, Step};

/// How many paths a tree can hold; a set of them is the bits of a `u8`.
pub(super) const SLOTS: usize = 8;

/// The text of the value at the path of each slot, byte for byte.
pub(super) type Found<'a> = [Option<&'a str>; SLOTS];

/// The paths of an item, merged where they share their first steps.
#[derive(Debug, Default)]
pub(super) struct PathTree {
    /// The slots whose path ends here.
    here: u8,
    /// The slots whose path ends here or below.
    within: u8,
    branches: Vec<(Step, PathTree)>,
}

impl PathTree {
    pub(super) fn add(&mut self, path: &Path, slot: usize) {
        self.add_steps(path.steps(), slot);
    }

    pub(super) fn add_steps(&mut self, steps: &[Step], slot: usize) {
        debug_assert!(slot < SLOTS, "a slot is a bit of a u8");
        let mut tree = self;
        tree.within |= 1 << slot;
        for step in steps {
            let at = tree.branches.iter().position(|(known, _)| known == step).unwrap_or_else(|| {
                tree.branches.push((step.clone(), Self::default()));
                tree.branches.len() - 1
            });
            tree = &mut tree.branches[at].1;
            tree.within |= 1 << slot;
        }
        tree.here |= 1 << slot;
    }

    /// Reads `text`, which must be one JSON value with nothing around it.
    ///
    /// Of repeated keys the last one counts, as in serde_json, JavaScript and `jsonb`.
    pub(super) fn find<'a>(&self, text: &'a str) -> serde_json::Result<Found<'a>> {
        let mut found = Found::default();
        set(&mut found, self.here, Some(text));
        self.read(text, &mut found)?;
        Ok(found)
    }

    fn read<'a>(&self, text: &'a str, found: &mut Found<'a>) -> serde_json::Result<()> {
        let mut json = Deserializer::from_str(text);
        match text.as_bytes().first() {
            Some(b'{') if !self.branches.is_empty() => json.deserialize_map(Members { tree: self, found })?,
            Some(b'[') if !self.branches.is_empty() => json.deserialize_seq(Members { tree: self, found })?,
            // Skipped without recursion, however deep.
            _ => json.deserialize_ignored_any(IgnoredAny).map(|_| ())?,
        }
        json.end()
    }

    fn name(&self, key: &str) -> Option<&Self> {
        let bare = &key[1..key.len() - 1];
        let decoded: String;
        let key = if bare.contains('\\') {
            // A key that is no Unicode text (half a surrogate pair) is the name of nothing.
            decoded = serde_json::from_str(key).ok()?;
            &decoded
        } else {
            bare
        };
        self.branches.iter().find_map(|(step, tree)| matches!(step, Step::Name(name) if name == key).then_some(tree))
    }

    fn index(&self, index: usize) -> Option<&Self> {
        self.branches.iter().find_map(|(step, tree)| (*step == Step::Index(index)).then_some(tree))
    }
}

fn set<'a>(found: &mut Found<'a>, slots: u8, value: Option<&'a str>) {
    for (slot, found) in found.iter_mut().enumerate() {
        if slots & (1 << slot) != 0 {
            *found = value;
        }
    }
}

/// Goes through the members of an object or the elements of an array.
struct Members<'t, 'f, 'a> {
    tree: &'t PathTree,
    found: &'f mut Found<'a>,
}

impl<'a> Members<'_, '_, 'a> {
    fn take<E: serde::de::Error>(&mut self, branch: &PathTree, value: &'a RawValue) -> Result<(), E> {
        // What an earlier member of the same name held is void.
        set(self.found, branch.within, None);
        set(self.found, branch.here, Some(value.get()));
        let nested = value.get().starts_with(['{', '[']);
        if nested && !branch.branches.is_empty() {
            branch.read(value.get(), self.found).map_err(E::custom)?;
        }
        Ok(())
    }
}

impl<'a> Visitor<'a> for Members<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut members: A) -> Result<(), A::Error> {
        // The key is taken raw: serde_json then checks its syntax and lets half a surrogate pair pass.
        while let Some(key) = members.next_key::<&RawValue>()? {
            match self.tree.name(key.get()) {
                Some(branch) => self.take(branch, members.next_value()?)?,
                None => members.next_value::<IgnoredAny>().map(|_| ())?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut elements: A) -> Result<(), A::Error> {
        for index in 0.. {
            match self.tree.index(index) {
                Some(branch) => match elements.next_element()? {
                    Some(value) => self.take(branch, value)?,
                    None => break,
                },
                None if elements.next_element::<IgnoredAny>()?.is_none() => break,
                None => {}
            }
        }
        Ok(())
    }
}
