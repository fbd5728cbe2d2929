//! What one pass of the guard makes of the policy.

use std::{collections::BTreeSet, time::Duration};

use keepline_core::{
    Judgement, Options, Snapshot, judge,
    plan::{
        self, Action, Change, DirectService, InForce, KeepaliveRule, KeepaliveWish, Memory, Pass,
        Place, Plan, What,
        journal::{By, Standing, squashed},
        reconcile,
    },
    policy::{Policies, Rules},
    session::Table,
    snapshot::{
        Incomplete, Mark, Select, ServiceId, Topology,
        topology::{Named, Subnet},
    },
};

use crate::{build::*, names::topology, policy::*};

/// A look at a Swarm node, its names, and what `policies` make of it.
pub fn pass(mut snapshot: Snapshot, policies: &Policies, in_force: &InForce) -> Pass {
    snapshot.join(topology());
    let judgement = judge(&snapshot, &Options::default());
    pass_of(&mut snapshot, judgement, policies, in_force)
}

pub fn pass_of(
    snapshot: &mut Snapshot,
    judgement: Judgement,
    policies: &Policies,
    in_force: &InForce,
) -> Pass {
    let due = Duration::from_secs(1000);
    reconcile(snapshot, judgement, policies, in_force, &Memory::default(), due)
}

pub fn planned(pass: &Pass) -> Vec<(Action, usize)> {
    pass.plans.iter().map(|plan| (plan.action, plan.changes.len())).collect()
}

pub fn standing(change: Change, action: Action, guard: bool) -> Standing {
    let (user, command) = ("root".to_owned(), "keepline".to_owned());
    let by = By { pid: 1, user, command, guard };
    let at = jiff::Timestamp::UNIX_EPOCH;
    Standing { id: 1, step: 0, at, action, by, change, finished: true }
}

pub fn alive() -> Snapshot {
    swarm(Some(entry(300)))
}

#[test]
fn by_default_entries_are_held() {
    let policies = policies(&Rules::default(), &topology());
    let pass = pass(alive(), &policies, &InForce::default());
    assert_eq!(planned(&pass), [(Action::Hold, 2)], "and conntrack's below it");
    let What::Entries { table: Table::Ipvs, entries } = &pass.plans[0].changes[0].what else {
        panic!("{pass:?}")
    };
    assert_eq!(entries[0].will, seconds(900));
    assert!(policies.held().namespaces.is_none());
}

#[test]
fn off_does_nothing_and_is_not_said_to_be_held() {
    let mut topology = topology();
    label(&mut topology, "strategy", "off");
    let policies = policies(&Rules::default(), &topology);
    let mut snapshot = alive();
    snapshot.join(topology);
    snapshot.held.push(policies.held());
    let judgement = judge(&snapshot, &Options::default());
    assert_eq!(judgement.summary.at_risk, 1, "nobody holds it: {judgement:?}");
    let pass = pass_of(&mut snapshot, judgement, &policies, &InForce::default());
    assert_eq!(planned(&pass), []);
    // Nor is what was forgotten brought back.
    let lost = self::pass(crate::plans::orphaned(), &policies, &InForce::default());
    assert_eq!(planned(&lost), []);
    let auto = self::policies(&Rules::default(), &self::topology());
    assert_eq!(
        planned(&self::pass(crate::plans::orphaned(), &auto, &InForce::default())),
        [(Action::Heal, 1)]
    );
}

#[test]
fn a_service_may_be_held_in_a_network_that_is_not() {
    let mut topology = topology();
    topology.networks[0].labels.insert("keepline.strategy".to_owned(), "off".to_owned());
    label(&mut topology, "strategy", "hold");
    let policies = policies(&Rules::default(), &topology);
    let mut snapshot = alive();
    snapshot.join(topology);
    snapshot.held.push(policies.held());
    let judgement = judge(&snapshot, &Options::default());
    assert_eq!(judgement.summary.safe, 1, "{:?}", judgement.sessions);
}

