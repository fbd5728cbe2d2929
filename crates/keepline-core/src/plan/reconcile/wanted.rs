//! What policies come to for each director and what is behind it, and the plans for that.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{
    super::{
        Action, Change, DirectService, KeepaliveRule, KeepaliveRules, KeepaliveWish, Plan,
        TimeoutWish, What,
        direct::{self, Unanswered, unanswered},
        journal::Standing,
        keepalive, rehash, timeout, turn,
    },
    InForce, Sessions,
    given::Given,
    none,
};
use crate::{
    judge::Judgement,
    policy::{Policies, Policy, Setting, Source, Strategy},
    snapshot::{Namespace, ServiceId, Snapshot, topology::Network},
};

/// Sessions that another scheduler has placed are carried for so long when `rehash` begins; the
/// guard holds those whose socket is here beyond that.
const CARRY: Duration = Duration::from_secs(24 * 3600);

/// Directors by what is wanted of them, each by its index.
#[derive(Default)]
pub(super) struct Wanted {
    timeouts: BTreeMap<Duration, BTreeSet<usize>>,
    rehash: BTreeMap<usize, Vec<ServiceId>>,
    /// With what is behind it that is not meant.
    keepalive: BTreeMap<KeepaliveWish, BTreeMap<usize, Others>>,
    /// Namespaces and peers of the connections that get none where everything else does.
    no_keepalive: BTreeSet<(u64, IpAddr)>,
    /// Namespaces in which sockets get it.
    keepalive_places: BTreeSet<usize>,
    /// Where keepalive is wished for everything: without a director too, in what was selected.
    keepalive_for_all: Option<(KeepaliveWish, BTreeSet<usize>)>,
    direct: BTreeMap<usize, Others>,
    /// Directors whose timeout is wished, for what they balance or will.
    timeout_places: BTreeSet<usize>,
    /// By their inodes.
    inodes: BTreeMap<u64, usize>,
    /// Directors that were not asked for themselves: only for these clients.
    only: BTreeMap<usize, BTreeSet<usize>>,
}

/// What is behind a director, and not meant.
#[derive(Default)]
struct Others {
    /// Virtual addresses.
    vips: BTreeSet<IpAddr>,
    /// Services, by name.
    services: BTreeSet<String>,
}

impl Others {
    /// Those that `meant` is not true of.
    fn of(services: &[Led<'_>], meant: impl Fn(&Policy) -> bool) -> Self {
        let mut others = Self::default();
        for led in services.iter().filter(|it| !meant(it.policy)) {
            others.vips.extend(led.vip);
            others.services.extend(led.name.map(str::to_owned));
        }
        others
    }

    /// The namespaces and peers of connections to and from what is here: clients talk to a virtual
    /// address, a backend to the director's own.
    fn peers(
        &self,
        snapshot: &Snapshot,
        director: usize,
        clients: &BTreeSet<usize>,
    ) -> BTreeSet<(u64, IpAddr)> {
        let director = &snapshot.namespaces[director];
        let topology = snapshot.topology.as_ref();
        let network = topology.and_then(|it| it.network_of_director(director.file()));
        let is_virtual =
            |it: IpAddr| network.is_some_and(|network| network.service_at(it).is_some());
        let own: Vec<IpAddr> =
            director.addresses.iter().copied().filter(|it| !is_virtual(*it)).collect();
        let mut peers = BTreeSet::new();
        for client in clients.iter().map(|at| &snapshot.namespaces[*at]) {
            let Some(netns) = client.cookie else { continue };
            peers.extend(self.vips.iter().map(|vip| (netns, *vip)));
            let service = direct::service_of(snapshot, client);
            if service.is_some_and(|it| self.services.contains(it)) {
                peers.extend(own.iter().map(|own| (netns, *own)));
            }
        }
        peers
    }
}

impl Wanted {
    /// Of the directors that were asked for, and those that sessions which were asked for go through.
    pub(super) fn of(
        snapshot: &Snapshot,
        judgement: &Judgement,
        policies: &Policies,
        in_force: &InForce,
    ) -> Self {
        let mut wanted = Self::default();
        let direct = in_force.direct.as_deref().unwrap_or_default();
        let through: BTreeSet<usize> =
            judgement.sessions.iter().filter_map(|session| session.director).collect();
        for (at, namespace) in snapshot.namespaces.iter().enumerate() {
            if !snapshot.concerns(namespace) && !through.contains(&at) {
                continue;
            }
            if !snapshot.concerns(namespace) {
                let selected = (0..).zip(&snapshot.namespaces).filter(|(_, it)| it.selected);
                wanted.only.insert(at, selected.map(|(at, _)| at).collect());
            }
            wanted.inodes.insert(namespace.inode, at);
            wanted.add(snapshot, policies, at, direct);
        }
        let everything = &policies.everything;
        wanted.keepalive_for_all = (everything.strategy.value == Strategy::Keepalive).then(|| {
            let selected = (0..).zip(&snapshot.namespaces).filter(|(_, it)| it.selected);
            (everything.keepalive(), selected.map(|(at, _)| at).collect())
        });
        wanted
    }

