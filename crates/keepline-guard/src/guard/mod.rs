//! The loop: a pass, a pause, and what cuts the pause short.

mod pass;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use keepline_core::{
    plan::{Memory, Undo},
    policy::{Invalid, Remembered},
    snapshot::{Scope, Select},
};
use keepline_node::{
    ActError, Balance, Observer, Report,
    run::{self, Exclusive, Holding},
};
use sd_notify::NotifyState;
use tracing::{info, warn};

use crate::{
    Config, GuardError, Options,
    backoff::Backoff,
    bell::{self, Bell, Ring},
    config::{FILE, GROUP},
    control,
    engine::Engine,
    log,
    metrics::Metrics,
    rights,
    state::State,
    web::{self, Desk},
};

/// After something has changed, more follows: a director is filled service by service.
const SETTLING: Duration = Duration::from_secs(10);
/// After a pass that failed as a whole: what it failed by may end any time.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// Where the engine and `ip netns` give namespaces their names.
const FOLDERS: [&str; 2] = ["/run/docker/netns", "/run/netns"];
/// Backends of direct connections are compared so often.
const FOLLOW: Duration = Duration::from_millis(700);

pub(crate) fn run(options: &Options) -> Result<bool, GuardError> {
    let named = options.config.is_some();
    let file = options.config.clone().unwrap_or_else(|| PathBuf::from(FILE));
    let (config, invalid) = Config::load(&file, named, &Config::default())?;
    log::begin(options.log).map_err(GuardError::system("begin the log"))?;
    rights::drop_others().map_err(|error| GuardError::system("let go of rights")(error.into()))?;
    let alone = run::only_guard()?;
    let bell = Bell::new();
    let mut guard = Guard::new(file, options, config, invalid, alone, &bell);
    guard.recall();
    tidy();
    if options.once {
        loop {
            let passed = guard.pass()?;
            if passed.result != Passed::BEGUN {
                return Ok(passed.result == Passed::OK);
            }
        }
    }
    bell::on_signals(bell.rope()).map_err(GuardError::system("catch signals"))?;
    guard.listen(&bell, options)?;
    guard.go_on(&bell)
}

/// How a pass ended.
struct Passed {
    /// One of those below: label of a metric.
    result: &'static str,
    /// When the next is due.
    next: Duration,
}

impl Passed {
    const OK: &str = "ok";
    /// Part of the machine was not seen.
    const INCOMPLETE: &str = "incomplete";
    /// Something was not done.
    const FAILED: &str = "failed";
    /// What nobody wants any more was taken back; what holds now is for the next pass.
    const BEGUN: &str = "begun";
}

struct Guard {
    file: PathBuf,
    named: bool,
    select: Select,
    /// The same by what its names meant, once that was seen.
    meant: Option<Select>,
    config: Config,
    invalid_in_file: Vec<Invalid>,
    remembered: Remembered,
    engine: Engine,
    observer: Observer,
    memory: Memory,
    started: Instant,
    written: Option<Instant>,
    backoff: Backoff,
    holding: Option<(Scope, Holding)>,
    settling: Option<Instant>,
    /// How long the last pass took.
    took: Duration,
    orphans: BTreeSet<(u64, u64)>,
    /// Folders in which namespaces get their names.
    watched: BTreeSet<PathBuf>,
    /// What directors balance, where connections are answered directly.
    followed: Option<Balance>,
    /// Whether programs answer directly.
    answers: bool,
    troubles: BTreeSet<String>,
    metrics: Arc<Metrics>,
    state: Arc<State>,
    _alone: File,
}

impl Guard {
    fn new(
        file: PathBuf,
        options: &Options,
        config: Config,
        invalid_in_file: Vec<Invalid>,
        alone: File,
        bell: &Bell,
    ) -> Self {
        Self {
            file,
            named: options.config.is_some(),
            select: options.select.clone(),
            meant: None,
            config,
            invalid_in_file,
            remembered: Remembered::default(),
            engine: Engine::new(bell.rope()),
            observer: Observer::default(),
            memory: Memory::default(),
            started: Instant::now(),
            written: None,
            backoff: Backoff::default(),
            holding: None,
            settling: None,
            took: Duration::ZERO,
            orphans: BTreeSet::new(),
            watched: BTreeSet::new(),
            followed: None,
            answers: false,
            troubles: BTreeSet::new(),
            metrics: Arc::new(Metrics::default()),
            state: Arc::new(State::new()),
            _alone: alone,
        }
    }

    /// What the guard before this one knew.
    fn recall(&mut self) {
        match run::memory() {
            Ok(memory) => self.memory = memory,
            Err(error) => warn!(%error, "where sessions went is not known"),
        }
    }

    fn listen(&mut self, bell: &Bell, options: &Options) -> Result<(), GuardError> {
        let desk = Desk {
            state: Arc::clone(&self.state),
            metrics: Arc::clone(&self.metrics),
            rope: bell.rope(),
        };
        let listen = options.listen.unwrap_or(self.config.listen);
        let socket = control::socket(&self.config);
        let group = group(self.config.group.as_deref().unwrap_or(GROUP));
        if group.is_none()
            && let Some(name) = &self.config.group
        {
            warn!(group = name, "no such group: the control socket is root's only");
        }
        web::serve(desk, listen, &socket, group)
            .map_err(|(what, source)| GuardError::System { what, source })?;
        bell::on_events(bell.rope()).map_err(GuardError::system("follow events"))?;
        self.watch(bell, FOLDERS.map(PathBuf::from))
    }

