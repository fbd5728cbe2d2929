//! What can go wrong around a guest.

use std::fmt;
use std::io;
use std::time::Duration;

/// An error of the harness. What a command in a guest says by its exit status is no error of
/// [`crate::Guest::sh`]; it is one of [`crate::Guest::ok`].
#[derive(thiserror::Error)]
pub enum Error {
    /// Something on this machine failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation and its object.
        what: String,
        /// The reason.
        source: io::Error,
    },
    /// A helper program on this machine failed.
    #[error("{program} failed ({status}): {stderr}")]
    Program {
        /// Its name.
        program: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it wrote to stderr, empty if that went to the terminal.
        stderr: String,
    },
    /// QEMU or the guest ended, or the guest stopped answering.
    #[error("guest {node} {what}\n--- the last lines of its console:\n{console}")]
    Guest {
        /// Which guest.
        node: u8,
        /// What happened.
        what: String,
        /// Whether the machine itself is gone: its kernel gave up, or QEMU did.
        ended: bool,
        /// The tail of the console, and QEMU's own messages.
        console: String,
    },
    /// A command in a guest took too long and was killed.
    #[error("guest {node}: killed after {after:?}: {command}\n{output}")]
    Timeout {
        /// Which guest.
        node: u8,
        /// How long it was given.
        after: Duration,
        /// The command.
        command: String,
        /// What it had written until then, stdout and stderr.
        output: String,
    },
    /// A command in a guest that had to succeed did not.
    #[error("guest {node}: exit status {status}: {command}\n{output}")]
    Command {
        /// Which guest.
        node: u8,
        /// The exit status.
        status: i32,
        /// The command.
        command: String,
        /// What it wrote, stdout and stderr.
        output: String,
    },
}

// `unwrap` in a test shows this: a console in one quoted line helps nobody.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error {
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }
}
