//! Carrying a plan out.

mod claim;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::plan::{Shape, Step, Which, plan};
use crate::state::{Claim, State};
use crate::wait::{self, Tally};
use crate::{Engine, EngineError, Mode, Network, Service, Stop, Surroundings, spec};

/// For so long an Engine may fail before it counts: a new leader is found in seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// So often two runs may get in each other's way.
const CONFLICTS: u32 = 3;

/// The user wants it to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted;

impl From<Interrupted> for Stop {
    fn from(_: Interrupted) -> Self {
        Self::Interrupted
    }
}

/// Time, and the user's wish to stop.
pub trait Clock {
    /// Time since some beginning; never goes back.
    fn now(&self) -> Duration;

    /// Sleeps; shorter when the user wants to stop.
    ///
    /// # Errors
    /// [`Interrupted`] when the user wants to stop.
    fn sleep(&mut self, duration: Duration) -> Result<(), Interrupted>;
}

/// How patient a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// For each wait.
    pub timeout: Duration,
    /// Between two looks.
    pub poll: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(300), poll: Duration::from_secs(1) }
    }
}

/// What a run tells while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A step begins: its number from 1, how many there are, and what it is.
    Step(usize, usize, String),
    /// What is there of what is waited for.
    Waiting(String),
    /// Something the user should know.
    Note(String),
    /// It goes back, and why.
    Back(String),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The service is in the mode wanted and nothing else is left, but for what the warnings say.
    Done {
        /// What is not quite as it should be.
        warnings: Vec<String>,
    },
    /// The service is as it was before, and nothing else is left.
    RolledBack {
        /// Why it did not go forward.
        why: Stop,
    },
    /// It stopped on the way: `--resume` goes on, `--rollback` goes back.
    Stopped {
        /// Why.
        why: Stop,
        /// Why going back failed too, where that was tried.
        back: Option<Stop>,
    },
    /// There was nothing to resume or to roll back.
    NothingToDo,
}

/// What is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The service.
    pub service: Option<Service>,
    /// Its copy, and what that remembers.
    pub copy: Option<(Service, State)>,
}

impl Found {
    fn shape(&self) -> Shape {
        let removes = self.copy.as_ref().and_then(|(copy, _)| Claim::read(&copy.spec)?.removes);
        let is_doomed = |service: &Service| removes.as_ref() == Some(&service.id);
        let doomed = match (&self.service, &self.copy) {
            (_, Some((copy, _))) if is_doomed(copy) => Some(Which::Copy),
            (Some(service), _) if is_doomed(service) => Some(Which::Service),
            _ => None,
        };
        let service = self.service.as_ref().map(Service::mode);
        Shape { service, copy: self.copy.is_some(), doomed }
    }

    /// The steps from here to the service in mode `goal`.
    #[must_use]
    pub fn plan(&self, goal: Mode) -> Option<Vec<Step>> {
        plan(self.shape(), goal)
    }
}

/// A run.
pub struct Migration<'a> {
    engine: &'a mut dyn Engine,
    clock: &'a mut dyn Clock,
    tell: &'a mut dyn FnMut(Progress),
    name: String,
    settings: Settings,
    claim: Claim,
    state: Option<State>,
    networks: Vec<Network>,
    // Services that this run created: every failed task of theirs is new.
    created: BTreeSet<String>,
    // Whether a failed task ends the run: on the way back there is nowhere else to go.
    strict: bool,
    // Whether there is a copy that only this run may remove.
    copy_seen: bool,
    // From here on nothing is left to go back to.
    copy_removed: bool,
}

impl<'a> Migration<'a> {
    /// A migration of the service `name`.
    pub fn new(
        engine: &'a mut dyn Engine,
        clock: &'a mut dyn Clock,
        tell: &'a mut dyn FnMut(Progress),
        name: &str,
        settings: Settings,
    ) -> Self {
        Self {
            engine,
            clock,
            tell,
            name: name.to_owned(),
            settings,
            claim: Claim::new(),
            state: None,
            networks: Vec::new(),
            created: BTreeSet::new(),
            strict: true,
            copy_seen: false,
            copy_removed: false,
        }
    }