    /// Watches folders of namespaces from now on, too.
    fn watch(
        &mut self,
        bell: &Bell,
        folders: impl IntoIterator<Item = PathBuf>,
    ) -> Result<(), GuardError> {
        for folder in folders {
            if self.watched.insert(folder.clone()) {
                bell::on_namespaces(bell.rope(), folder)
                    .map_err(GuardError::system("watch namespaces"))?;
            }
        }
        Ok(())
    }

    fn go_on(&mut self, bell: &Bell) -> Result<bool, GuardError> {
        let mut ready = false;
        let watchdog = sd_notify::watchdog_enabled().map(|time| time / 3);
        info!(version = env!("CARGO_PKG_VERSION"), file = %self.file.display(), "guarding");
        loop {
            let passed = match self.pass() {
                Ok(passed) => passed,
                // The first tells that nothing can be seen at all.
                Err(error) if !ready => return Err(error.into()),
                Err(error) => {
                    self.trouble(&format!("look: {error}"));
                    self.metrics.passed(Passed::FAILED);
                    Passed { result: Passed::FAILED, next: AFTER_FAILURE }
                }
            };
            self.watch(bell, self.engine.namespaces())?;
            if !ready {
                ready = true;
                tell_systemd(&[NotifyState::Ready]);
            }
            let until = Instant::now() + passed.next;
            match self.wait(bell, until, watchdog) {
                Some(Ring::Stop) => {
                    tell_systemd(&[NotifyState::Stopping]);
                    info!("ending; what was applied stays, entries run out by their own time");
                    return Ok(true);
                }
                Some(Ring::Reload) => self.reload(),
                Some(ring) => {
                    if ring != Ring::Asked {
                        self.engine.stir();
                        self.settling = Some(Instant::now() + SETTLING);
                    }
                    tracing::debug!(why = ring.name(), "woken");
                }
                None => {}
            }
        }
    }

    /// Waits for `until` or a ring, and tells systemd meanwhile that it is alive.
    fn wait(&mut self, bell: &Bell, until: Instant, watchdog: Option<Duration>) -> Option<Ring> {
        loop {
            if watchdog.is_some() {
                tell_systemd(&[NotifyState::Watchdog]);
            }
            let left = until.checked_duration_since(Instant::now())?;
            let step = [watchdog, self.followed.as_ref().map(|_| FOLLOW)].into_iter().flatten();
            let step = step.min().unwrap_or(left).min(left);
            if let Some(ring) = bell.wait(step) {
                return Some(ring);
            }
            if self.followed.as_mut().is_some_and(Balance::has_changed) {
                // A worker has no event of what happens on other nodes.
                self.engine.stir();
                return Some(Ring::Asked);
            }
        }
    }

    fn reload(&mut self) {
        tell_systemd(&[NotifyState::Reloading]);
        match Config::load(&self.file, self.named, &self.config) {
            Ok((config, invalid)) => {
                if (config.listen, &config.socket, &config.group)
                    != (self.config.listen, &self.config.socket, &self.config.group)
                {
                    warn!("listen, socket and group are taken over at the next start");
                }
                self.config = config;
                self.invalid_in_file = invalid;
                info!(file = %self.file.display(), "read again");
            }
            Err(error) => warn!(%error, "not read again: what held before holds on"),
        }
        tell_systemd(&[NotifyState::Ready]);
    }

    fn trouble(&mut self, text: &str) {
        let mut troubles = self.troubles.clone();
        troubles.insert(text.to_owned());
        self.told(&troubles);
    }

    /// Logs what is new of troubles.
    fn told(&mut self, troubles: &BTreeSet<String>) {
        for trouble in troubles.difference(&self.troubles) {
            warn!("{}", trouble.escape_debug());
        }
        for trouble in self.troubles.difference(troubles) {
            info!("no longer: {}", trouble.escape_debug());
        }
        self.troubles.clone_from(troubles);
    }
}

/// Takes away what was left by the guard before this one, should it have been killed.
fn tidy() {
    let tidied = || -> Result<Report, ActError> {
        let left = keepline_node::left(None)?;
        if left.is_empty() {
            return Ok(Report::default());
        }
        let undos: Vec<Undo> = left.into_iter().map(|change| Undo { of: None, change }).collect();
        keepline_node::undo(&mut Exclusive::for_guard()?, &undos, &AtomicBool::new(false))
    };
    let report = tidied().unwrap_or_else(|error| {
        warn!(%error, "what may be left of a Keepline that was killed was not looked for");
        Report::default()
    });
    for step in report.steps {
        let (object, change) = step.change.what.describe();
        let director = step.change.place.name;
        match step.result {
            Ok(_) => info!(director, object, change, "done"),
            Err(error) => warn!(director, object, %error, "not stopped"),
        }
    }
}

/// systemd is told where it listens; where it does not, nobody misses it.
fn tell_systemd(state: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}

/// The number of a group. A static program has no name service: the file must do.
fn group(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}
