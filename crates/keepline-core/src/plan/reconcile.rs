//! One pass of the guard: from what holds to what has to be changed. The strategies themselves are
//! planned beside; here is only which of them is for whom, what somebody else has decided, and what
//! is no longer wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{
    Action, Change, DirectService, HoldWish, KeepaliveChange, KeepaliveRule, KeepaliveRules,
    KeepaliveWish, Memory, Plan, Refused, TimeoutWish, What,
    direct::{self, Unanswered, unanswered},
    heal, hold,
    journal::Standing,
    keepalive, rehash, timeout, turn,
};
use crate::{
    judge::{Judgement, Summary},
    names::Namer,
    policy::{Policies, Policy, Setting, Source, Strategy},
    session::{Session, Verdict},
    snapshot::{KeepaliveSettings, Namespace, ServiceId, Snapshot, topology::Network},
};

/// Sessions that another scheduler has placed are carried for so long when `rehash` begins; the
/// guard holds those whose socket is here beyond that.
const CARRY: Duration = Duration::from_secs(24 * 3600);

/// What is in force on the machine.
#[derive(Debug, Clone, Default)]
pub struct InForce {
    /// By the journal.
    pub standing: Vec<Standing>,
    /// Keepalive by the kernel's programs.
    pub rules: Option<KeepaliveRules>,
    /// Direct connections by the kernel's programs.
    pub direct: Option<Vec<DirectService>>,
    /// What could not be taken back a moment ago, by number and step: it is not tried now.
    pub stuck: BTreeSet<(u64, usize)>,
}

/// What has to be done.
#[derive(Debug, Default)]
pub struct Pass {
    /// To be done, one after the other. Those that change nothing are left out.
    pub plans: Vec<Plan>,
    /// To be taken back after that: the guard did it, and no policy wants it any more. Where something
    /// is, only what cannot wait is planned: the rest from what is there then.
    pub undo: Vec<Standing>,
    /// What was wished and cannot be.
    pub refused: Vec<Refused>,
    /// What was wished, and somebody has set otherwise by hand.
    pub overruled: Vec<Change>,
}

/// Plans one pass. Entries that run out within `due_within` are renewed. Which namespaces are
/// selected in `snapshot` is changed meanwhile, and is left so.
#[must_use]
pub fn reconcile(
    snapshot: &mut Snapshot,
    judgement: Judgement,
    policies: &Policies,
    in_force: &InForce,
    memory: &Memory,
    due_within: Duration,
) -> Pass {
    let mut wanted = Wanted::of(snapshot, &judgement, policies, in_force);
    let sessions = Sessions::sort(snapshot, judgement, policies);
    wanted.through(snapshot, &sessions);
    let (by_guard, by_hand): (Vec<&Standing>, Vec<&Standing>) =
        in_force.standing.iter().partition(|it| it.by.guard);
    let at = |it: &Standing| {
        let place = &it.change.place;
        let namespaces = &snapshot.namespaces;
        namespaces.iter().position(|at| place.is(at.inode, at.cookie))
    };
    // The number of a namespace that is gone may be another's by now.
    let by_hand: BTreeSet<Object> = by_hand
        .into_iter()
        .filter(|it| at(it).is_some())
        .filter_map(|it| Object::of(&it.change))
        .collect();
    let is_by_hand = |change: &Change| Object::of(change).is_some_and(|it| by_hand.contains(&it));
    let mut pass = Pass::default();
    let named = is_named(snapshot);
    // What was not seen may be wanted still.
    let complete = named && snapshot.incomplete.is_empty();
    if complete {
        let unwanted = by_guard.into_iter().filter(|it| {
            let wanted = at(it).is_some_and(|at| wanted.is_wanted(at, it));
            !wanted && !is_by_hand(&it.change) && !in_force.stuck.contains(&(it.id, it.step))
        });
        pass.undo = unwanted.cloned().collect();
    }
    let mut plans = vec![
        hold(snapshot, &sessions.held, HoldWish { lifetime: None, due_within: Some(due_within) }),
        heal(snapshot, &sessions.healed, memory),
    ];
    let clear = pass.undo.is_empty();
    if named && clear {
        plans.extend(wanted.timeouts(snapshot, &sessions));
        plans.extend(wanted.rehash(snapshot));
        plans.extend(wanted.keepalive(snapshot, &sessions, in_force));
    }
    if complete && clear {
        plans.extend(wanted.direct(snapshot, &sessions, in_force.direct.as_deref()));
    }
    for mut plan in plans {
        // What cannot be held is healed, or said to be lost by heal.
        if plan.action != Action::Hold {
            pass.refused.append(&mut plan.refused);
        }
        let (overruled, changes) = plan.changes.into_iter().partition(|it| is_by_hand(it));
        pass.overruled.extend::<Vec<Change>>(overruled);
        plan.changes = changes;
        if !plan.changes.is_empty() {
            pass.plans.push(plan);
        }
    }
    pass
}

/// Whether the labels are known that a Swarm's directors may have. While the Engine is silent nothing
/// lasting is done to them, and nothing taken back: holding and healing go on.
fn is_named(snapshot: &Snapshot) -> bool {
    let of_swarm = |it: &Namespace| it.name.starts_with("lb_") || it.name == "ingress_sbox";
    match &snapshot.topology {
        Some(topology) => topology.incomplete.is_empty(),
        None => !snapshot.namespaces.iter().any(of_swarm),
    }
}

/// What one change is about, where it can be set by hand: whoever has done that has decided.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Object {
    inode: u64,
    setting: String,
}

