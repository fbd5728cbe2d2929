//! The command line of the lab: `keepline lab …`.

use std::fmt::Write as _;
use std::io::{Write as _, stdout};
use std::time::Duration;

use clap::ValueEnum;

use crate::demo;
use crate::error::{LabError, io_error};
use crate::interrupt::Interrupt;
use crate::lab::{Lab, Spec, default_id};
use crate::layout::{Layout, MAX_BACKENDS, Plan};
use crate::peer::{self, PeerCommand};
use crate::scenario::{self, Setting};
use crate::state::State;
use crate::units::{Keepalive, format_duration, parse_duration, parse_whole_seconds};

/// Exit status of what a signal ended, as a shell has it for SIGINT.
const INTERRUPTED: i32 = 130;

/// Make load balancers, backends and clients in network namespaces, and watch what is lost.
#[derive(Clone, Debug, clap::Args)]
pub struct LabArgs {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum LabCommand {
    /// Watch a session being lost, diagnosed and explained, in half a minute
    Demo {
        /// How the load balancer is built [default: swarm with IPVS, else nat]
        #[arg(long, value_enum)]
        layout: Option<Layout>,
    },
    /// Set a lab up and leave it running
    Up(UpArgs),
    /// Let the silent clients write, and see what becomes of their sessions
    Write {
        /// The lab; not needed when only one is up
        #[arg(long, value_name = "ID")]
        name: Option<String>,
        /// Form of the output
        #[arg(short, long, value_enum, default_value_t = Output::Human)]
        output: Output,
    },
    /// Remove a lab with everything that belongs to it
    Down {
        /// The lab; not needed when only one is up
        #[arg(long, value_name = "ID")]
        name: Option<String>,
        /// Every lab of this machine
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Play a scenario and judge what Keepline says about it
    Run {
        /// What happens
        #[arg(value_enum)]
        scenario: Scenario,
        /// How the load balancer is built [default: swarm with IPVS, else nat]
        #[arg(long, value_enum)]
        layout: Option<Layout>,
        /// After how long a silent session is forgotten
        #[arg(long, value_name = "DURATION", default_value = "6s", value_parser = parse_whole_seconds)]
        tcp_timeout: Duration,
        /// How long churn goes on
        #[arg(long = "for", value_name = "DURATION", default_value = "20s", value_parser = parse_duration)]
        duration: Duration,
    },
    /// Be a backend or a client (the lab starts these itself)
    #[command(hide = true)]
    Peer {
        #[command(subcommand)]
        command: PeerCommand,
    },
}

#[derive(Clone, Debug, clap::Args)]
struct UpArgs {
    /// How the load balancer is built [default: swarm with IPVS, else nat]
    #[arg(value_enum)]
    layout: Option<Layout>,
    /// Name of the lab [default: a number]
    #[arg(long, value_name = "ID")]
    name: Option<String>,
    /// Silent sessions
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(..=500_000))]
    sessions: u32,
    /// Backends
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_BACKENDS)))]
    backends: u8,
    /// After how long a silent session is forgotten
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = parse_whole_seconds)]
    tcp_timeout: Duration,
    /// Keepalive of the sessions' sockets, for example 5s,1s,3
    #[arg(long, value_name = "IDLE,INTERVAL,COUNT")]
    keepalive: Option<Keepalive>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Human)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Human,
    /// For programs
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Connect, fall silent, check, write
    IdleLoss,
    /// Sessions come and go while checks run: none may be called orphaned
    Churn,
}

