//! The command line. Help shows examples first: most readers want one to copy.

pub mod act;
pub mod guard;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use keepline_core::duration;

const TEMPLATE: &str = "\
{about-with-newline}
{before-help}{usage-heading} {usage}

{all-args}{after-help}";

/// `keepline …`
#[derive(Debug, Parser)]
#[command(
    name = "keepline",
    version,
    about = "Find TCP sessions that a load balancer has forgotten, bring them back, stop the loss",
    help_template = TEMPLATE,
    before_help = "\
Examples:
  keepline check                  every session on this machine, and what to do
  keepline check --netns client   those of one network namespace
  keepline explain KL001          what a finding means
  keepline heal                   bring forgotten sessions back
  keepline apply hold             keep the others from being forgotten
  keepline guard                  the same by policy, for as long as it runs
  keepline timeouts               after how much silence each director forgets
  keepline lab demo               watch a session being lost, in half a minute",
    after_help = "Run as root: other network namespaces cannot be read otherwise.",
    term_width = 80,
    disable_help_subcommand = true
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find sessions that are forgotten, or will be, and say what helps
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline check                                every session on this machine
  keepline check --netns client --watch         again and again, every 2 s
  keepline check --fail-on at-risk -o json      for scripts
  keepline check -o nagios                      for a monitoring system
  keepline check --horizon 2h                   look two hours ahead
  keepline check --from state.json              what a capture file shows",
    after_help = "\
Exit status:
  0  clean
  1  sessions at or above --fail-on
  2  could not run
  3  scan incomplete, otherwise clean
With -o nagios: 0 OK, 1 WARNING (at risk), 2 CRITICAL (orphaned), 3 UNKNOWN.")]
    Check(CheckArgs),

    /// Say what a finding means, why it matters and what to do
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline explain KL001    the page of one finding
  keepline explain          all findings, one line each")]
    Explain(ExplainArgs),

    /// Show after how much silence each director forgets a session
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline timeouts                                 every director here
  keepline timeouts --netns lb_edja88p19 -o json    one, for scripts
  keepline timeouts set --tcp 2h                    the same as apply timeout",
    after_help = "\
Exit status: 0 done, 1 done in part (stderr says why), 2 could not run.")]
    Timeouts(TimeoutsArgs),

    /// Stop the loss: by one of several strategies
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline apply hold                    entries live as long as their sockets
  keepline apply timeout --tcp 2h        directors remember for longer
  keepline apply rehash --network ingress --dry-run
  keepline undo                          back to what was there",
    after_help = "\
What will be changed is shown first, and asked for on a terminal.
Exit status: 0 done, 1 done in part or refused, 2 could not run.")]
    Apply(act::ApplyArgs),

    /// Take back what apply has changed
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline undo                          everything
  keepline undo timeout --network backend --dry-run",
    after_help = "\
Exit status: 0 done, 1 done in part (somebody changed it since), 2 could not run.")]
    Undo(act::UndoArgs),

    /// Show what is applied where, since when, and whether it still is
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline status
  keepline status -o json")]
    Status(act::StatusArgs),

    /// Bring forgotten sessions back, at the backend that still holds them
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline heal                          every orphaned session here
  keepline heal --service db --dry-run   look first
  keepline heal --from before.json       with a capture of when they were alive",
    after_help = "\
A session whose backend is not known for certain is refused, with the reason.
Exit status: 0 done, 1 done in part or refused, 2 could not run.")]
    Heal(act::HealArgs),

    /// Send a keepalive probe on sessions: renews entries, and shows who answers
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline touch --service db
  keepline touch --container web.2 --yes",
    after_help = "\
Exit status: 0 done, 1 done in part or refused, 2 could not run.")]
    Touch(act::RemedyArgs),

    /// Close orphaned sessions, so that applications learn at once
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline abort --service db --dry-run
  keepline abort --container web.2 --yes",
    after_help = "\
Only sessions that are confirmed to be orphaned; this cannot be undone.
Exit status: 0 done, 1 done in part or refused, 2 could not run.")]
    Abort(act::RemedyArgs),

    /// Keep idle sessions alive on this machine, by policy, for as long as it runs
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline guard                           by its file and by labels
  keepline guard --config guard.toml --log text
  keepline guard --once                    one pass, for cron
  keepline policy                          what holds where, and who said so
  docker service update --label-add keepline.strategy=off db",
    after_help = "\
SIGHUP reads the file again; SIGTERM ends it, and what was applied stays:
keepline undo takes it back. Metrics are told to this machine only, unless
--listen or the file say otherwise.
Exit status: 0 ended, with --once all done; 1 with --once: done in part; 2 could
not run.")]
    Guard(guard::GuardArgs),

    /// Show which strategy holds where, and who said so
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline policy
  keepline policy -o json | jq .networks
  keepline policy --config new.toml        what a file would say
  keepline policy --from node1.json        on the node of a capture",
    after_help = "\
Exit status: 0 shown, 1 some values say nothing, 2 could not run.")]
    Policy(guard::PolicyArgs),

    /// Write what is seen to a file, to be looked at later or elsewhere
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline capture state.json               everything on this machine
  keepline check --from state.json          look at it, anywhere
  keepline capture - | gzip > state.gz      to stdout
  zcat state.gz | keepline check --from -",
    after_help = "\
The file holds addresses and the names of processes and containers; only its
owner can read it.