    /// What sessions tell of places: a director without IPVS has no services.
    pub(super) fn through(&mut self, snapshot: &Snapshot, sessions: &Sessions) {
        let by_timeout = sessions.timeout.values().flat_map(|it| &it.sessions);
        self.timeout_places.extend(by_timeout.filter_map(|session| session.director));
        let by_keepalive = sessions.keepalive.values().flat_map(|it| &it.sessions);
        self.keepalive_places.extend(by_keepalive.map(|session| session.socket.namespace));
        if let Some((_, selected)) = &self.keepalive_for_all {
            self.keepalive_places.extend(selected);
        }
        for director in self.keepalive.values().flat_map(BTreeMap::keys) {
            self.keepalive_places.extend(direct::clients(snapshot, &none(), *director));
        }
    }

    /// `answered`: by the programs for direct connections, until now.
    fn add(
        &mut self,
        snapshot: &Snapshot,
        policies: &Policies,
        at: usize,
        answered: &[DirectService],
    ) {
        let director = &snapshot.namespaces[at];
        let topology = snapshot.topology.as_ref();
        let network = topology.and_then(|it| it.network_of_director(director.file()));
        let unanswered = unanswered(snapshot, director);
        let mut services = services(policies, director, network, unanswered.as_ref());
        let off = Setting { value: Strategy::Off, source: Source::BuiltIn };
        let off = Policy { strategy: off, ..Policy::default() };
        // Of a director that others are asked for through, only those.
        for led in &mut services {
            let meant = match led.vip {
                Some(vip) => direct::wanted(snapshot, director, vip),
                None => snapshot.asked.services.is_empty() || director.selected,
            };
            if !meant {
                led.policy = &off;
            }
        }
        let own = network.map_or(&policies.everything, |network| policies.network(network));
        if own.strategy.value == Strategy::Timeout {
            self.timeout_places.insert(at);
        }
        // The director as a whole has one timeout: the longest that is wished.
        let mut longest = None;
        for Led { service, vip, policy, .. } in &services {
            let strategy = policy.strategy.value;
            if strategy == Strategy::Timeout && service.is_some() {
                longest = longest.max(Some(policy.tcp_timeout.value));
            }
            if let Some(service) = service.filter(|_| strategy.rehashes(network)) {
                self.rehash.entry(at).or_default().push(service);
            }
            if strategy == Strategy::Keepalive && service.is_some() {
                let others = Others::of(&services, |it| {
                    it.strategy.value == Strategy::Keepalive && it.keepalive() == policy.keepalive()
                });
                self.keepalive.entry(policy.keepalive()).or_default().insert(at, others);
            }
            if strategy == Strategy::Direct && vip.is_some() {
                self.direct.entry(at).or_default();
            }
        }
        // A worker is told nothing more of a service that has lost its last task, its labels included:
        // what was wanted of it holds until somebody has its address.
        if unanswered
            .as_ref()
            .is_some_and(|it| answered.iter().any(|service| it.was_left(service.vip)))
        {
            self.direct.entry(at).or_default();
        }
        if let Some(not_meant) = self.direct.get_mut(&at) {
            *not_meant = Others::of(&services, |it| it.strategy.value == Strategy::Direct);
        }
        if policies.everything.strategy.value == Strategy::Keepalive {
            let without = Others::of(&services, |it| it.strategy.value == Strategy::Keepalive);
            let clients = direct::clients(snapshot, &none(), at);
            self.no_keepalive.extend(without.peers(snapshot, at, &clients));
        }
        if let Some(timeout) = longest {
            self.timeouts.entry(timeout).or_default().insert(at);
        }
    }

    /// Whether a policy wants what the guard has done.
    pub(super) fn is_wanted(&self, at: usize, standing: &Standing) -> bool {
        match (&standing.change.what, standing.action) {
            (What::Scheduler { service, .. }, _) => {
                let services = self.rehash.get(&at);
                services.is_some_and(|services| services.contains(service))
            }
            (_, Action::Rehash) => self.rehash.contains_key(&at),
            (_, Action::Timeout) => {
                self.timeout_places.contains(&at)
                    || self.timeouts.values().any(|it| it.contains(&at))
            }
            (What::NewSockets { .. }, Action::Keepalive) => {
                self.keepalive_for_all.is_some() || !self.keepalive.is_empty()
            }
            (_, Action::Keepalive) => self.keepalive_places.contains(&at),
            (_, Action::Direct) => !self.direct.is_empty(),
            _ => true,
        }
    }

