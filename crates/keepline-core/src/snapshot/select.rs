//! What was asked for, and what of a snapshot it means. The same for a live look and a capture.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Namespace, Snapshot, Topology, topology::ResolveError};

/// Which part of the machine. Empty: everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Select {
    /// Containers, by name, ID or unique prefix of either.
    pub containers: Vec<String>,
    /// Swarm services, likewise.
    pub services: Vec<String>,
    /// Docker networks, likewise.
    pub networks: Vec<String>,
    /// Network namespaces: a path, or a name in `/var/run/netns` or Docker's netns folder.
    pub netns: Vec<String>,
    /// The namespaces of these processes.
    pub pids: Vec<u32>,
    /// Whether services and networks are given as [`Asked`] has them, containers by their whole ID, and
    /// none of all this need be there now: who follows a service does not lose it when a worker is told
    /// no more of it, and of two containers not the one that runs still.
    pub exact: bool,
}

impl Select {
    /// Whether everything is asked for.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        let Self { containers, services, networks, netns, pids, exact: _ } = self;
        let named = [containers, services, networks, netns];
        named.iter().all(|names| names.is_empty()) && pids.is_empty()
    }
}

/// Services and networks that were asked for: sessions are chosen by them one by one, since one
/// namespace may carry those of several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Names of services.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub services: Vec<String>,
    /// Ids of networks.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub networks: Vec<String>,
}

impl Asked {
    /// Whether no service and no network was asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.networks.is_empty()
    }
}

/// Which sessions: what a selection came down to, kept to be compared with later looks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Inodes of the namespaces whose sessions are meant; absent: every one.
    pub namespaces: Option<BTreeSet<u64>>,
    /// Services and networks.
    #[serde(skip_serializing_if = "Asked::is_empty", default)]
    pub asked: Asked,
    /// Services and networks that are left out of it: a service that is asked for counts more than
    /// its network that is left out.
    #[serde(skip_serializing_if = "Asked::is_empty", default)]
    pub except: Asked,
    /// Only of those that this one means, too.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub within: Option<Box<Scope>>,
}

impl Scope {
    /// Whether no part of the machine is left out; of single services and networks it says nothing.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.namespaces.is_none() && self.within.as_ref().is_none_or(|it| it.is_everything())
    }
}

/// Why something selected is not exactly one thing that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SelectError {
    /// The Engine knows none, or several.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The Engine told nothing, so a name cannot be looked up.
    #[error("no {kind} `{name}`: {why}", name = .name.escape_debug())]
    Unnamed {
        /// `container`, `network` or `service`.
        kind: &'static str,
        /// The name as given.
        name: String,
        /// Why no names are known.
        why: String,
    },
    /// Known by name, but its namespace was not seen.
    #[error("container `{name}` has no network namespace that can be seen from here", name = .name.escape_debug())]
    NotSeen {
        /// The name as given.
        name: String,
    },
}

impl Snapshot {
    /// Marks what was asked for: the namespaces in `inodes`, and the containers, services and
    /// networks of `select` (its `netns` and `pids` are what `inodes` were found by).
    ///
    /// # Errors
    /// When a name fits nothing, or several.
    pub fn select(&mut self, select: &Select, inodes: &BTreeSet<u64>) -> Result<(), SelectError> {
        let mut chosen: Vec<bool> =
            self.namespaces.iter().map(|namespace| inodes.contains(&namespace.inode)).collect();
        for name in &select.containers {
            match self.container(name) {
                Ok(at) => chosen[at] = true,
                Err(_) if select.exact && self.is_told() => {}
                Err(error) => return Err(error),
            }
        }
        let mut asked = Asked::default();
        if select.exact {
            asked.services.clone_from(&select.services);
            asked.networks.clone_from(&select.networks);
            self.knows_all(&asked)?;
        }
        for name in select.services.iter().filter(|_| !select.exact) {
            asked.services.push(self.names("service", name)?.resolve_service(name)?.name.clone());
        }
        for name in select.networks.iter().filter(|_| !select.exact) {
            asked.networks.push(self.names("network", name)?.resolve_network(name)?.id.clone());
        }
        for (namespace, chosen) in self.namespaces.iter_mut().zip(chosen) {
            namespace.selected = chosen;
        }
        self.asked = asked;
        Ok(())
    }