    /// What is there now.
    ///
    /// # Errors
    /// When the Engine fails for longer than a moment, or the name of the copy is taken.
    pub fn look(&mut self) -> Result<Found, Stop> {
        let name = self.name.clone();
        let service = self.patiently(|engine| engine.service(&name))?;
        let copy_name = spec::copy_name(&name);
        let copy = match self.patiently(|engine| engine.service(&copy_name))? {
            None => None,
            Some(copy) => {
                let state = State::read(&copy.spec, &name).ok_or(Stop::NameTaken(copy_name))?;
                Some((copy, state))
            }
        };
        Ok(Found { service, copy })
    }

    /// From the beginning, to the mode `to`. What [`crate::preflight`] says is the caller's to heed.
    pub fn start(&mut self, to: Mode) -> Outcome {
        self.forward(to)
    }

    /// Goes on where another run ended. One that has not ended stops.
    pub fn resume(&mut self) -> Outcome {
        match self.take_over() {
            Ok(Some(state)) => self.forward(state.to),
            Ok(None) => Outcome::NothingToDo,
            Err(why) => Outcome::Stopped { why, back: None },
        }
    }

    /// Goes back from where another run ended. One that has not ended stops.
    pub fn rollback(&mut self) -> Outcome {
        let goal = match self.take_over() {
            Ok(Some(state)) => state.from,
            Ok(None) => return Outcome::NothingToDo,
            Err(why) => return Outcome::Stopped { why, back: None },
        };
        self.strict = false;
        match self.walk(goal) {
            Ok(()) => Outcome::Done { warnings: Vec::new() },
            Err(why) if self.copy_removed && !why.is_anothers() => {
                Outcome::Done { warnings: vec![why.to_string()] }
            }
            Err(why) => Outcome::Stopped { why, back: None },
        }
    }

    fn forward(&mut self, to: Mode) -> Outcome {
        let why = match self.walk(to) {
            Ok(()) => return Outcome::Done { warnings: Vec::new() },
            Err(why) if why.is_anothers() => return Outcome::Stopped { why, back: None },
            Err(why) if self.copy_removed => {
                return Outcome::Done { warnings: vec![why.to_string()] };
            }
            Err(why @ (Stop::Interrupted | Stop::NameTaken(_) | Stop::Lost(_))) => {
                return Outcome::Stopped { why, back: None };
            }
            Err(why) => why,
        };
        (self.tell)(Progress::Back(why.to_string()));
        self.strict = false;
        let from = self.state.as_ref().map_or(to.other(), |state| state.from);
        match self.walk(from) {
            Ok(()) => Outcome::RolledBack { why },
            // As before but for what the warning says; the reason is the first failure.
            Err(back) if self.copy_removed && !back.is_anothers() => {
                (self.tell)(Progress::Note(back.to_string()));
                Outcome::RolledBack { why }
            }
            Err(back) => Outcome::Stopped { why, back: Some(back) },
        }
    }

    /// All steps from what is there to the mode `goal`.
    fn walk(&mut self, goal: Mode) -> Result<(), Stop> {
        let mut conflicts = 0;
        loop {
            let found = self.look()?;
            self.heed(&found, goal)?;
            if let Some((_, state)) = &found.copy {
                self.state = Some(state.clone());
            }
            let steps = found.plan(goal).ok_or_else(|| Stop::Lost(self.name.clone()))?;
            let spec = match (&self.state, &found.service) {
                (Some(state), _) => state.spec.clone(),
                (None, Some(service)) => service.spec.clone(),
                (None, None) => return Err(Stop::Lost(self.name.clone())),
            };
            if self.networks.is_empty() && !steps.is_empty() {
                let around = self.patiently(|engine| engine.surroundings())?;
                self.networks = resolving(&spec, &around);
            }
            match self.perform(&steps, &spec, &found, goal) {
                // It is not as it was, or the Engine did it and failed to say so: look again.
                Err(Stop::Engine(EngineError::Conflict(_))) if conflicts < CONFLICTS => {
                    conflicts += 1;
                    self.clock.sleep(self.settings.poll)?;
                }
                done => return done.map_err(|why| self.reason(why, goal)),
            }
        }
    }