    pub(super) fn timeouts(&self, snapshot: &mut Snapshot, sessions: &Sessions) -> Vec<Plan> {
        let wishes: BTreeSet<Duration> =
            self.timeouts.keys().chain(sessions.timeout.keys()).copied().collect();
        let nobody = none();
        wishes
            .into_iter()
            .filter_map(|tcp| {
                let directors = self.timeouts.get(&tcp);
                focus(snapshot, |at| directors.is_some_and(|it| it.contains(&at)));
                let through = sessions.timeout.get(&tcp).unwrap_or(&nobody);
                let wish = TimeoutWish { tcp: Some(tcp), ..TimeoutWish::default() };
                // Policy takes no timeout that a kernel refuses.
                timeout(snapshot, through, wish).ok()
            })
            .collect()
    }

    pub(super) fn rehash(&self, snapshot: &mut Snapshot) -> Option<Plan> {
        if self.rehash.is_empty() {
            return None;
        }
        focus(snapshot, |at| self.rehash.contains_key(&at));
        let mut plan = rehash(snapshot, &none(), CARRY);
        let meant = |change: &Change| {
            let at = self.inodes.get(&change.place.inode)?;
            self.rehash.get(at)
        };
        plan.changes.retain_mut(|change| {
            let Some(services) = meant(change) else { return false };
            match &mut change.what {
                What::Scheduler { service, .. } => services.contains(service),
                What::Entries { entries, .. } => {
                    entries.retain(|it| {
                        let by_mark = services.contains(&ServiceId::Fwmark(it.fwmark));
                        by_mark || services.contains(&ServiceId::Tcp(it.server))
                    });
                    !entries.is_empty()
                }
                _ => true,
            }
        });
        Some(plan)
    }

    pub(super) fn keepalive(
        &self,
        snapshot: &mut Snapshot,
        sessions: &Sessions,
        in_force: &InForce,
    ) -> Vec<Plan> {
        let wishes: BTreeSet<KeepaliveWish> = self
            .keepalive
            .keys()
            .chain(sessions.keepalive.keys())
            .copied()
            .chain(self.keepalive_for_all.iter().map(|(wish, _)| *wish))
            .collect();
        let (mut plans, mut rules, mut place) = (Vec::new(), KeepaliveRules::default(), None);
        // Plans by which nobody is held to what he gets.
        let mut free = Vec::new();
        let (nobody, nowhere) = (none(), BTreeMap::new());
        for wish in wishes {
            let directors = self.keepalive.get(&wish).unwrap_or(&nowhere);
            let for_all = self.keepalive_for_all.iter().find(|(it, _)| *it == wish);
            focus(snapshot, |at| {
                for_all.is_some_and(|(_, selected)| selected.contains(&at))
                    || directors.contains_key(&at)
            });
            let through = sessions.keepalive.get(&wish).unwrap_or(&nobody);
            let mut plan = keepalive(snapshot, through, wish);
            let mut not_meant = BTreeSet::new();
            for (director, others) in directors {
                let clients = direct::clients(snapshot, through, *director);
                not_meant.extend(others.peers(snapshot, *director, &clients));
                not_meant.extend(self.strangers(snapshot, *director, &clients));
            }
            plan.changes.retain_mut(|change| {
                let What::NewSockets { after: Some(after), .. } = &mut change.what else {
                    return true;
                };
                after
                    .rules
                    .retain(|it| it.peer.is_none_or(|peer| !not_meant.contains(&(it.netns, peer))));
                rules.rules.append(&mut after.rules);
                rules.everybody = rules.everybody.or(after.everybody);
                place = Some(change.place.clone());
                false
            });
            free.extend((!wish.enforce).then_some(plans.len()));
            plans.push(plan);
        }
        if rules.everybody.is_some() {
            let none = |&(netns, peer): &(u64, IpAddr)| KeepaliveRule {
                netns,
                peer: Some(peer),
                times: None,
            };
            rules.rules.extend(self.no_keepalive.iter().map(none));
        }
        rules.rules.sort_unstable_by_key(|it| {
            let times = it.times.map(|it| (it.idle_seconds, !it.enforce));
            (it.netns, it.peer, times.is_none(), times)
        });
        rules.rules.dedup_by_key(|it| (it.netns, it.peer));
        let known = in_force.rules.as_ref();
        let open = in_force.standing.iter().filter_map(|it| match &it.change.what {
            What::Keepalive { sockets } if it.finished => Some(sockets),
            _ => None,
        });
        let open = open.flatten().map(|it| (it.socket.cookie, it.after)).collect();
        let given = Given { open, known, rules: &rules };
        free.into_iter().for_each(|at| given.left_out_of(&mut plans[at]));
        if let (Some(place), Some(last)) = (place, plans.last_mut())
            && known != Some(&rules)
        {
            let what = What::NewSockets { before: None, after: Some(rules) };
            last.changes.push(Change { place, what });
        }
        plans
    }

