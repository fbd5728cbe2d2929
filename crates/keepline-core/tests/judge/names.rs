//! The Engine's names joined to what was seen, and what is chosen by them.

use std::collections::{BTreeMap, BTreeSet};

use keepline_core::{
    Code, Judgement, Options, Snapshot, judge,
    names::{Namer, Names},
    snapshot::{
        SecondLookResult, Select, Topology,
        topology::{Attachment, Container, Network, NetworkService, Port, Service, Task},
    },
};

use crate::build::*;

pub const NETWORK: &str = "edja88p19aaaaaaaaaaaaaaaa";

fn container(id: char, name: &str, file: &str, address: &str) -> Container {
    Container {
        id: id.to_string().repeat(64),
        name: name.to_owned(),
        sandbox: Some(format!("/var/run/docker/netns/{file}")),
        host_network: false,
        shares: None,
        service: None,
        task: None,
        stack: None,
        node: None,
        labels: BTreeMap::new(),
        networks: vec![Attachment {
            network: NETWORK.to_owned(),
            name: "net1".to_owned(),
            addresses: vec![address.parse().unwrap()],
        }],
    }
}

pub fn topology() -> Topology {
    let service = NetworkService {
        name: "db".to_owned(),
        vip: Some(address(VIP).ip()),
        fwmark: Some(256),
        ports: Vec::new(),
        tasks: vec![Task {
            name: "db.1.x1y2z3a4b5c6d7e8f9g0h1i2j".to_owned(),
            address: address(BACKEND_ADDRESS).ip(),
            host: Some("192.168.77.2".parse().unwrap()),
            node: None,
            endpoint: None,
        }],
        idle: false,
    };
    Topology {
        containers: vec![
            container('a', "app", "client", "10.0.1.6"),
            container('b', "db.1.x1y2z3a4b5c6d7e8f9g0h1i2j", "backend", "10.0.1.4"),
        ],
        networks: vec![Network {
            id: NETWORK.to_owned(),
            name: "net1".to_owned(),
            driver: "overlay".to_owned(),
            lb_namespace: Some("lb_edja88p19".to_owned()),
            services: vec![service],
            ..Network::default()
        }],
        services: vec![
            Service {
                id: Some("s1".to_owned()),
                name: "db".to_owned(),
                mode: None,
                ports: vec![],
                vips: vec![],
                labels: BTreeMap::new(),
            },
            Service {
                id: Some("s2".to_owned()),
                name: "dba".to_owned(),
                mode: None,
                ports: vec![],
                vips: vec![],
                labels: BTreeMap::new(),
            },
        ],
        ..Topology::default()
    }
}

fn named(mut snapshot: Snapshot) -> Snapshot {
    snapshot.join(topology());
    snapshot
}

fn judged(snapshot: &Snapshot) -> Judgement {
    judge(snapshot, &Options::default())
}

fn names(snapshot: &Snapshot) -> Names<'_> {
    let judgement = judged(snapshot);
    assert_eq!(judgement.sessions.len(), 1, "{:?}", judgement.sessions);
    Namer::new(snapshot).of(&judgement.sessions[0])
}

#[test]
fn a_session_gets_all_its_names() {
    let snapshot = named(swarm(Some(entry(800))));
    let names = names(&snapshot);
    assert_eq!(names.network.unwrap().name, "net1");
    assert_eq!(names.service, Some("db"));
    assert_eq!(names.task.unwrap().name, "db.1.x1y2z3a4b5c6d7e8f9g0h1i2j");
    assert_eq!(names.node().as_deref(), Some("192.168.77.2"), "a worker knows no host name");
    let container = snapshot.namespaces[CLIENT].container.as_ref().unwrap();
    assert_eq!(container.name.as_deref(), Some("app"));
    assert_eq!(snapshot.namespaces[DIRECTOR].container, None);
    let finding = &judged(&snapshot).findings[0];
    assert!(finding.detail.contains("to service db on net1 (10.0.1.2:7000)"), "{}", finding.detail);
}

