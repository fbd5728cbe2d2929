//! What can go wrong in the lab.

use std::io;
use std::path::PathBuf;

/// Why the lab could not do what was asked. Every message names the operation and its object.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// This machine lacks a tool, a right or a kernel feature.
    #[error("the lab needs {what}: {way_out}")]
    Missing {
        /// What is missing.
        what: String,
        /// What to type or do about it.
        way_out: String,
    },
    /// A tool refused a step of the set-up.
    #[error("set up {netns}: `{command}`: {message}")]
    Setup {
        /// Namespace in which the step ran.
        netns: String,
        /// The command as it was run.
        command: String,
        /// What the tool said.
        message: String,
    },
    /// The operating system refused something.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried, with its object.
        operation: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A lab's description cannot be understood.
    #[error("read {}: {source}", path.display())]
    State {
        /// The description's file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A client or server of the lab failed or answered nonsense.
    #[error("{peer}: {message}")]
    Peer {
        /// Which one.
        peer: String,
        /// What it said.
        message: String,
    },
    /// The name is taken.
    #[error("a lab named {0} is up already: remove it with `keepline lab down --name {0}`")]
    Exists(String),
    /// There is no lab of that name.
    #[error("no lab named {0} is up: `keepline lab up --name {0}` makes one")]
    Unknown(String),
    /// There is no lab at all.
    #[error("no lab is up: `keepline lab up` makes one")]
    NoneUp,
    /// More than one lab is up and none was named.
    #[error("several labs are up ({0}): choose one with --name")]
    Several(String),
    /// A value on the command line or in a request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Some parts of labs could not be removed; every part was tried.
    #[error("not everything could be removed: {}", problems.join("; "))]
    Leftover {
        /// One sentence for each part that is still there.
        problems: Vec<String>,
    },
    /// The user asked to stop (SIGINT, SIGTERM or SIGHUP).
    #[error("interrupted")]
    Interrupted,
}

/// Makes a closure for `map_err` that adds the operation to an I/O error.
pub(crate) fn io_error<E: Into<io::Error>>(
    operation: impl Into<String>,
) -> impl FnOnce(E) -> LabError {
    move |source| LabError::Io { operation: operation.into(), source: source.into() }
}
