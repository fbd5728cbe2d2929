//! Back to what was there.

use super::{Change, journal::Standing};

/// A change that leads back, and the one it leads back from.
#[derive(Debug, Clone, PartialEq)]
pub struct Undo {
    /// Number of the plan that made it.
    pub id: u64,
    /// Its place in that.
    pub step: usize,
    /// What leads back.
    pub change: Change,
}

/// Undoes changes: the last first, so that what was changed twice ends where it began.
#[must_use]
pub fn undo(standing: &[Standing]) -> Vec<Undo> {
    standing
        .iter()
        .rev()
        .filter_map(|it| {
            let change =
                Change { place: it.change.place.clone(), what: it.change.what.reversed()? };
            Some(Undo { id: it.id, step: it.step, change })
        })
        .collect()
}
