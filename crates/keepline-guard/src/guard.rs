//! The loop: a pass, a pause, and what cuts the pause short.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use keepline_core::{
    Judgement, Snapshot, Verdict, judge,
    plan::{self, Action, Change, InForce, Memory, What},
    policy::{Invalid, Policies, Remembered, Strategy},
    snapshot::{Scope, Select},
};
use keepline_node::{
    NodeError, Obstacle, Owners, Report,
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
    state::{Sessions, State, Told},
    web::{self, Desk},
};

/// After something has changed, more follows: a director is filled service by service.
const SETTLING: Duration = Duration::from_secs(10);
/// So often it is looked meanwhile.
const WHILE_SETTLING: Duration = Duration::from_millis(500);
/// After a pass that failed as a whole: what it failed by may end any time.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// No more than this part of one processor goes into looking, except for what would be lost
/// meanwhile.
const SHARE: u32 = 20;
/// Backends of direct connections are compared so often.
const FOLLOW: Duration = Duration::from_millis(700);
/// Where a session went is known for so long after it was last seen.
const MEMORY: Duration = Duration::from_secs(600);
/// So often that is written down, for the next guard.
const WRITTEN: Duration = Duration::from_secs(60);

pub(crate) fn run(options: &Options) -> Result<bool, GuardError> {
    let named = options.config.is_some();
    let file = options.config.clone().unwrap_or_else(|| PathBuf::from(FILE));
    let (config, invalid) = Config::load(&file, named, &Config::default())?;
    log::begin(options.log).map_err(GuardError::system("begin the log"))?;
    rights::drop_others().map_err(|error| GuardError::system("let go of rights")(error.into()))?;
    let alone = run::only_guard()?;
    let bell = Bell::new();
    let mut guard = Guard::new(file, options, config, invalid, alone);
    guard.recall();
    if options.once {
        return Ok(guard.pass()?.well);
    }
    bell::on_signals(bell.rope()).map_err(GuardError::system("catch signals"))?;
    guard.listen(&bell, options)?;
    guard.go_on(&bell)
}

/// How a pass ended.
struct Passed {
    well: bool,
    next: Duration,
}

struct Guard {
    file: PathBuf,
    named: bool,
    select: Select,
    config: Config,
    invalid_in_file: Vec<Invalid>,
    remembered: Remembered,
    engine: Engine,
    memory: Memory,
    started: Instant,
    written: Option<Instant>,
    backoff: Backoff,
    holding: Option<(Scope, Holding)>,
    settling: Option<Instant>,
    /// How long the last pass took.
    took: Duration,
    orphans: BTreeSet<(u64, u64)>,
    /// Directors of direct connections, and what they balance.
    followed: Option<Followed>,
    troubles: BTreeSet<String>,
    metrics: Arc<Metrics>,
    state: Arc<State>,
    _alone: File,
}

struct Followed {
    inodes: BTreeSet<u64>,
    balanced: Vec<(u64, Vec<keepline_node::Balanced>)>,
}

