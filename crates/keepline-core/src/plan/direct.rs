//! `direct`: connect() to a virtual address is answered with a backend's, so that there is no entry
//! that could be forgotten.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    Action, Change, DirectBackend, DirectService, Place, Plan, What, directors,
    sockets::{by_namespace, changes},
};
use crate::{
    judge::Judgement,
    session::SocketRef,
    snapshot::{Namespace, Service, ServiceId, Snapshot, TcpState},
};

/// Plans the programs' tables from the directors' own: which namespace may ask for which address,
/// and who answers.
#[must_use]
pub fn direct(snapshot: &Snapshot, judgement: &Judgement) -> Plan {
    let mut plan = Plan::new(Action::Direct);
    let services = services(snapshot, judgement, &mut plan);
    if !services.is_empty() {
        answer(snapshot, services, &mut plan);
        plan.note(
            "sessions that are open now stay with their director and drain: hold or heal them; new \
             connections go to a backend directly",
        );
    }
    plan
}

/// Plans what has to change since the programs answered for `known`, if anything. Nothing after a
/// look that missed something: a table that was not seen is not an empty one.
#[must_use]
pub fn follow(snapshot: &Snapshot, judgement: &Judgement, known: &[DirectService]) -> Plan {
    let mut plan = Plan::new(Action::Direct);
    let now = services(snapshot, judgement, &mut plan);
    if snapshot.incomplete.is_empty() { turn(snapshot, known, now) } else { Plan::new(plan.action) }
}

/// Plans that the programs answer for `now` instead of `known`: their tables, also where nothing is
/// left to answer for, and then the end of connections to backends that a service has no longer, so
/// that clients connect again instead of waiting.
#[must_use]
pub fn turn(snapshot: &Snapshot, known: &[DirectService], now: Vec<DirectService>) -> Plan {
    let mut plan = Plan::new(Action::Direct);
    if now != known {
        let stranded = stranded(snapshot, known, &now);
        answer(snapshot, now, &mut plan);
        plan.changes.extend(stranded);
    }
    plan
}

fn answer(snapshot: &Snapshot, services: Vec<DirectService>, plan: &mut Plan) {
    let Some(host) = machine(snapshot) else {
        plan.refuse("this machine", "its own network namespace was not seen");
        return;
    };
    plan.changes.push(Change {
        place: Place::of(host),
        what: What::Direct { before: None, after: Some(services) },
    });
}

/// What is to be answered directly, in order; refusals go to `plan`.
fn services(snapshot: &Snapshot, judgement: &Judgement, plan: &mut Plan) -> Vec<DirectService> {
    let mut services: BTreeSet<DirectService> = BTreeSet::new();
    for at in directors(snapshot, judgement) {
        let director = &snapshot.namespaces[at];
        let Some(ipvs) = &director.ipvs else { continue };
        let clients = clients(snapshot, judgement, at);
        let named = clients.iter().filter_map(|client| snapshot.namespaces[*client].cookie);
        let named: Vec<u64> = named.collect();
        if named.len() < clients.len() {
            plan.refuse(&director.name, "this kernel tells no namespace cookies (5.14)");
        }
        if clients.is_empty() {
            plan.refuse(&director.name, "no client of it is known on this machine");
        }
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
                if wanted(snapshot, director, vip) {
                    services.extend(named.iter().map(|netns| {
                        let backends = backends(service);
                        DirectService { netns: *netns, vip, port, udp, backends }
                    }));
                }
            }
        }
    }
    services.into_iter().collect()
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

/// Connections that went to a backend directly which its service has no longer. A service that is
/// gone as a whole may only be made anew: its tasks tell their clients themselves when they end.
fn stranded(snapshot: &Snapshot, before: &[DirectService], now: &[DirectService]) -> Vec<Change> {
    let still_there = |service: &&DirectService| {
        !service.udp && now.iter().any(|it| (it.netns, it.vip) == (service.netns, service.vip))
    };
    let backends = |service: &DirectService| -> Vec<(u64, IpAddr)> {
        service.backends.iter().map(|it| (service.netns, it.address)).collect()
    };
    let mut gone: BTreeSet<(u64, IpAddr)> =
        before.iter().filter(still_there).flat_map(backends).collect();
    for pair in now.iter().flat_map(backends) {
        gone.remove(&pair);
    }
    let connected = snapshot.namespaces.iter().enumerate().flat_map(|(namespace, seen)| {
        let sockets = seen.sockets.iter().enumerate();
        sockets.map(move |(socket, it)| (SocketRef { namespace, socket }, seen.cookie, it))
    });
    let ends = connected.filter_map(|(at, cookie, socket)| {
        let open = socket.state == TcpState::Established;
        (open && gone.contains(&(cookie?, socket.remote.ip()))).then_some(at)
    });
    let sockets = by_namespace(snapshot, ends);
    changes(snapshot, sockets, |sockets| What::Abort { sockets }).collect()
}
