//! Findings: stated problems, each with a code, what was seen, and the command that helps.

mod code;
mod directors;
mod fix;
mod rules;

pub use code::{Code, Severity, UnknownCode};
pub(crate) use rules::find;

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Code; title, severity and page hang on it.
    pub code: Code,
    /// How many sessions it is about.
    pub sessions: usize,
    /// What was seen, with numbers, and what follows from it.
    pub detail: String,
    /// Commands, ready to type; the best first.
    pub fix: Vec<String>,
    /// Index of the director's namespace, where it is about one.
    pub director: Option<usize>,
}
