//! [`Engine`] over a real one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use keepline_docker::DockerError;
use keepline_docker::manager::{CallError, Manager};
use keepline_kernel::namespaces;
use serde_json::Value;

use crate::engine::{Engine, Names, Network, Node, Placed, Service, Surroundings, Task};
use crate::engine::{address, text};
use crate::{EngineError, dns};

/// The Engine of a manager.
#[derive(Debug)]
pub struct Docker {
    manager: Manager,
}

impl Docker {
    /// Speaks through `manager`.
    ///
    /// # Errors
    /// When nobody listens, or the node is no manager of a Swarm.
    pub fn new(manager: Manager) -> Result<Self, EngineError> {
        let info = manager.info().map_err(failed)?;
        let swarm = &info["Swarm"];
        if swarm["ControlAvailable"] == true {
            return Ok(Self { manager });
        }
        let reason = match swarm["LocalNodeState"].as_str() {
            Some("active") => "this node is a worker: only managers change services",
            _ => "this node is in no Swarm",
        };
        let managers = swarm["RemoteManagers"].as_array();
        Err(EngineError::NotManager {
            reason: reason.to_owned(),
            managers: managers.into_iter().flatten().filter_map(|it| text(&it["Addr"])).collect(),
        })
    }

    /// The one service that `wanted` names, by name or the beginning of its id.
    ///
    /// # Errors
    /// When the Engine does not answer.
    pub fn find(&self, wanted: &str) -> Result<Option<Service>, EngineError> {
        let all: Vec<Service> =
            self.manager.services().map_err(failed)?.iter().filter_map(Service::read).collect();
        if let Some(exact) = all.iter().find(|it| it.name() == wanted || it.id == wanted) {
            return Ok(Some(exact.clone()));
        }
        let mut begun =
            all.into_iter().filter(|it| !wanted.is_empty() && it.id.starts_with(wanted));
        Ok(begun.next().filter(|_| begun.next().is_none()))
    }

    /// Asks the resolver in a container of this node that is in the network; nothing where there
    /// is none, it cannot be entered, or it answers from another network that it is in.
    fn ask_inside(
        &self,
        network: &Value,
        name: &str,
    ) -> Result<Option<BTreeSet<IpAddr>>, EngineError> {
        let members = network["Containers"].as_object().into_iter().flatten();
        let mut inside = Vec::new();
        // Among them is the load balancer, which is no container.
        for (id, _) in members.filter(|(id, _)| id.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            // Gone meanwhile.
            let Ok(container) = self.manager.container(id) else { continue };
            let settings = &container["NetworkSettings"];
            if container["State"]["Running"] == true
                && let Some(sandbox) = text(&settings["SandboxKey"])
            {
                let networks = settings["Networks"].as_object().map_or(0, serde_json::Map::len);
                inside.push((networks, sandbox));
            }
        }
        // One in few networks answers from this one.
        inside.sort();
        for (_, sandbox) in inside {
            let path = Path::new(&sandbox);
            let Ok(inode) = namespaces::identify(path) else { continue };
            if let Ok(Ok(addresses)) = namespaces::enter(path, inode, || dns::ask(name))
                && is_from(network, &addresses)
            {
                return Ok(Some(addresses));
            }
        }
        Ok(None)
    }
}

impl Engine for Docker {
    fn service(&mut self, name: &str) -> Result<Option<Service>, EngineError> {
        // The filter takes whatever begins with the name.
        let found = self.manager.services_named(name).map_err(failed)?;
        Ok(found.iter().filter_map(Service::read).find(|service| service.name() == name))
    }

    fn create(&mut self, spec: &Value) -> Result<(), EngineError> {
        self.manager.create_service(spec).map(drop).map_err(failed)
    }

    fn update(&mut self, id: &str, version: u64, spec: &Value) -> Result<(), EngineError> {
        self.manager.update_service(id, version, spec).map_err(failed)
    }

    fn remove(&mut self, id: &str) -> Result<(), EngineError> {
        match self.manager.remove_service(id) {
            Err(error) if error.status() == Some(404) => Ok(()),
            done => done.map_err(failed),
        }
    }

    fn tasks(&mut self, service: &str) -> Result<Vec<Task>, EngineError> {
        // A task is named service.slot.id or service.node.id; names of services have no dots.
        let tasks = self.manager.tasks_named(&format!("{service}.")).map_err(failed)?;
        Ok(tasks.iter().filter_map(Task::read).collect())
    }

    fn surroundings(&mut self) -> Result<Surroundings, EngineError> {
        let manager = &self.manager;
        let ids = |list: Vec<Value>| list.iter().filter_map(|it| text(&it["ID"])).collect();
        Ok(Surroundings {
            services: read(&manager.services().map_err(failed)?, Service::read),
            nodes: manager
                .nodes()
                .map_err(failed)?
                .into_iter()
                .map(|value| Node { value })
                .collect(),
            networks: read(&manager.networks().map_err(failed)?, network),
            secrets: ids(manager.secrets().map_err(failed)?),
            configs: ids(manager.configs().map_err(failed)?),
            tasks: read(&manager.tasks().map_err(failed)?, placed),
        })
    }

    fn names(
        &mut self,
        network: &str,
        name: &str,
        carriers: &[&str],
    ) -> Result<Names, EngineError> {
        let inspected = self.manager.network(network).map_err(failed)?;
        let here = inspected["Containers"].as_object().is_some_and(|all| !all.is_empty());
        if !here {
            return Ok(Names::NotHere);
        }
        if let Some(addresses) = self.ask_inside(&inspected, name)? {
            return Ok(Names::Asked(addresses));
        }
        Ok(Names::Listed(listed(&inspected, carriers)))
    }
}

