//! What can go wrong when this machine is observed.

use keepline_core::snapshot::SelectError;
use thiserror::Error;

/// Why a look at this machine failed as a whole. What could only in part be seen is no error:
/// it stands in `Snapshot::incomplete`.
#[derive(Debug, Error)]
pub enum NodeError {
    /// Something selected is not there.
    #[error("no {kind} `{name}`: {near}")]
    Unknown {
        /// What was asked for: `network namespace`, `process`.
        kind: &'static str,
        /// The name as given.
        name: String,
        /// What there is instead, or where to look.
        near: String,
    },
    /// A container, network or service that is not there, or not one.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// Nothing at all can be seen.
    #[error("cannot observe this machine: {why}")]
    Nothing {
        /// The reason.
        why: String,
    },
}

impl NodeError {
    /// The same without what there is instead, which may be something else at each look.
    #[must_use]
    pub fn brief(&self) -> String {
        match self {
            Self::Unknown { kind, name, .. } => format!("no {kind} `{name}`"),
            Self::Select(_) | Self::Nothing { .. } => self.to_string(),
        }
    }
}
