//! The `keepline` program: arguments in, words out. What it knows comes from `keepline-node`,
//! what that means from `keepline-core`.
#![forbid(unsafe_code)]

#[macro_use]
mod output;

mod args;
mod commands;
mod fault;
mod plugin;
mod select;
mod signals;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use args::{Args, Command};
use plugin::Call;

fn main() -> ExitCode {
    raise_open_files();
    let status = match plugin::call(std::env::args_os()) {
        Call::Metadata => output::print(&plugin::metadata()),
        Call::Run { name, arguments } => {
            let command = Args::command().bin_name(name);
            let mut matches = command.get_matches_from(arguments);
            match Args::from_arg_matches_mut(&mut matches) {
                Ok(args) => run(args.command),
                Err(error) => error.exit(),
            }
        }
    };
    ExitCode::from(status.unwrap_or_else(|error| {
        fault::report(&error);
        2
    }))
}

/// A copy of each socket that is looked into is an open file, and 1024 are the usual limit. What may
/// be had without asking is taken; where that fails, the limit is named when it is met.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn run(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Check(args) => commands::check::run(&args),
        Command::Explain(args) => commands::explain::run(&args),
        Command::Timeouts(args) => commands::timeouts::run(&args),
        Command::Apply(args) => commands::apply::apply(args),
        Command::Undo(args) => commands::standing::undo(&args),
        Command::Status(args) => commands::standing::status(&args),
        Command::Heal(args) => commands::apply::heal(&args),
        Command::Touch(args) => commands::apply::touch(&args),
        Command::Abort(args) => commands::apply::abort(&args),
        Command::Guard(args) => commands::guard::run(args),
        Command::Policy(args) => commands::guard::policy(&args),
        Command::Capture(args) => commands::capture::run(&args),
        Command::Migrate(args) => commands::migrate::run(&args),
        Command::Lab(args) => commands::lab(args),
        Command::Gen(args) => commands::generate::run(&args),
    }
}
