//! The peers: backends and clients, child processes of this same program, each inside its
//! namespace. They are started as `<program> lab peer …`.

mod churn;
mod client;
mod server;

use std::ffi::CString;
use std::fmt;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, setsid};
use serde::{Deserialize, Serialize};

use crate::error::{LabError, io_error};
use crate::units::{Keepalive, PortRange, parse_duration};

/// Files of a peer beside its sessions: standard streams, listeners, epoll, control.
pub(crate) const OTHER_FILES: u64 = 64;

/// What a peer does.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum PeerCommand {
    /// Serve: send back whatever comes
    Serve(ServeArgs),
    /// Connect, exchange one message, fall silent, obey (from --control, or line by line from
    /// standard input: `write`, `close N`, `quit`)
    Idle(IdleArgs),
    /// Open and close sessions all the time
    Churn(ChurnArgs),
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// Ports to listen on
    #[arg(long, value_name = "FIRST-LAST")]
    pub ports: PortRange,
    /// Name of the process
    #[arg(long, default_value = "db-server")]
    pub name: String,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct IdleArgs {
    /// Address to connect to
    #[arg(long, value_name = "ADDRESS")]
    pub to: Ipv4Addr,
    /// Ports to connect to, in turn
    #[arg(long, value_name = "FIRST-LAST")]
    pub ports: PortRange,
    /// How many sessions
    #[arg(long, value_name = "N")]
    pub sessions: u32,
    /// Keepalive of the sockets
    #[arg(long, value_name = "IDLE,INTERVAL,COUNT")]
    pub keepalive: Option<Keepalive>,
    /// Unix socket to take commands from, instead of standard input
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Name of the process
    #[arg(long, default_value = "app")]
    pub name: String,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ChurnArgs {
    /// Address to connect to
    #[arg(long, value_name = "ADDRESS")]
    pub to: Ipv4Addr,
    /// Ports to connect to, in turn
    #[arg(long, value_name = "FIRST-LAST")]
    pub ports: PortRange,
    /// Sessions to open in a second; 0: as many as it can
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub rate: u32,
    /// Sessions that are open at a time
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub parallel: u32,
    /// How long; without it until it is killed
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Name of the process
    #[arg(long, default_value = "app-churn")]
    pub name: String,
}

/// Is a peer until it is told to stop or killed.
///
/// # Errors
/// When it cannot listen, connect, or take commands.
pub(crate) fn run(command: &PeerCommand) -> Result<(), LabError> {
    // A session of its own: Ctrl-C in the terminal that made a lab is not meant for its peers.
    // It fails for a process that leads its group, as when started by hand from a shell.
    let _ = setsid();
    match command {
        PeerCommand::Serve(args) => {
            set_name(&args.name)?;
            server::serve(args)
        }
        PeerCommand::Idle(args) => {
            set_name(&args.name)?;
            client::run(args)
        }
        PeerCommand::Churn(args) => {
            set_name(&args.name)?;
            churn::run(args)
        }
    }
}

/// Sets the name that `ps` and `ss -p` show (at most 15 bytes, the kernel cuts the rest).
fn set_name(name: &str) -> Result<(), LabError> {
    let name = CString::new(name)
        .map_err(|_| LabError::Invalid("a process's name cannot contain a zero byte".into()))?;
    rustix::thread::set_name(&name).map_err(io_error("set the process's name"))
}

/// Prints one line for whoever started this peer.
fn say(line: fmt::Arguments<'_>) -> Result<(), LabError> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(io_error("write to stdout"))
}

/// Sees to it that this process and its children may open `wanted` files at a time, or as many as
/// the system lets them; returns how many that is.
///
/// Beyond the hard limit only `CAP_SYS_RESOURCE` gets, and nothing beyond `fs.nr_open`.
pub(crate) fn allow_open_files(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return wanted;
    }
    let hard = limit.maximum.unwrap_or(u64::MAX);
    for (current, maximum) in [(wanted, hard.max(wanted)), (wanted.min(hard), hard)] {
        let limit = Rlimit { current: Some(current), maximum: Some(maximum) };
        if setrlimit(Resource::Nofile, limit).is_ok() {
            return current;
        }
    }
    limit.current.unwrap_or(wanted)
}

/// What became of the sessions on which a client wrote.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WriteSummary {
    /// The answer came.
    pub survived: u32,
    /// The session was reset.
    pub reset: u32,
    /// No answer came in time; the session hangs.
    pub timed_out: u32,
    /// The other end had closed it.
    pub closed: u32,
    /// How long it took until the last answer, reset or the end of patience, in seconds.
    pub seconds: f64,
}

impl WriteSummary {
    /// Sessions of no use any more.
    #[must_use]
    pub fn lost(&self) -> u32 {
        self.reset + self.timed_out + self.closed
    }

    /// Adds what another client saw.
    pub(crate) fn add(&mut self, other: &Self) {
        self.survived += other.survived;
        self.reset += other.reset;
        self.timed_out += other.timed_out;
        self.closed += other.closed;
        self.seconds = self.seconds.max(other.seconds);
    }
}

impl fmt::Display for WriteSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { survived, reset, timed_out, closed, .. } = self;
        let lost = self.lost();
        write!(
            f,
            "survived {survived} lost {lost} (reset {reset}, timed out {timed_out}, closed {closed})"
        )
    }
}

/// What a client answers to a command; a line of JSON on its control socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To `write`.
    Written(WriteSummary),
    /// To `close N`.
    Closed {
        /// How many were closed.
        closed: u32,
        /// How many are still open.
        open: u32,
    },
    /// To `quit`.
    Quitting,
    /// To anything else, with what would have been understood.
    NotUnderstood(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written(summary) => summary.fmt(f),
            Self::Closed { closed, open } => write!(f, "closed {closed}, {open} open"),
            Self::Quitting => f.write_str("quitting"),
            Self::NotUnderstood(known) => write!(f, "not understood; try: {known}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_add_up() {
        let mut total = WriteSummary { survived: 1, seconds: 0.5, ..WriteSummary::default() };
        total.add(&WriteSummary { survived: 2, reset: 3, timed_out: 4, closed: 5, seconds: 0.2 });
        assert_eq!(total.to_string(), "survived 3 lost 12 (reset 3, timed out 4, closed 5)");
        assert_eq!(total.seconds.to_bits(), 0.5_f64.to_bits());
    }
}
