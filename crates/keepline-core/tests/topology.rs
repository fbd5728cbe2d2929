//! Lookups in the topology, and what a user's word stands for.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{collections::BTreeMap, net::IpAddr};

use keepline_core::snapshot::topology::{
    Attachment, Container, Network, NetworkService, Node, ResolveError, Service, Task, Topology,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn container(id: &str, name: &str) -> Container {
    Container {
        id: id.to_owned(),
        name: name.to_owned(),
        sandbox: Some(format!("/var/run/docker/netns/{}", &id[..4])),
        host_network: false,
        shares: None,
        service: None,
        task: None,
        stack: None,
        node: None,
        labels: BTreeMap::new(),
        networks: Vec::new(),
    }
}

fn network(id: &str, name: &str, vip: &str) -> Network {
    Network {
        id: id.to_owned(),
        name: name.to_owned(),
        lb_namespace: Some(format!("lb_{}", &id[..4])),
        services: vec![NetworkService {
            name: format!("service-of-{name}"),
            vip: Some(ip(vip)),
            fwmark: Some(256),
            ports: Vec::new(),
            tasks: vec![Task {
                name: "task.1.x".to_owned(),
                address: ip("10.0.1.4"),
                host: None,
                node: None,
                endpoint: None,
            }],
            idle: false,
        }],
        ..Network::default()
    }
}

/// Two networks with the same addresses, as overlays may have.
fn overlapping() -> Topology {
    let mut one = container("aaaa1111", "one");
    let mut two = container("bbbb2222", "two");
    for (container, network) in [(&mut one, "net1"), (&mut two, "net2")] {
        container.networks.push(Attachment {
            network: network.to_owned(),
            name: network.to_owned(),
            addresses: vec![ip("10.0.1.6")],
        });
    }
    Topology {
        containers: vec![one, two],
        networks: vec![network("net1", "red", "10.0.1.2"), network("net2", "blue", "10.0.1.2")],
        ..Topology::default()
    }
}

#[test]
fn addresses_are_looked_up_within_their_network() {
    let topology = overlapping();
    let at = |network| topology.container_at(network, ip("10.0.1.6")).unwrap();
    assert_eq!(at("net1").name, "one");
    assert_eq!(at("net2").name, "two");
    assert_eq!(topology.container_at("net3", ip("10.0.1.6")), None);
    let blue = topology.network_of_director("lb_net2").unwrap();
    assert_eq!(blue.service_at(ip("10.0.1.2")).unwrap().name, "service-of-blue");
    assert_eq!(blue.service_at(ip("10.0.1.3")), None);
    assert_eq!(blue.service_marked(256).unwrap().name, "service-of-blue");
    assert_eq!(blue.service_marked(257), None);
    let (service, task) = blue.task_at(ip("10.0.1.4")).unwrap();
    assert_eq!((service.name.as_str(), task.name.as_str()), ("service-of-blue", "task.1.x"));
    assert_eq!(topology.network_of_director("lb_net9"), None);
    assert_eq!(topology.network("net1").unwrap().name, "red");
}

#[test]
fn a_namespace_belongs_to_its_owner_alone() {
    let mut host = container("cccc3333", "agent");
    host.sandbox = Some("/var/run/docker/netns/default".to_owned());
    host.host_network = true;
    let mut sidecar = container("dddd4444", "sidecar");
    sidecar.sandbox = Some("/var/run/docker/netns/aaaa".to_owned());
    sidecar.shares = Some("aaaa1111".to_owned());
    let topology = Topology {
        containers: vec![sidecar, host, container("aaaa1111", "app")],
        ..Topology::default()
    };
    assert_eq!(topology.container_of_namespace("aaaa").unwrap().name, "app");
    assert_eq!(topology.container_of_namespace("default"), None);
    assert_eq!(topology.container_of_namespace(""), None);
}

#[test]
fn nodes_are_known_by_id_or_address() {
    let node = |id: &str, hostname: &str, address: Option<&str>| Node {
        id: id.to_owned(),
        hostname: hostname.to_owned(),
        address: address.map(ip),
    };
    let topology = Topology {
        node_id: Some("self".to_owned()),
        node_name: Some("node1".to_owned()),
        node_address: Some(ip("192.168.77.1")),
        nodes: vec![node("n2", "node2", Some("192.168.77.2")), node("n3", "node3", None)],
        ..Topology::default()
    };
    let by_id = |id| topology.node_name_of(Some(id), None);
    let by_address = |address| topology.node_name_of(None, Some(ip(address)));
    assert_eq!(
        (by_id("self"), by_id("n2"), by_id("n3")),
        (Some("node1"), Some("node2"), Some("node3"))
    );
    assert_eq!(by_address("192.168.77.1"), Some("node1"));
    assert_eq!(by_address("192.168.77.2"), Some("node2"));
    assert_eq!(by_address("192.168.77.9"), None);
    // What is not known is not equal to what is not known.
    assert_eq!(topology.node_name_of(None, None), None);
    assert_eq!(Topology::default().node_name_of(None, None), None);
}

fn shop() -> Topology {
    let service = |id: Option<&str>, name: &str| Service {
        id: id.map(str::to_owned),
        name: name.to_owned(),
        mode: None,
        ports: Vec::new(),
        vips: vec![],
        labels: BTreeMap::new(),
    };
    Topology {
        containers: vec![
            container("1aaa1111", "web"),
            container("2bbb2222", "web.2.h9xq"),
            container("3ccc3333", "web.20.k3mz"),
            container("4ddd4444", "api.1.aa"),
            container("4dee5555", "api.2.bb"),
            container("5fff6666", "database"),
        ],
        networks: vec![
            network("n1aa", "backend", "10.0.1.2"),
            network("n2bb", "backend", "10.0.2.2"),
        ],
        services: vec![service(None, "shop_db"), service(Some("s1"), "shop_web")],
        ..Topology::default()
    }
}

#[test]
fn ids_names_and_beginnings_find_the_one() {
    let topology = shop();
    for (wanted, name) in [
        ("1aaa1111", "web"),
        ("2bb", "web.2.h9xq"),
        // A full name wins over names that it begins.
        ("web", "web"),
        // A slot wins over slots that it begins.
        ("web.2", "web.2.h9xq"),
        ("web.20", "web.20.k3mz"),
        ("data", "database"),
    ] {
        assert_eq!(topology.resolve_container(wanted).unwrap().name, name, "{wanted}");
    }
    assert_eq!(topology.resolve_service("shop_d").unwrap().name, "shop_db");
    assert_eq!(topology.resolve_service("s1").unwrap().name, "shop_web");
    assert_eq!(topology.resolve_network("n2bb").unwrap().id, "n2bb");
}

#[test]
fn several_that_fit_are_all_listed() {
    let topology = shop();
    for (error, text) in [
        (
            topology.resolve_container("api").unwrap_err(),
            "container `api` fits several: api.1.aa (4ddd4444), api.2.bb (4dee5555)",
        ),
        (
            topology.resolve_container("4d").unwrap_err(),
            "container `4d` fits several: api.1.aa (4ddd4444), api.2.bb (4dee5555)",
        ),
        (
            topology.resolve_network("backend").unwrap_err(),
            "network `backend` fits several: backend (n1aa), backend (n2bb)",
        ),
        (
            topology.resolve_service("shop").unwrap_err(),
            "service `shop` fits several: shop_db, shop_web (s1)",
        ),
    ] {
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn what_does_not_fit_is_answered_with_what_comes_near() {
    let topology = shop();
    for (error, text) in [
        (
            topology.resolve_container("datbase").unwrap_err(),
            "no container `datbase` on this node; did you mean database?",
        ),
        (
            topology.resolve_service("db").unwrap_err(),
            "no service `db` on this node; did you mean shop_db?",
        ),
        // Of a task people type the service: with a slip, the service is what comes near.
        (
            topology.resolve_container("apu").unwrap_err(),
            "no container `apu` on this node; did you mean api.1.aa, api.2.bb?",
        ),
        (topology.resolve_network("zzz").unwrap_err(), "no network `zzz` on this node"),
        (topology.resolve_network("").unwrap_err(), "no network `` on this node"),
    ] {
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn names_cannot_write_to_the_terminal() {
    let topology = Topology {
        services: ["evil\u{1b}[2J1", "evil\u{1b}[2J2"]
            .map(|name| Service {
                id: None,
                name: name.to_owned(),
                mode: None,
                ports: Vec::new(),
                vips: vec![],
                labels: BTreeMap::new(),
            })
            .to_vec(),
        ..Topology::default()
    };
    for wanted in ["evil", "evill\u{1b}[2J"] {
        let error = topology.resolve_service(wanted).unwrap_err();
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
    }
    let near = topology.resolve_service("evill\u{1b}[2J1").unwrap_err();
    assert!(matches!(near, ResolveError::Unknown { near, .. } if !near.is_empty()));
}

#[test]
fn survives_a_capture() {
    for topology in [Topology::default(), overlapping(), shop()] {
        let text = serde_json::to_string(&topology).unwrap();
        assert_eq!(serde_json::from_str::<Topology>(&text).unwrap(), topology);
    }
    // A capture without any of the optional parts.
    assert_eq!(serde_json::from_str::<Topology>("{}").unwrap(), Topology::default());
}
