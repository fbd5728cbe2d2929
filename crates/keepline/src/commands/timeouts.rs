//! `keepline timeouts`

use keepline_core::report::timeouts;

use keepline_node::Owners;

use crate::args::{Output, TimeoutsArgs, TimeoutsChange};
use crate::{output, select};

/// Prints what every director is set to. Exit status 1 if part of the machine was not seen.
///
/// # Errors
/// When it could not run.
pub fn run(args: &TimeoutsArgs) -> anyhow::Result<u8> {
    if let Some(TimeoutsChange::Set(wish)) = &args.change {
        return super::apply::timeout(wish);
    }
    let snapshot =
        select::snapshot(args.from.as_deref(), &args.select.to_select(), Owners::MostUrgent(0))?;
    output::stdout(|out| match args.output {
        Output::Human => out.write_all(timeouts::human(&snapshot, output::style()).as_bytes()),
        Output::Json => timeouts::json(out, &snapshot),
    })?;
    output::warn_incomplete(&snapshot.incomplete);
    Ok(u8::from(!snapshot.incomplete.is_empty()))
}
