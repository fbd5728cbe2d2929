//! What a pass of the guard leaves alone, and what goes on whatever happens.

use std::{collections::BTreeSet, net::IpAddr};

use keepline_core::{
    Options, Snapshot, judge,
    plan::{
        self, Action, Change, InForce, KeepaliveChange, KeepaliveRule, KeepaliveRules,
        KeepaliveTimes, Pass, Place, Plan, SocketId, What,
    },
    policy::Rules,
    snapshot::{Incomplete, KeepaliveSettings, Scope, Select, Topology, topology::Named},
};

use crate::{build::*, names::topology, passes::*, policy::*};

fn times(idle_seconds: u64) -> KeepaliveTimes {
    KeepaliveTimes { idle_seconds, interval_seconds: 5, probes: None, enforce: true }
}

/// A socket of `at` that has been given keepalive.
fn given(snapshot: &Snapshot, at: usize) -> Change {
    let namespace = &snapshot.namespaces[at];
    let socket = &namespace.sockets[0];
    let off =
        KeepaliveSettings { enabled: false, idle: seconds(7200), interval: seconds(75), probes: 9 };
    let socket = SocketId {
        local: socket.local,
        remote: socket.remote,
        interface: 0,
        cookie: socket.cookie,
        inode: socket.inode,
    };
    let change = KeepaliveChange {
        socket,
        before: Some(off),
        after: KeepaliveSettings { enabled: true, idle: seconds(20), ..off },
        in_kernel: false,
    };
    Change { place: Place::of(namespace), what: What::Keepalive { sockets: vec![change] } }
}

fn new_sockets(snapshot: &Snapshot, after: KeepaliveRules) -> Change {
    let place = Place::of(&snapshot.namespaces[CLIENT]);
    Change { place, what: What::NewSockets { before: None, after: Some(after) } }
}

fn changes(pass: &Pass, action: Action) -> Vec<&Change> {
    let plans = pass.plans.iter().filter(|it| it.action == action);
    plans.flat_map(|it| &it.changes).collect()
}

fn rules_of(pass: &Pass) -> KeepaliveRules {
    let changes = changes(pass, Action::Keepalive);
    let rules = changes.into_iter().find_map(|it| match &it.what {
        What::NewSockets { after, .. } => after.clone(),
        _ => None,
    });
    rules.unwrap()
}

/// Two services with the labels of `db` and `web`, and what a guard with this file makes of them.
fn pass_with(file: &[(&str, &str)], db: &[(&str, &str)], web: &[(&str, &str)]) -> Pass {
    let (mut snapshot, mut topology) = two_services();
    topology.services[1].name = "web".to_owned();
    topology.containers[1].service = Some(Named { id: "s2".to_owned(), name: "web".to_owned() });
    for (at, labels) in [db, web].into_iter().enumerate() {
        for (key, value) in labels {
            topology.services[at].labels.insert(format!("keepline.{key}"), (*value).to_owned());
        }
    }
    let policies = policies(&rules(file), &topology);
    snapshot.join(topology);
    let judgement = judge(&snapshot, &Options::default());
    pass_of(&mut snapshot, judgement, &policies, &InForce::default())
}

/// Sockets belong to nobody: that somebody has given some keepalive by hand ends no hold.
#[test]
fn keepalive_by_hand_keeps_nobody_from_holding() {
    let snapshot = alive();
    let by_hand = standing(given(&snapshot, CLIENT), Action::Keepalive, false);
    let in_force = InForce { standing: vec![by_hand], ..InForce::default() };
    let auto = policies(&Rules::default(), &topology());
    let seen = pass(snapshot, &auto, &in_force);
    assert_eq!(seen.overruled, []);
    assert_eq!(changes(&seen, Action::Hold).len(), 2, "{seen:?}");
}

/// The number of a namespace is another's once it is gone.
#[test]
fn what_was_set_by_hand_in_a_namespace_that_is_gone_binds_nobody() {
    let wanted = policies(&rules(&[("strategy", "timeout"), ("tcp-timeout", "2h")]), &topology());
    let mut by_hand = standing(timeouts(60), Action::Timeout, false);
    let pass_with = |by_hand, cookie| {
        let mut snapshot = alive();
        snapshot.namespaces[DIRECTOR].cookie = Some(cookie);
        let in_force = InForce { standing: vec![by_hand], ..InForce::default() };
        pass(snapshot, &wanted, &in_force)
    };
    by_hand.change.place.cookie = Some(7);
    assert_eq!(pass_with(by_hand.clone(), 7).overruled.len(), 1);
    assert_eq!(pass_with(by_hand.clone(), 8).overruled, []);
    // What the guard itself has left there is written off.
    by_hand.by.guard = true;
    assert_eq!(pass_with(by_hand.clone(), 7).undo, []);
    assert_eq!(pass_with(by_hand, 8).undo.len(), 1);
}