/// Whether an answer may come from this network: the resolver of a container in several takes
/// the first of them that knows the name, and says not which.
fn is_from(network: &Value, answer: &BTreeSet<IpAddr>) -> bool {
    let subnets = network["IPAM"]["Config"].as_array().into_iter().flatten();
    let mut subnets = subnets.filter_map(|config| {
        let (base, length) = config["Subnet"].as_str()?.split_once('/')?;
        Some((base.parse::<IpAddr>().ok()?, length.parse::<u32>().ok()?))
    });
    answer.is_empty()
        || subnets.any(|(base, length)| answer.iter().any(|it| within(*it, base, length)))
}

fn within(address: IpAddr, base: IpAddr, length: u32) -> bool {
    match (address, base) {
        (IpAddr::V4(address), IpAddr::V4(base)) => {
            let differ = u32::from(address) ^ u32::from(base);
            differ.leading_zeros() >= length.min(32)
        }
        (IpAddr::V6(address), IpAddr::V6(base)) => {
            let differ = u128::from(address) ^ u128::from(base);
            differ.leading_zeros() >= length.min(128)
        }
        _ => false,
    }
}

/// Addresses of services in the table that a node keeps of a network.
fn listed(network: &Value, services: &[&str]) -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::new();
    for service in services.iter().map(|name| &network["Services"][*name]) {
        match address(&service["VIP"]) {
            Some(vip) if !vip.is_unspecified() => {
                addresses.insert(vip);
            }
            _ => {
                let tasks = service["Tasks"].as_array().into_iter().flatten();
                addresses.extend(tasks.filter_map(|task| address(&task["EndpointIP"])));
            }
        }
    }
    addresses
}

/// A network that services may be in.
fn network(value: &Value) -> Option<Network> {
    let swarm = value["Scope"] == "swarm";
    Some(Network {
        id: text(&value["Id"])?,
        name: text(&value["Name"])?,
        resolves: swarm && value["Driver"] == "overlay" && value["Ingress"] != true,
    })
}

/// A task that the Swarm wants to run, on its node.
fn placed(value: &Value) -> Option<Placed> {
    let task = Task::read(value)?;
    let reserved = &value["Spec"]["Resources"]["Reservations"];
    (task.wanted || task.lives()).then_some(())?;
    Some(Placed {
        service: task.service,
        node: task.node?,
        nano_cpus: reserved["NanoCPUs"].as_u64().unwrap_or(0),
        memory: reserved["MemoryBytes"].as_u64().unwrap_or(0),
        addresses: task.addresses.into_iter().collect::<BTreeMap<_, _>>(),
    })
}

fn read<T>(values: &[Value], read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    values.iter().filter_map(read).collect()
}

fn failed(error: CallError) -> EngineError {
    let text = error.to_string();
    match error {
        CallError::Engine {
            source: DockerError::Slow { .. } | DockerError::Unusable { .. },
            ..
        } => EngineError::Failing(text),
        CallError::Engine { .. } => EngineError::Unreachable(text),
        CallError::Status { status: 409, .. } => EngineError::Conflict(text),
        CallError::Status { status: 500.., .. } => EngineError::Failing(text),
        CallError::Status { .. } => EngineError::Refused(text),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{Mode, names};

    /// What an Engine 20.10 answered, recorded on a manager.
    fn recorded(name: &str) -> Value {
        let folder = "../keepline-docker/tests/fixtures/engine-20.10/manager";
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(name);
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }

    fn all<T>(name: &str, reader: impl Fn(&Value) -> Option<T>) -> Vec<T> {
        let values = recorded(name);
        let values = values.as_array().unwrap();
        let found = read(values, reader);
        assert_eq!(found.len(), values.len(), "{name}");
        found
    }

    /// As on a real Swarm where all containers of one network were in another one too.
    #[test]
    fn an_answer_from_another_network_is_none() {
        let net1 = recorded("network-net1.json");
        let from = |addresses: &[&str]| {
            is_from(&net1, &addresses.iter().map(|it| it.parse().unwrap()).collect())
        };
        assert!(from(&["10.0.1.2", "10.0.9.9"]) && from(&[]));
        assert!(!from(&["10.0.2.2", "fd00::1"]));
        assert!(within("10.0.1.255".parse().unwrap(), "10.0.1.0".parse().unwrap(), 24));
        assert!(!within("10.0.2.0".parse().unwrap(), "10.0.1.0".parse().unwrap(), 24));
        assert!(within("fd01::1".parse().unwrap(), "fd01::".parse().unwrap(), 64));
    }

    #[test]
    fn what_the_managers_lists_say_is_what_the_network_has() {
        let services = all("services.json", Service::read);
        let tasks = all("tasks.json", Task::read);
        let networks = all("networks.json", network);
        let inspected = recorded("network-net1.json");
        let net1 = networks.iter().find(|network| network.name == "net1").unwrap();
        assert!(net1.resolves);
        assert!(networks.iter().all(|it| it.resolves == ["net1", "backend"].contains(&&*it.name)));
        let mut compared = Vec::new();
        for service in &services {
            let expected = names::expected(service, &tasks).remove(&net1.id).unwrap_or_default();
            assert_eq!(expected, listed(&inspected, &[service.name()]), "{}", service.name());
            compared.push(service.mode());
        }
        assert!(compared.contains(&Mode::Vip) && compared.contains(&Mode::Dnsrr));
    }
}
