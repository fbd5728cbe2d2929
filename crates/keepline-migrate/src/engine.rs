//! The seam to the Engine: the few calls that a migration makes, so that tests have a model of a
//! Swarm behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use crate::{EngineError, Mode, spec};

/// The calls. Each is one question or one change; none waits for its effect.
pub trait Engine {
    /// The service with exactly this name.
    ///
    /// # Errors
    /// When the Engine does not answer.
    fn service(&mut self, name: &str) -> Result<Option<Service>, EngineError>;

    /// Creates a service.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] where the name is taken.
    fn create(&mut self, spec: &Value) -> Result<(), EngineError>;

    /// Gives the service with this id another spec, if it still has this version.
    ///
    /// # Errors
    /// When the Engine does not answer or refuses, or the service has another version by now. The
    /// Engine tells that no better than its own failures: the service is to be read again.
    fn update(&mut self, id: &str, version: u64, spec: &Value) -> Result<(), EngineError>;

    /// Removes a service. One that is gone is no error.
    ///
    /// # Errors
    /// When the Engine does not answer or refuses.
    fn remove(&mut self, id: &str) -> Result<(), EngineError>;

    /// Tasks of all services that have or had this name, as long as the Swarm keeps them.
    ///
    /// # Errors
    /// When the Engine does not answer.
    fn tasks(&mut self, service: &str) -> Result<Vec<Task>, EngineError>;

    /// What the service lives among.
    ///
    /// # Errors
    /// When the Engine does not answer.
    fn surroundings(&mut self) -> Result<Surroundings, EngineError>;

    /// What `name` is resolved to inside a network. `carriers`: the services that have the name,
    /// as their own or as an alias, for an Engine that can tell of services only.
    ///
    /// # Errors
    /// When the Engine does not answer.
    fn names(&mut self, network: &str, name: &str, carriers: &[&str])
    -> Result<Names, EngineError>;
}

/// A service.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Its id.
    pub id: String,
    /// Its version (`Version.Index`): another one after each change.
    pub version: u64,
    /// The whole spec, as the Engine gave it.
    pub spec: Value,
    /// Its virtual addresses, by network id.
    pub vips: BTreeMap<String, IpAddr>,
    /// State of its last update, where there was one.
    pub update: Option<String>,
}

impl Service {
    /// From the Engine's answer.
    #[must_use]
    pub fn read(value: &Value) -> Option<Self> {
        let vips = value["Endpoint"]["VirtualIPs"].as_array();
        Some(Self {
            id: text(&value["ID"])?,
            version: value["Version"]["Index"].as_u64().unwrap_or_default(),
            spec: value.get("Spec").filter(|spec| spec.is_object())?.clone(),
            vips: vips
                .into_iter()
                .flatten()
                .filter_map(|vip| Some((text(&vip["NetworkID"])?, address(&vip["Addr"])?)))
                .collect(),
            update: text(&value["UpdateStatus"]["State"]),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.spec["Name"].as_str().unwrap_or_default()
    }

    /// Its endpoint mode.
    #[must_use]
    pub fn mode(&self) -> Mode {
        spec::mode(&self.spec)
    }
}

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// On its way: from `new` to `starting` (which includes waiting for its health check).
    Coming,
    /// Running, and healthy where it has a health check.
    Running,
    /// Ended well, or shut down.
    Ended,
    /// Failed, or rejected by its node.
    Failed,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// Id of its service.
    pub service: String,
    /// Id of the node, once it has one.
    pub node: Option<String>,
    /// How far it is.
    pub state: TaskState,
    /// The Engine's name for that: `pending`, `preparing`, …
    pub word: String,
    /// Whether the Swarm wants it to run.
    pub wanted: bool,
    /// Why it is not further, in the Engine's words.
    pub why: Option<String>,
    /// Its addresses, by network id.
    pub addresses: BTreeMap<String, IpAddr>,
}

impl Task {
    /// From the Engine's answer.
    #[must_use]
    pub fn read(value: &Value) -> Option<Self> {
        let status = &value["Status"];
        let word = text(&status["State"])?;
        Some(Self {
            id: text(&value["ID"])?,
            service: text(&value["ServiceID"])?,
            node: text(&value["NodeID"]),
            // TaskState in moby's api/types/swarm/task.go, in order.
            state: match word.as_str() {
                "running" => TaskState::Running,
                "failed" | "rejected" => TaskState::Failed,
                "complete" | "shutdown" | "remove" | "orphaned" => TaskState::Ended,
                _ => TaskState::Coming,
            },
            word,
            wanted: value["DesiredState"] == "running",
            why: text(&status["Err"]),
            addresses: value["NetworksAttachments"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|attachment| {
                    let network = text(&attachment["Network"]["ID"])?;
                    Some((network, address(attachment["Addresses"].get(0)?)?))
                })
                .collect(),
        })
    }

    /// Whether it runs and shall.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.wanted && self.state == TaskState::Running
    }

    /// Whether its container may still be there.
    #[must_use]
    pub fn lives(&self) -> bool {
        matches!(self.state, TaskState::Coming | TaskState::Running)
    }
}

/// What the service lives among.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Surroundings {
    /// All services.
    pub services: Vec<Service>,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// All networks of the Swarm.
    pub networks: Vec<Network>,
    /// Ids of all secrets.
    pub secrets: BTreeSet<String>,
    /// Ids of all configs.
    pub configs: BTreeSet<String>,
    /// All tasks that the Swarm wants to run, with what they reserve.
    pub tasks: Vec<Placed>,
}

/// A node of the Swarm, as its scheduler sees it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// The Engine's answer.
    pub value: Value,
}

impl Node {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.value["ID"].as_str().unwrap_or_default()
    }

    /// Its host name.
    #[must_use]
    pub fn hostname(&self) -> &str {
        self.value["Description"]["Hostname"].as_str().unwrap_or_default()
    }

    /// Whether it can be reached.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.value["Status"]["State"] == "ready"
    }

    /// Whether new tasks are put on it.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.value["Spec"]["Availability"] == "active"
    }
}

/// A network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether names are resolved in it and services have virtual addresses: an overlay of the
    /// Swarm, not the ingress network.
    pub resolves: bool,
}

/// A task on its node, with what it takes there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placed {
    /// Id of its service.
    pub service: String,
    /// Id of the node.
    pub node: String,
    /// Reserved processor time, in billionths of a processor.
    pub nano_cpus: u64,
    /// Reserved memory, in bytes.
    pub memory: u64,
    /// Its addresses, by network id.
    pub addresses: BTreeMap<String, IpAddr>,
}

/// What a name is resolved to in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// A resolver in the network was asked.
    Asked(BTreeSet<IpAddr>),
    /// No resolver could be asked; this is what the node balances in the network.
    Listed(BTreeSet<IpAddr>),
    /// This node does not have the network: none of its tasks run here.
    NotHere,
}

/// A text that is there.
pub(crate) fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// An address with or without a prefix length.
pub(crate) fn address(value: &Value) -> Option<IpAddr> {
    let text = value.as_str()?;
    text.split_once('/').map_or(text, |(address, _prefix)| address).parse().ok()
}