/// What was given to sockets is remembered for as long as one of them is open.
#[test]
fn keepalive_of_closed_sockets_is_forgotten() {
    let wanted = policies(&rules(&[("strategy", "keepalive")]), &topology());
    let seen = |change: &dyn Fn(&mut Snapshot), guard| {
        let mut snapshot = alive();
        let stands = standing(given(&snapshot, CLIENT), Action::Keepalive, guard);
        change(&mut snapshot);
        let in_force = InForce { standing: vec![stands], ..InForce::default() };
        let pass = pass(snapshot, &wanted, &in_force);
        (pass.spent.len(), pass.undo.len())
    };
    let close = |snapshot: &mut Snapshot| snapshot.namespaces[CLIENT].sockets.clear();
    assert_eq!(seen(&|_| (), true), (0, 0), "it is open");
    assert_eq!(seen(&close, true), (1, 0));
    assert_eq!(seen(&close, false), (0, 0), "somebody's own");
    let reopen = |snapshot: &mut Snapshot| snapshot.namespaces[CLIENT].sockets[0].cookie = 4711;
    assert_eq!(seen(&reopen, true), (1, 0), "another of the same addresses");
    let walked = |snapshot: &mut Snapshot| snapshot.namespaces[CLIENT].sockets[0].cookie = 0;
    assert_eq!(seen(&walked, true), (0, 0), "it may be that one");
    let missed = |snapshot: &mut Snapshot| {
        close(snapshot);
        snapshot.incomplete.push(Incomplete { what: "x".into(), why: "y".into(), help: None });
    };
    assert_eq!(seen(&missed, true), (0, 0));
}

/// By place: what another network or service still wishes keeps nothing alive here.
#[test]
fn what_is_wished_elsewhere_is_not_wanted_here() {
    let everything = [("strategy", "timeout")];
    let policy = |off: bool| {
        let mut topology = topology();
        if off {
            let labels = &mut topology.networks[0].labels;
            labels.insert("keepline.strategy".to_owned(), "off".to_owned());
        }
        policies(&rules(&everything), &topology)
    };
    let in_force = InForce {
        standing: vec![standing(timeouts(7200), Action::Timeout, true)],
        ..InForce::default()
    };
    assert_eq!(pass(with_timeout(7200), &policy(false), &in_force).undo, []);
    assert_eq!(pass(with_timeout(7200), &policy(true), &in_force).undo.len(), 1);
}

/// A network without IPVS has no services in its director: sessions tell whose policy is meant there.
#[test]
fn what_a_pass_sets_without_ipvs_the_next_does_not_take_back() {
    let mut snapshot = nat(Some(entry(300)));
    for (at, namespace) in snapshot.namespaces.iter_mut().enumerate() {
        namespace.cookie = Some(at as u64 + 70);
    }
    snapshot.namespaces[CLIENT].name = "host".to_owned();
    snapshot.namespaces[DIRECTOR].name = "router".to_owned();
    let wanted = policies(&rules(&[("strategy", "keepalive")]), &Topology::default());
    let first = {
        let judgement = judge(&snapshot, &Options::default());
        pass_of(&mut snapshot.clone(), judgement, &wanted, &InForce::default())
    };
    let given = changes(&first, Action::Keepalive);
    assert!(given.iter().any(|it| matches!(it.what, What::Keepalive { .. })), "{first:?}");
    let in_force = InForce {
        standing: given.iter().map(|it| standing((*it).clone(), Action::Keepalive, true)).collect(),
        ..InForce::default()
    };
    let judgement = judge(&snapshot, &Options::default());
    assert_eq!(pass_of(&mut snapshot, judgement, &wanted, &in_force).undo, []);
}

/// Sessions that were open before another scheduler came may be elsewhere than that would lead.
#[test]
fn with_rehash_sessions_of_sockets_here_are_held_too() {
    let wanted = policies(&rules(&[("strategy", "rehash")]), &topology());
    let seen = pass(alive(), &wanted, &InForce::default());
    assert_eq!(changes(&seen, Action::Hold).len(), 2, "{seen:?}");
    assert_eq!(wanted.held(), Scope::default());
}

