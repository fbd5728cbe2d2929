//! A Swarm in memory, with a clock of its own. It resolves names as the Engine does: a dnsrr
//! task's name goes when it begins to stop, a VIP's name with the last task that is still there.

mod calls;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keepline_migrate::{
    EngineError, Migration, Mode, Network, Node, Outcome, Progress, Service, Settings,
    Surroundings, TaskState, spec,
};
use serde_json::Value;

use crate::specs::{db, node};
use crate::turns::{Player, Shared};

/// The networks of the model; names are resolved in these.
pub const NETWORKS: [&str; 2] = ["net1", "net2"];
/// How long a task takes to stop.
const STOPPING: Duration = Duration::from_secs(4);
/// How long a task takes to run and be healthy.
const STARTING: Duration = Duration::from_secs(3);
/// How long the Swarm waits before it replaces a failed task.
const RESTART: Duration = Duration::from_secs(5);

/// What becomes of new tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fate {
    /// They run.
    #[default]
    Well,
    /// They fail their health check after this time.
    Fail(Duration),
    /// No node takes them.
    Pending,
}

/// What happens at one of the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The program dies before the call.
    CrashBefore,
    /// The program dies after the call.
    CrashAfter,
    /// The Engine fails and does nothing.
    FailBefore,
    /// The Engine fails and did it.
    FailAfter,
}

/// What a test throws in place of a program that dies.
pub struct Crash;

#[derive(Debug, Clone)]
struct Running {
    id: String,
    service: String,
    service_name: String,
    node: usize,
    born: Duration,
    fate: Fate,
    stop: Option<Duration>,
    replaced: bool,
    addresses: BTreeMap<String, IpAddr>,
}

impl Running {
    fn state(&self, now: Duration) -> (TaskState, &'static str) {
        let age = now.saturating_sub(self.born);
        match (self.stop, self.fate) {
            (Some(stop), _) if now >= stop + STOPPING => (TaskState::Ended, "shutdown"),
            (None, Fate::Fail(after)) if age >= after => (TaskState::Failed, "failed"),
            (_, Fate::Pending) => (TaskState::Coming, "pending"),
            _ if age < STARTING => (TaskState::Coming, "starting"),
            _ => (TaskState::Running, "running"),
        }
    }

    fn serves(&self, now: Duration) -> bool {
        self.stop.is_none() && self.state(now).0 == TaskState::Running
    }

    fn is_there(&self, now: Duration) -> bool {
        matches!(self.state(now).0, TaskState::Running)
    }
}

/// A service of the model, with the names it had when its tasks began.
#[derive(Debug, Clone)]
struct Known {
    service: Service,
    removed: bool,
}

