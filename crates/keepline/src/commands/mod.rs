//! One file for each command. Each returns the exit status, or an error for exit status 2.

pub mod apply;
pub mod capture;
pub mod check;
mod consent;
pub mod explain;
mod follow;
pub mod generate;
pub mod guard;
pub mod migrate;
pub mod standing;
pub mod timeouts;
mod watch;

use anyhow::anyhow;

/// `keepline lab …`
pub fn lab(args: keepline_lab::cli::LabArgs) -> anyhow::Result<u8> {
    let status = keepline_lab::cli::main(args).map_err(|error| anyhow!("{error}"))?;
    Ok(u8::try_from(status).unwrap_or(1))
}
