//! `direct`: connect() to a virtual address is answered with a backend's, so that there is no entry
//! that could be forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Action, Change, DirectBackend, DirectService, Place, Plan, What, directors};
use crate::{
    judge::Judgement,
    snapshot::{
        Namespace, Service, ServiceId, Snapshot,
        topology::{Network, NetworkService},
    },
};

/// Plans the programs' tables from the directors' own: which namespace may ask for which address,
/// and who answers. `known`: what they answer for already, by an earlier Keepline.
#[must_use]
pub fn direct(snapshot: &Snapshot, judgement: &Judgement, known: Option<&[DirectService]>) -> Plan {
    let mut plan = Plan::new(Action::Direct);
    let services = services(snapshot, judgement, &[], &mut plan);
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
    let now = services(snapshot, judgement, known, &mut plan);
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

/// What is to be answered directly, in order; refusals go to `plan`. `known` is what has been until
/// now: of that remains what has lost its last backend, and has none.
pub(super) fn services(
    snapshot: &Snapshot,
    judgement: &Judgement,
    known: &[DirectService],
    plan: &mut Plan,
) -> Vec<DirectService> {
    let mut services: BTreeSet<DirectService> = BTreeSet::new();
    let mut emptied: BTreeSet<DirectService> = BTreeSet::new();
    let places = directors(snapshot, judgement);
    for (at, director) in snapshot.namespaces.iter().enumerate() {
        let unanswered = unanswered(snapshot, director);
        let left = unanswered.as_ref().is_some_and(|it| known.iter().any(|of| it.was_left(of.vip)));
        let meant = snapshot.concerns(director);
        if !(places.contains(&at) || left || meant && unanswered.is_some()) {
            continue;
        }
        let clients = clients(snapshot, judgement, at);
        let named = clients.iter().filter_map(|client| snapshot.namespaces[*client].cookie);
        let named: Vec<u64> = named.collect();
        if let Some(unanswered) = unanswered {
            emptied.extend(unanswered.left(known, &named));
            if meant {
                emptied.extend(unanswered.idle_for(&named, |vip| wanted(snapshot, director, vip)));
            }
        }
        if !places.contains(&at) {
            continue;
        }
        if named.len() < clients.len() {
            plan.refuse(&director.name, "this kernel tells no namespace cookies (5.14)");
        }
        if clients.is_empty() {
            plan.refuse(&director.name, "no client of it is known on this machine");
        }
        for service in director.ipvs.iter().flat_map(|ipvs| &ipvs.services) {
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
    services.extend(emptied);
    joined(services)
}

/// In order. A namespace may reach an address that one network has left through another.
pub(super) fn joined(mut services: BTreeSet<DirectService>) -> Vec<DirectService> {
    let key = |service: &DirectService| (service.netns, service.vip, service.port, service.udp);
    let served: BTreeSet<_> =
        services.iter().filter(|it| !it.backends.is_empty()).map(key).collect();
    services.retain(|it| !it.backends.is_empty() || !served.contains(&key(it)));
    services.into_iter().collect()
}

/// What the Engine's word says of addresses that a network's director does not balance. Who asks for
/// one with nobody behind it is to be refused, and not to wait for an answer that nobody gives.
pub(super) struct Unanswered<'a> {
    network: &'a Network,
    balanced: BTreeSet<IpAddr>,
}

/// None where the Engine says nothing of this namespace, or not everything was seen.
pub(super) fn unanswered<'a>(
    snapshot: &'a Snapshot,
    director: &Namespace,
) -> Option<Unanswered<'a>> {
    let topology = snapshot.topology.as_ref()?;
    let network = topology.network_of_director(director.file()).filter(|it| !it.ingress)?;
    let mut balanced = BTreeSet::new();
    for service in director.ipvs.iter().flat_map(|ipvs| &ipvs.services) {
        let addresses = addresses(director, service);
        // One whose address is not known may have any.
        if addresses.is_empty() {
            return None;
        }
        balanced.extend(addresses.into_iter().map(|(vip, ..)| vip));
    }
    let complete = snapshot.incomplete.is_empty() && topology.incomplete.is_empty();
    complete.then_some(Unanswered { network, balanced })
}

impl Unanswered<'_> {
    /// Services of which no task runs, by a manager's word.
    pub(super) fn idle(&self) -> impl Iterator<Item = &NetworkService> {
        let balances =
            |service: &NetworkService| service.vip.is_none_or(|vip| self.balanced.contains(&vip));
        self.network.services.iter().filter(move |service| service.idle && !balances(service))
    }

    /// Whether this address of a service has been left: the director does not have it, the network
    /// knows nobody else who has it. A worker is told no more of a service that has no task.
    pub(super) fn was_left(&self, vip: IpAddr) -> bool {
        self.network.holds(vip) && !self.balanced.contains(&vip) && !self.network.is_taken(vip)
    }

    /// What of `known` was left, for the clients `named`.
    fn left(&self, known: &[DirectService], named: &[u64]) -> impl Iterator<Item = DirectService> {
        let left = known.iter().filter(|it| named.contains(&it.netns) && self.was_left(it.vip));
        left.map(|it| DirectService { backends: Vec::new(), ..it.clone() })
    }

    /// The idle services that are `meant`, for the clients `named`.
    fn idle_for(
        &self,
        named: &[u64],
        meant: impl Fn(IpAddr) -> bool,
    ) -> impl Iterator<Item = DirectService> {
        let vips = self.idle().filter_map(|it| it.vip).filter(move |vip| meant(*vip));
        vips.flat_map(move |vip| {
            let of = move |netns: u64, udp| DirectService {
                netns,
                vip,
                port: None,
                udp,
                backends: Vec::new(),
            };
            named.iter().flat_map(move |netns| [of(*netns, false), of(*netns, true)])
        })
    }
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

/// The service that a namespace's container is a task of.
pub(super) fn service_of<'a>(snapshot: &'a Snapshot, namespace: &Namespace) -> Option<&'a str> {
    let id = &namespace.container.as_ref()?.id;
    let containers = &snapshot.topology.as_ref()?.containers;
    let service = containers.iter().find(|it| it.id == *id)?.service.as_ref()?;
    Some(&service.name)
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
    // Of one that was not asked for itself, who was.
    let some_were = snapshot.namespaces.iter().any(|it| it.selected);
    if some_were && !snapshot.concerns(&snapshot.namespaces[director]) {
        clients.retain(|at| snapshot.namespaces[*at].selected);
    }
    clients
}

/// Backends, by the cookie of their clients' namespace.
type Gone = BTreeMap<u64, BTreeSet<IpAddr>>;

/// Backends that their service has no longer. Not those of a service that its director has lost as a
/// whole while the Engine still knows it: it is being made anew.
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
