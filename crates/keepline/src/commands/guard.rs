//! `keepline guard` and `keepline policy`: what holds where, and keeping it so.

use std::path::{Path, PathBuf};

use keepline_core::policy::{Policies, Remembered};
use keepline_core::report::policy as rendered;
use keepline_guard::{Config, FILE, GuardError, Options};
use keepline_node::run::RunError;
use keepline_node::{Owners, Select};

use super::consent::{DONE, IN_PART};
use crate::args::Output;
use crate::args::guard::{GuardArgs, PolicyArgs};
use crate::fault::fault;
use crate::{output, select};

/// `keepline guard`
///
/// # Errors
/// When it could not run.
pub fn run(args: GuardArgs) -> anyhow::Result<u8> {
    let options = Options {
        config: args.config,
        listen: args.listen.map(|listen| listen.0),
        log: args.log,
        once: args.once,
        select: args.select.to_select(),
    };
    let well = keepline_guard::run(&options).map_err(|error| match &error {
        GuardError::Run(RunError::File { source, .. })
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            fault(error.to_string(), "the guard needs root: sudo keepline guard")
        }
        GuardError::System { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            fault(error.to_string(), "--listen takes another address, or off")
        }
        GuardError::Config(_) => {
            fault(error.to_string(), "`keepline policy` shows what a file says")
        }
        _ => error.into(),
    })?;
    Ok(if well { DONE } else { IN_PART })
}

/// `keepline policy`
///
/// # Errors
/// When it could not run.
pub fn policy(args: &PolicyArgs) -> anyhow::Result<u8> {
    let file = args.config.clone().unwrap_or_else(|| PathBuf::from(FILE));
    let named = args.config.is_some();
    let (config, mut invalid) = Config::load(Path::new(&file), named, &Config::default())?;
    let topology = match &args.from {
        Some(file) => select::snapshot(Some(file), &Select::default(), Owners::Nobody)?.topology,
        None => keepline_node::topology().unwrap_or_else(|why| {
            say!("keepline: warning: networks and services are not known: {why}");
            None
        }),
    };
    let topology = topology.as_ref();
    let (policies, by_label) = Policies::of(&config.rules, topology, &mut Remembered::default());
    invalid.extend(by_label);
    output::stdout(|out| match args.output {
        Output::Human => {
            let text = rendered::human_text(&policies, topology, &invalid, output::style());
            out.write_all(text.as_bytes())
        }
        Output::Json => rendered::json(out, &policies, topology, &invalid),
    })?;
    Ok(if invalid.is_empty() { DONE } else { IN_PART })
}