#[test]
fn a_forgotten_session_whose_backend_is_elsewhere_keeps_network_and_service() {
    let mut snapshot = named(swarm(None));
    snapshot.namespaces[BACKEND].sockets.clear();
    look_again(&mut snapshot, SecondLookResult::Confirmed);
    let names = names(&snapshot);
    assert_eq!((names.network.unwrap().name.as_str(), names.service), ("net1", Some("db")));
    assert!(names.task.is_none(), "a task on this machine that has no socket for it");
    snapshot.namespaces[BACKEND].addresses.clear();
    let mut elsewhere = snapshot;
    elsewhere.namespaces.truncate(2);
    let names = self::names(&elsewhere);
    assert!(names.task.is_some(), "the service has one task only");
    let destinations = &mut tables(&mut elsewhere).services[0].destinations;
    destinations.push(destinations[0].clone());
    assert!(self::names(&elsewhere).task.is_none(), "which task it was is not known any more");
}

#[test]
fn what_is_followed_need_not_be_there_unless_nobody_tells() {
    let mut snapshot = named(swarm(None));
    let exact = Select {
        services: vec!["gone".to_owned()],
        networks: vec![NETWORK.to_owned()],
        exact: true,
        ..Select::default()
    };
    let names = Select { exact: false, ..exact.clone() };
    assert!(snapshot.select(&names, &BTreeSet::new()).is_err());
    snapshot.select(&exact, &BTreeSet::new()).unwrap();
    assert_eq!(snapshot.asked.services, ["gone"]);
    assert!(snapshot.concerns(&snapshot.namespaces[DIRECTOR]));
    snapshot.topology.as_mut().unwrap().incomplete.push("networks: 500".to_owned());
    let error = snapshot.select(&exact, &BTreeSet::new()).unwrap_err().to_string();
    assert_eq!(error, "no service `gone`: networks: 500");
    snapshot.topology = None;
    assert!(snapshot.select(&exact, &BTreeSet::new()).is_err());
}

#[test]
fn what_nothing_meant_is_everything() {
    let snapshot = named(swarm(None));
    let everything = Select::default();
    assert!(everything.is_everything());
    assert!(snapshot.meant(&everything).is_everything(), "also for who follows it");
    let one = Select { pids: vec![1], ..Select::default() };
    assert!(!one.is_everything() && !snapshot.meant(&one).is_everything());
}

#[test]
fn a_container_that_is_gone_keeps_nobody_from_the_others() {
    let mut snapshot = named(swarm(None));
    let names = ["app", "db.1"].map(str::to_owned).to_vec();
    let select = Select { containers: names, ..Select::default() };
    snapshot.select(&select, &BTreeSet::new()).unwrap();
    let meant = snapshot.meant(&select);
    assert_eq!(meant.containers, ["a".repeat(64), "b".repeat(64)]);
    let chosen = |snapshot: &Snapshot| -> Vec<bool> {
        snapshot.namespaces.iter().map(|it| it.selected).collect()
    };
    let all = chosen(&snapshot);
    snapshot.select(&meant, &BTreeSet::new()).unwrap();
    assert_eq!(chosen(&snapshot), all);
    // It ends, and another gets its name: that one was not meant.
    let containers = &mut snapshot.topology.as_mut().unwrap().containers;
    containers[0] = container('c', "app", "other", "10.0.1.9");
    snapshot.namespaces[CLIENT].container = None;
    snapshot.select(&meant, &BTreeSet::new()).unwrap();
    assert_eq!(chosen(&snapshot).iter().filter(|it| **it).count(), 1);
    assert!(snapshot.select(&select, &BTreeSet::new()).is_err(), "asked for by name it is missed");
    // While the Engine does not tell all, it may be there.
    snapshot.topology.as_mut().unwrap().incomplete.push("containers: 500".to_owned());
    assert!(snapshot.select(&meant, &BTreeSet::new()).is_err());
    snapshot.topology.as_mut().unwrap().incomplete.clear();
    let told = snapshot.topology.take();
    snapshot.unnamed.push("the Docker Engine did not answer".to_owned());
    assert!(snapshot.select(&meant, &BTreeSet::new()).is_err());
    snapshot.unnamed.clear();
    snapshot.topology = told;
    // Nothing is left of what was meant: not everything is.
    snapshot.topology.as_mut().unwrap().containers.clear();
    snapshot.namespaces.iter_mut().for_each(|it| it.container = None);
    snapshot.select(&meant, &BTreeSet::new()).unwrap();
    assert_eq!(chosen(&snapshot).iter().filter(|it| **it).count(), 0);
    assert_eq!(snapshot.scope().namespaces, Some(BTreeSet::new()));
}