/// Runs `keepline lab …`; returns the exit status: 0 done, 1 not as it should be, 130 interrupted.
///
/// # Errors
/// When it could not run (exit status 2). Whatever was set up is removed again.
pub fn main(args: LabArgs) -> Result<i32, LabError> {
    match run(args.command) {
        Err(LabError::Interrupted) => {
            eprintln!("\nkeepline lab: interrupted; everything it made is removed");
            Ok(INTERRUPTED)
        }
        // Whoever read our output has gone (`| head`): there is nobody to tell.
        Err(LabError::Io { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => {
            Ok(1)
        }
        other => other,
    }
}

fn run(command: LabCommand) -> Result<i32, LabError> {
    match command {
        LabCommand::Demo { layout } => {
            let interrupt = Interrupt::install()?;
            demo::run(layout.unwrap_or_else(Layout::for_this_machine), &interrupt).map(status)
        }
        LabCommand::Up(args) => up(args).map(|()| 0),
        LabCommand::Write { name, output } => {
            let summary = State::choose(name.as_deref())?.write()?;
            match output {
                Output::Human => print(&format!("{summary}\n"))?,
                Output::Json => {
                    let mut value = serde_json::json!(summary);
                    value["lost"] = summary.lost().into();
                    print(&format!("{value}\n"))?;
                }
            }
            Ok(0)
        }
        LabCommand::Down { name, all } => down(name.as_deref(), all).map(|()| 0),
        LabCommand::Run { scenario, layout, tcp_timeout, duration } => {
            let interrupt = Interrupt::install()?;
            let layout = layout.unwrap_or_else(Layout::for_this_machine);
            let setting = Setting { layout, tcp_timeout, duration };
            match scenario {
                Scenario::IdleLoss => scenario::idle_loss(setting, &interrupt),
                Scenario::Churn => scenario::churn(setting, &interrupt),
            }
            .map(status)
        }
        LabCommand::Peer { command } => peer::run(&command).map(|()| 0),
    }
}

fn status(as_it_should_be: bool) -> i32 {
    i32::from(!as_it_should_be)
}

fn up(args: UpArgs) -> Result<(), LabError> {
    let interrupt = Interrupt::install()?;
    let layout = args.layout.unwrap_or_else(Layout::for_this_machine);
    let id = args.name.unwrap_or_else(default_id);
    let mut spec = Spec::new(id, layout, args.tcp_timeout, args.sessions);
    spec.backends = args.backends;
    for client in &mut spec.clients {
        client.keepalive = args.keepalive;
    }
    let lab = Lab::up_for_this_program(&spec, &interrupt)?;
    let text = match args.output {
        Output::Human => describe(lab.state()),
        Output::Json => format!("{}\n", serde_json::json!(lab.state())),
    };
    // A lab of which nobody got to know is not left behind.
    print(&text)?;
    let _ = lab.leave();
    Ok(())
}

/// What is up, and how to look at it.
fn describe(state: &State) -> String {
    let plan = Plan {
        id: state.id.clone(),
        layout: state.layout,
        backends: u8::try_from(state.backends.len()).unwrap_or(MAX_BACKENDS),
        tcp_timeout: state.tcp_timeout(),
    };
    let sessions: u32 = state.clients.iter().map(|client| client.sessions).sum();
    let memory = if state.layout.uses_ipvs() { "ipvsadm -Lnc" } else { "conntrack -L -p tcp" };
    let mut text = format!(
        "Lab {} is up: layout {}, {sessions} silent sessions, forgotten after {}.\n\n{}\n",
        state.id,
        state.layout,
        format_duration(state.tcp_timeout()),
        plan.picture()
    );
    for (what, command) in [
        ("check", format!("keepline check --netns {}", state.client_netns)),
        ("sockets", format!("ip netns exec {} ss -tnpo", state.client_netns)),
        ("entries", format!("ip netns exec {} {memory}", state.director_netns)),
        ("write", format!("keepline lab write --name {}", state.id)),
        ("remove", format!("keepline lab down --name {}", state.id)),
    ] {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {what:<8} {command}");
    }
    text
}

fn down(name: Option<&str>, all: bool) -> Result<(), LabError> {
    if !all {
        let state = State::choose(name)?;
        state.remove()?;
        return print(&format!("Lab {} is removed.\n", state.id));
    }
    let names = State::list()?;
    if names.is_empty() {
        return print("No lab is up.\n");
    }
    let mut problems = Vec::new();
    for id in names {
        match State::load(&id).and_then(|state| state.remove()) {
            Ok(()) => print(&format!("Lab {id} is removed.\n"))?,
            Err(LabError::Leftover { problems: more }) => problems.extend(more),
            Err(error) => problems.push(error.to_string()),
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(LabError::Leftover { problems }) }
}

fn print(text: &str) -> Result<(), LabError> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(io_error("write to stdout"))
}
