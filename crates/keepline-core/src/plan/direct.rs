//! `direct`: connect() to a virtual address is answered with a backend's, so that there is no entry
//! that could be forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Action, Change, DirectBackend, DirectService, Place, Plan, SocketId, What, directors,
    keepalive::id,
};
use crate::{
    judge::Judgement,
    snapshot::{Namespace, Service, ServiceId, Snapshot, TcpState},
};

/// Plans the programs' tables from the directors' own: which namespace may ask for which address,
/// and who answers.
#[must_use]
pub fn direct(snapshot: &Snapshot, judgement: &Judgement) -> Plan {
    let mut plan = Plan::new(Action::Direct);
    let Some(host) = machine(snapshot) else {
        plan.refuse("this machine", "its own network namespace was not seen");
        return plan;
    };
    let mut services: BTreeSet<DirectService> = BTreeSet::new();
    for at in directors(snapshot, judgement, &mut plan) {
        let director = &snapshot.namespaces[at];
        let Some(ipvs) = &director.ipvs else { continue };
        let clients = clients(snapshot, judgement, at);
        for service in &ipvs.services {
            let addresses = addresses(director, service);
            if addresses.is_empty() {
                plan.refuse(
                    format!("{} in {}", service.id, director.name),
                    "it has no address that clients on this machine connect to: a published port \
                     comes from outside; `keepline apply rehash` is for those",
                );
            }
            for (vip, port, udp) in addresses {
                if !wanted(snapshot, director, vip) {
                    continue;
                }
                for client in &clients {
                    let namespace = &snapshot.namespaces[*client];
                    let Some(netns) = namespace.cookie else {
                        plan.refuse(
                            &namespace.name,
                            "this kernel tells no namespace cookies (5.14)",
                        );
                        continue;
                    };
                    let backends = backends(service);
                    services.insert(DirectService { netns, vip, port, udp, backends });
                }
            }
        }
        if clients.is_empty() {
            plan.refuse(&director.name, "no client of it is known on this machine");
        }
    }
    if !services.is_empty() {
        plan.changes.push(Change {
            place: Place::of(host),
            what: What::Direct { before: None, after: Some(services.into_iter().collect()) },
        });
        plan.note(
            "sessions that are open now stay with their director and drain: hold or heal them; new \
             connections go to a backend directly",
        );
    }
    plan
}

/// The namespace of the machine itself: what is said of the kernel as a whole is said there.
pub(super) fn machine(snapshot: &Snapshot) -> Option<&Namespace> {
    let namespaces = &snapshot.namespaces;
    namespaces.iter().find(|it| it.name == "host").or_else(|| namespaces.first())
}

/// Whether the service with this address was asked for, if services were.
fn wanted(snapshot: &Snapshot, director: &Namespace, vip: IpAddr) -> bool {
    if snapshot.asked.services.is_empty() || director.selected {
        return true;
    }
    let network = snapshot.topology.as_ref().and_then(|it| it.network_of_director(director.file()));
    network.is_some_and(|network| {
        snapshot.asked.networks.contains(&network.id)
            || network
                .service_at(vip)
                .is_some_and(|service| snapshot.asked.services.contains(&service.name))
    })
}

/// Where connections to a service go: address, port, whether UDP.
fn addresses(director: &Namespace, service: &Service) -> Vec<(IpAddr, Option<u16>, bool)> {
    match service.id {
        ServiceId::Tcp(address) => vec![(address.ip(), Some(address.port()), false)],
        ServiceId::Udp(address) => vec![(address.ip(), Some(address.port()), true)],
        ServiceId::Sctp(_) => Vec::new(),
        ServiceId::Fwmark(mark) => director
            .marks
            .iter()
            .filter(|rule| rule.mark == mark)
            .filter_map(|rule| Some((rule.address?, rule.ports)))
            .flat_map(|(address, ports)| {
                let port = ports.filter(|(first, last)| first == last).map(|(port, _)| port);
                [(address, port, false), (address, port, true)]
            })
            .collect(),
    }
}

fn backends(service: &Service) -> Vec<DirectBackend> {
    let mut backends: Vec<DirectBackend> = service
        .destinations
        .iter()
        .map(|destination| DirectBackend {
            address: destination.address.ip(),
            port: Some(destination.address.port()).filter(|port| *port != 0),
            weight: destination.weight,
        })
        .collect();
    backends.sort_unstable();
    backends
}

/// Namespaces that reach a director: by the Engine's word those of containers in its network, else
/// those whose sessions go through it. Its address may be another's in another network.
pub(super) fn clients(
    snapshot: &Snapshot,
    judgement: &Judgement,
    director: usize,
) -> BTreeSet<usize> {
    let mut clients: BTreeSet<usize> = judgement
        .sessions
        .iter()
        .filter(|session| session.director == Some(director))
        .map(|session| session.socket.namespace)
        .collect();
    let topology = snapshot.topology.as_ref();
    let network =
        topology.and_then(|it| it.network_of_director(snapshot.namespaces[director].file()));
    if let (Some(topology), Some(network)) = (topology, network) {
        let attached: BTreeSet<&str> = topology
            .containers
            .iter()
            .filter(|container| container.networks.iter().any(|it| it.network == network.id))
            .map(|container| container.id.as_str())
            .collect();
        clients.extend((0..).zip(&snapshot.namespaces).filter_map(|(at, namespace)| {
            let container = namespace.container.as_ref()?;
            attached.contains(container.id.as_str()).then_some(at)
        }));
    }
    clients.remove(&director);
    clients
}

/// Connections that went to a backend directly which is not among those of `now` any more: they are
/// closed, so that clients connect again instead of waiting.
#[must_use]
pub fn stranded(snapshot: &Snapshot, before: &[DirectService], now: &[DirectService]) -> Plan {
    let mut plan = Plan::new(Action::Abort);
    let answering: BTreeSet<(u64, IpAddr)> = now
        .iter()
        .flat_map(|service| service.backends.iter().map(|it| (service.netns, it.address)))
        .collect();
    let gone: BTreeSet<(u64, IpAddr)> = before
        .iter()
        .filter(|service| !service.udp)
        .flat_map(|service| service.backends.iter().map(|it| (service.netns, it.address)))
        .filter(|pair| !answering.contains(pair))
        .collect();
    let mut sockets: BTreeMap<usize, Vec<SocketId>> = BTreeMap::new();
    for (at, namespace) in snapshot.namespaces.iter().enumerate() {
        let Some(netns) = namespace.cookie else { continue };
        for socket in &namespace.sockets {
            if socket.state == TcpState::Established && gone.contains(&(netns, socket.remote.ip()))
            {
                sockets.entry(at).or_default().push(id(socket));
            }
        }
    }
    plan.changes.extend(sockets.into_iter().map(|(at, sockets)| Change {
        place: Place::of(&snapshot.namespaces[at]),
        what: What::Abort { sockets },
    }));
    plan
}
