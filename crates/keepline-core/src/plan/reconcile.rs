//! One pass of the guard: from what holds to what has to be changed. The strategies themselves are
//! planned beside; here is only which of them is for whom, what somebody else has decided, and what
//! is no longer wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{
    Action, Change, DirectService, HoldWish, KeepaliveChange, KeepaliveRules, KeepaliveWish,
    Memory, Plan, Refused, TimeoutWish, What,
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
}

/// What has to be done.
#[derive(Debug, Default)]
pub struct Pass {
    /// To be taken back: the guard did it, and no policy wants it any more.
    pub undo: Vec<Standing>,
    /// To be done, one after the other. Those that change nothing are left out.
    pub plans: Vec<Plan>,
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
    let wanted = Wanted::of(snapshot, &judgement, policies, in_force);
    let sessions = Sessions::sort(snapshot, judgement, policies);
    let (by_guard, by_hand): (Vec<&Standing>, Vec<&Standing>) =
        in_force.standing.iter().partition(|it| it.by.guard);
    let by_hand: BTreeSet<Object> = by_hand.iter().map(|it| Object::of(&it.change)).collect();
    let mut pass = Pass::default();
    let named = is_named(snapshot);
    // What was not seen may be wanted still.
    let complete = named && snapshot.incomplete.is_empty();
    if complete {
        let unwanted = by_guard
            .into_iter()
            .filter(|it| !wanted.is_wanted(it) && !by_hand.contains(&Object::of(&it.change)));
        pass.undo = unwanted.cloned().collect();
        if !pass.undo.is_empty() {
            return pass;
        }
    }
    let mut plans = vec![
        hold(snapshot, &sessions.held, HoldWish { lifetime: None, due_within: Some(due_within) }),
        heal(snapshot, &sessions.healed, memory),
    ];
    if named {
        plans.extend(wanted.timeouts(snapshot, &sessions));
        plans.extend(wanted.rehash(snapshot));
        plans.extend(wanted.keepalive(snapshot, &sessions, in_force));
    }
    if complete {
        plans.extend(wanted.direct(snapshot, &sessions, in_force.direct.as_deref()));
    }
    for mut plan in plans {
        // What cannot be held is healed, or said to be lost by heal.
        if plan.action != Action::Hold {
            pass.refused.append(&mut plan.refused);
        }
        let (overruled, changes) =
            plan.changes.into_iter().partition(|it| by_hand.contains(&Object::of(it)));
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

/// What one change is about: whoever has set it by hand has decided.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Object {
    inode: u64,
    setting: String,
}

impl Object {
    fn of(change: &Change) -> Self {
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
            | What::Disconnect { .. } => String::new(),
        };
        // Of these nothing stands that could be decided by hand, except keepalive of sockets.
        let inode = if setting.is_empty() { 0 } else { change.place.inode };
        Self { inode, setting }
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
            Strategy::Auto | Strategy::Hold => self.held.sessions.push(session),
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
            Strategy::Rehash | Strategy::Off => {}
        }
    }
}

