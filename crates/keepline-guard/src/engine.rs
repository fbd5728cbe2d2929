//! What the Engine told, kept: it is asked when something has changed, and now and then. While it
//! does not answer, what it said last holds on.

use std::time::{Duration, Instant};

use keepline_core::snapshot::Topology;

/// Between two answers that nothing asked for.
const SELDOM: Duration = Duration::from_secs(60);
/// After none.
const SOON: Duration = Duration::from_secs(2);

/// The Engine as it is remembered.
#[derive(Debug, Default)]
pub(crate) struct Engine {
    topology: Option<Topology>,
    again: Option<Instant>,
    /// Why it told nothing, if it should have.
    pub(crate) silent: Option<String>,
}

impl Engine {
    /// Something has changed there.
    pub(crate) fn stir(&mut self) {
        self.again = None;
    }

    /// What it tells, asked anew where that is due.
    pub(crate) fn topology(&mut self) -> Option<Topology> {
        let now = Instant::now();
        if self.again.is_none_or(|again| again <= now) {
            match keepline_node::topology() {
                // In part is worse than a minute old.
                Ok(Some(told)) if !told.incomplete.is_empty() && self.topology.is_some() => {
                    self.silent = told.incomplete.first().cloned();
                    self.again = Some(now + SOON);
                }
                Ok(told) => {
                    self.silent = told.as_ref().and_then(|told| told.incomplete.first().cloned());
                    // One that was there and whose socket is gone is being replaced.
                    let whole = told.is_some() && self.silent.is_none();
                    self.again = Some(now + if whole { SELDOM } else { SOON });
                    self.topology = told.or(self.topology.take());
                }
                Err(why) => {
                    self.silent = Some(why);
                    self.again = Some(now + SOON);
                }
            }
        }
        self.topology.clone()
    }
}