/// Networks may have the same addresses. Without the Engine's word either director may have forgotten it.
#[test]
fn a_container_is_led_by_directors_of_its_own_networks_only() {
    let mut snapshot = swarm(None);
    let mut other = snapshot.namespaces[DIRECTOR].clone();
    (other.inode, other.name) = (12, "lb_other0000".to_owned());
    other.path = Some("/run/netns/lb_other0000".to_owned());
    snapshot.namespaces.push(other);
    look_again(&mut snapshot, SecondLookResult::Confirmed);
    assert_eq!(judged(&snapshot).summary.unknown, 1, "{:?}", judged(&snapshot).sessions);

    let mut told = topology();
    told.networks.push(Network {
        id: "other0000aaaaaaaaaaaaaaaa".to_owned(),
        name: "net2".to_owned(),
        driver: "overlay".to_owned(),
        lb_namespace: Some("lb_other0000".to_owned()),
        services: told.networks[0].services.clone(),
        ..Network::default()
    });
    let with = |told: &Topology| {
        let mut snapshot = snapshot.clone();
        snapshot.join(told.clone());
        look_again(&mut snapshot, SecondLookResult::Confirmed);
        judged(&snapshot)
    };
    let judgement = with(&told);
    assert_eq!(judgement.summary.orphaned, 1, "{:?}", judgement.sessions);
    assert_eq!(judgement.sessions[0].director, Some(DIRECTOR));
    // In both, or in one that is not known: the one is as good as the other.
    let mut both = told.clone();
    let second = Attachment {
        network: "other0000aaaaaaaaaaaaaaaa".to_owned(),
        ..both.containers[0].networks[0].clone()
    };
    both.containers[0].networks.push(second);
    assert_eq!(with(&both).summary.unknown, 1);
    told.containers[0].networks[0].network = "unheard".to_owned();
    assert_eq!(with(&told).summary.unknown, 1);
}

/// Of an engine in a container: its director may be where nobody looks, and have the same addresses.
#[test]
fn a_container_of_an_inner_engine_is_not_led_by_directors_of_this_one() {
    let mut snapshot = named(swarm(None));
    snapshot.namespaces[BACKEND].sockets.clear();
    look_again(&mut snapshot, SecondLookResult::Confirmed);
    assert_eq!(judged(&snapshot).summary.orphaned, 1);
    let container = snapshot.namespaces[CLIENT].container.as_mut().unwrap();
    (container.id, container.name, container.nested) = ("d".repeat(64), None, true);
    let judgement = judged(&snapshot);
    assert_eq!(judgement.summary.orphaned, 0, "{:?}", judgement.sessions);
    assert_eq!(judgement.summary.untracked, 1, "{:?}", judgement.sessions);
    // Of directors that are nobody's it may well be a client: kube-proxy's of kind, for one.
    snapshot.topology = None;
    assert_eq!(judged(&snapshot).summary.orphaned, 1);
}