    fn perform(
        &mut self,
        steps: &[Step],
        spec: &serde_json::Value,
        found: &Found,
        goal: Mode,
    ) -> Result<(), Stop> {
        for (index, step) in steps.iter().enumerate() {
            // A place to stop between any two steps.
            self.clock.sleep(Duration::ZERO)?;
            (self.tell)(Progress::Step(index + 1, steps.len(), step.text(spec)));
            match *step {
                Step::CreateCopy => self.create_copy(goal)?,
                Step::Create(mode) => {
                    self.held()?.ok_or_else(|| self.moved())?;
                    // What the copy was made of, where it was made on the way.
                    let spec = self.state.as_ref().map_or(spec, |state| &state.spec);
                    self.create(&spec::with_mode(spec, mode))?;
                }
                Step::Await(which) => self.wait_for(which, spec::monitor(spec))?,
                Step::Verify(which) => self.verify(which, goal)?,
                Step::Remove(which) => self.remove(which, found, goal)?,
                Step::Drain(which) => self.drain(which, spec::stop_grace(spec))?,
            }
        }
        Ok(())
    }

    fn name_of(&self, which: Which) -> String {
        match which {
            Which::Service => self.name.clone(),
            Which::Copy => spec::copy_name(&self.name),
        }
    }

    fn create_copy(&mut self, to: Mode) -> Result<(), Stop> {
        let name = self.name.clone();
        let service = self
            .patiently(|engine| engine.service(&name))?
            .ok_or_else(|| Stop::Lost(name.clone()))?;
        if service.mode() == to {
            return Err(self.moved());
        }
        // Where there was a copy that had to go: the direction stays, and its tasks are waited for.
        let known = self.state.as_ref().map(|state| (state.from, state.to));
        if known.is_some() {
            self.drain(Which::Copy, spec::stop_grace(&service.spec))?;
        }
        let (from, to) = known.unwrap_or((service.mode(), to));
        let state = State { from, to, spec: service.spec };
        let ids: Vec<&str> = self.networks.iter().map(|network| network.id.as_str()).collect();
        let labels: Vec<_> = state.labels().into_iter().chain([self.claim.label()]).collect();
        let copy = spec::copy(&state.spec, &labels, &ids);
        self.state = Some(state);
        self.create(&copy)?;
        self.copy_seen = true;
        Ok(())
    }