/// Keepalive of one service is not that of its neighbour: not of who connects to that, and not of its
/// tasks, whom all connections come from the director's own address to.
#[test]
fn keepalive_by_policy_is_of_no_neighbour() {
    let (client, backend) = (70 + CLIENT as u64, 70 + BACKEND as u64);
    let own: IpAddr = address(SEEN_AS).ip();
    let has = |rules: &KeepaliveRules, netns, peer: &str| {
        let peer: IpAddr = peer.parse().unwrap();
        rules.rules.iter().find(|it| (it.netns, it.peer) == (netns, Some(peer))).map(|it| it.times)
    };
    let rules = rules_of(&pass_with(&[], &[("strategy", "keepalive")], &[("strategy", "off")]));
    assert!(has(&rules, client, "10.0.1.2").is_some());
    assert_eq!(has(&rules, client, "10.0.1.9"), None);
    assert_eq!(has(&rules, backend, &own.to_string()), None, "a task of `web`: {rules:?}");
    assert!(has(&rules, backend, "10.0.1.2").is_some(), "as a client of `db`: {rules:?}");
    let rules = rules_of(&pass_with(&[], &[], &[("strategy", "keepalive")]));
    assert!(has(&rules, backend, &own.to_string()).is_some(), "{rules:?}");

    // Of everything but this.
    let all = [("strategy", "keepalive")];
    let rules = rules_of(&pass_with(&all, &[("strategy", "off")], &[]));
    assert!(rules.everybody.is_some());
    assert_eq!(has(&rules, client, "10.0.1.2"), Some(None), "{rules:?}");
    assert_eq!(has(&rules, client, "10.0.1.9"), None, "as everybody");
    let peer = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(rules.times_of(Some(client), peer("10.0.1.2")), None);
    assert_eq!(rules.times_of(Some(client), peer("10.0.1.9")), rules.everybody);
}

/// What is excepted from everything is so in each network, whatever another wishes otherwise.
#[test]
fn exceptions_are_of_every_network() {
    let (mut snapshot, mut topology) = two_services();
    let mut other = topology.networks[0].clone();
    (other.id, other.name) = ("q".repeat(25), "net2".to_owned());
    other.lb_namespace = Some("lb_qqqqqqqqq".to_owned());
    other.services.truncate(1);
    other.services[0].name = "cache".to_owned();
    topology.networks.push(other);
    let mut cache = topology.services[0].clone();
    cache.name = "cache".to_owned();
    cache.labels.insert("keepline.keepalive-idle".to_owned(), "1m".to_owned());
    topology.services.push(cache);
    label(&mut topology, "strategy", "off");
    let mut second = snapshot.namespaces[DIRECTOR].clone();
    (second.inode, second.name, second.cookie) = (9, "lb_qqqqqqqqq".to_owned(), Some(79));
    second.path = Some("/run/docker/netns/lb_qqqqqqqqq".to_owned());
    snapshot.namespaces.push(second);
    let policies = policies(&rules(&[("strategy", "keepalive")]), &topology);
    snapshot.join(topology);
    let judgement = judge(&snapshot, &Options::default());
    let pass = pass_of(&mut snapshot, judgement, &policies, &InForce::default());
    let rules = rules_of(&pass);
    assert!(rules.everybody.is_some());
    let to_db = rules.times_of(Some(70 + CLIENT as u64), address(VIP).ip());
    assert_eq!(to_db, None, "`db` is off: {rules:?}");
}