pub fn timeouts(tcp: u64) -> Change {
    let snapshot = alive();
    let before = snapshot.namespaces[DIRECTOR].ipvs.as_ref().unwrap().timeouts;
    let after = keepline_core::snapshot::Timeouts { tcp: seconds(tcp), ..before };
    Change {
        place: Place::of(&snapshot.namespaces[DIRECTOR]),
        what: What::Timeouts { before, after },
    }
}

pub fn with_timeout(tcp: u64) -> Snapshot {
    let mut snapshot = alive();
    snapshot.namespaces[DIRECTOR].ipvs.as_mut().unwrap().timeouts.tcp = seconds(tcp);
    snapshot
}

#[test]
fn a_timeout_is_set_once_and_taken_back_when_nobody_wants_it() {
    let wanted = policies(&rules(&[("strategy", "timeout"), ("tcp-timeout", "2h")]), &topology());
    let first = pass(alive(), &wanted, &InForce::default());
    let sets = |plan: &Plan| plan.changes.iter().any(|it| it.what == timeouts(7200).what);
    assert!(first.plans.iter().any(sets), "{first:?}");
    assert_eq!(first.undo, []);

    let in_force = InForce {
        standing: vec![standing(timeouts(7200), Action::Timeout, true)],
        ..InForce::default()
    };
    let again = pass(with_timeout(7200), &wanted, &in_force);
    assert!(!again.plans.iter().flat_map(|it| &it.changes).any(|it| it.what.lasts()), "{again:?}");
    assert_eq!(again.undo, []);

    let other = policies(&Rules::default(), &topology());
    let back = pass(with_timeout(7200), &other, &in_force);
    assert_eq!(back.undo, in_force.standing);
    assert_eq!(
        planned(&back),
        [(Action::Hold, 2)],
        "then a look at what is there; this cannot wait"
    );
    // What could not be taken back keeps nobody from anything.
    let stuck = InForce { stuck: [(1, 0)].into(), ..in_force.clone() };
    let goes_on = pass(with_timeout(7200), &other, &stuck);
    assert_eq!((goes_on.undo.as_slice(), planned(&goes_on)), (&[][..], planned(&back)));

    // What was not seen may be wanted still.
    let mut snapshot = with_timeout(7200);
    snapshot.incomplete.push(Incomplete { what: "x".to_owned(), why: "y".to_owned(), help: None });
    assert_eq!(pass(snapshot, &other, &in_force).undo, []);
}

#[test]
fn while_the_engine_is_silent_entries_are_held_and_nothing_else_is_done() {
    let wanted = policies(&rules(&[("strategy", "timeout")]), &Topology::default());
    let held = policies(&Rules::default(), &Topology::default());
    let in_force = InForce {
        standing: vec![standing(timeouts(7200), Action::Timeout, true)],
        ..InForce::default()
    };
    let silent = |policies: &Policies, snapshot: &mut Snapshot| {
        let judgement = judge(snapshot, &Options::default());
        pass_of(snapshot, judgement, policies, &in_force)
    };
    // A Swarm's director, and no word of its labels.
    for mut snapshot in [with_timeout(7200), {
        let mut snapshot = with_timeout(7200);
        snapshot.join(Topology { incomplete: vec!["x".to_owned()], ..topology() });
        snapshot
    }] {
        let pass = silent(&wanted, &mut snapshot);
        assert_eq!((pass.undo.len(), planned(&pass)), (0, vec![]), "{pass:?}");
        let pass = silent(&held, &mut snapshot);
        assert_eq!(pass.undo, []);
        assert!(pass.plans.iter().all(|it| it.action == Action::Hold) && !pass.plans.is_empty());
    }
    // On other machines there is no Engine to ask.
    let mut lvs = with_timeout(7200);
    lvs.namespaces[DIRECTOR].name = "lvs".to_owned();
    assert_eq!(silent(&held, &mut lvs).undo.len(), 1);
}