#[test]
fn straight_to_a_task_is_untracked_and_named() {
    let mut snapshot = named(swarm(None));
    client(&mut snapshot).remote = address(BACKEND_ADDRESS);
    snapshot.namespaces[BACKEND].sockets[0].remote = address(CLIENT_ADDRESS);
    let judgement = judged(&snapshot);
    assert_eq!(judgement.summary.untracked, 1, "{:?}", judgement.sessions);
    let names = Namer::new(&snapshot).of(&judgement.sessions[0]);
    assert_eq!(names.service, Some("db"));
    assert!(names.task.unwrap().name.starts_with("db.1."));
}

#[test]
fn a_published_port_is_named_from_the_tasks_side() {
    let mut snapshot = swarm(Some(entry(800)));
    snapshot.namespaces[CLIENT].sockets.clear();
    let mut topology = topology();
    topology.networks[0].ingress = true;
    topology.networks[0].services[0].vip = None;
    topology.networks[0].services[0].ports.push(Port {
        published: 7000,
        target: 7000,
        protocol: None,
        host_mode: false,
    });
    snapshot.join(topology);
    let names = names(&snapshot);
    assert_eq!(names.service, Some("db"));
    assert!(names.task.is_some());
}

/// As after a restart of the Engine: it takes its rules away and makes them anew, and what the host
/// had translated by them is gone.
#[test]
fn a_published_port_that_the_host_has_forgotten_keeps_its_service() {
    let mut host = namespace(1, "host", &["192.168.77.2"]);
    host.sockets.push(socket("192.168.77.2:40000", "192.168.77.2:8081", 100));
    host.translates = true;
    host.conntrack = Some(conntrack());
    let mut snapshot = snapshot(vec![host]);
    let mut topology = topology();
    let network = &mut topology.networks[0];
    (network.name, network.ingress) = ("ingress".to_owned(), true);
    network.services[0].ports.push(Port {
        published: 8081,
        target: 7000,
        protocol: None,
        host_mode: false,
    });
    snapshot.join(topology);
    look_again(&mut snapshot, SecondLookResult::Confirmed);
    assert_eq!(judged(&snapshot).summary.orphaned, 1);
    let named = names(&snapshot);
    assert_eq!((named.network.unwrap().name.as_str(), named.service), ("ingress", Some("db")));
    snapshot.namespaces[0].sockets[0].remote.set_port(8082);
    assert!(names(&snapshot).network.is_none(), "nobody publishes that port");
}

