//! The real program, run as a reader would run it.

use std::process::{Command, ExitStatus, Output, Stdio};

use serde::Deserialize;

use crate::error::{LabError, io_error};

/// How many sessions got which verdict: `summary` of `check -o json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Verdicts {
    pub safe: u32,
    pub at_risk: u32,
    pub orphaned: u32,
}

/// The part of `keepline.check/v1` that the lab looks at.
#[derive(Deserialize)]
struct CheckOutput {
    summary: Verdicts,
}

fn keepline(arguments: &[&str]) -> Result<Command, LabError> {
    let program = std::env::current_exe().map_err(io_error("find this program"))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    Ok(command)
}

/// Runs `keepline …` with its output where ours goes.
pub(crate) fn show(arguments: &[&str]) -> Result<ExitStatus, LabError> {
    keepline(arguments)?.status().map_err(io_error(format!("run keepline {}", arguments.join(" "))))
}

/// Runs `keepline …` and returns what it printed.
pub(crate) fn capture(arguments: &[&str]) -> Result<Output, LabError> {
    keepline(arguments)?.output().map_err(io_error(format!("run keepline {}", arguments.join(" "))))
}

/// Asks `keepline check` about the sessions of a namespace.
///
/// # Errors
/// When it cannot run or says something that is not its JSON; the message has its own words.
pub(crate) fn check(netns: &str) -> Result<Verdicts, LabError> {
    let arguments = ["check", "--netns", netns, "-o", "json"];
    let output = capture(&arguments)?;
    serde_json::from_slice::<CheckOutput>(&output.stdout).map(|parsed| parsed.summary).map_err(
        |error| {
            let said = String::from_utf8_lossy(&output.stderr);
            let message = match said.lines().next() {
                Some(line) => line.to_owned(),
                None => format!("{}; its output: {error}", output.status),
            };
            LabError::Peer { peer: format!("keepline {}", arguments.join(" ")), message }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_a_check_is_read() {
        let text = r#"{"schema":"keepline.check/v1","summary":
            {"safe":1,"at_risk":2,"orphaned":3,"untracked":4,"unknown":5},"sessions":[]}"#;
        let parsed: CheckOutput = serde_json::from_str(text).unwrap();
        assert_eq!(parsed.summary, Verdicts { safe: 1, at_risk: 2, orphaned: 3 });
    }
}
