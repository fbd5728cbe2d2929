//! `keepline undo` and `keepline status`: what was changed, and back.

use std::path::Path;

use keepline_core::plan::journal::Standing;
use keepline_core::plan::{self, Action, Selected, Undo};
use keepline_core::report::plan as rendered;
use keepline_core::report::status::{self, Applied, Status};
use keepline_guard::{Config, FILE, control};
use keepline_node::run::{self, Hold};
use keepline_node::{Now, Owners};

use super::consent::{self, DONE, Decision, IN_PART};
use crate::args::Output;
use crate::args::act::{StatusArgs, UndoArgs, Undoable};
use crate::fault::fault;
use crate::output;
use crate::signals::{self, SIGINT, SIGTERM};

/// `keepline undo`
///
/// # Errors
/// When it could not run.
pub fn undo(args: &UndoArgs) -> anyhow::Result<u8> {
    let stop = signals::stop_flag(&[SIGINT, SIGTERM])?;
    let mut exclusive = (!args.consent.dry_run).then(consent::exclusive).transpose()?;
    let select = args.select.to_select();
    let snapshot = match select.is_everything() {
        true => None,
        false => Some(keepline_node::observe(&select, Owners::MostUrgent(0))?),
    };
    let meant = |mut standing: Vec<Standing>| {
        if let Some(strategy) = args.strategy {
            standing.retain(|it| it.action == strategy.action());
        }
        match &snapshot {
            Some(snapshot) => plan::selected(standing, snapshot),
            None => Selected { standing, shared: Vec::new() },
        }
    };
    let Selected { standing, shared } = meant(match &exclusive {
        Some(exclusive) => exclusive.standing(),
        None => run::standing()?,
    });
    for (object, _) in shared.iter().map(|it| it.change.what.describe()) {
        say!(
            "keepline: warning: {object}: of others than what is selected, too; as a whole it is \
             taken back by `keepline undo` without a selection"
        );
    }
    let status = if shared.is_empty() { DONE } else { IN_PART };
    let of_entries = args.strategy.is_none_or(Undoable::makes_entries);
    let left = if of_entries { keepline_node::left(exclusive.as_ref())? } else { Vec::new() };
    let left = match &snapshot {
        Some(snapshot) => plan::concerned(left, snapshot),
        None => left,
    };
    if standing.is_empty() && left.is_empty() {
        output::print("undo: nothing to change.\n")?;
        return Ok(status);
    }
    let written = plan::undo(&standing);
    let left = left.into_iter().map(|change| Undo { of: None, change });
    let undos: Vec<Undo> = written.iter().cloned().chain(left).collect();
    let text = rendered::changes(undos.iter().map(|it| &it.change), None, output::style());
    output::print(&format!("undo: back to what was there\n{text}"))?;
    if args.consent.dry_run {
        return Ok(status);
    }
    if standing.iter().any(|it| it.by.guard) && guard().is_some() {
        say!(
            "keepline: warning: the guard did some of this by its policy, and will do it again: \
             `keepline policy` shows where it says so"
        );
    }
    // Not while somebody thinks about it: a guard would have to wait, and could hold nothing.
    exclusive.take_if(|_| !args.consent.yes);
    if consent::question(args.consent)? != Decision::Go {
        return Ok(IN_PART);
    }
    let exclusive = match &mut exclusive {
        Some(exclusive) => exclusive,
        none => none.insert(consent::exclusive()?),
    };
    if plan::undo(&meant(exclusive.standing()).standing) != written {
        return Err(fault(
            "what stands has changed meanwhile: nothing was taken back",
            "see what stands now: keepline status",
        ));
    }
    let report = keepline_node::undo(exclusive, &undos, &stop);
    consent::report(report, !shared.is_empty(), None)
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
    let (guard, left) = (guard(), keepline_node::left(None)?);
    let status = Status { applied: &applied, holds: &holds, left: &left, guard: guard.as_ref() };
    output::stdout(|out| match args.output {
        Output::Human => out.write_all(status::human(&status, output::style()).as_bytes()),
        Output::Json => status::json(out, &status),
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
            say!("keepline: warning: the guard was not asked: {error}");
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