/// A guard of a part of the machine does nothing beside it: not for every program, and not for the
/// neighbour of a service.
#[test]
fn a_guard_of_a_part_does_nothing_beside_it() {
    let planned = |strategy: &str, select: &Select, inodes: &[u64]| {
        let (mut snapshot, topology) = two_services();
        let policies = policies(&rules(&[("strategy", strategy)]), &topology);
        snapshot.join(topology);
        snapshot.select(select, &inodes.iter().copied().collect()).unwrap();
        let judgement = judge(&snapshot, &Options::default());
        let pass = pass_of(&mut snapshot, judgement, &policies, &InForce::default());
        pass.plans.into_iter().flat_map(|it| it.changes).map(|it| it.what).collect::<Vec<_>>()
    };
    let rules = |changes: Vec<What>| {
        changes.into_iter().find_map(|it| match it {
            What::NewSockets { after, .. } => after,
            _ => None,
        })
    };
    let vips = |changes: Vec<What>| {
        let after = changes.into_iter().find_map(|it| match it {
            What::Direct { after, .. } => after,
            _ => None,
        });
        after.into_iter().flatten().map(|it| it.vip.to_string()).collect::<BTreeSet<_>>()
    };
    let everything = Select::default();
    let db = Select { services: vec!["db".to_owned()], ..Select::default() };
    let all: Vec<u64> = two_services().0.namespaces.iter().map(|it| it.inode).collect();

    assert!(rules(planned("keepalive", &everything, &all)).unwrap().everybody.is_some());
    let client = two_services().0.namespaces[CLIENT].clone();
    let of_client = rules(planned("keepalive", &everything, &[client.inode])).unwrap();
    assert_eq!(of_client.everybody, None);
    assert!(of_client.rules.iter().any(|it| Some(it.netns) == client.cookie && it.peer.is_none()));
    let of_db = rules(planned("keepalive", &db, &[])).unwrap();
    assert_eq!(of_db.everybody, None);
    let peers: BTreeSet<String> =
        of_db.rules.iter().map(|it| it.peer.unwrap().to_string()).collect();
    assert!(peers.contains("10.0.1.2") && !peers.contains("10.0.1.9"), "{peers:?}");

    let both = BTreeSet::from(["10.0.1.2", "10.0.1.9"].map(str::to_owned));
    assert_eq!(vips(planned("direct", &everything, &all)), both);
    assert_eq!(vips(planned("direct", &db, &[])), BTreeSet::from(["10.0.1.2".to_owned()]));
}

/// A program that has got its keepalive and chose otherwise after that has its way, if so it is wished,
/// until the times that are wished change.
#[test]
fn what_a_program_chose_stays_where_nobody_is_to_be_held() {
    let (snapshot, topology) = two_services();
    let planned = |pairs: &[(&str, &str)], rules: Option<KeepaliveRules>| {
        let (mut snapshot, mut topology) = (snapshot.clone(), topology.clone());
        label(&mut topology, "strategy", "keepalive");
        for (key, value) in pairs {
            label(&mut topology, key, value);
        }
        let policies = policies(&Rules::default(), &topology);
        snapshot.join(topology);
        let judgement = judge(&snapshot, &Options::default());
        let in_force = InForce { rules, ..InForce::default() };
        let pass = pass_of(&mut snapshot, judgement, &policies, &in_force);
        let changes = pass.plans.into_iter().filter(|it| it.action == Action::Keepalive);
        let (mut sockets, mut rules) = (0, None);
        for change in changes.flat_map(|it| it.changes) {
            match change.what {
                What::Keepalive { sockets: some } => sockets += some.len(),
                What::NewSockets { after, .. } => rules = after,
                _ => {}
            }
        }
        (sockets, rules)
    };
    let free = [("keepalive-enforce", "false")];
    let (sockets, rules) = planned(&free, None);
    assert_eq!(sockets, 1, "at first it gets it");
    let rules = rules.unwrap();
    assert!(rules.times().all(|it| !it.enforce), "{rules:?}");
    assert_eq!(planned(&free, Some(rules.clone())), (0, None), "it is as it was wished");
    let shorter = [free[0], ("keepalive-idle", "1m")];
    let (sockets, changed) = planned(&shorter, Some(rules.clone()));
    assert_eq!((sockets, changed.is_some()), (1, true));
    let (sockets, held) = planned(&[], Some(rules));
    assert_eq!((sockets, held.is_some()), (1, true));
    assert_eq!(planned(&[], held), (1, None), "held to it, what is open, too");
}

