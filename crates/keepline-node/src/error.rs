//! What can go wrong when this machine is observed.

use thiserror::Error;

/// Why a look at this machine failed as a whole. What could only in part be seen is no error:
/// it stands in `Snapshot::incomplete`.
#[derive(Debug, Error)]
pub enum NodeError {
    /// Something selected is not there.
    #[error("no {kind} `{name}`: {near}")]
    Unknown {
        /// What was asked for: `network namespace`, `container`, `process`.
        kind: &'static str,
        /// The name as given.
        name: String,
        /// What there is instead, or where to look.
        near: String,
    },
    /// A prefix that fits more than one.
    #[error("{kind} `{name}` is ambiguous: {near}")]
    Ambiguous {
        /// What was asked for.
        kind: &'static str,
        /// The name as given.
        name: String,
        /// What it fits.
        near: String,
    },
    /// Nothing at all can be seen.
    #[error("cannot observe this machine: {why}")]
    Nothing {
        /// The reason.
        why: String,
    },
}
