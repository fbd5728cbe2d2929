//! What a real Engine 20.10 answers, on a manager and on a worker of the same Swarm. The expected
//! values are those that `ip addr` and `iptables-save` showed in the namespaces when recorded.

use std::{net::IpAddr, time::Duration};

use keepline_core::snapshot::{
    Topology,
    topology::{EndpointMode, Network, Port},
};

use crate::fake::{Answer, not_found, replay};

const MANAGER: &str = "engine-20.10/manager";
const WORKER: &str = "engine-20.10/worker";

const PATIENCE: Duration = Duration::from_secs(20);

fn of(folder: &str) -> Topology {
    replay(folder, |_| None).ask(PATIENCE).unwrap()
}

fn services(network: &Network) -> Vec<String> {
    network
        .services
        .iter()
        .map(|service| format!("{} {:?} {:?}", service.name, service.vip, service.fwmark))
        .collect()
}

fn tasks(network: &Network, service: &str) -> Vec<String> {
    let service = network.services.iter().find(|it| it.name == service).unwrap();
    let mut tasks: Vec<String> = service
        .tasks
        .iter()
        .map(|task| format!("{} {:?} {:?}", task.address, task.host.unwrap(), task.node.as_deref()))
        .collect();
    tasks.sort();
    tasks
}

#[test]
fn the_manager_itself() {
    let topology = of(MANAGER);
    assert_eq!(topology.incomplete, Vec::<String>::new());
    assert_eq!(topology.engine.as_deref(), Some("20.10.24+dfsg1"));
    assert_eq!(topology.node_id.as_deref(), Some("myihtc55ivuayqlhytcvwzirz"));
    assert_eq!(topology.node_name.as_deref(), Some("node1"));
    assert_eq!(topology.node_address, Some("192.168.77.1".parse().unwrap()));
    assert_eq!(topology.netns_folder.as_deref(), Some("/var/run/docker/netns"));
    assert!(topology.manager);
    let nodes: Vec<_> = topology.nodes.iter().map(|node| node.hostname.as_str()).collect();
    assert_eq!(nodes, ["node2", "node1"]);
}

#[test]
fn containers_of_the_manager() {
    let topology = of(MANAGER);
    let find = |name| topology.resolve_container(name).unwrap();
    let db = find("db");
    assert_eq!(topology.container_of_namespace("df91b06d7885"), Some(db));
    assert_eq!(db.service.as_ref().unwrap().name, "db");
    assert_eq!(db.task.as_ref().unwrap().id, "nb46b1jvyyxof4wey2bxurazh");
    assert_eq!((db.stack.as_deref(), &db.node), (Some("shop"), &topology.node_id));
    let net1 = topology.resolve_network("net1").unwrap();
    let backend = topology.resolve_network("backend").unwrap();
    assert_eq!(topology.container_at(&net1.id, "10.0.1.3".parse().unwrap()), Some(db));
    assert_eq!(topology.container_at(&backend.id, "10.0.2.3".parse().unwrap()), Some(db));

    let (client, sidecar, agent) = (find("client"), find("sidecar"), find("agent"));
    assert_eq!(client.service, None);
    assert_eq!(sidecar.shares.as_ref(), Some(&client.id));
    assert_eq!(sidecar.sandbox, client.sandbox);
    assert_eq!(topology.container_of_namespace("b0054c1a3118"), Some(client));
    assert!(agent.host_network && !sidecar.host_network);
    assert_eq!(topology.container_of_namespace("default"), None);
}

#[test]
fn networks_of_the_manager() {
    let topology = of(MANAGER);
    let net1 = topology.network_of_director("lb_jta40zmmg").unwrap();
    assert_eq!((net1.name.as_str(), net1.dsr), ("net1", false));
    assert_eq!(net1.overlay_namespace.as_deref(), Some("1-jta40zmmgg"));
    assert_eq!(net1.lb_address, Some("10.0.1.5".parse().unwrap()));
    assert_eq!(
        services(net1),
        ["db Some(10.0.1.2) Some(259)", "names None Some(257)", "web Some(10.0.1.8) Some(260)"]
    );
    assert_eq!(
        tasks(net1, "db"),
        ["10.0.1.3 192.168.77.1 Some(\"node1\")", "10.0.1.4 192.168.77.2 Some(\"node2\")"]
    );
    assert!(net1.holds("10.0.1.77".parse().unwrap()) && !net1.holds("10.0.2.1".parse().unwrap()));
    let taken = |address: &str| net1.is_taken(address.parse().unwrap());
    assert!(taken("10.0.1.2") && taken("10.0.1.10") && !taken("10.0.1.77"));
    let backend = topology.network_of_director("lb_uxf1fulf4").unwrap();
    assert_eq!(backend.attached, ["10.0.2.7".parse::<IpAddr>().unwrap()], "attached by hand");
    assert_eq!((backend.name.as_str(), backend.dsr), ("backend", true));
    let ingress = topology.network_of_director("ingress_sbox").unwrap();
    assert_eq!(ingress.lb_address, Some("10.0.0.2".parse().unwrap()));
    assert_eq!(services(ingress), ["web Some(10.0.0.4) Some(256)"]);
    let port = Port { published: 8080, target: 7000, protocol: None, host_mode: false };
    assert_eq!(ingress.service_marked(0x100).unwrap().ports, [port]);
    let gateway = topology.resolve_network("docker_gwbridge").unwrap();
    assert_eq!(gateway.bridge.as_deref(), Some("docker_gwbridge"));
}

