//! What the Engine knows of this node: containers, networks, services and their tasks. Plain
//! data, made by `keepline-docker`; everything here was written by others and is untrusted text.

mod resolve;

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

pub use resolve::ResolveError;

/// The Engine's view from one node. A part that could not be read is empty and named in
/// `incomplete`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Version of the Engine, such as `20.10.24+dfsg1`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub engine: Option<String>,
    /// This node's id in the Swarm; absent outside a Swarm.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node_id: Option<String>,
    /// This node's host name, as the Engine tells it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node_name: Option<String>,
    /// The address by which the other nodes reach this one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node_address: Option<IpAddr>,
    /// Whether this node is a manager: only managers tell of services and nodes as such.
    #[serde(default)]
    pub manager: bool,
    /// The folder of namespace files (`<exec-root>/netns`), seen in the containers' sandbox keys;
    /// absent where no container runs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub netns_folder: Option<String>,
    /// Running containers of this node.
    #[serde(default)]
    pub containers: Vec<Container>,
    /// Networks that this node knows.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// Services. From a manager: all. From a worker: those seen in its networks and containers.
    #[serde(default)]
    pub services: Vec<Service>,
    /// Nodes of the Swarm, told by managers only.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub nodes: Vec<Node>,
    /// What could not be read, and why: one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub incomplete: Vec<String>,
}

/// An id with its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The Engine's id.
    pub id: String,
    /// The name.
    pub name: String,
}

/// A running container of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Name, without the slash.
    pub name: String,
    /// Path of its namespace file (`NetworkSettings.SandboxKey`); that of the owner where it
    /// `shares`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sandbox: Option<String>,
    /// Whether it runs in the host's network namespace.
    #[serde(default)]
    pub host_network: bool,
    /// Id of the container whose network namespace it uses (`--network container:…`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shares: Option<String>,
    /// The service it is a task of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service: Option<Named>,
    /// The task it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub task: Option<Named>,
    /// The stack it belongs to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stack: Option<String>,
    /// Id of the node the Swarm put it on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<String>,
    /// Its labels that concern Keepline (`keepline.…`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub labels: BTreeMap<String, String>,
    /// Where it is attached.
    #[serde(default)]
    pub networks: Vec<Attachment>,
}

/// A container's place in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Network id.
    pub network: String,
    /// Network name.
    pub name: String,
    /// Its addresses there.
    pub addresses: Vec<IpAddr>,
}

/// A network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Network id: 25 characters for those of a Swarm, 64 hexadecimal digits for others.
    pub id: String,
    /// Name; not unique among local networks.
    pub name: String,
    /// Driver: `overlay`, `bridge`, `host`, …
    pub driver: String,
    /// Whether published ports come in through it.
    #[serde(default)]
    pub ingress: bool,
    /// Whether it was made with `--opt dsr`: replies go past the director
    /// (`overlayDSROptionString` in moby's libnetwork).
    #[serde(default)]
    pub dsr: bool,
    /// File name of the director's namespace: `lb_` and 9 characters of the id, `ingress_sbox`
    /// for the ingress network (Engine 18.09 and later); absent where nothing is balanced.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lb_namespace: Option<String>,
    /// File name of the namespace with the overlay's bridge: `1-` and 10 characters of the id.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub overlay_namespace: Option<String>,
    /// The host's bridge, for networks of the `bridge` driver.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bridge: Option<String>,
    /// The director's own address on this node: a backend sees it as the peer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lb_address: Option<IpAddr>,
    /// Where its addresses are from.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub subnets: Vec<Subnet>,
    /// Addresses, on all nodes, of what belongs to no service: containers that were attached by hand.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub attached: Vec<IpAddr>,
    /// Its labels that concern Keepline (`keepline.…`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub labels: BTreeMap<String, String>,
    /// Services with tasks in this network, on all nodes; on managers also those that have an
    /// address here while no task of theirs runs.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub services: Vec<NetworkService>,
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Any address in it.
    pub address: IpAddr,
    /// How many of its bits all of them share.
    pub prefix: u8,
}

/// A service in one network, as this node balances it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkService {
    /// Service name.
    pub name: String,
    /// Its address in this network; absent for dnsrr.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub vip: Option<IpAddr>,
    /// Mark that leads to its IPVS service (`LocalLBIndex`); differs per node and network.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fwmark: Option<u32>,
    /// Ports it publishes, in the ingress network.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub ports: Vec<Port>,
    /// Its tasks in this network.
    #[serde(default)]
    pub tasks: Vec<Task>,
    /// Whether no task of it runs, by a manager's word. That a network lists none proves nothing:
    /// after the Engine's restart the list fills anew.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub idle: bool,
}

/// A task in one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Task name: service, slot or node id, and task id.
    pub name: String,
    /// Its address in the network.
    pub address: IpAddr,
    /// Address of the node it runs on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host: Option<IpAddr>,
    /// Host name of the node it runs on, where this node knows it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<String>,
    /// Endpoint id.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub endpoint: Option<String>,
}

/// How clients reach a service's tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointMode {
    /// Through a virtual address.
    Vip,
    /// By the addresses of its tasks, taken from the DNS: no director between.
    Dnsrr,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Service id; absent where a worker saw the name only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<String>,
    /// Service name.
    pub name: String,
    /// Endpoint mode; on workers told by whether it has a VIP in its networks.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mode: Option<EndpointMode>,
    /// Published ports. Workers see those of the ingress network only.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub ports: Vec<Port>,
    /// Its virtual addresses, told by managers only: it has them with or without tasks.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub vips: Vec<Vip>,
    /// Its labels that concern Keepline (`keepline.…`). Workers are told none of a service: there
    /// those of its containers count.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub labels: BTreeMap<String, String>,
}

