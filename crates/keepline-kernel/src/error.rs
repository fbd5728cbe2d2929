//! What can go wrong at a door, with the operation and the object.

use std::io;

use keepline_wire::nl::WireError;
use thiserror::Error;

/// An error at a door to the kernel.
#[derive(Debug, Error)]
pub enum Error {
    /// A call failed.
    #[error("{operation} {object}: {source}")]
    Call {
        /// What was tried: `open`, `enter`, `read`.
        operation: &'static str,
        /// On what.
        object: String,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused a netlink request.
    #[error("{operation}: {source}{}", text.as_deref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// The errno.
        source: io::Error,
        /// The kernel's extended acknowledgement.
        text: Option<String>,
    },
    /// The kernel's answer could not be understood.
    #[error("{operation}: {source}")]
    Answer {
        /// What was asked.
        operation: &'static str,
        /// What was wrong with the answer.
        source: WireError,
    },
    /// The kernel acknowledged nothing: what it did was interrupted, or the request asked for no
    /// answer.
    #[error("{operation}: the kernel gave no answer")]
    Silent {
        /// What was asked.
        operation: &'static str,
    },
}

impl Error {
    /// A failed call.
    pub fn call(
        operation: &'static str,
        object: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Call { operation, object: object.into(), source: source.into() }
    }

    /// The errno behind it, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Call { source, .. } | Self::Refused { source, .. } => source.raw_os_error(),
            Self::Answer { .. } | Self::Silent { .. } => None,
        }
    }

    /// Whether rights were missing.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        matches!(self.errno(), Some(libc::EPERM | libc::EACCES))
    }

    /// Whether the thing is not there (any more).
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOENT | libc::ESRCH))
    }
}