#[test]
fn what_is_set_by_hand_wins() {
    let wanted = policies(&rules(&[("strategy", "timeout"), ("tcp-timeout", "2h")]), &topology());
    let by_hand = standing(timeouts(60), Action::Timeout, false);
    let in_force = InForce { standing: vec![by_hand], ..InForce::default() };
    let seen = pass(with_timeout(60), &wanted, &in_force);
    let timeouts = |changes: &[Change]| {
        changes.iter().filter(|it| matches!(it.what, What::Timeouts { .. })).count()
    };
    assert_eq!(seen.plans.iter().map(|it| timeouts(&it.changes)).sum::<usize>(), 0, "{seen:?}");
    assert_eq!(timeouts(&seen.overruled), 1);
    // Nor is what the guard had set below it taken back.
    let mut both = in_force.clone();
    both.standing.insert(0, standing(self::timeouts(7200), Action::Timeout, true));
    let off = policies(&rules(&[("strategy", "off")]), &topology());
    assert_eq!(pass(with_timeout(60), &off, &both).undo, []);
}

#[test]
fn published_ports_are_rehashed_and_other_directors_left_to_their_owners() {
    let mut topology = topology();
    let auto = policies(&Rules::default(), &topology);
    let left = pass(alive(), &auto, &InForce::default());
    assert!(left.plans.iter().all(|it| it.action != Action::Rehash), "{left:?}");
    topology.networks[0].ingress = true;
    let auto = policies(&Rules::default(), &topology);
    let mut snapshot = alive();
    snapshot.join(topology);
    let judgement = judge(&snapshot, &Options::default());
    let pass = pass_of(&mut snapshot, judgement, &auto, &InForce::default());
    let rehash = pass.plans.iter().find(|it| it.action == Action::Rehash).unwrap();
    let what: Vec<&What> = rehash.changes.iter().map(|it| &it.what).collect();
    assert!(matches!(what[0], What::Scheduler { service: ServiceId::Fwmark(256), .. }), "{what:?}");
    assert!(what.iter().any(|it| matches!(it, What::Sysctl { .. })), "{what:?}");
    assert!(pass.plans.iter().any(|it| it.action == Action::Hold), "and held where it can be");
}

/// The same with a second service, `web`, at 10.0.1.9.
pub fn two_services() -> (Snapshot, Topology) {
    let mut topology = topology();
    let mut second = topology.networks[0].services[0].clone();
    second.name = "web".to_owned();
    second.vip = Some("10.0.1.9".parse().unwrap());
    second.fwmark = Some(257);
    topology.networks[0].services.push(second);
    let mut snapshot = alive();
    for (at, namespace) in snapshot.namespaces.iter_mut().enumerate() {
        namespace.cookie = Some(at as u64 + 70);
    }
    let director = &mut snapshot.namespaces[DIRECTOR];
    director.addresses.push("10.0.1.9".parse().unwrap());
    let address = Some("10.0.1.9".parse().unwrap());
    director.marks.push(Mark { address, ports: None, mark: 257 });
    let services = &mut director.ipvs.as_mut().unwrap().services;
    let mut web = services[0].clone();
    web.id = ServiceId::Fwmark(257);
    services.push(web);
    snapshot.namespaces[CLIENT].name = "host".to_owned();
    (snapshot, topology)
}

fn with_label(key: &str, value: &str) -> Pass {
    let (mut snapshot, mut topology) = two_services();
    label(&mut topology, key, value);
    let policies = policies(&Rules::default(), &topology);
    snapshot.join(topology);
    let judgement = judge(&snapshot, &Options::default());
    pass_of(&mut snapshot, judgement, &policies, &InForce::default())
}