/// One container of a network was selected: the others of that network were not.
#[test]
fn a_guard_of_one_container_does_nothing_to_its_neighbours() {
    let planned = |strategy: &str| {
        let (mut snapshot, topology) = two_services();
        let policies = policies(&rules(&[("strategy", strategy)]), &topology);
        snapshot.join(topology);
        let select = Select { containers: vec!["app".to_owned()], ..Select::default() };
        snapshot.select(&select, &BTreeSet::new()).unwrap();
        let judgement = judge(&snapshot, &Options::default());
        pass_of(&mut snapshot, judgement, &policies, &InForce::default())
    };
    let client = 70 + CLIENT as u64;
    let rules = rules_of(&planned("keepalive")).rules;
    assert!(!rules.is_empty() && rules.iter().all(|it| it.netns == client), "{rules:?}");
    let direct = planned("direct");
    let services = changes(&direct, Action::Direct).into_iter().find_map(|it| match &it.what {
        What::Direct { after, .. } => after.clone(),
        _ => None,
    });
    let services = services.unwrap();
    assert!(!services.is_empty() && services.iter().all(|it| it.netns == client), "{services:?}");
    // By hand the same.
    let (mut snapshot, topology) = two_services();
    snapshot.join(topology);
    let select = Select { containers: vec!["app".to_owned()], ..Select::default() };
    snapshot.select(&select, &BTreeSet::new()).unwrap();
    let plan: Plan = plan::direct(&snapshot, &judge(&snapshot, &Options::default()), None);
    let What::Direct { after: Some(services), .. } = &plan.changes[0].what else { panic!() };
    assert!(services.iter().all(|it| it.netns == client), "{services:?}");
}

/// What a guard of a part holds is no more than that part.
#[test]
fn a_hold_within_a_part_is_of_that_part() {
    let held = |within: Option<Scope>| {
        let mut snapshot = alive();
        snapshot.join(topology());
        let scope = Scope { within: within.map(Box::new), ..Scope::default() };
        snapshot.held.push(scope);
        let judgement = judge(&snapshot, &Options::default());
        judgement.sessions.iter().filter(|it| it.why == keepline_core::session::Why::Held).count()
    };
    assert!(held(None) > 0);
    let nobody = Scope { namespaces: Some(BTreeSet::new()), ..Scope::default() };
    assert_eq!(held(Some(nobody)), 0);
    let client =
        Scope { namespaces: Some([alive().namespaces[CLIENT].inode].into()), ..Scope::default() };
    assert!(held(Some(client)) > 0);
}

/// The program that holds sockets to their keepalive would hold these, too.
#[test]
fn programs_go_before_what_they_would_hold() {
    let snapshot = alive();
    let rules = KeepaliveRules { rules: Vec::new(), everybody: Some(times(20)) };
    let stands = [new_sockets(&snapshot, rules), given(&snapshot, CLIENT)]
        .map(|it| standing(it, Action::Keepalive, true));
    let undos = plan::undo(&stands);
    assert!(matches!(undos[0].change.what, What::NewSockets { .. }), "{undos:?}");
    assert_eq!(undos.len(), 2);
}

/// What stands of a service lies in its clients' namespaces and in the machine's own.
#[test]
fn what_is_taken_back_of_a_service_is_what_stands_of_it() {
    let (mut snapshot, topology) = two_services();
    snapshot.join(topology);
    let rule = |peer: &str| KeepaliveRule {
        netns: 70,
        peer: Some(peer.parse().unwrap()),
        times: Some(times(20)),
    };
    let of = |peers: &[&str]| KeepaliveRules {
        rules: peers.iter().map(|it| rule(it)).collect(),
        everybody: None,
    };
    let place = Place::of(&snapshot.namespaces[CLIENT]);
    let lowered = Change {
        place: place.clone(),
        what: What::Sysctl {
            path: "net/ipv4/tcp_keepalive_time".to_owned(),
            before: "7200".to_owned(),
            after: "20".to_owned(),
        },
    };
    let elsewhere = Change {
        place: Place { inode: 4711, cookie: None, name: "x".to_owned() },
        what: timeouts(60).what,
    };
    let mut look = |service: &str, peers: &[&str]| {
        let select =
            Select { services: vec![service.to_owned()], exact: true, ..Select::default() };
        snapshot.select(&select, &BTreeSet::new()).unwrap();
        let stands = [
            given(&snapshot, CLIENT),
            lowered.clone(),
            new_sockets(&snapshot, of(peers)),
            elsewhere.clone(),
        ];
        let stands = stands.map(|it| standing(it, Action::Keepalive, false)).to_vec();
        let selected = plan::selected(stands, &snapshot);
        (selected.standing.len(), selected.shared.len())
    };
    assert_eq!(look("db", &["10.0.1.2"]), (3, 0));
    assert_eq!(look("web", &["10.0.1.2"]), (0, 0), "a neighbour's");
    assert_eq!(look("db", &["10.0.1.2", "10.0.1.9"]).1, 1, "of both");
}
