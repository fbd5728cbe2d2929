//! `keepline migrate`

mod clients;
mod stop;
mod tell;

use std::collections::BTreeSet;
use std::time::Duration;

use clap::ValueEnum;
use keepline_core::duration;
use keepline_core::report::text;
use keepline_docker::manager::{Manager, REQUEST_TIMEOUT};
use keepline_migrate::docker::Docker;
use keepline_migrate::preflight::{self, Allow};
use keepline_migrate::{
    Engine as _, EngineError, Found, Migration, Mode, Outcome, Service, Settings, Stop, names,
};

use super::consent::{self, DONE, Decision, IN_PART};
use crate::args::act::ConsentArgs;
use crate::fault::fault;
use crate::output;
use tell::Teller;

/// Arguments of `migrate`.
#[derive(Debug, clap::Args)]
pub struct MigrateArgs {
    /// Name or id of the service
    pub service: String,
    /// The endpoint mode it shall have
    #[arg(
        long,
        value_enum,
        value_name = "MODE",
        required_unless_present_any = ["resume", "rollback"]
    )]
    pub to: Option<To>,
    /// Whether it is only shown, and whether it is asked
    #[command(flatten)]
    pub consent: ConsentArgs,
    /// Go on where an earlier run ended
    #[arg(long, conflicts_with = "rollback")]
    pub resume: bool,
    /// Go back from where an earlier run ended
    #[arg(long)]
    pub rollback: bool,
    /// How long each step may take before it is given up and all goes back
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::parse)]
    pub timeout: Duration,
    /// Do it although this speaks against it (may repeat)
    #[arg(long, value_enum, value_name = "WHAT", value_delimiter = ',')]
    pub allow: Vec<Allowed>,
}

/// An endpoint mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum To {
    /// The name leads to the tasks themselves; no load balancer between
    Dnsrr,
    /// The name leads to a virtual address, which IPVS balances
    Vip,
}

impl To {
    fn mode(self) -> Mode {
        match self {
            Self::Dnsrr => Mode::Dnsrr,
            Self::Vip => Mode::Vip,
        }
    }
}

/// What may be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Allowed {
    /// Two tasks write to the same volume, or the copy begins with an empty one
    Volumes,
    /// Nobody listens at its host ports for a while
    HostPorts,
    /// A second task on every node
    Global,
    /// It belongs to a stack, whose file was changed
    Stack,
}

impl Allowed {
    fn allow(self) -> Allow {
        match self {
            Self::Volumes => Allow::Volumes,
            Self::HostPorts => Allow::HostPorts,
            Self::Global => Allow::Global,
            Self::Stack => Allow::Stack,
        }
    }
}

/// Looks, shows the plan, asks, and carries it out.
///
/// # Errors
/// When it could not run: no Engine, no manager, no such service, nobody to ask.
pub fn run(args: &MigrateArgs) -> anyhow::Result<u8> {
    let mut engine = connect()?;
    let service = engine.find(&args.service).map_err(unable)?;
    let name = service.as_ref().map_or(args.service.as_str(), Service::name).to_owned();
    let mut job = Job { args, name, teller: Teller::default() };
    let found = match job.look(&mut engine) {
        Err(taken @ Stop::NameTaken(_)) => {
            tell::stopped(&job.name, &taken, None);
            return Ok(IN_PART);
        }
        found => found?,
    };
    if service.is_none() && found.copy.is_none() {
        return Err(fault(
            format!("there is no service {}", args.service),
            "`docker service ls` lists them",
        ));
    }
    if args.resume || args.rollback {
        job.take_up(&mut engine, &found)
    } else {
        job.begin(&mut engine, &found)
    }
}

fn connect() -> anyhow::Result<Docker> {
    let options = keepline_docker::Options {
        timeout: REQUEST_TIMEOUT,
        ..keepline_docker::Options::from_env()
    };
    let manager = Manager::new(&options)?;
    Docker::new(manager).map_err(unable)
}

/// As an error that ends the program, with a way out where there is one.
fn unable(error: EngineError) -> anyhow::Error {
    match error {
        EngineError::NotManager { reason, managers } if managers.is_empty() => {
            fault(reason, "migrate works on a manager of a Swarm")
        }
        EngineError::NotManager { reason, managers } => {
            fault(reason, format!("run it on a manager: {}", managers.join(", ")))
        }
        other => other.into(),
    }
}

struct Job<'a> {
    args: &'a MigrateArgs,
    name: String,
    teller: Teller,
}