#[test]
fn sessions_are_chosen_by_service_and_network() {
    let chosen = |select: &Select| {
        let mut snapshot = named(swarm(Some(entry(800))));
        snapshot.select(select, &BTreeSet::new()).map(|()| {
            let concerned = snapshot.namespaces.iter().filter(|it| snapshot.concerns(it)).count();
            (judged(&snapshot).sessions.len(), concerned)
        })
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let services = |given: &[&str]| Select { services: names(given), ..Select::default() };
    let networks = |given: &[&str]| Select { networks: names(given), ..Select::default() };
    let containers = |given: &[&str]| Select { containers: names(given), ..Select::default() };
    assert_eq!(chosen(&services(&["db"])), Ok((1, 1)));
    assert_eq!(chosen(&services(&["dba"])), Ok((0, 0)));
    assert_eq!(chosen(&networks(&["net1"])), Ok((1, 1)));
    assert_eq!(chosen(&networks(&["edja"])), Ok((1, 1)));
    assert_eq!(chosen(&containers(&["app"])), Ok((1, 1)));
    assert_eq!(chosen(&containers(&["db.1"])), Ok((1, 1)), "the other end counts");
    let why = |select: &Select| chosen(select).unwrap_err().to_string();
    assert!(why(&services(&["d"])).contains("fits several: db (s1), dba (s2)"));
    assert!(
        why(&networks(&["net2"])).contains("no network `net2` on this node; did you mean net1")
    );
    assert!(why(&containers(&["nobody"])).contains("no container `nobody`"));
}

#[test]
fn without_the_engine_names_cannot_be_looked_up_and_it_is_said_why() {
    let mut snapshot = swarm(Some(entry(800)));
    snapshot.unnamed.push("the Docker Engine at unix:///x did not answer within 3s".to_owned());
    let select = Select { services: vec!["db".to_owned()], ..Select::default() };
    let error = snapshot.select(&select, &BTreeSet::new()).unwrap_err().to_string();
    assert!(error.contains("no service `db`: the Docker Engine at"), "{error}");
    let codes: Vec<Code> = judged(&snapshot).findings.iter().map(|it| it.code).collect();
    assert!(codes.contains(&Code::NAMES_MISSING), "{codes:?}");
}

fn codes(snapshot: &Snapshot) -> Vec<Code> {
    judged(snapshot).findings.iter().map(|finding| finding.code).collect()
}

#[test]
fn settings_that_swarm_does_not_intend_are_findings() {
    let mut snapshot = named(swarm(Some(entry(800))));
    assert_eq!(codes(&snapshot), [Code::NO_KEEPALIVE]);
    tables(&mut snapshot).expire_nodest_conn = Some(false);
    let finding =
        judged(&snapshot).findings.into_iter().find(|it| it.code == Code::DIRECTOR_SETTINGS);
    let finding = finding.expect("a finding");
    assert_eq!(
        finding.fix,
        ["nsenter --net=/run/netns/lb_edja88p19 sysctl -w net.ipv4.vs.expire_nodest_conn=1"]
    );
    tables(&mut snapshot).conn_reuse_mode = Some(1);
    let both = codes(&snapshot).iter().filter(|it| **it == Code::DIRECTOR_SETTINGS).count();
    assert_eq!(both, 2);
    tables(&mut snapshot).expire_nodest_conn = Some(true);
    assert!(codes(&snapshot).contains(&Code::DIRECTOR_SETTINGS));
    snapshot.namespaces[DIRECTOR].path = Some("/run/netns/mine".to_owned());
    assert!(!codes(&snapshot).contains(&Code::DIRECTOR_SETTINGS), "another's director");
}

#[test]
fn what_else_changes_how_a_director_remembers_is_a_finding() {
    let mut snapshot = named(swarm(Some(entry(800))));
    tables(&mut snapshot).conntrack = Some(false);
    let fix = |snapshot: &Snapshot| {
        let findings = judged(snapshot).findings.into_iter();
        findings.filter(|it| it.code == Code::CONNTRACK_OFF).flat_map(|it| it.fix).collect()
    };
    let fixes: Vec<String> = fix(&snapshot);
    assert_eq!(fixes, ["nsenter --net=/run/netns/lb_edja88p19 sysctl -w net.ipv4.vs.conntrack=1"]);
    snapshot.topology.as_mut().unwrap().networks[0].dsr = true;
    let fixes: Vec<String> = fix(&snapshot);
    assert_eq!(fixes, ["docker network inspect -f '{{.Options}}' net1"], "it is meant so");
    snapshot.topology = None;
    let fixes: Vec<String> = fix(&snapshot);
    assert_eq!(fixes, ["nsenter --net=/run/netns/lb_edja88p19 sysctl net.ipv4.vs.conntrack"]);

    let mut snapshot = named(swarm(Some(entry(800))));
    snapshot.namespaces[DIRECTOR].conntrack = None;
    assert!(codes(&snapshot).contains(&Code::CONNTRACK_OFF), "a rule with --notrack");

    let mut snapshot = named(swarm(Some(entry(800))));
    snapshot.topology.as_mut().unwrap().networks[0].dsr = true;
    assert!(codes(&snapshot).contains(&Code::DIRECT_REPLIES));

    let mut snapshot = named(nat(Some(entry(800))));
    snapshot.namespaces[DIRECTOR].nftables_balances = true;
    assert!(codes(&snapshot).contains(&Code::NFTABLES_BALANCES));
}