#[test]
fn one_service_is_answered_directly_and_its_neighbour_is_not() {
    let pass = with_label("strategy", "direct");
    let direct = pass.plans.iter().find(|it| it.action == Action::Direct).unwrap();
    let What::Direct { after: Some(services), .. } = &direct.changes[0].what else { panic!() };
    assert!(!services.is_empty());
    assert!(services.iter().all(|it| it.vip == address(VIP).ip()), "{services:?}");
    assert!(pass.plans.iter().any(|it| it.action == Action::Hold), "what was open before is held");
}

/// Scaled to nothing: the Engine takes the service off the director as a whole, and it keeps its address.
#[test]
fn a_service_without_tasks_refuses_and_its_sessions_end() {
    let (mut snapshot, mut topology) = two_services();
    label(&mut topology, "strategy", "direct");
    let meant = policies(&Rules::default(), &topology);
    let vip = address(VIP).ip();
    let services_of = |change: &Change| match &change.what {
        What::Direct { after, .. } => after.clone(),
        _ => None,
    };
    type Known<'a> = Option<&'a [DirectService]>;
    let pass = |snapshot: &Snapshot, topology: &Topology, policies: &Policies, known: Known<'_>| {
        let mut snapshot = snapshot.clone();
        snapshot.join(topology.clone());
        let judgement = judge(&snapshot, &Options::default());
        let in_force = InForce { direct: known.map(<[_]>::to_vec), ..InForce::default() };
        pass_of(&mut snapshot, judgement, policies, &in_force)
    };
    let changes = |pass: Pass| {
        let direct = pass.plans.into_iter().find(|it| it.action == Action::Direct);
        direct.map(|it| it.changes).unwrap_or_default()
    };
    let begun = changes(pass(&snapshot, &topology, &meant, None));
    let known = services_of(&begun[0]).unwrap();
    assert!(known.iter().all(|it| it.vip == vip && it.backends.len() == 1), "{known:?}");

    // Somebody is connected directly.
    let mut socket = snapshot.namespaces[CLIENT].sockets[0].clone();
    socket.remote = address(BACKEND_ADDRESS);
    snapshot.namespaces[CLIENT].sockets.push(socket);
    snapshot.namespaces[DIRECTOR].ipvs.as_mut().unwrap().services.remove(0);
    // A restarted Engine has no tasks in its list at first: that proves nothing.
    topology.networks[0].services[0].tasks.clear();
    let unknown = changes(pass(&snapshot, &topology, &meant, Some(&known)));
    assert!(!unknown.iter().any(|it| matches!(it.what, What::Disconnect { .. })), "{unknown:?}");
    topology.networks[0].services[0].idle = true;
    let left = changes(pass(&snapshot, &topology, &meant, Some(&known)));
    assert!(left.iter().any(|it| matches!(it.what, What::Disconnect { .. })), "{left:?}");
    let now = services_of(left.last().unwrap()).unwrap();
    assert_eq!(now.len(), known.len());
    assert!(now.iter().all(|it| it.vip == vip && it.backends.is_empty()), "{now:?}");
    assert_eq!(changes(pass(&snapshot, &topology, &meant, Some(&now))), [], "and it stays so");

    // A worker is told nothing more, neither of the service nor of its labels: by the addresses that
    // its network knows.
    let mut worker = topology.clone();
    worker.networks[0].services.remove(0);
    worker.services.remove(0);
    let nothing = policies(&Rules::default(), &worker);
    let everything = policies(&rules(&[("strategy", "direct")]), &worker);
    let on_worker = |worker: &Topology, by: &Policies| {
        let changes = changes(pass(&snapshot, worker, by, Some(&known)));
        let last = changes.last().and_then(services_of).unwrap_or_default();
        let of_it: Vec<_> = last.into_iter().filter(|it| it.vip == vip).collect();
        (of_it, changes.iter().any(|it| matches!(it.what, What::Disconnect { .. })))
    };
    assert_eq!(on_worker(&worker, &everything), (vec![], false), "no address of this network");
    worker.networks[0].subnets = vec![Subnet { address: "10.0.1.0".parse().unwrap(), prefix: 24 }];
    assert_eq!(on_worker(&worker, &nothing), (now.clone(), true));
    assert_eq!(on_worker(&worker, &everything), (now.clone(), false), "`web` has its backend, too");
    // By hand, who follows the service: it is not among those that are named any more.
    let mut followed = snapshot.clone();
    followed.join(worker.clone());
    let select = Select { services: vec!["db".to_owned()], exact: true, ..Select::default() };
    followed.select(&select, &BTreeSet::new()).unwrap();
    let plan = plan::follow(&followed, &judge(&followed, &Options::default()), &known);
    assert_eq!(services_of(plan.changes.last().unwrap()).as_ref(), Some(&now));
    worker.networks[0].attached = vec![vip];
    assert_eq!(on_worker(&worker, &everything), (vec![], false), "another's by now");

    // The director has nothing left at all: the same.
    snapshot.namespaces[DIRECTOR].ipvs = None;
    assert_eq!(changes(pass(&snapshot, &topology, &meant, Some(&now))), []);
    // By hand, of the one service that is meant.
    snapshot.join(topology);
    let select = Select { services: vec!["db".to_owned()], ..Select::default() };
    snapshot.select(&select, &BTreeSet::new()).unwrap();
    let plan = plan::direct(&snapshot, &judge(&snapshot, &Options::default()), None);
    let asked = services_of(&plan.changes[0]).unwrap();
    assert!(asked.iter().all(|it| it.vip == vip && it.backends.is_empty()), "{asked:?}");
    // What was not seen may be balanced there.
    snapshot.incomplete.push(Incomplete { what: "x".into(), why: "y".into(), help: None });
    let plan = plan::direct(&snapshot, &judge(&snapshot, &Options::default()), None);
    assert_eq!(plan.changes, []);
}