    /// Creates a service. Where the Engine fails it may still have created it: that is looked at
    /// before it is asked again.
    fn create(&mut self, spec: &serde_json::Value) -> Result<(), Stop> {
        let name = spec["Name"].as_str().unwrap_or_default().to_owned();
        let until = self.clock.now() + PATIENCE;
        loop {
            match self.engine.create(spec) {
                Ok(()) => break,
                Err(error) if error.is_passing() && self.clock.now() < until => {
                    (self.tell)(Progress::Waiting(error.to_string()));
                    self.clock.sleep(self.settings.poll)?;
                    if self.patiently(|engine| engine.service(&name))?.is_some() {
                        break;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.created.insert(name);
        Ok(())
    }

    /// Waits until all tasks run, and have run for `steady`.
    fn wait_for(&mut self, which: Which, steady: Duration) -> Result<(), Stop> {
        let name = self.name_of(which);
        let mut told = String::new();
        let mut known: Option<BTreeSet<String>> = None;
        let mut since: Option<(BTreeSet<String>, Duration)> = None;
        let begun = self.clock.now();
        loop {
            let service = self
                .patiently(|engine| engine.service(&name))?
                .ok_or_else(|| Stop::Lost(name.clone()))?;
            let tally = self.tally(&service, &mut known)?;
            if told != tally.text {
                (self.tell)(Progress::Waiting(tally.text.clone()));
                told.clone_from(&tally.text);
            }
            let now = self.clock.now();
            if tally.is_complete() {
                let (_, first) = match since.take() {
                    Some(same) if same.0 == tally.running => since.insert(same),
                    _ => since.insert((tally.running, now)),
                };
                if now.saturating_sub(*first) >= steady {
                    return Ok(());
                }
            } else {
                since = None;
                self.in_time(begun, self.settings.timeout, &format!("tasks of {name}"), &told)?;
            }
            self.clock.sleep(self.settings.poll)?;
        }
    }

    /// How far the tasks of a service are now. `known`: its old failures, from the first look on.
    fn tally(
        &mut self,
        service: &Service,
        known: &mut Option<BTreeSet<String>>,
    ) -> Result<Tally, Stop> {
        let name = service.name();
        let tasks = self.patiently(|engine| engine.tasks(name))?;
        let known = known.get_or_insert_with(|| match self.created.contains(name) {
            true => BTreeSet::new(),
            false => wait::failures(service, &tasks),
        });
        let tally = Tally::of(service, &tasks, known);
        match tally.failed {
            Some(why) if self.strict => Err(Stop::TaskFailed { service: name.to_owned(), why }),
            _ => Ok(tally),
        }
    }

    /// Waits until tasks of a removed service have stopped. Too long is no failure: the name does
    /// not depend on them.
    fn drain(&mut self, which: Which, grace: Duration) -> Result<(), Stop> {
        let name = self.name_of(which);
        let around = self.patiently(|engine| engine.surroundings())?;
        let down: BTreeSet<String> = around
            .nodes
            .iter()
            .filter(|node| !node.is_ready())
            .map(|node| node.id().to_owned())
            .collect();
        let begun = self.clock.now();
        let mut told = 0;
        loop {
            let present = self.patiently(|engine| engine.service(&name))?;
            let tasks = self.patiently(|engine| engine.tasks(&name))?;
            let left = wait::stopping(&tasks, present.as_ref(), &down);
            if left == 0 {
                return Ok(());
            }
            if told != left {
                (self.tell)(Progress::Waiting(format!("{left} stopping")));
                told = left;
            }
            if which == Which::Service && !self.copy_serves()? {
                let copy = self.name_of(Which::Copy);
                (self.tell)(Progress::Note(format!(
                    "no task of {copy} runs any more: not waited for the rest"
                )));
                return Ok(());
            }
            if self.clock.now().saturating_sub(begun) > grace + self.settings.timeout {
                (self.tell)(Progress::Note(format!("{left} tasks of {name} are still stopping")));
                return Ok(());
            }
            self.clock.sleep(self.settings.poll)?;
        }
    }

    fn copy_serves(&mut self) -> Result<bool, Stop> {
        let name = self.name_of(Which::Copy);
        let tasks = self.patiently(|engine| engine.tasks(&name))?;
        Ok(tasks.iter().any(crate::Task::serves))
    }

    fn in_time(
        &self,
        begun: Duration,
        limit: Duration,
        waited_for: &str,
        seen: &str,
    ) -> Result<(), Stop> {
        if self.clock.now().saturating_sub(begun) <= limit {
            return Ok(());
        }
        Err(Stop::Timeout { waited_for: waited_for.to_owned(), seen: seen.to_owned(), limit })
    }

    /// Asks again while the Engine fails, for a while.
    fn patiently<T>(
        &mut self,
        mut ask: impl FnMut(&mut dyn Engine) -> Result<T, EngineError>,
    ) -> Result<T, Stop> {
        let until = self.clock.now() + PATIENCE;
        loop {
            match ask(self.engine) {
                Err(error) if error.is_passing() && self.clock.now() < until => {
                    (self.tell)(Progress::Waiting(error.to_string()));
                    self.clock.sleep(self.settings.poll)?;
                }
                done => return Ok(done?),
            }
        }
    }
}

/// The networks of a service in which its name is resolved.
fn resolving(spec: &serde_json::Value, around: &Surroundings) -> Vec<Network> {
    let known: BTreeMap<&str, &Network> =
        around.networks.iter().map(|network| (network.id.as_str(), network)).collect();
    spec::networks(spec)
        .into_iter()
        .filter_map(|id| known.get(id).copied())
        .filter(|network| network.resolves)
        .cloned()
        .collect()
}
