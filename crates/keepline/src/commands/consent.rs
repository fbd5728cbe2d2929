//! Before something is changed: it is shown, and asked. After it: what came of it.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::Context as _;
use keepline_core::plan::Plan;
use keepline_core::report::{counted, plan as rendered, text};
use keepline_core::snapshot::Topology;
use keepline_node::run::Exclusive;
use keepline_node::{ActError, Obstacle, Report};

use crate::args::act::ConsentArgs;
use crate::fault::fault;
use crate::output;

/// Done.
pub(super) const DONE: u8 = 0;
/// Done in part, or refused.
pub(super) const IN_PART: u8 = 1;

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// To do it.
    Go,
    /// Not to, and with which exit status.
    Stop(u8),
}

/// Shows a plan, and asks for consent where that is needed.
///
/// # Errors
/// When it cannot be shown, or nobody can be asked.
pub(super) fn ask(
    plan: &Plan,
    topology: Option<&Topology>,
    consent: ConsentArgs,
) -> anyhow::Result<Decision> {
    output::print(&rendered::human(plan, topology, output::style()))?;
    let refused = if plan.refused.is_empty() { DONE } else { IN_PART };
    if plan.changes.is_empty() || consent.dry_run {
        return Ok(Decision::Stop(refused));
    }
    question(consent)
}

/// Asks whether to go on.
///
/// # Errors
/// When nobody can be asked.
pub(super) fn question(consent: ConsentArgs) -> anyhow::Result<Decision> {
    if consent.yes {
        return Ok(Decision::Go);
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(fault(
            "nothing was changed: there is no terminal to ask on",
            "--yes does it without asking, --dry-run only shows it",
        ));
    }
    write!(io::stderr(), "Do this? [y/N] ").context("ask")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("read the answer")?;
    if ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()) {
        return Ok(Decision::Go);
    }
    say!("keepline: nothing was changed");
    Ok(Decision::Stop(IN_PART))
}

/// The right to change this machine.
///
/// # Errors
/// When another Keepline has it, or rights are missing.
pub(super) fn exclusive() -> anyhow::Result<Exclusive> {
    Exclusive::acquire().map_err(|error| {
        use keepline_node::run::RunError;
        match &error {
            RunError::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                fault(error.to_string(), "changing this machine needs root: sudo keepline …")
            }
            RunError::File { .. } => fault(
                format!("{error}: nothing was changed"),
                "what Keepline changes must be written down first, so that undo can take it back",
            ),
            RunError::Busy { .. } | RunError::Guarded { .. } => error.into(),
            RunError::Malformed { path, .. } => fault(
                error.to_string(),
                format!("if nothing of it matters any more: rm {}", path.display()),
            ),
        }
    })
}

/// Says what came of a plan. Exit status 0 or 1.
///
/// # Errors
/// When it cannot be said.
pub(super) fn report(
    report: Result<Report, ActError>,
    refused: bool,
    lasts: Option<&str>,
) -> anyhow::Result<u8> {
    let report = report?;
    let (mut done, mut stands, mut why_left) = (0, false, ": interrupted");
    let mut out = String::new();
    for step in &report.steps {
        let name = text::escape(&step.change.place.name, text::NAME);
        let (object, _) = step.change.what.describe();
        match &step.result {
            Ok(said) => {
                done += 1;
                if !said.is_empty() {
                    let said = text::escape(&said.join(", "), text::SENTENCE);
                    out.push_str(&format!("{name}: {object}: {said}\n"));
                }
            }
            Err(obstacle) => {
                match obstacle {
                    Obstacle::EndUnwritten(_) => done += 1,
                    Obstacle::InPart(_) => stands = true,
                    Obstacle::NotBegun(_) => why_left = "",
                    _ => {}
                }
                let why = text::escape(&obstacle.to_string(), text::SENTENCE);
                say!("keepline: error: {name}: {object}: {why}");
            }
        }
    }
    let all = report.steps.len() + report.left;
    if done == all {
        out.push_str(&format!("Done: {}.", counted(done, "change", "changes")));
    } else {
        out.push_str(&format!("Done in part: {done} of {}.", counted(all, "change", "changes")));
        if report.left > 0 {
            out.push_str(&format!(" {} not begun{why_left}.", report.left));
        }
    }
    if let Some(undo) = lasts.filter(|_| done > 0 || stands) {
        out.push_str(&format!(" To take it back: {undo}"));
    }
    out.push('\n');
    output::print(&out)?;
    Ok(if report.complete() && !refused { DONE } else { IN_PART })
}
