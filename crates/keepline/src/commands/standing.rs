//! `keepline undo` and `keepline status`: what was changed, and back.

use std::path::Path;

use keepline_core::plan::journal::Standing;
use keepline_core::plan::{self, Action};
use keepline_core::report::plan as rendered;
use keepline_core::report::status::{self, Applied};
use keepline_guard::{Config, FILE, control};
use keepline_node::run::{self, Hold};
use keepline_node::{Now, Owners};

use super::consent::{self, DONE, Decision, IN_PART};
use crate::args::Output;
use crate::args::act::{StatusArgs, UndoArgs};
use crate::output;
use crate::signals::{self, SIGINT, SIGTERM};

/// `keepline undo`
///
/// # Errors
/// When it could not run.
pub fn undo(args: &UndoArgs) -> anyhow::Result<u8> {
    let stop = signals::stop_flag(&[SIGINT, SIGTERM])?;
    let mut exclusive = (!args.consent.dry_run).then(consent::exclusive).transpose()?;
    let mut standing = match &exclusive {
        Some(exclusive) => exclusive.standing(),
        None => run::standing()?,
    };
    if let Some(strategy) = args.strategy {
        standing.retain(|it| it.action == strategy.action());
    }
    let select = args.select.to_select();
    if !select.is_everything() {
        let snapshot = keepline_node::observe(&select, Owners::MostUrgent(0))?;
        standing.retain(|it| {
            let mut namespaces = snapshot.namespaces.iter();
            namespaces.any(|at| it.change.place.is(at.inode, at.cookie) && snapshot.concerns(at))
        });
    }
    if standing.is_empty() {
        output::print("undo: nothing to change.\n")?;
        return Ok(DONE);
    }
    let undos = plan::undo(&standing);
    let text = rendered::changes(undos.iter().map(|it| &it.change), None, output::style());
    output::print(&format!("undo: back to what was there\n{text}"))?;
    if args.consent.dry_run {
        return Ok(DONE);
    }
    if standing.iter().any(|it| it.by.guard) && guard().is_some() {
        eprintln!(
            "keepline: warning: the guard did some of this by its policy, and will do it again: \
             `keepline policy` shows where it says so"
        );
    }
    if consent::question(args.consent)? != Decision::Go {
        return Ok(IN_PART);
    }
    let Some(exclusive) = &mut exclusive else { return Ok(DONE) };
    let report = keepline_node::undo(exclusive, &undos, &stop);
    consent::report(report, false, None)
}

/// `keepline status`
///
/// # Errors
/// When it could not run.
pub fn status(args: &StatusArgs) -> anyhow::Result<u8> {
    let standing = run::standing()?;
    let changes: Vec<_> = standing.iter().map(|it| &it.change).collect();
    let now = keepline_node::compare(&changes)?;
    let applied: Vec<Applied<'_>> =
        standing.iter().zip(&now).map(|(standing, now)| applied(standing, now)).collect();
    let holds: Vec<status::Held> = run::holds().into_iter().map(held).collect();
    let guard = guard();
    output::stdout(|out| match args.output {
        Output::Human => {
            let text = status::human(&applied, &holds, guard.as_ref(), output::style());
            out.write_all(text.as_bytes())
        }
        Output::Json => status::json(out, &applied, &holds, guard.as_ref()),
    })?;
    Ok(DONE)
}

/// What the guard tells of itself, where one runs.
fn guard() -> Option<status::Guard> {
    // What the file says wrongly the guard itself tells.
    let config = Config::load(Path::new(FILE), false, &Config::default());
    let config = config.map(|(config, _)| config).unwrap_or_default();
    let told = match control::ask(&control::socket(&config)) {
        Ok(told) => told?,
        Err(error) => {
            eprintln!("keepline: warning: the guard was not asked: {error}");
            return None;
        }
    };
    Some(status::Guard {
        pid: told.pid,
        version: told.version,
        since: told.since,
        last_look: told.last_look,
        held: told.held,
        healed: told.healed,
        troubles: told.troubles,
    })
}

fn held(hold: Hold) -> status::Held {
    status::Held { strategy: Action::Hold, since: hold.since, by: hold.by, scope: hold.scope }
}

fn applied<'a>(standing: &'a Standing, now: &Now) -> Applied<'a> {
    let (state, detail) = match now {
        Now::InForce if standing.finished => ("in-force", None),
        Now::InForce => ("in-force", Some("its end was not written down".to_owned())),
        Now::Partly { in_force, of } => ("in-force", Some(format!("{in_force} of {of} are open"))),
        Now::AsBefore => ("as-before", Some("it was never made, or taken back by hand".to_owned())),
        Now::Drifted { is } => ("drifted", Some(format!("it is {is} by now"))),
        Now::Gone => ("gone", Some("its network namespace is gone, and it with it".to_owned())),
        Now::Unknown { why } => ("unknown", Some(why.clone())),
    };
    Applied { standing, state, detail }
}