#[derive(Debug, Default)]
pub struct Swarm {
    pub now: Duration,
    known: Vec<Known>,
    tasks: Vec<Running>,
    next: u8,
    /// By service name and mode.
    pub fates: BTreeMap<(String, &'static str), Fate>,
    /// Networks that this node does not have.
    pub not_here: BTreeSet<String>,
    /// Nodes that are down.
    pub down: BTreeSet<usize>,
    pub calls: usize,
    pub changes: usize,
    /// The calls that made them.
    pub changed_at: Vec<usize>,
    pub fault: Option<(usize, Fault)>,
    /// All tasks of this service fail just before this call.
    pub kill: Option<(usize, &'static str)>,
    /// Somebody writes to this service just before this call.
    pub touch: Option<(usize, &'static str)>,
    /// The call that removed a service first.
    pub removed_at: Option<usize>,
    /// Services that were created while tasks of an older one of that name were stopping.
    pub overlaps: usize,
    /// The user presses Ctrl-C at this sleep.
    pub interrupt: Option<usize>,
    pub sleeps: usize,
    /// More services, nodes, … as preflight sees them.
    pub around: Surroundings,
    /// The name that must always lead to a task.
    pub guarded: Option<String>,
}

impl Swarm {
    fn live(&self) -> impl Iterator<Item = &Service> {
        self.known.iter().filter(|known| !known.removed).map(|known| &known.service)
    }

    pub fn service(&self, name: &str) -> Option<Service> {
        self.live().find(|service| service.name() == name).cloned()
    }

    pub fn names(&self) -> Vec<String> {
        self.live().map(|service| service.name().to_owned()).collect()
    }

    pub fn running(&self, name: &str) -> usize {
        let Some(service) = self.service(name) else { return 0 };
        self.tasks.iter().filter(|it| it.service == service.id && it.serves(self.now)).count()
    }

    /// Tasks of services that are gone.
    pub fn leftovers(&self) -> usize {
        let ids: Vec<&str> = self.live().map(|service| service.id.as_str()).collect();
        self.tasks
            .iter()
            .filter(|task| !ids.contains(&task.service.as_str()) && task.is_there(self.now))
            .count()
    }

    pub fn change_spec(&mut self, name: &str, change: impl Fn(&mut Value)) {
        for known in &mut self.known {
            if !known.removed && known.service.name() == name {
                change(&mut known.service.spec);
                known.service.version += 1;
            }
        }
    }

    pub fn add(&mut self, spec: &Value) -> Result<(), EngineError> {
        let name = spec["Name"].as_str().unwrap().to_owned();
        if self.service(&name).is_some() {
            return Err(EngineError::Conflict(format!("name conflicts: {name}")));
        }
        let older = self.tasks.iter().filter(|task| task.service_name == name);
        self.overlaps += older.filter(|task| task.is_there(self.now)).count();
        self.next += 1;
        let id = format!("id{}", self.next);
        let networks = spec::networks(spec);
        let vips = match spec::mode(spec) {
            Mode::Dnsrr => BTreeMap::new(),
            Mode::Vip => networks.iter().map(|it| ((*it).to_owned(), self.address(it))).collect(),
        };
        let (id_of, spec_of) = (id.clone(), spec.clone());
        let service = Service { id: id_of, version: 1, spec: spec_of, vips, update: None };
        self.known.push(Known { service, removed: false });
        for slot in 0..spec::replicas(spec).unwrap_or(2) {
            self.start(&id, spec, usize::try_from(slot).unwrap());
        }
        Ok(())
    }

    fn start(&mut self, service: &str, spec: &Value, slot: usize) {
        let name = spec["Name"].as_str().unwrap().to_owned();
        self.next += 1;
        let id = format!("task{}", self.next);
        let addresses = spec::networks(spec)
            .iter()
            .map(|network| ((*network).to_owned(), self.address(network)))
            .collect();
        let fate = self.fates.get(&(name.clone(), spec::mode(spec).name())).copied();
        self.tasks.push(Running {
            id,
            service: service.to_owned(),
            service_name: name,
            node: slot % 2,
            born: self.now,
            fate: fate.unwrap_or_default(),
            stop: None,
            replaced: false,
            addresses,
        });
    }

    fn address(&mut self, network: &str) -> IpAddr {
        self.next += 1;
        let third = u8::try_from(NETWORKS.iter().position(|it| *it == network).unwrap()).unwrap();
        IpAddr::from([10, 0, third, self.next])
    }

    /// The Engine's words, and its status 500, where the version is another one.
    fn update(&mut self, id: &str, version: u64, spec: &Value) -> Result<(), EngineError> {
        let mut all = self.known.iter_mut().filter(|known| !known.removed);
        let Some(known) = all.find(|known| known.service.id == id) else {
            return Err(EngineError::Refused(format!("service {id} not found")));
        };
        if known.service.version != version {
            let text = "rpc error: code = Unknown desc = update out of sequence";
            return Err(EngineError::Failing(text.to_owned()));
        }
        let mut relabelled = known.service.spec.clone();
        relabelled["Labels"] = spec["Labels"].clone();
        assert_eq!(relabelled, *spec, "more than labels would restart tasks");
        known.service.version += 1;
        known.service.spec = relabelled;
        Ok(())
    }

    fn changing(&mut self) {
        self.changes += 1;
        self.changed_at.push(self.calls);
    }

    fn remove(&mut self, id: &str) {
        for known in &mut self.known {
            known.removed |= known.service.id == id;
        }
        let now = self.now;
        for task in self.tasks.iter_mut().filter(|task| task.service == id) {
            task.stop.get_or_insert(now);
        }
    }

    pub fn kill_all_of(&mut self, name: &str) {
        for task in self.tasks.iter_mut().filter(|task| task.service_name == name) {
            task.fate = Fate::Fail(Duration::ZERO);
        }
    }

    /// Addresses of a name in a network, and whether any of them leads to a task that runs.
    pub fn resolve(&self, network: &str, name: &str) -> (BTreeSet<IpAddr>, bool) {
        let mut addresses = BTreeSet::new();
        let mut leads = false;
        for known in &self.known {
            let spec = &known.service.spec;
            let mut lists = [&spec["TaskTemplate"]["Networks"], &spec["Networks"]]
                .into_iter()
                .filter_map(Value::as_array)
                .flatten();
            let carries = lists.any(|it| {
                let aliases = it["Aliases"].as_array().into_iter().flatten();
                it["Target"] == network
                    && (known.service.name() == name || aliases.into_iter().any(|it| it == name))
            });
            if !carries {
                continue;
            }
            let own = || self.tasks.iter().filter(|task| task.service == known.service.id);
            match known.service.vips.get(network) {
                // Stays with the last task that is there, served or not.
                Some(vip) if own().any(|task| task.is_there(self.now)) => {
                    addresses.insert(*vip);
                    leads |= own().any(|task| task.serves(self.now));
                }
                Some(_) => {}
                None => {
                    let serving = own().filter(|task| task.serves(self.now));
                    for task in serving {
                        addresses.insert(task.addresses[network]);
                        leads = true;
                    }
                }
            }
        }
        (addresses, leads)
    }

    /// Lets time pass, and holds the property at every moment.
    pub fn pass(&mut self, time: Duration) {
        const STEP: Duration = Duration::from_millis(250);
        let end = self.now + time;
        loop {
            self.guard();
            if self.now >= end {
                return;
            }
            self.now = (self.now + STEP).min(end);
            self.restart_failed();
        }
    }

    fn restart_failed(&mut self) {
        let mut again = Vec::new();
        for task in &mut self.tasks {
            let Fate::Fail(after) = task.fate else { continue };
            let known = self.known.iter().find(|known| known.service.id == task.service).unwrap();
            if !task.replaced && !known.removed && self.now >= task.born + after + RESTART {
                task.replaced = true;
                again.push((known.service.clone(), task.node));
            }
        }
        for (service, node) in again {
            self.start(&service.id, &service.spec, node);
        }
    }

    fn guard(&self) {
        let Some(name) = &self.guarded else { return };
        for network in NETWORKS {
            let (addresses, leads) = self.resolve(network, name);
            assert!(leads, "at {:?} {name} leads nowhere in {network}: {addresses:?}", self.now);
        }
    }
}

/// The model, as engine and as clock.
#[derive(Clone)]
pub struct Fake(pub Arc<Shared>, pub Option<Player>);

impl Fake {
    /// A service `db` in this mode with two tasks that run.
    pub fn with(mode: Mode) -> Self {
        let mut swarm = Swarm {
            around: Surroundings {
                nodes: (0..2).map(|index| Node { value: node(index) }).collect(),
                networks: NETWORKS
                    .iter()
                    .map(|it| Network { id: (*it).into(), name: (*it).into(), resolves: true })
                    .collect(),
                secrets: BTreeSet::from(["s1".to_owned()]),
                configs: BTreeSet::from(["c1".to_owned()]),
                ..Surroundings::default()
            },
            ..Swarm::default()
        };
        swarm.add(&db(mode)).unwrap();
        swarm.pass(Duration::from_secs(60));
        swarm.guarded = Some("db".to_owned());
        Self(Arc::new(Shared::new(swarm)), None)
    }

    /// One run of the program.
    pub fn run(
        &self,
        work: impl FnOnce(&mut Migration<'_>) -> Outcome,
    ) -> (Outcome, Vec<Progress>) {
        let (mut engine, mut clock) = (self.clone(), self.clone());
        let mut told = Vec::new();
        let mut tell = |progress| told.push(progress);
        let settings = Settings::default();
        let mut migration = Migration::new(&mut engine, &mut clock, &mut tell, "db", settings);
        let outcome = work(&mut migration);
        (outcome, told)
    }

    /// A run that goes on where another ended.
    pub fn resume(&self) -> (Outcome, Vec<Progress>) {
        self.take_up(false)
    }

    /// A run that goes back from where another ended.
    pub fn rollback(&self) -> (Outcome, Vec<Progress>) {
        self.take_up(true)
    }

    /// One or the other.
    pub fn take_up(&self, back: bool) -> (Outcome, Vec<Progress>) {
        self.run(|run| if back { run.rollback() } else { run.resume() })
    }

    fn call<T>(
        &self,
        work: impl FnOnce(&mut Swarm) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        if let Some(player) = &self.1 {
            player.call();
        }
        let mut swarm = self.0.borrow_mut();
        swarm.calls += 1;
        if let Some((at, name)) = swarm.kill
            && at == swarm.calls
        {
            swarm.kill_all_of(name);
        }
        if let Some((at, name)) = swarm.touch
            && at == swarm.calls
        {
            swarm.change_spec(name, |_| {});
        }
        let fault = swarm.fault.filter(|(at, _)| *at == swarm.calls).map(|(_, fault)| fault);
        let failed = || EngineError::Failing("rpc error: no leader".to_owned());
        match fault {
            Some(Fault::CrashBefore) => {
                drop(swarm);
                std::panic::resume_unwind(Box::new(Crash));
            }
            Some(Fault::FailBefore) => return Err(failed()),
            _ => {}
        }
        let result = work(&mut swarm);
        swarm.guard();
        match fault {
            Some(Fault::CrashAfter) => {
                drop(swarm);
                std::panic::resume_unwind(Box::new(Crash));
            }
            Some(Fault::FailAfter) => Err(failed()),
            _ => result,
        }
    }

    /// Exactly one service `db` in this mode, all of it as before, and nothing else.
    pub fn assert_only(&self, mode: Mode) {
        let mut swarm = self.0.borrow_mut();
        swarm.pass(Duration::from_secs(30));
        assert_eq!(swarm.names(), ["db"]);
        let service = swarm.service("db").unwrap();
        assert_eq!(service.spec, spec::with_mode(&db(mode), mode));
        assert_eq!(swarm.running("db"), 2);
        assert_eq!(swarm.leftovers(), 0);
        assert_eq!(swarm.overlaps, 0, "the old tasks were not waited for");
    }
}
