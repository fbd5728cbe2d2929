//! Damaged copies of a fixture.

use proptest::{collection::vec, prelude::*};

use crate::common::fixture;

/// One of `names`, some bytes changed, cut somewhere.
pub fn damaged(names: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    let parts = (proptest::sample::select(names), changes, any::<prop::sample::Index>());
    parts.prop_map(|(name, changes, end)| {
        let mut bytes = fixture(name);
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(end.index(bytes.len() + 1));
        bytes
    })
}