#[test]
fn services_of_the_manager() {
    let topology = of(MANAGER);
    let find = |name| topology.resolve_service(name).unwrap();
    assert_eq!(find("db").mode, Some(EndpointMode::Vip));
    assert_eq!(find("names").mode, Some(EndpointMode::Dnsrr));
    let port = |published, target, host_mode| Port {
        published,
        target,
        protocol: Some("tcp".to_owned()),
        host_mode,
    };
    let mut ports = find("web").ports.clone();
    ports.sort_by_key(|port| port.published);
    assert_eq!(ports, [port(8080, 7000, false), port(8081, 7001, true)]);
    assert_eq!(topology.services.len(), 3);
}

/// A service keeps its address while it is scaled to nothing, and its networks leave it out. That they
/// do alone proves nothing: after the Engine's restart their lists fill anew.
#[test]
fn a_manager_tells_of_services_of_which_no_task_runs() {
    let lone = |path: &str| path.starts_with("/networks/jta40zmm");
    let without_tasks = move |path: &str| match path {
        path if path.starts_with("/tasks?") => Some(Answer::Json("[]".to_owned())),
        path if lone(path) => Some(Answer::Json(r#"{"Services":{}}"#.to_owned())),
        _ => None,
    };
    let topology = replay(MANAGER, without_tasks).ask(PATIENCE).unwrap();
    let idle = |topology: &Topology, director: &str| {
        let network = topology.network_of_director(director).unwrap();
        let idle = network.services.iter().filter(|service| service.idle);
        idle.map(|it| format!("{} {}", it.name, it.vip.unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(idle(&topology, "lb_jta40zmmg"), ["db 10.0.1.2", "web 10.0.1.8"]);
    assert_eq!(idle(&topology, "lb_uxf1fulf4"), ["db 10.0.2.2"], "listed there still");

    let restarted = move |path: &str| lone(path).then(|| without_tasks(path)).flatten();
    let topology = replay(MANAGER, restarted).ask(PATIENCE).unwrap();
    assert_eq!(idle(&topology, "lb_jta40zmmg"), [] as [&str; 0], "its tasks run");
    let refused = |path: &str| path.starts_with("/tasks?").then(not_found);
    let topology = replay(MANAGER, refused).ask(PATIENCE).unwrap();
    assert!(!topology.incomplete.is_empty());
    assert_eq!(idle(&topology, "lb_uxf1fulf4"), [] as [&str; 0], "nobody told");
}

#[test]
fn a_worker_knows_the_same_but_for_names_of_other_nodes() {
    let fake = replay(WORKER, |_| None);
    let topology = fake.ask(PATIENCE).unwrap();
    assert_eq!(topology.incomplete, Vec::<String>::new());
    assert!(!topology.manager && topology.nodes.is_empty());
    assert_eq!(topology.node_name.as_deref(), Some("node2"));
    // What only managers answer is not asked.
    let asked = fake.asked();
    let for_managers = |path: &&String| {
        ["/services", "/tasks", "/nodes"].iter().any(|start| path.starts_with(start))
    };
    assert_eq!(asked.iter().find(for_managers), None);

    let net1 = topology.network_of_director("lb_jta40zmmg").unwrap();
    assert_eq!(net1.lb_address, Some("10.0.1.6".parse().unwrap()));
    // VIPs are those of the Swarm, marks are this node's own.
    assert_eq!(
        services(net1),
        ["db Some(10.0.1.2) Some(258)", "names None Some(257)", "web Some(10.0.1.8) Some(260)"]
    );
    assert_eq!(
        tasks(net1, "db"),
        ["10.0.1.3 192.168.77.1 None", "10.0.1.4 192.168.77.2 Some(\"node2\")"]
    );
    let services: Vec<_> = topology
        .services
        .iter()
        .map(|service| (service.name.as_str(), service.id.as_deref().unwrap(), service.mode))
        .collect();
    assert_eq!(
        services,
        [
            ("db", "q0etspv449gkttkowmyh53kcj", Some(EndpointMode::Vip)),
            ("names", "jr3i0vbbatcl1iy2v7lcyd8ar", Some(EndpointMode::Dnsrr)),
            ("web", "ubgwq9tkrt28t43he9v077dqc", Some(EndpointMode::Vip)),
        ]
    );
    let port = Port { published: 8080, target: 7000, protocol: None, host_mode: false };
    assert_eq!(topology.resolve_service("web").unwrap().ports, [port]);
}