#[test]
fn one_service_gets_keepalive_and_its_neighbour_does_not() {
    let pass = with_label("strategy", "keepalive");
    let plans: Vec<&Plan> = pass.plans.iter().filter(|it| it.action == Action::Keepalive).collect();
    let changes: Vec<&Change> = plans.iter().flat_map(|it| &it.changes).collect();
    let to_come: Vec<_> = changes
        .iter()
        .filter_map(|it| match &it.what {
            What::NewSockets { after: Some(rules), .. } => Some(rules),
            _ => None,
        })
        .collect();
    assert_eq!(to_come.len(), 1, "one set of rules for the kernel: {changes:?}");
    let peers: Vec<_> = to_come[0].rules.iter().filter_map(|it| it.peer).collect();
    assert!(peers.contains(&address(VIP).ip()), "{peers:?}");
    assert!(!peers.contains(&"10.0.1.9".parse().unwrap()), "{peers:?}");
    assert!(changes.iter().any(|it| matches!(it.what, What::Keepalive { .. })));
}

/// By hand the same; and a backend's connections come from the director's own address.
#[test]
fn keepalive_that_is_asked_for_one_service_is_of_no_other() {
    let (mut snapshot, mut topology) = two_services();
    topology.containers[1].service = Some(Named { id: "s1".to_owned(), name: "db".to_owned() });
    topology.services[1].name = "web".to_owned();
    snapshot.join(topology);
    let told = |name: &str| {
        let mut snapshot = snapshot.clone();
        let select = Select { services: vec![name.to_owned()], ..Select::default() };
        snapshot.select(&select, &BTreeSet::new()).unwrap();
        let judgement = judge(&snapshot, &Options::default());
        let plan = plan::keepalive(&snapshot, &judgement, KeepaliveWish::default());
        let rules = plan.changes.into_iter().find_map(|it| match it.what {
            What::NewSockets { after, .. } => after,
            _ => None,
        });
        let of = |it: KeepaliveRule| (it.netns, it.peer.unwrap().to_string());
        rules.unwrap().rules.into_iter().map(of).collect::<BTreeSet<_>>()
    };
    let netns = |at: usize| snapshot.namespaces[at].cookie.unwrap();
    let own = snapshot.namespaces[DIRECTOR].addresses.iter().map(ToString::to_string);
    let own: Vec<String> = own.filter(|it| it != "10.0.1.2" && it != "10.0.1.9").collect();
    let mut expected =
        BTreeSet::from([CLIENT, BACKEND].map(|at| (netns(at), "10.0.1.2".to_owned())));
    expected.extend(own.into_iter().map(|own| (netns(BACKEND), own)));
    assert_eq!(told("db"), expected);
    let neighbour = [CLIENT, BACKEND].map(|at| (netns(at), "10.0.1.9".to_owned()));
    assert_eq!(told("web"), BTreeSet::from(neighbour));
}