/// Directors by what is wanted of them, each by its index.
#[derive(Default)]
struct Wanted {
    timeouts: BTreeMap<Duration, BTreeSet<usize>>,
    rehash: BTreeMap<usize, Vec<ServiceId>>,
    /// With the virtual addresses in it that are not meant.
    keepalive: BTreeMap<KeepaliveWish, BTreeMap<usize, BTreeSet<IpAddr>>>,
    /// Where keepalive is wished for everything: without a director too, in what was selected.
    keepalive_for_all: Option<(KeepaliveWish, BTreeSet<usize>)>,
    direct: BTreeMap<usize, BTreeSet<IpAddr>>,
    /// The inodes of `timeouts` and `rehash`.
    inodes: BTreeMap<u64, usize>,
    timeout_for_all: bool,
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
            wanted.inodes.insert(namespace.inode, at);
            wanted.add(snapshot, policies, at, direct);
        }
        let everything = &policies.everything;
        wanted.keepalive_for_all = (everything.strategy.value == Strategy::Keepalive).then(|| {
            let selected = (0..).zip(&snapshot.namespaces).filter(|(_, it)| it.selected);
            (everything.keepalive(), selected.map(|(at, _)| at).collect())
        });
        wanted.timeout_for_all = everything.strategy.value == Strategy::Timeout;
        wanted
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
        for (_, vip, policy) in &mut services {
            let meant = match vip {
                Some(vip) => direct::wanted(snapshot, director, *vip),
                None => snapshot.asked.services.is_empty() || director.selected,
            };
            if !meant {
                *policy = &off;
            }
        }
        // The director as a whole has one timeout: the longest that is wished.
        let mut longest = None;
        for (service, vip, policy) in &services {
            let strategy = policy.strategy.value;
            if strategy == Strategy::Timeout && service.is_some() {
                longest = longest.max(Some(policy.tcp_timeout.value));
            }
            if let Some(service) = service.filter(|_| strategy.rehashes(network)) {
                self.rehash.entry(at).or_default().push(service);
            }
            if strategy == Strategy::Keepalive && service.is_some() {
                let others = others(&services, |it| {
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
        if unanswered.is_some_and(|it| answered.iter().any(|service| it.was_left(service.vip))) {
            self.direct.entry(at).or_default();
        }
        if let Some(not_meant) = self.direct.get_mut(&at) {
            *not_meant = others(&services, |it| it.strategy.value == Strategy::Direct);
        }
        if let Some(timeout) = longest {
            self.timeouts.entry(timeout).or_default().insert(at);
        }
    }

    /// Whether a policy wants what the guard has done.
    fn is_wanted(&self, standing: &Standing) -> bool {
        let at = self.inodes.get(&standing.change.place.inode);
        match (&standing.change.what, standing.action) {
            (What::Scheduler { service, .. }, _) => {
                let services = at.and_then(|at| self.rehash.get(at));
                services.is_some_and(|services| services.contains(service))
            }
            (_, Action::Rehash) => at.is_some_and(|at| self.rehash.contains_key(at)),
            (_, Action::Timeout) => {
                self.timeout_for_all && at.is_some()
                    || at.is_some_and(|at| self.timeouts.values().any(|it| it.contains(at)))
            }
            (_, Action::Keepalive) => {
                self.keepalive_for_all.is_some() || !self.keepalive.is_empty()
            }
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
            let not_meant: BTreeSet<IpAddr> = directors.values().flatten().copied().collect();
            plan.changes.retain_mut(|change| {
                let What::NewSockets { after: Some(after), .. } = &mut change.what else {
                    return true;
                };
                after.rules.retain(|it| it.peer.is_none_or(|peer| !not_meant.contains(&peer)));
                rules.rules.append(&mut after.rules);
                rules.everybody = rules.everybody.or(after.everybody);
                place = Some(change.place.clone());
                false
            });
            free.extend((!wish.enforce).then_some(plans.len()));
            plans.push(plan);
        }
        rules.rules.sort_unstable_by_key(|it| {
            (it.netns, it.peer, it.times.idle_seconds, !it.times.enforce)
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
            now.extend(services.into_iter().filter(|it| !not_meant.contains(&it.vip)));
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

/// A service of a director: how IPVS knows it, its virtual address, and what holds for it.
type Led<'a> = (Option<ServiceId>, Option<IpAddr>, &'a Policy);

/// The services of a director, and those of its network that have no task: IPVS does not know them.
fn services<'a>(
    policies: &'a Policies,
    director: &Namespace,
    network: Option<&Network>,
    unanswered: Option<&Unanswered<'_>>,
) -> Vec<Led<'a>> {
    let services = director.ipvs.iter().flat_map(|ipvs| &ipvs.services);
    let balanced = services.map(|service| {
        let id = Some(service.id);
        let Some(network) = network else {
            let vip = match service.id {
                ServiceId::Tcp(at) | ServiceId::Udp(at) | ServiceId::Sctp(at) => Some(at.ip()),
                ServiceId::Fwmark(mark) => marked(director, mark),
            };
            return (id, vip, &policies.everything);
        };
        let named = match service.id {
            ServiceId::Fwmark(mark) => network.service_marked(mark),
            ServiceId::Tcp(at) | ServiceId::Udp(at) | ServiceId::Sctp(at) => {
                network.service_at(at.ip())
            }
        };
        match named {
            Some(named) => (id, named.vip, policies.service(network, named)),
            None => (id, None, policies.network(network)),
        }
    });
    let mut services: Vec<_> = balanced.collect();
    if let (Some(network), Some(unanswered)) = (network, unanswered) {
        let idle = unanswered.idle().map(|it| (None, it.vip, policies.service(network, it)));
        services.extend(idle);
    }
    services
}

fn marked(director: &Namespace, mark: u32) -> Option<IpAddr> {
    director.marks.iter().find(|rule| rule.mark == mark).and_then(|rule| rule.address)
}

/// The virtual addresses of those that `meant` is not true of.
fn others(services: &[Led<'_>], meant: impl Fn(&Policy) -> bool) -> BTreeSet<IpAddr> {
    services.iter().filter(|(.., policy)| !meant(policy)).filter_map(|(_, vip, _)| *vip).collect()
}