    /// What the names of `select` meant when this was seen, to be selected again when some of it may
    /// have gone.
    #[must_use]
    pub fn meant(&self, select: &Select) -> Select {
        let containers = select.containers.iter();
        Select {
            containers: containers.map(|name| self.container_id(name)).collect(),
            services: self.asked.services.clone(),
            networks: self.asked.networks.clone(),
            netns: select.netns.clone(),
            pids: select.pids.clone(),
            exact: true,
        }
    }

    /// What was asked for, as a scope.
    #[must_use]
    pub fn scope(&self) -> Scope {
        let everything = self.namespaces.iter().all(|namespace| namespace.selected);
        let chosen = self.namespaces.iter().filter(|namespace| namespace.selected);
        Scope {
            namespaces: (!everything).then(|| chosen.map(|namespace| namespace.inode).collect()),
            asked: self.asked.clone(),
            except: Asked::default(),
            within: None,
        }
    }

    /// Whether something was asked for that this namespace is director of, or it was itself.
    #[must_use]
    pub fn concerns(&self, namespace: &Namespace) -> bool {
        if namespace.selected {
            return true;
        }
        let topology = self.topology.as_ref().filter(|_| !self.asked.is_empty());
        let Some(network) = topology.and_then(|it| it.network_of_director(namespace.file())) else {
            return false;
        };
        self.asked.networks.contains(&network.id)
            || network.services.iter().any(|service| self.asked.services.contains(&service.name))
    }

    /// Whether the Engine has told all that it knows, where there is one: what is not found among that
    /// is not there.
    fn is_told(&self) -> bool {
        self.topology.as_ref().map_or(self.unnamed.is_empty(), |it| it.incomplete.is_empty())
    }

    /// Whether what is not named is not there: not so while the Engine is silent.
    fn knows_all(&self, asked: &Asked) -> Result<(), SelectError> {
        let services = asked.services.iter().map(|name| ("service", name));
        let networks = asked.networks.iter().map(|id| ("network", id));
        for (kind, name) in services.chain(networks) {
            let topology = self.names(kind, name)?;
            if let Some(why) = topology.incomplete.first() {
                return Err(SelectError::Unnamed { kind, name: name.clone(), why: why.clone() });
            }
        }
        Ok(())
    }

    fn names(&self, kind: &'static str, name: &str) -> Result<&Topology, SelectError> {
        self.topology.as_ref().ok_or_else(|| SelectError::Unnamed {
            kind,
            name: name.to_owned(),
            why: self
                .unnamed
                .first()
                .cloned()
                .unwrap_or_else(|| "no Docker Engine told names; give --netns or --pid".to_owned()),
        })
    }

    /// The whole ID of a container; its name where the ID is not known.
    fn container_id(&self, name: &str) -> String {
        let named = self.topology.as_ref().and_then(|it| it.resolve_container(name).ok());
        let seen = || self.namespaces[self.container(name).ok()?].container.as_ref();
        let id = named.map(|it| it.id.clone()).or_else(|| Some(seen()?.id.clone()));
        id.unwrap_or_else(|| name.to_owned())
    }

    /// Index of the namespace of a container.
    fn container(&self, name: &str) -> Result<usize, SelectError> {
        let fits = |namespace: &Namespace| {
            let container = namespace.container.as_ref().filter(|_| !name.is_empty());
            container.is_some_and(|container| {
                container.id.starts_with(name) || container.name.as_deref() == Some(name)
            })
        };
        let known = match self.names("container", name) {
            Ok(topology) => topology.resolve_container(name).map_err(SelectError::from),
            Err(error) => Err(error),
        };
        let container = match known {
            Ok(container) => container,
            // Its id is written on its processes too, whether the Engine answers or not, and a
            // capture may hold its name.
            Err(error) => {
                let mut fitting = (0..).zip(&self.namespaces).filter(|(_, at)| fits(at));
                return match (fitting.next(), fitting.next()) {
                    (Some((at, _)), None) => Ok(at),
                    _ => Err(error),
                };
            }
        };
        let topology = self.topology.as_ref();
        let holder = container
            .shares
            .as_ref()
            .and_then(|owner| topology?.containers.iter().find(|it| it.id == *owner))
            .unwrap_or(container);
        let file = holder.sandbox.as_deref().and_then(|path| path.rsplit('/').next());
        self.namespaces
            .iter()
            .position(|namespace| {
                if holder.host_network {
                    return namespace.name == "host";
                }
                file == Some(namespace.file())
                    || namespace.container.as_ref().is_some_and(|it| it.id == holder.id)
            })
            .ok_or_else(|| SelectError::NotSeen { name: name.to_owned() })
    }
}