#[test]
fn a_service_that_nobody_balances_is_not_answered_in_silence() {
    let (mut snapshot, topology) = two_services();
    snapshot.join(topology);
    let select = Select { services: vec!["db".to_owned()], ..Select::default() };
    snapshot.select(&select, &BTreeSet::new()).unwrap();
    let plan = |snapshot: &Snapshot| {
        let judgement = judge(snapshot, &Options::default());
        plan::direct(snapshot, &judgement, None)
    };
    assert!(plan(&snapshot).refused.is_empty());
    snapshot.namespaces[DIRECTOR].ipvs.as_mut().unwrap().services.clear();
    let plan = plan(&snapshot);
    assert!(plan.changes.is_empty());
    let [refused] = plan.refused.as_slice() else { panic!("{:?}", plan.refused) };
    assert_eq!(refused.what, "db");
}

#[test]
fn one_service_is_rehashed_and_its_neighbour_is_not() {
    let pass = with_label("strategy", "rehash");
    let rehash = pass.plans.iter().find(|it| it.action == Action::Rehash).unwrap();
    let switched: Vec<ServiceId> = rehash
        .changes
        .iter()
        .filter_map(|it| match &it.what {
            What::Scheduler { service, .. } => Some(*service),
            _ => None,
        })
        .collect();
    assert_eq!(switched, [ServiceId::Fwmark(256)]);
}

#[test]
fn what_was_set_again_and_again_is_kept_as_one() {
    let place = Place { inode: 7, cookie: Some(70), name: "lb".to_owned() };
    let sysctl = |before: &str, after: &str, guard| {
        let (before, after) = (before.to_owned(), after.to_owned());
        let what = What::Sysctl { path: "net/ipv4/vs/x".to_owned(), before, after };
        standing(Change { place: place.clone(), what }, Action::Timeout, guard)
    };
    let many: Vec<Standing> =
        (0..100).map(|it| sysctl(&it.to_string(), &(it + 1).to_string(), true)).collect();
    let one = squashed(many);
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].change, sysctl("0", "100", true).change);
    let back = plan::undo(&one);
    assert_eq!(back[0].change, sysctl("100", "0", true).change);
    // What another said between, or what begins elsewhere, stays as it is.
    let by_two = vec![sysctl("0", "1", true), sysctl("1", "2", false), sysctl("2", "3", true)];
    assert_eq!(squashed(by_two.clone()), by_two);
    let apart = vec![sysctl("0", "1", true), sysctl("5", "6", true)];
    assert_eq!(squashed(apart.clone()), apart);
    // Who was killed in the midst of one has made it or not: what the next found says which.
    let killed = |mut it: Standing| {
        it.finished = false;
        it
    };
    let made = vec![sysctl("0", "1", true), killed(sysctl("1", "2", true)), sysctl("2", "3", true)];
    assert_eq!(squashed(made), [sysctl("0", "3", true)]);
    let not = vec![sysctl("0", "1", true), killed(sysctl("1", "2", true)), sysctl("1", "3", true)];
    assert_eq!(squashed(not), [sysctl("0", "3", true)]);
    let last = vec![sysctl("0", "1", true), killed(sysctl("1", "2", true))];
    assert_eq!(squashed(last.clone()), last);
}