/// A service's virtual address in one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    /// Network id.
    pub network: String,
    /// The address there.
    pub address: IpAddr,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The port on the nodes.
    pub published: u16,
    /// The port in the task.
    pub target: u16,
    /// `tcp`, `udp`, `sctp`; absent where the Engine does not tell.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub protocol: Option<String>,
    /// Published by the task's own node only, past the ingress network (`mode=host`).
    #[serde(default)]
    pub host_mode: bool,
}

/// A node of the Swarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Node id.
    pub id: String,
    /// Host name.
    pub hostname: String,
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<IpAddr>,
}

impl Topology {
    /// The network with this id.
    #[must_use]
    pub fn network(&self, id: &str) -> Option<&Network> {
        self.networks.iter().find(|network| network.id == id)
    }

    /// The network whose director lives in the namespace file `name` (`lb_…`, `ingress_sbox`).
    #[must_use]
    pub fn network_of_director(&self, name: &str) -> Option<&Network> {
        self.networks.iter().find(|network| network.lb_namespace.as_deref() == Some(name))
    }

    /// The container whose own network namespace is the file `name`: the last part of its
    /// sandbox key, for the folder may be reached by several paths. Containers that use the
    /// host's namespace or another container's are not found by it.
    #[must_use]
    pub fn container_of_namespace(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| {
            !container.host_network
                && container.shares.is_none()
                && container.sandbox.as_deref().and_then(|path| path.rsplit('/').next())
                    == Some(name)
        })
    }

    /// The container of this node with `address` in the network with id `network`. Addresses
    /// of different networks may overlap: hence both.
    #[must_use]
    pub fn container_at(&self, network: &str, address: IpAddr) -> Option<&Container> {
        self.containers.iter().find(|container| {
            container.networks.iter().any(|attachment| {
                attachment.network == network && attachment.addresses.contains(&address)
            })
        })
    }

    /// Host name of the Swarm node with this id or address.
    #[must_use]
    pub fn node_name_of(&self, id: Option<&str>, address: Option<IpAddr>) -> Option<&str> {
        let known = |wanted: Option<IpAddr>, has: Option<IpAddr>| wanted.is_some() && wanted == has;
        if (id.is_some() && id == self.node_id.as_deref()) || known(address, self.node_address) {
            return self.node_name.as_deref();
        }
        self.nodes
            .iter()
            .find(|node| id == Some(node.id.as_str()) || known(address, node.address))
            .map(|node| node.hostname.as_str())
    }

    /// The one container that `wanted` names: by id, name, or a beginning of either that fits
    /// only one. `web.2` is the task in slot 2 even where there is a `web.20`.
    ///
    /// # Errors
    /// When none fits (with names that come near) or several do (with all of them).
    pub fn resolve_container(&self, wanted: &str) -> Result<&Container, ResolveError> {
        resolve::one("container", wanted, &self.containers, |it| (&it.id, &it.name))
    }

    /// The one network that `wanted` names, as in [`Self::resolve_container`].
    ///
    /// # Errors
    /// When none fits or several do.
    pub fn resolve_network(&self, wanted: &str) -> Result<&Network, ResolveError> {
        resolve::one("network", wanted, &self.networks, |it| (&it.id, &it.name))
    }

    /// The one service that `wanted` names, as in [`Self::resolve_container`].
    ///
    /// # Errors
    /// When none fits or several do.
    pub fn resolve_service(&self, wanted: &str) -> Result<&Service, ResolveError> {
        resolve::one("service", wanted, &self.services, |it| {
            (it.id.as_deref().unwrap_or_default(), &it.name)
        })
    }
}

impl Subnet {
    /// Whether an address is in it.
    #[must_use]
    pub fn holds(self, address: IpAddr) -> bool {
        let differ = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros()
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros()
            }
            _ => return false,
        };
        differ >= u32::from(self.prefix)
    }
}

impl Network {
    /// Whether an address is one of its own.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.holds(address))
    }

    /// Whether somebody has this address here: a service of which a task may run, a task, or a
    /// container that was attached by hand.
    #[must_use]
    pub fn is_taken(&self, address: IpAddr) -> bool {
        let has = |service: &NetworkService| {
            service.vip == Some(address) && !service.idle
                || service.tasks.iter().any(|task| task.address == address)
        };
        self.lb_address == Some(address)
            || self.attached.contains(&address)
            || self.services.iter().any(has)
    }

    /// The service with this virtual address here.
    #[must_use]
    pub fn service_at(&self, vip: IpAddr) -> Option<&NetworkService> {
        self.services.iter().find(|service| service.vip == Some(vip))
    }

    /// The service to which this mark leads in this network's director.
    #[must_use]
    pub fn service_marked(&self, fwmark: u32) -> Option<&NetworkService> {
        self.services.iter().find(|service| service.fwmark == Some(fwmark))
    }

    /// The task with this address here, and its service.
    #[must_use]
    pub fn task_at(&self, address: IpAddr) -> Option<(&NetworkService, &Task)> {
        self.services.iter().find_map(|service| {
            let task = service.tasks.iter().find(|task| task.address == address)?;
            Some((service, task))
        })
    }
}
