//! A session in the operator's words: network, service, task. Addresses of different networks may
//! overlap, so the network is told first, and everything else within it.

use std::net::IpAddr;

use crate::{
    report::text::{self, escape},
    session::Session,
    snapshot::{
        Snapshot, Topology,
        topology::{Container, Network, NetworkService, Task},
    },
};

/// What the Engine calls the parts of a session, as far as it told.
#[derive(Debug, Clone, Copy, Default)]
pub struct Names<'a> {
    /// The network it runs in.
    pub network: Option<&'a Network>,
    /// The service it is to.
    pub service: Option<&'a str>,
    /// The task that is its backend.
    pub task: Option<&'a Task>,
}

impl Names<'_> {
    /// `address` with its names, as far as there are any: `service db on net1 (10.0.1.2:7000)`.
    #[must_use]
    pub fn describe(&self, address: &str) -> String {
        let network = self.network.map(|network| escape(&network.name, text::NAME));
        let service = self.service.map(|service| escape(service, text::NAME));
        match (service, network) {
            (Some(service), Some(network)) => format!("service {service} on {network} ({address})"),
            (Some(service), None) => format!("service {service} ({address})"),
            (None, Some(network)) => format!("{address} on {network}"),
            (None, None) => address.to_owned(),
        }
    }

    /// The node of the backend's task: its host name, or where this node does not know that, its
    /// address.
    #[must_use]
    pub fn node(&self) -> Option<String> {
        let task = self.task?;
        task.node.clone().or_else(|| task.host.map(|host| host.to_string()))
    }
}

/// `service.slot` of a task's name: `db.1` of `db.1.x1y2…`; a global service's task has the node's
/// id for a slot, of which the beginning must do. Other names stay as they are.
#[must_use]
pub fn short_task(name: &str) -> String {
    /// Length of the Swarm's ids (`identity.NewID`, moby/swarmkit).
    const ID: usize = 25;
    let is_id = |part: &str| part.len() == ID && part.bytes().all(|b| b.is_ascii_alphanumeric());
    let Some((rest, _)) = name.rsplit_once('.').filter(|(_, id)| is_id(id)) else {
        return name.to_owned();
    };
    match rest.rsplit_once('.').filter(|(_, node)| is_id(node)) {
        Some((service, node)) => format!("{service}.{}", &node[..8]),
        None => rest.to_owned(),
    }
}

/// Names the sessions of one snapshot.
#[derive(Debug)]
pub struct Namer<'a> {
    topology: Option<&'a Topology>,
    /// For each namespace of the snapshot what it is to the Engine.
    roles: Vec<Role<'a>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Role<'a> {
    directs: Option<&'a Network>,
    container: Option<&'a Container>,
    /// Of the host: the network that its own addresses lead into by published ports.
    ingress: Option<(&'a Network, &'a [IpAddr])>,
}

impl<'a> Namer<'a> {
    /// For the sessions of `snapshot`.
    #[must_use]
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let topology = snapshot.topology.as_ref();
        let role = |namespace: &'a crate::snapshot::Namespace| {
            let Some(topology) = topology else { return Role::default() };
            let id = namespace.container.as_ref().map(|container| container.id.as_str());
            let ingress = topology.networks.iter().find(|network| network.ingress);
            Role {
                directs: topology.network_of_director(namespace.file()),
                container: topology.containers.iter().find(|it| Some(it.id.as_str()) == id),
                ingress: ingress
                    .filter(|_| namespace.name == "host")
                    .map(|network| (network, namespace.addresses.as_slice())),
            }
        };
        Self { topology, roles: snapshot.namespaces.iter().map(role).collect() }
    }

    /// What the Engine calls the parts of `session`.
    #[must_use]
    pub fn of(&self, session: &Session) -> Names<'a> {
        if self.topology.is_none() {
            return Names::default();
        }
        let Some(network) = self.network(session) else { return Names::default() };
        let reached = session.backend.unwrap_or(session.server).ip();
        let (service, task) = match network.task_at(reached) {
            Some((service, task)) => (Some(service), Some(task)),
            None => (virtual_service(network, session), None),
        };
        Names { network: Some(network), service: service.map(|it| it.name.as_str()), task }
    }

    fn network(&self, session: &Session) -> Option<&'a Network> {
        let directed = session.director.and_then(|at| self.roles[at].directs);
        directed
            .or_else(|| self.published(session))
            .or_else(|| self.attached(session.socket.namespace, session.client.ip()))
            .or_else(|| self.attached(session.socket.namespace, session.server.ip()))
            .or_else(|| self.attached(session.other_end?.namespace, session.backend?.ip()))
    }

    /// The ingress network, where the host itself should lead the session into it: an Engine that
    /// starts takes the host's translation away, and with it what tells the director behind it.
    fn published(&self, session: &Session) -> Option<&'a Network> {
        let (network, own) = self.roles[session.director?].ingress?;
        let led = own.contains(&session.server.ip()) && virtual_service(network, session).is_some();
        led.then_some(network)
    }

    /// The network in which the container of a namespace has this address.
    fn attached(&self, namespace: usize, address: IpAddr) -> Option<&'a Network> {
        let container = self.roles[namespace].container?;
        let place = container.networks.iter().find(|it| it.addresses.contains(&address))?;
        self.topology?.network(&place.network)
    }
}

/// The service behind the address that the client connected to: a virtual one, or where ports
/// come in from outside, any of this node.
fn virtual_service<'a>(network: &'a Network, session: &Session) -> Option<&'a NetworkService> {
    let published = |service: &&NetworkService| {
        service.ports.iter().any(|port| port.published == session.server.port())
    };
    network.service_at(session.server.ip()).or_else(|| {
        let mut services = network.services.iter().filter(published);
        services.next().filter(|_| network.ingress)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_called_by_service_and_slot() {
        let id = "x1y2z3a4b5c6d7e8f9g0h1i2j";
        assert_eq!(short_task(&format!("db.1.{id}")), "db.1");
        assert_eq!(short_task(&format!("my.db.12.{id}")), "my.db.12");
        assert_eq!(short_task(&format!("agent.{id}.{id}")), "agent.x1y2z3a4");
        for other in ["client", "web.2", "", "a.b.c", ".", &id[1..]] {
            assert_eq!(short_task(other), other);
        }
    }
}