Exit status: 0 done, 1 done in part (stderr says why), 2 could not run.")]
    Capture(CaptureArgs),

    /// Switch a live Swarm service between vip and dnsrr, its name always served
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline migrate db --to dnsrr --dry-run    what would be done
  keepline migrate db --to dnsrr              do it, on a manager
  keepline migrate db --resume                go on after a crash or Ctrl-C
  keepline migrate db --rollback              go back instead",
    after_help = "\
Exit status: 0 done, 1 refused or not all done (stderr says why), 2 could not
run.")]
    Migrate(crate::commands::migrate::MigrateArgs),

    /// Make load balancers and clients in namespaces, and watch what is lost
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  keepline lab demo                      the loss as a story, in half a minute
  keepline lab up nat --sessions 100     set one up, to try things on
  keepline lab down                      remove it
  keepline lab run idle-loss             play a scenario and judge the outcome",
    after_help = "\
Exit status: 0 as it should be, 1 not, 2 could not run, 130 interrupted.")]
    Lab(keepline_lab::cli::LabArgs),

    /// Write man pages or shell completions
    #[command(hide = true)]
    Gen(GenArgs),
}

/// Which sessions.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Which sessions (all when none is named; each may repeat)")]
pub struct SelectArgs {
    /// Of this container
    #[arg(long = "container", value_name = "NAME|ID")]
    containers: Vec<String>,
    /// Through this Swarm service
    #[arg(long = "service", value_name = "NAME")]
    services: Vec<String>,
    /// On this Docker network
    #[arg(long = "network", value_name = "NAME")]
    networks: Vec<String>,
    /// In this network namespace
    #[arg(long = "netns", value_name = "PATH|NAME")]
    netns: Vec<String>,
    /// In the network namespace of this process
    #[arg(long = "pid", value_name = "PID")]
    pids: Vec<u32>,
}

impl SelectArgs {
    /// As `keepline-node` takes it.
    pub fn to_select(&self) -> keepline_node::Select {
        keepline_node::Select {
            containers: self.containers.clone(),
            services: self.services.clone(),
            networks: self.networks.clone(),
            netns: self.netns.clone(),
            pids: self.pids.clone(),
            exact: false,
        }
    }
}

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORM", default_value_t = CheckOutput::Human)]
    pub output: CheckOutput,
    /// From which verdict on the exit status is 1
    #[arg(long, value_enum, value_name = "VERDICT", default_value_t = FailOn::Orphaned)]
    pub fail_on: FailOn,
    /// A session that is forgotten later than this counts as safe
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "15m",
        value_parser = duration::parse,
        allow_hyphen_values = true
    )]
    pub horizon: Duration,
    /// Judge a capture file instead of this machine (- reads stdin)
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Look again and again, until Ctrl-C [default interval: 2s]
    #[arg(
        long,
        value_name = "INTERVAL",
        num_args = 0..=1,
        default_missing_value = "2s",
        value_parser = interval,
        conflicts_with = "from"
    )]
    pub watch: Option<Duration>,
    /// List untracked sessions too, and safe ones where nothing is wrong
    #[arg(long)]
    pub all: bool,
    /// Which sessions
    #[command(flatten)]
    pub select: SelectArgs,
}

/// A pause between looks: long enough not to be a load of its own.
fn interval(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_millis(100);
    let interval = duration::parse(text).map_err(|error| error.to_string())?;
    if interval < SHORTEST {
        return Err("the shortest interval is 100ms".to_owned());
    }
    Ok(interval)
}

/// Form of `check`'s output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckOutput {
    /// For people
    Human,
    /// keepline.check/v1, one line
    Json,
    /// A monitoring plugin's line and exit status
    Nagios,
}

/// From which verdict on `check` fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// Sessions that are forgotten
    Orphaned,
    /// Those, and sessions that will be
    AtRisk,
    /// No verdict
    Never,
}

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// Code of a finding, for example KL001; without one all are listed
    pub code: Option<String>,
}

/// Arguments of `timeouts`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct TimeoutsArgs {
    /// To change them
    #[command(subcommand)]
    pub change: Option<TimeoutsChange>,
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORM", default_value_t = Output::Human)]
    pub output: Output,
    /// Read a capture file instead of this machine (- reads stdin)
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Which directors
    #[command(flatten)]
    pub select: SelectArgs,
}

/// What is done with timeouts.
#[derive(Debug, Subcommand)]
pub enum TimeoutsChange {
    /// Set them; the same as apply timeout
    Set(act::TimeoutArgs),
}

/// Form of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Human,
    /// For programs, one line
    Json,
}

/// Arguments of `capture`.
#[derive(Debug, clap::Args)]
pub struct CaptureArgs {
    /// Where to write; - is stdout
    pub file: PathBuf,
    /// Which sessions
    #[command(flatten)]
    pub select: SelectArgs,
}

/// Arguments of `gen`.
#[derive(Debug, clap::Args)]
pub struct GenArgs {
    /// What to write
    #[command(subcommand)]
    pub what: Generated,
}

/// What `gen` writes.
#[derive(Debug, Subcommand)]
pub enum Generated {
    /// Man pages, one for each command
    Man {
        /// An existing directory
        dir: PathBuf,
    },
    /// Completions for bash, zsh and fish
    Completions {
        /// An existing directory
        dir: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Args::command().debug_assert();
    }
}
