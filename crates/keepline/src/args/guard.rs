//! Arguments of the guard and of what it goes by.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use keepline_guard::Log;

use super::{Output, SelectArgs};

/// Arguments of `guard`.
#[derive(Debug, Args)]
pub struct GuardArgs {
    /// What holds where [default: /etc/keepline/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where metrics are told, or off [default: as the file says, else 127.0.0.1:9745]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen)]
    pub listen: Option<Listen>,
    /// Form of the log: auto, text, json or journald
    #[arg(long, value_name = "FORM", default_value = "auto", value_parser = log)]
    pub log: Log,
    /// One pass, and end
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    pub select: SelectArgs,
}

/// An address, or nowhere.
#[derive(Debug, Clone, Copy)]
pub struct Listen(pub Option<SocketAddr>);

fn listen(text: &str) -> Result<Listen, String> {
    keepline_guard::listen(text).map(Listen)
}

fn log(text: &str) -> Result<Log, &'static str> {
    text.parse()
}

/// Arguments of `policy`.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORM", default_value_t = Output::Human)]
    pub output: Output,
    /// The guard's file [default: /etc/keepline/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The networks and services of a capture file instead of this machine's (- reads stdin)
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
}