impl Job<'_> {
    fn settings(&self) -> Settings {
        Settings { timeout: self.args.timeout, ..Settings::default() }
    }

    fn look(&self, engine: &mut Docker) -> Result<Found, Stop> {
        let mut clock = stop::Wall::default();
        let mut tell = |_| {};
        Migration::new(engine, &mut clock, &mut tell, &self.name, self.settings()).look()
    }

    fn begin(&mut self, engine: &mut Docker, found: &Found) -> anyhow::Result<u8> {
        let Some(to) = self.args.to.map(To::mode) else {
            // clap asks for it.
            return Err(fault("no mode given", "say --to dnsrr or --to vip"));
        };
        let Some(service) = &found.service else {
            tell::begun(&self.name);
            return Ok(IN_PART);
        };
        let tasks = engine.tasks(&self.name).map_err(unable)?;
        let around = engine.surroundings().map_err(unable)?;
        let allowed: BTreeSet<Allow> = self.args.allow.iter().map(|it| it.allow()).collect();
        let report = preflight::look(service, to, &tasks, &around, &allowed);
        if !report.refusals.is_empty() {
            tell::refusals(&report.refusals);
            return Ok(IN_PART);
        }
        let bound = clients::addresses(service, &tasks);
        self.carry_out(engine, found, to, &report.notes, &bound, |run| run.start(to))
    }

    fn take_up(&mut self, engine: &mut Docker, found: &Found) -> anyhow::Result<u8> {
        let Some((_, state)) = &found.copy else {
            tell::nothing(&self.name, found.service.as_ref().map(Service::mode));
            return Ok(IN_PART);
        };
        let (goal, back) = match self.args.rollback {
            true => (state.from, true),
            false => (state.to, false),
        };
        if let Some(to) = self.args.to.map(To::mode)
            && to != state.to
        {
            tell::other_way(&self.name, state.to);
            return Ok(IN_PART);
        }
        let tasks = engine.tasks(&self.name).map_err(unable)?;
        let bound = match &found.service {
            Some(service) if service.mode() != goal => clients::addresses(service, &tasks),
            _ => BTreeSet::new(),
        };
        self.carry_out(engine, found, goal, &[], &bound, |run| match back {
            true => run.rollback(),
            false => run.resume(),
        })
    }

    /// Shows the plan, asks, and does it. `bound`: addresses of what is going to be removed.
    fn carry_out(
        &mut self,
        engine: &mut Docker,
        found: &Found,
        goal: Mode,
        notes: &[String],
        bound: &BTreeSet<std::net::IpAddr>,
        work: impl FnOnce(&mut Migration<'_>) -> Outcome,
    ) -> anyhow::Result<u8> {
        let spec = match (&found.copy, &found.service) {
            (Some((_, state)), _) => &state.spec,
            (None, Some(service)) => &service.spec,
            (None, None) => return Err(fault(format!("there is no service {}", self.name), "")),
        };
        let steps = found.plan(goal).unwrap_or_default();
        let plan = tell::plan(&self.name, goal, &steps, spec, notes, &clients::of(bound));
        if self.args.consent.dry_run {
            output::print(&format!("{plan}\nNothing was changed.\n"))?;
            return Ok(DONE);
        }
        say!("{}", plan.trim_end_matches('\n'));
        if let Decision::Stop(status) = consent::question(self.args.consent)? {
            return Ok(status);
        }
        let mut clock = stop::Wall::until_told()?;
        let settings = self.settings();
        let teller = &mut self.teller;
        let mut tell = |progress| teller.tell(&progress);
        let mut migration = Migration::new(engine, &mut clock, &mut tell, &self.name, settings);
        let outcome = work(&mut migration);
        self.teller.end();
        self.conclude(engine, &outcome, goal, bound)
    }

    fn conclude(
        &self,
        engine: &mut Docker,
        outcome: &Outcome,
        goal: Mode,
        bound: &BTreeSet<std::net::IpAddr>,
    ) -> anyhow::Result<u8> {
        let name = &text::escape(&self.name, text::NAME);
        match outcome {
            Outcome::Done { warnings } => {
                for warning in warnings {
                    say!("keepline: warning: {}", text::escape(warning, text::SENTENCE));
                }
                output::print(&format!("{name} is in mode {goal}.\n"))?;
                // New tasks may have got the addresses of old ones.
                let live = engine.surroundings().map(|around| names::live(&around));
                let gone = bound.difference(&live.unwrap_or_default()).copied().collect();
                tell::still_bound(&clients::of(&gone));
                Ok(if warnings.is_empty() { DONE } else { IN_PART })
            }
            Outcome::RolledBack { why } => {
                let why = text::escape(&why.to_string(), text::SENTENCE);
                say!("keepline: error: {why}");
                say!("help: {name} is in mode {} as before; nothing is left over", goal.other());
                Ok(IN_PART)
            }
            Outcome::Stopped { why, .. }
                if self.look(engine).is_ok_and(|it| it.copy.is_none() && it.service.is_some()) =>
            {
                let why = text::escape(&why.to_string(), text::SENTENCE);
                say!("keepline: error: {why}");
                say!("help: {name} runs, and there is no copy of it");
                Ok(IN_PART)
            }
            Outcome::Stopped { why, back } => {
                tell::stopped(name, why, back.as_ref());
                Ok(IN_PART)
            }
            Outcome::NothingToDo => {
                tell::nothing(name, None);
                Ok(IN_PART)
            }
        }
    }
}
