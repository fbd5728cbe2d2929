//! One pass of the guard: from what holds to what has to be changed. The strategies themselves are
//! planned beside; here is only which of them is for whom, what somebody else has decided, and what
//! is no longer wanted.

mod given;
mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Action, Change, DirectService, HoldWish, KeepaliveRules, KeepaliveWish, Memory, Plan, Refused,
    What, heal, hold, journal::Standing,
};
use crate::{
    judge::{Judgement, Summary},
    names::Namer,
    policy::{Policies, Policy, Strategy},
    session::{Session, Verdict},
    snapshot::{Namespace, Snapshot},
};
use wanted::Wanted;

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
    /// Keepalive that the guard has given to sockets of which none is open any more, by number and step:
    /// there is nothing to take back, and nothing to remember.
    pub spent: Vec<(u64, usize)>,
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
        let (spent, by_guard): (Vec<&Standing>, Vec<&Standing>) = by_guard
            .into_iter()
            .partition(|it| at(it).is_some_and(|at| is_spent(&snapshot.namespaces[at], it)));
        pass.spent = spent.into_iter().map(|it| (it.id, it.step)).collect();
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

/// Whether all sockets have closed that a change was about. Of one that was seen without its cookie it
/// cannot be told whether it is one of them.
fn is_spent(namespace: &Namespace, standing: &Standing) -> bool {
    let What::Keepalive { sockets } = &standing.change.what else { return false };
    let of_them: BTreeSet<u64> = sockets.iter().map(|it| it.socket.cookie).collect();
    namespace.sockets.iter().all(|it| it.cookie != 0 && !of_them.contains(&it.cookie))
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
            | What::Disconnect { .. }
            | What::Receiver => return None,
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
