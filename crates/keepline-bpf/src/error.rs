//! What can go wrong, with the operation and the object.

use std::io;

use libbpf_rs::ErrorKind;
use thiserror::Error;

/// An error of loading, attaching or reading programs.
#[derive(Debug, Error)]
pub enum Error {
    /// A system call failed.
    #[error("{operation} {object}: {source}")]
    Call {
        /// What was tried: `open`, `mount`, `lock`.
        operation: &'static str,
        /// On what.
        object: String,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel or libbpf refused something about a program, a map or a link.
    #[error("{operation} {object}: {source}{}", tail(log))]
    Bpf {
        /// What was tried: `load`, `attach`, `replace`.
        operation: &'static str,
        /// On what.
        object: String,
        /// What was said.
        source: libbpf_rs::Error,
        /// What libbpf printed meanwhile; the verifier's reasons are in it. May be empty.
        log: String,
    },
    /// This kernel lacks something that was asked for.
    #[error("{what}: this kernel cannot: {why}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// What is missing.
        why: String,
    },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// What matters of a log, for a message: the verifier's last words, else libbpf's.
fn tail(log: &str) -> String {
    let lines = || log.lines().map(str::trim).filter(|line| !line.is_empty());
    // The verifier's log has state and instructions, its reason, its statistics, an end mark.
    let verifier = lines()
        .take_while(|line| !line.starts_with("-- END PROG LOAD LOG"))
        .filter(|line| !line.starts_with("libbpf: ") && !line.starts_with("processed "))
        .last()
        .filter(|_| log.contains("-- END PROG LOAD LOG"));
    let libbpf = lines().next_back().map(|line| line.trim_start_matches("libbpf: "));
    match verifier.or(libbpf) {
        Some(reason) => format!(" ({reason})"),
        None => String::new(),
    }
}

impl Error {
    pub(crate) fn call(
        operation: &'static str,
        object: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Call { operation, object: object.into(), source: source.into() }
    }

    pub(crate) fn bpf(
        operation: &'static str,
        object: impl Into<String>,
        source: libbpf_rs::Error,
    ) -> Self {
        Self::Bpf { operation, object: object.into(), source, log: crate::object::take_log() }
    }

    /// Whether rights were missing.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Call { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::Bpf { source, .. } => source.kind() == ErrorKind::PermissionDenied,
            Self::Unsupported { .. } | Self::Invalid(_) => false,
        }
    }

    /// Whether the thing is not there (any more).
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Call { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Bpf { source, .. } => source.kind() == ErrorKind::NotFound,
            Self::Unsupported { .. } | Self::Invalid(_) => false,
        }
    }
}
