//! Errors as the operator reads them: what failed, and the way out where there is one.

use std::fmt;

use keepline_core::report::text;

/// An error with a way out.
#[derive(Debug)]
struct Fault {
    what: String,
    help: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Fault {}

/// An error that says `what` failed, and what `help`s.
pub fn fault(what: impl Into<String>, help: impl Into<String>) -> anyhow::Error {
    Fault { what: what.into(), help: help.into() }.into()
}

/// Writes `error` to stderr: `keepline: error: …`, and `help: …` where there is a way out.
pub fn report(error: &anyhow::Error) {
    // Names and values from files and from the system stand in it.
    say!("keepline: error: {}", text::escape(&format!("{error:#}"), text::COMMAND));
    if let Some(fault) = error.downcast_ref::<Fault>() {
        say!("help: {}", text::escape(&fault.help, text::SENTENCE));
    }
}
