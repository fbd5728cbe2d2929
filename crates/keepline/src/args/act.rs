//! Arguments of the commands that change something.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use keepline_core::duration;
use keepline_core::plan::Action;

use super::{Output, SelectArgs, TEMPLATE};

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// How
    #[command(subcommand)]
    pub strategy: Strategy,
}

/// How the loss is stopped.
#[derive(Debug, Subcommand)]
pub enum Strategy {
    /// Renew entries for as long as their sockets live
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline apply hold                          until Ctrl-C, every session here
  keepline apply hold --network backend        those of one network
  keepline apply hold --once --for 8h          one time, for the night",
    after_help = "\
The kernel's own sync receiver makes the entries; it runs on lo of the director
for a moment at a time. Nothing is sent to anybody, and applications notice
nothing. A session that closes is not held any longer.")]
    Hold(HoldArgs),

    /// Let directors find a session's backend again by themselves
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline apply rehash                        every director here
  keepline apply rehash --network ingress      that of published ports",
    after_help = "\
Scheduler mh by the client's address and port, and sloppy_tcp: the client's next
packet makes a forgotten entry anew, at the same backend. Works for clients
outside this machine. Scaling a service moves some of the idle sessions.")]
    Rehash(RehashArgs),

    /// Switch TCP keepalive on for sessions that have none, or too late
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline apply keepalive                     after a third of the timeout
  keepline apply keepalive --service db --idle 5m --interval 30s")]
    Keepalive(KeepaliveArgs),

    /// Answer connections to a virtual address with a backend: no load balancer
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline apply direct --service db           until Ctrl-C, following its tasks
  keepline apply direct --network backend --once",
    after_help = "\
A program in the kernel answers connect(): there is no entry that could be
forgotten, no address is rewritten, and getpeername() shows the virtual address.
Backends follow the director's own table while it runs; connections to a task
that goes are closed within two seconds. After Ctrl-C the programs stay with
what they know: keepline undo direct takes them off.")]
    Direct(DirectArgs),

    /// Let directors remember for longer
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline apply timeout --tcp 2h              every director here
  keepline apply timeout --tcp 8h --network backend
  keepline apply timeout --tcp 2h --tcpfin 2m --udp 5m --dry-run",
    after_help = "\
What ipvsadm --set does inside each director; besides, entries that are idle
already get the new time at once, and conntrack is kept from forgetting before.")]
    Timeout(TimeoutArgs),
}

/// Whether it is only shown, and whether it is asked.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct ConsentArgs {
    /// Show what would be changed, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// Arguments of `apply hold`.
#[derive(Debug, Args)]
pub struct HoldArgs {
    /// Renew once and end
    #[arg(long)]
    pub once: bool,
    /// With --once: how long entries shall live [default: what a packet gives]
    #[arg(long = "for", value_name = "DURATION", value_parser = lifetime, requires = "once")]
    pub lifetime: Option<Duration>,
    #[command(flatten)]
    pub consent: ConsentArgs,
    #[command(flatten)]
    pub select: SelectArgs,
}

/// Arguments of `apply rehash`.
#[derive(Debug, Args)]
pub struct RehashArgs {
    /// How long entries of sessions that are open already shall live
    #[arg(long = "for", value_name = "DURATION", default_value = "24h", value_parser = lifetime)]
    pub carry: Duration,
    #[command(flatten)]
    pub consent: ConsentArgs,
    #[command(flatten)]
    pub select: SelectArgs,
}

/// Arguments of `apply keepalive`.
#[derive(Debug, Args)]
pub struct KeepaliveArgs {
    /// Silence before the first probe [default: a third of the timeout]
    #[arg(long, value_name = "DURATION", value_parser = keepalive_time)]
    pub idle: Option<Duration>,
    /// Between probes [default: a quarter of --idle, at most 75s]
    #[arg(long, value_name = "DURATION", value_parser = keepalive_time)]
    pub interval: Option<Duration>,
    /// Unanswered probes before a connection is given up [default: 9]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=127))]
    pub probes: Option<u32>,
    /// Let programs set longer times later, or switch keepalive off; else they are held to these
    #[arg(long)]
    pub no_enforce: bool,
    #[command(flatten)]
    pub consent: ConsentArgs,
    #[command(flatten)]
    pub select: SelectArgs,
}

/// Arguments of `apply direct`.
#[derive(Debug, Args)]
pub struct DirectArgs {
    /// Do it once and end; later changes of backends are not followed
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    pub consent: ConsentArgs,
    #[command(flatten)]
    pub select: SelectArgs,
}

/// Arguments of `apply timeout`.
#[derive(Debug, Args)]
pub struct TimeoutArgs {
    /// Established TCP
    #[arg(long, alias = "for", value_name = "DURATION", value_parser = duration::parse)]
    pub tcp: Option<Duration>,
    /// TCP after a FIN
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub tcpfin: Option<Duration>,
    /// UDP
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub udp: Option<Duration>,
    #[command(flatten)]
    pub consent: ConsentArgs,
    #[command(flatten)]
    pub select: SelectArgs,
}

/// Whole seconds, as a sync message carries them.
fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = duration::parse(text).map_err(|error| error.to_string())?;
    if lifetime < Duration::from_secs(1) || lifetime > keepline_core::plan::LONGEST {
        return Err("an entry can live from 1s to 24d".to_owned());
    }
    Ok(lifetime)
}

/// `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL`, `include/net/tcp.h`.
fn keepalive_time(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(32_767);
    let time = duration::parse(text).map_err(|error| error.to_string())?;
    if time < Duration::from_secs(1) || time > LONGEST || time.subsec_nanos() != 0 {
        return Err("the kernel takes whole seconds from 1s to 9h".to_owned());
    }
    Ok(time)
}

/// Arguments of `undo`.
#[derive(Debug, Args)]
pub struct UndoArgs {
    /// What to undo [default: everything]
    #[arg(value_enum)]
    pub strategy: Option<Undoable>,
    #[command(flatten)]
    pub consent: ConsentArgs,
    #[command(flatten)]
    pub select: SelectArgs,
}

/// Strategies that leave something to undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Undoable {
    /// Scheduler and sloppy_tcp
    Rehash,
    /// Keepalive of sockets, open ones and those to come
    Keepalive,
    /// Direct connections
    Direct,
    /// Timeouts
    Timeout,
    /// Entries held; they run out by themselves
    Hold,
}

impl Undoable {
    /// Whether it makes or renews entries, for which a sync receiver runs for a moment.
    #[must_use]
    pub fn makes_entries(self) -> bool {
        matches!(self, Self::Rehash | Self::Hold)
    }

    /// As the journal has it.
    #[must_use]
    pub fn action(self) -> Action {
        match self {
            Self::Rehash => Action::Rehash,
            Self::Keepalive => Action::Keepalive,
            Self::Direct => Action::Direct,
            Self::Timeout => Action::Timeout,
            Self::Hold => Action::Hold,
        }
    }
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORM", default_value_t = Output::Human)]
    pub output: Output,
}

/// Arguments of `heal`.
#[derive(Debug, Args)]
pub struct HealArgs {
    /// A capture of when the sessions were alive: where they went
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    #[command(flatten)]
    pub consent: ConsentArgs,
    #[command(flatten)]
    pub select: SelectArgs,
}

/// Arguments of `touch` and `abort`.
#[derive(Debug, Args)]
pub struct RemedyArgs {
    #[command(flatten)]
    pub consent: ConsentArgs,
    #[command(flatten)]
    pub select: SelectArgs,
}