impl Object {
    fn of(change: &Change) -> Option<Self> {
        let setting = match &change.what {
            What::Timeouts { .. } => "timeouts".to_owned(),
            What::Sysctl { path, .. } => path.clone(),
            What::Scheduler { service, .. } => service.to_string(),
            What::NewSockets { .. } => "keepalive to come".to_owned(),
            What::Direct { .. } => "direct".to_owned(),
            // Sockets and entries belong to nobody.
            What::Keepalive { .. }
            | What::Entries { .. }
            | What::Touch { .. }
            | What::Abort { .. }
            | What::Disconnect { .. } => return None,
        };
        Some(Self { inode: change.place.inode, setting })
    }
}

/// Sessions by what is done about them.
struct Sessions {
    held: Judgement,
    healed: Judgement,
    /// By director.
    direct: BTreeMap<usize, Judgement>,
    keepalive: BTreeMap<KeepaliveWish, Judgement>,
    /// Through directors without IPVS, where conntrack is all there is.
    timeout: BTreeMap<Duration, Judgement>,
}

fn none() -> Judgement {
    Judgement { sessions: Vec::new(), findings: Vec::new(), summary: Summary::default() }
}

impl Sessions {
    fn sort(snapshot: &Snapshot, judgement: Judgement, policies: &Policies) -> Self {
        let namer = Namer::new(snapshot);
        let mut sorted = Self {
            held: none(),
            healed: none(),
            direct: BTreeMap::new(),
            keepalive: BTreeMap::new(),
            timeout: BTreeMap::new(),
        };
        for session in judgement.sessions {
            let policy = policies.session(&namer.of(&session));
            sorted.add(snapshot, session, policy);
        }
        sorted
    }

    fn add(&mut self, snapshot: &Snapshot, session: Session, policy: &Policy) {
        if session.verdict == Verdict::Orphaned {
            if policy.heals() {
                self.healed.sessions.push(session);
            }
            return;
        }
        match policy.strategy.value {
            // Another scheduler may have placed it than the one that would find its backend again.
            Strategy::Auto | Strategy::Hold | Strategy::Rehash => self.held.sessions.push(session),
            Strategy::Direct => {
                self.held.sessions.push(session.clone());
                if let Some(at) = session.director {
                    self.direct.entry(at).or_insert_with(none).sessions.push(session);
                }
            }
            Strategy::Keepalive => {
                let group = self.keepalive.entry(policy.keepalive()).or_insert_with(none);
                group.sessions.push(session);
            }
            Strategy::Timeout => {
                let director = session.director.map(|at| &snapshot.namespaces[at]);
                if director.is_some_and(|director| director.ipvs.is_none()) {
                    let timeout = policy.tcp_timeout.value;
                    self.timeout.entry(timeout).or_insert_with(none).sessions.push(session);
                }
            }
            Strategy::Off => {}
        }
    }
}

/// Directors by what is wanted of them, each by its index.
#[derive(Default)]
struct Wanted {
    timeouts: BTreeMap<Duration, BTreeSet<usize>>,
    rehash: BTreeMap<usize, Vec<ServiceId>>,
    /// With what is behind it that is not meant.
    keepalive: BTreeMap<KeepaliveWish, BTreeMap<usize, Others>>,
    /// Directors behind which something gets none, with that.
    no_keepalive: BTreeMap<usize, Others>,
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
        let own = &snapshot.namespaces[director].addresses;
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
    fn of(
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
    fn through(&mut self, snapshot: &Snapshot, sessions: &Sessions) {
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
        let without = Others::of(&services, |it| it.strategy.value == Strategy::Keepalive);
        self.no_keepalive.insert(at, without);
        if let Some(timeout) = longest {
            self.timeouts.entry(timeout).or_default().insert(at);
        }
    }

    /// Whether a policy wants what the guard has done.
    fn is_wanted(&self, at: usize, standing: &Standing) -> bool {
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

    fn timeouts(&self, snapshot: &mut Snapshot, sessions: &Sessions) -> Vec<Plan> {
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

    fn rehash(&self, snapshot: &mut Snapshot) -> Option<Plan> {
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

    fn keepalive(
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
            rules.rules.extend(self.exceptions(snapshot));
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

    /// Of every program's connections those that get no keepalive.
    fn exceptions(&self, snapshot: &Snapshot) -> Vec<KeepaliveRule> {
        let of = self.no_keepalive.iter().flat_map(|(director, others)| {
            let clients = direct::clients(snapshot, &none(), *director);
            others.peers(snapshot, *director, &clients)
        });
        of.map(|(netns, peer)| KeepaliveRule { netns, peer: Some(peer), times: None }).collect()
    }

    fn direct(
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

/// Sockets that have been given their keepalive: where nobody is held to it, what such a socket has
/// now its program has chosen since.
struct Given<'a> {
    /// Once they were open, by the journal.
    open: BTreeMap<u64, KeepaliveSettings>,
    /// When they were made, by these rules.
    known: Option<&'a KeepaliveRules>,
    /// What the rules shall be.
    rules: &'a KeepaliveRules,
}

impl Given<'_> {
    /// Whether it was given what it would be given now.
    fn has_been(&self, netns: Option<u64>, change: &KeepaliveChange) -> bool {
        let KeepaliveChange { socket, after, .. } = change;
        let by = |rules: &KeepaliveRules| rules.times_of(netns, socket.remote.ip());
        let as_made = self.known.and_then(by);
        self.open.get(&socket.cookie) == Some(after)
            || as_made.is_some() && as_made == by(self.rules)
    }

    fn left_out_of(&self, plan: &mut Plan) {
        plan.changes.retain_mut(|Change { place, what }| {
            let What::Keepalive { sockets } = what else { return true };
            sockets.retain(|it| !self.has_been(place.cookie, it));
            !sockets.is_empty()
        });
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
