//! `direct`: connect() to a virtual address is answered with a backend's, so that there is no entry
//! that could be forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Action, Change, DirectBackend, DirectService, Place, Plan, What, directors};
use crate::{
    judge::Judgement,
    snapshot::{Namespace, Service, ServiceId, Snapshot},
};

/// Plans the programs' tables from the directors' own: which namespace may ask for which address,
/// and who answers. `known`: what they answer for already, by an earlier Keepline.
#[must_use]
pub fn direct(snapshot: &Snapshot, judgement: &Judgement, known: Option<&[DirectService]>) -> Plan {
    let mut plan = Plan::new(Action::Direct);
    let services = services(snapshot, judgement, &mut plan);
    let asked = &snapshot.asked.services;
    if services.is_empty() && !asked.is_empty() && plan.refused.is_empty() {
        plan.refuse(
            asked.join(", "),
            "no director of this node balances to it: it has no task at the moment, no virtual address \
             (dnsrr), or no task of its network is here",
        );
    }
    if !services.is_empty() {
        match known {
            Some(known) => plan.changes = turn(snapshot, known, services).changes,
            None => answer(snapshot, services, &mut plan),
        }
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
/// left to answer for. Before a backend that its service has no longer leaves the table, it gets no
/// new connections and those that are there are closed, so that clients connect again instead of
/// waiting. It is in the table until that is done: whoever goes on after a death at any moment finds
/// it there.
#[must_use]
pub fn turn(snapshot: &Snapshot, known: &[DirectService], now: Vec<DirectService>) -> Plan {
    let mut plan = Plan::new(Action::Direct);
    if now == known {
        return plan;
    }
    let gone = gone(known, &now);
    if !gone.is_empty() {
        let draining = draining(known, &now, &gone);
        if draining != known {
            answer(snapshot, draining, &mut plan);
        }
        plan.changes.extend(disconnect(snapshot, &gone));
    }
    answer(snapshot, now, &mut plan);
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
pub(super) fn wanted(snapshot: &Snapshot, director: &Namespace, vip: IpAddr) -> bool {
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

/// Backends, by the cookie of their clients' namespace.
type Gone = BTreeMap<u64, BTreeSet<IpAddr>>;

/// Backends that their service has no longer. Not those of a service that is gone as a whole, which
/// may only be made anew: its tasks tell their clients themselves when they end.
fn gone(before: &[DirectService], now: &[DirectService]) -> Gone {
    let still_there = |service: &&DirectService| {
        !service.udp && now.iter().any(|it| (it.netns, it.vip) == (service.netns, service.vip))
    };
    let mut gone = Gone::new();
    for service in before.iter().filter(still_there) {
        let backends = service.backends.iter().map(|it| it.address);
        gone.entry(service.netns).or_default().extend(backends);
    }
    for service in now {
        if let Some(gone) = gone.get_mut(&service.netns) {
            service.backends.iter().for_each(|it| {
                gone.remove(&it.address);
            });
        }
    }
    gone.retain(|_, backends| !backends.is_empty());
    gone
}

/// `now`, and with it the backends that are gone, for no new connections.
fn draining(known: &[DirectService], now: &[DirectService], gone: &Gone) -> Vec<DirectService> {
    /// As many as the programs take for a service (`MOST_BACKENDS` in keepline-bpf).
    const MOST: usize = 256;
    let key = |service: &DirectService| (service.netns, service.vip, service.port, service.udp);
    let mut services = now.to_vec();
    for service in &mut services {
        let Some(gone) = gone.get(&service.netns) else { continue };
        let own = key(service);
        let before = known.iter().filter(|it| key(it) == own).flat_map(|it| &it.backends);
        let drained = before.filter(|it| gone.contains(&it.address));
        service.backends.extend(drained.map(|it| DirectBackend { weight: 0, ..*it }));
        service.backends.truncate(MOST);
        service.backends.sort_unstable();
    }
    services
}

fn disconnect(snapshot: &Snapshot, gone: &Gone) -> impl Iterator<Item = Change> {
    gone.iter().filter_map(|(netns, backends)| {
        let clients = snapshot.namespaces.iter().find(|it| it.cookie == Some(*netns))?;
        let peers = backends.iter().copied().collect();
        Some(Change { place: Place::of(clients), what: What::Disconnect { peers } })
    })
}