    /// Who is behind a director and was not asked for, where that itself was not either.
    fn strangers(
        &self,
        snapshot: &Snapshot,
        director: usize,
        clients: &BTreeSet<usize>,
    ) -> BTreeSet<(u64, IpAddr)> {
        let Some(only) = self.only.get(&director) else { return BTreeSet::new() };
        let strangers = clients.difference(only).filter_map(|at| snapshot.namespaces[*at].cookie);
        let own = &snapshot.namespaces[director].addresses;
        strangers.flat_map(|netns| own.iter().map(move |own| (netns, *own))).collect()
    }

    pub(super) fn direct(
        &self,
        snapshot: &mut Snapshot,
        sessions: &Sessions,
        known: Option<&[DirectService]>,
    ) -> Option<Plan> {
        if self.direct.is_empty() {
            return None;
        }
        let mut now = BTreeSet::new();
        let mut refused = Vec::new();
        let nobody = none();
        for (director, not_meant) in &self.direct {
            focus(snapshot, |at| at == *director);
            let judgement = sessions.direct.get(director).unwrap_or(&nobody);
            let mut plan = Plan::new(Action::Direct);
            let services =
                direct::services(snapshot, judgement, known.unwrap_or_default(), &mut plan);
            refused.append(&mut plan.refused);
            let only = self.only.get(director).map(|clients| {
                let cookies = clients.iter().filter_map(|at| snapshot.namespaces[*at].cookie);
                cookies.collect::<BTreeSet<u64>>()
            });
            now.extend(services.into_iter().filter(|it| {
                !not_meant.vips.contains(&it.vip)
                    && only.as_ref().is_none_or(|only| only.contains(&it.netns))
            }));
        }
        if known.is_none() && now.is_empty() {
            return None;
        }
        let mut plan = turn(snapshot, known.unwrap_or_default(), direct::joined(now));
        plan.refused = refused;
        Some(plan)
    }
}

/// Selects namespaces, and nothing by name.
fn focus(snapshot: &mut Snapshot, meant: impl Fn(usize) -> bool) {
    snapshot.asked = crate::snapshot::Asked::default();
    for (at, namespace) in snapshot.namespaces.iter_mut().enumerate() {
        namespace.selected = meant(at);
    }
}

/// A service of a director.
struct Led<'a> {
    /// How IPVS knows it.
    service: Option<ServiceId>,
    name: Option<&'a str>,
    vip: Option<IpAddr>,
    /// What holds for it.
    policy: &'a Policy,
}

/// The services of a director, and those of its network that have no task: IPVS does not know them.
fn services<'a>(
    policies: &'a Policies,
    director: &Namespace,
    network: Option<&'a Network>,
    unanswered: Option<&'a Unanswered<'_>>,
) -> Vec<Led<'a>> {
    let services = director.ipvs.iter().flat_map(|ipvs| &ipvs.services);
    let balanced = services.map(|service| {
        let led =
            Led { service: Some(service.id), name: None, vip: None, policy: &policies.everything };
        let Some(network) = network else {
            let vip = match service.id {
                ServiceId::Tcp(at) | ServiceId::Udp(at) | ServiceId::Sctp(at) => Some(at.ip()),
                ServiceId::Fwmark(mark) => marked(director, mark),
            };
            return Led { vip, ..led };
        };
        let named = match service.id {
            ServiceId::Fwmark(mark) => network.service_marked(mark),
            ServiceId::Tcp(at) | ServiceId::Udp(at) | ServiceId::Sctp(at) => {
                network.service_at(at.ip())
            }
        };
        match named {
            Some(named) => Led {
                name: Some(&named.name),
                vip: named.vip,
                policy: policies.service(network, named),
                ..led
            },
            None => Led { policy: policies.network(network), ..led },
        }
    });
    let mut services: Vec<_> = balanced.collect();
    if let (Some(network), Some(unanswered)) = (network, unanswered) {
        let idle = unanswered.idle().map(|it| Led {
            service: None,
            name: Some(&it.name),
            vip: it.vip,
            policy: policies.service(network, it),
        });
        services.extend(idle);
    }
    services
}

fn marked(director: &Namespace, mark: u32) -> Option<IpAddr> {
    director.marks.iter().find(|rule| rule.mark == mark).and_then(|rule| rule.address)
}