impl Guard {
    fn new(
        file: PathBuf,
        options: &Options,
        config: Config,
        invalid_in_file: Vec<Invalid>,
        alone: File,
    ) -> Self {
        Self {
            file,
            named: options.config.is_some(),
            select: options.select.clone(),
            config,
            invalid_in_file,
            remembered: Remembered::default(),
            engine: Engine::default(),
            memory: Memory::default(),
            started: Instant::now(),
            written: None,
            backoff: Backoff::default(),
            holding: None,
            settling: None,
            took: Duration::ZERO,
            orphans: BTreeSet::new(),
            followed: None,
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

    fn listen(&self, bell: &Bell, options: &Options) -> Result<(), GuardError> {
        let desk = Desk {
            state: Arc::clone(&self.state),
            metrics: Arc::clone(&self.metrics),
            rope: bell.rope(),
        };
        let listen = options.listen.unwrap_or(self.config.listen);
        let socket = self.config.socket.clone().unwrap_or_else(control::socket);
        let group = group(self.config.group.as_deref().unwrap_or(GROUP));
        if group.is_none()
            && let Some(name) = &self.config.group
        {
            warn!(group = name, "no such group: the control socket is root's only");
        }
        web::serve(desk, listen, &socket, group)
            .map_err(|(what, source)| GuardError::System { what, source })?;
        bell::on_events(bell.rope()).map_err(GuardError::system("follow events"))?;
        let folders = ["/run/docker/netns", "/run/netns"].map(PathBuf::from).to_vec();
        bell::on_namespaces(bell.rope(), folders).map_err(GuardError::system("watch namespaces"))
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
                    self.metrics.passed("failed");
                    Passed { well: false, next: AFTER_FAILURE }
                }
            };
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
                    if ring == Ring::Engine {
                        self.engine.stir();
                    }
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
            if let Some(followed) = &self.followed
                && keepline_node::balanced(&followed.inodes)
                    .is_ok_and(|now| now != followed.balanced)
            {
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

    /// One pass: observe, judge, plan, act.
    fn pass(&mut self) -> Result<Passed, NodeError> {
        let begun = Instant::now();
        let mut troubles = BTreeSet::new();
        let topology = self.engine.topology();
        troubles.extend(self.engine.silent.clone());
        let (policies, mut invalid) =
            Policies::of(&self.config.rules, topology.as_ref(), &mut self.remembered);
        invalid.extend(self.invalid_in_file.iter().cloned());
        troubles.extend(invalid.iter().map(ToString::to_string));
        self.metrics.invalid.set(i64::try_from(invalid.len()).unwrap_or(i64::MAX));
        let by_keepalive = policies.all().any(|it| it.strategy.value == Strategy::Keepalive);
        let owners = if by_keepalive { Owners::MostUrgent(0) } else { Owners::Nobody };
        let mut snapshot = keepline_node::observe_knowing(&self.select, owners, topology)?;
        self.hold(&policies, &mut snapshot, &mut troubles);
        let judgement = judge(&snapshot, &keepline_core::Options::default());
        self.metrics.scan.observe(begun.elapsed().as_secs_f64());
        self.saw(&snapshot, &judgement);
        let missed =
            snapshot.incomplete.iter().map(|it| format!("not seen: {}: {}", it.what, it.why));
        troubles.extend(missed);
        let mut next = plan::hold_pause(&snapshot);
        let sessions = sessions(&judgement);
        let inodes = self.directors(&policies, &snapshot);
        let acted = self.act(&policies, &mut snapshot, judgement, next, &mut troubles);
        self.follow(inodes);
        let again = match acted {
            Ok(again) => again,
            Err(error) => {
                troubles.insert(error);
                Some(AFTER_FAILURE)
            }
        };
        self.write_down(&mut troubles);
        let took = begun.elapsed();
        self.took = took;
        let least = took * SHARE;
        if let Some(look_every) = self.config.look_every {
            next = next.min(look_every);
        }
        let settling = self.settling.filter(|until| *until > begun).map(|_| WHILE_SETTLING);
        let sooner = [again, settling].into_iter().flatten().min();
        // What is held is looked at in time, whatever that costs.
        next = sooner.map_or(next, |sooner| next.min(sooner.max(least)));
        let result = match (snapshot.incomplete.is_empty(), again) {
            (true, None) => "ok",
            (false, None) => "incomplete",
            (_, Some(_)) => "failed",
        };
        self.metrics.passed(result);
        self.metrics.reconcile.observe(took.as_secs_f64());
        let now = jiff::Timestamp::now();
        self.metrics.last.set(now.as_duration().as_secs_f64());
        self.told(&troubles);
        let (held, healed) = (self.metrics.held.get(), self.metrics.healed.get());
        self.state.passed(next, |told| {
            *told = Told {
                last_look: Some(now),
                took_seconds: took.as_secs_f64(),
                sessions,
                held,
                healed,
                troubles: troubles.into_iter().collect(),
                ..told.clone()
            };
        });
        Ok(Passed { well: result == "ok", next })
    }

    /// Announces what is held, so that a check tells it.
    fn hold(
        &mut self,
        policies: &Policies,
        snapshot: &mut Snapshot,
        troubles: &mut BTreeSet<String>,
    ) {
        if !policies.all().any(|it| it.strategy.value.holds()) {
            self.holding = None;
            return;
        }
        let mut scope = policies.held();
        if scope.namespaces.is_none() {
            scope.namespaces = snapshot.scope().namespaces;
        }
        snapshot.held.push(scope.clone());
        if self.holding.as_ref().is_some_and(|(known, _)| *known == scope) {
            return;
        }
        // The one before ends first: both have the same name.
        self.holding = None;
        match Holding::announce(scope.clone()) {
            Ok(holding) => self.holding = Some((scope, holding)),
            Err(error) => {
                troubles.insert(format!("held, but not announced: {error}"));
            }
        }
    }

    fn saw(&mut self, snapshot: &Snapshot, judgement: &Judgement) {
        self.metrics.saw(snapshot, judgement);
        let orphaned = judgement.sessions.iter().filter(|it| it.verdict == Verdict::Orphaned);
        let orphans: BTreeSet<(u64, u64)> = orphaned
            .map(|session| {
                let namespace = &snapshot.namespaces[session.socket.namespace];
                (namespace.inode, namespace.sockets[session.socket.socket].cookie)
            })
            .collect();
        let new = orphans.difference(&self.orphans).count();
        if new > 0 {
            warn!(sessions = new, "found forgotten");
            self.metrics.orphaned.inc_by(new as u64);
        }
        self.orphans = orphans;
        let now = self.started.elapsed().as_secs();
        self.memory.learn(snapshot, now);
        self.memory.forget(now.saturating_sub(MEMORY.as_secs()));
    }

    /// Plans and acts; when to try again, if something was left.
    fn act(
        &mut self,
        policies: &Policies,
        snapshot: &mut Snapshot,
        judgement: Judgement,
        pause: Duration,
        troubles: &mut BTreeSet<String>,
    ) -> Result<Option<Duration>, String> {
        let in_force = in_force(policies)?;
        // What would run out before the pass after the next has ended.
        let due_within = (pause + self.took) * 2 + Duration::from_secs(1);
        let pass =
            plan::reconcile(snapshot, judgement, policies, &in_force, &self.memory, due_within);
        troubles.extend(pass.refused.iter().map(|it| format!("{}: {}", it.what, it.why)));
        troubles.extend(pass.overruled.iter().map(|change| {
            let (object, _) = change.what.describe();
            format!("{}: {object}: set by hand, left so until that is undone", change.place.name)
        }));
        if !pass.undo.is_empty() {
            return self.take_back(&pass.undo);
        }
        let now = Instant::now();
        self.backoff.forget(now);
        for mut plan in pass.plans {
            plan.changes.retain(|change| self.backoff.due(change, now));
            if plan.changes.is_empty() {
                continue;
            }
            let mut exclusive = Exclusive::for_guard().map_err(|error| error.to_string())?;
            let report = keepline_node::act(&mut exclusive, &plan, &AtomicBool::new(false))
                .map_err(|error| error.to_string())?;
            self.came(plan.action, report, troubles);
        }
        let again = self.backoff.next();
        Ok(again.map(|again| again.saturating_duration_since(Instant::now())))
    }

    fn take_back(
        &mut self,
        unwanted: &[plan::journal::Standing],
    ) -> Result<Option<Duration>, String> {
        let undos = plan::undo(unwanted);
        let mut exclusive = Exclusive::for_guard().map_err(|error| error.to_string())?;
        let report = keepline_node::undo(&mut exclusive, &undos, &AtomicBool::new(false))
            .map_err(|error| error.to_string())?;
        let mut left = 0;
        for (step, was) in report.steps.iter().zip(unwanted.iter().rev()) {
            let (object, change) = step.change.what.describe();
            let name = &step.change.place.name;
            match &step.result {
                Ok(_) => {
                    self.metrics.acted(was.action, "undone", 1);
                    info!(director = name, object, change, "no longer wanted: taken back");
                }
                Err(error) => {
                    left += 1;
                    if self.backoff.came(&step.change, false, Instant::now()) {
                        warn!(director = name, object, %error, "not taken back");
                    }
                }
            }
        }
        // What holds now is planned from what is there now.
        Ok(Some(if left == 0 { Duration::ZERO } else { AFTER_FAILURE }))
    }

    fn came(&mut self, action: Action, report: Report, troubles: &mut BTreeSet<String>) {
        let (mut done, mut failed) = (0, 0);
        let now = Instant::now();
        for step in report.steps {
            let (object, change) = step.change.what.describe();
            let name = &step.change.place.name;
            match &step.result {
                Ok(_) => {
                    done += 1;
                    self.backoff.came(&step.change, true, now);
                    info!(strategy = %action, director = name, object, change, "done");
                    self.count(action, &step.change);
                }
                // It took what was to be changed with it.
                Err(Obstacle::Gone) => {}
                Err(error) => {
                    failed += 1;
                    troubles.insert(format!("{name}: {object}: {error}"));
                    if self.backoff.came(&step.change, false, now) {
                        warn!(strategy = %action, director = name, object, %error, "not done");
                    }
                }
            }
        }
        self.metrics.acted(action, "done", done);
        self.metrics.acted(action, "failed", failed);
    }

    fn count(&self, action: Action, change: &Change) {
        let What::Entries { entries, .. } = &change.what else { return };
        match action {
            Action::Heal => self.metrics.healed.inc_by(entries.len() as u64),
            _ => self.metrics.held.inc_by(entries.len() as u64),
        };
    }

    /// The directors whose backends must be followed closely.
    fn directors(&self, policies: &Policies, snapshot: &Snapshot) -> BTreeSet<u64> {
        if !policies.all().any(|it| it.strategy.value == Strategy::Direct) {
            return BTreeSet::new();
        }
        let directors = snapshot.namespaces.iter().filter(|it| it.ipvs.is_some());
        directors.map(|it| it.inode).collect()
    }

    fn follow(&mut self, inodes: BTreeSet<u64>) {
        self.followed = (!inodes.is_empty()).then(|| {
            let balanced = keepline_node::balanced(&inodes).unwrap_or_default();
            Followed { inodes, balanced }
        });
    }

    /// Where sessions went, for the next guard and for `keepline heal`.
    fn write_down(&mut self, troubles: &mut BTreeSet<String>) {
        let now = Instant::now();
        if self.written.is_some_and(|at| now - at < WRITTEN) || self.memory.is_empty() {
            return;
        }
        self.written = Some(now);
        let written = Exclusive::for_guard()
            .and_then(|exclusive| exclusive.remember_rows(self.memory.rows()));
        if let Err(error) = written {
            troubles.insert(error.to_string());
        }
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

/// What is in force, as far as policies ask for it.
fn in_force(policies: &Policies) -> Result<InForce, String> {
    let standing = run::standing().map_err(|error| error.to_string())?;
    let mut in_force = InForce { standing, ..InForce::default() };
    let wanted = |strategy| policies.all().any(|it| it.strategy.value == strategy);
    if wanted(Strategy::Keepalive) {
        in_force.rules = keepline_node::keepalive_rules().map_err(|error| error.to_string())?;
    }
    if wanted(Strategy::Direct) {
        in_force.direct = keepline_node::answered_directly().map_err(|error| error.to_string())?;
    }
    Ok(in_force)
}

fn sessions(judgement: &Judgement) -> Sessions {
    let summary = judgement.summary;
    Sessions {
        safe: summary.safe,
        at_risk: summary.at_risk,
        orphaned: summary.orphaned,
        untracked: summary.untracked,
        unknown: summary.unknown,
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
