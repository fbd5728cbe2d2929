//! The monitoring plugin convention: one line for people, `|`, performance data, and a status.
//! Source: Monitoring Plugins Development Guidelines, sections "Plugin Output for Nagios",
//! "Threshold and Ranges" and "Performance data".

use std::fmt::Write as _;

use super::{Check, counted, text};
use crate::{
    duration::{human, seconds::rounded},
    finding::Code,
    snapshot::Incomplete,
};

/// State of a service, by the plugin's exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Exit status 0.
    Ok,
    /// Exit status 1: sessions at risk.
    Warning,
    /// Exit status 2: sessions orphaned.
    Critical,
    /// Exit status 3: the scan is incomplete, or could not be made.
    Unknown,
}

impl State {
    /// Exit status of the plugin.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// The state that a check means.
#[must_use]
pub fn state(check: &Check<'_>) -> State {
    let summary = &check.judgement.summary;
    let incomplete = |finding: &crate::Finding| finding.code == Code::SCAN_INCOMPLETE;
    if summary.orphaned > 0 {
        State::Critical
    } else if summary.at_risk > 0 {
        State::Warning
    } else if check.judgement.findings.iter().any(incomplete) {
        State::Unknown
    } else {
        State::Ok
    }
}

/// The line, with its end.
#[must_use]
pub fn check(check: &Check<'_>) -> String {
    let summary = &check.judgement.summary;
    let next = check.next_loss();
    let mut said = Vec::new();
    if summary.orphaned > 0 {
        said.push(format!("{} orphaned", summary.orphaned));
    }
    if summary.at_risk > 0 {
        let when = next.map_or(String::new(), |next| format!(" (next in {})", human(next)));
        said.push(format!("{} at risk{when}", summary.at_risk));
    }
    if summary.unknown > 0 {
        said.push(format!("{} unknown", summary.unknown));
    }
    if said.is_empty() {
        said.push(match check.tracked() {
            0 => "no session through a load balancer".to_owned(),
            safe => format!("{} safe", counted(safe, "session", "sessions")),
        });
    }
    if let Some(first) = check.snapshot.incomplete.first() {
        said.push(incomplete(first, check.snapshot.incomplete.len()));
    }
    let mut line = format!("KEEPLINE {} - {}", state(check).name(), said.join(", "));
    // label=value[unit];warning;critical;minimum. "0" as a range: alert above nothing. The loss
    // is worse the smaller it is, and absent mostly: "U" is the guidelines' word for that.
    let next = next.map_or("U".to_owned(), |next| format!("{}s", rounded(next)));
    // Writing to a string does not fail.
    let _ = writeln!(
        line,
        " | orphaned={};;0;0 at_risk={};0;;0 safe={};;;0 unknown={};;;0 next_loss={next} time={}s",
        summary.orphaned,
        summary.at_risk,
        summary.safe,
        summary.unknown,
        rounded(check.snapshot.duration),
    );
    line
}

/// The line when a check could not be made at all.
#[must_use]
pub fn failed(why: &str) -> String {
    format!("KEEPLINE {} - {}\n", State::Unknown.name(), one_field(why, 200))
}

fn incomplete(first: &Incomplete, count: usize) -> String {
    let what = one_field(&first.what, text::NAME);
    let why = one_field(&first.why, 100);
    match count {
        1 => format!("scan incomplete: {what}: {why}"),
        _ => format!("scan incomplete: {what}: {why}, and {} more", count - 1),
    }
}

/// Text that can end neither the line nor the field.
fn one_field(text: &str, limit: usize) -> String {
    text::escape(text, limit).replace('|', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_break_the_line() {
        assert_eq!(failed("a | b=1\nOK"), "KEEPLINE UNKNOWN - a / b=1\\nOK\n");
    }
}
