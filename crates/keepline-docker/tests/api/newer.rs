//! An Engine 29: fields missing, fields new, and another exec-root.

use std::time::Duration;

use keepline_core::snapshot::topology::{EndpointMode, Port};

use crate::fake::{Answer, Fake, recorded, replay};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn containers() {
    let topology = replay("engine-29", |_| None).ask(PATIENCE).unwrap();
    assert_eq!(topology.incomplete, Vec::<String>::new());
    assert_eq!(topology.engine.as_deref(), Some("29.1.3"));
    assert_eq!(topology.node_name.as_deref(), Some("alpha"));
    assert_eq!(topology.netns_folder.as_deref(), Some("/run/docker-b/netns"));
    let names: Vec<&str> = topology.containers.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["shop_web.1.t1a2s3k4t5a6s7k8t9a0s1k2t", "resolver", "agent", "loose"]);
    let [web, resolver, agent, loose] = &topology.containers[..] else { panic!() };
    assert_eq!(web.stack.as_deref(), Some("shop"));
    assert_eq!(web.service.as_ref().unwrap().name, "shop_web");
    assert_eq!(web.task.as_ref().unwrap().id, "t1a2s3k4t5a6s7k8t9a0s1k2t");
    let addresses: Vec<String> = web
        .networks
        .iter()
        .flat_map(|it| it.addresses.iter().map(|address| format!("{} {address}", it.name)))
        .collect();
    assert_eq!(addresses, ["ingress 10.0.0.5", "shop_net 10.5.1.5", "shop_net fd00:5::5"]);
    assert_eq!(topology.container_of_namespace("0a1b2c3d4e5f"), Some(web));
    assert_eq!(resolver.service, None);
    assert!(agent.host_network && !web.host_network);
    assert_eq!(topology.container_of_namespace("default"), None);
    assert_eq!(loose.networks, []);
    assert_eq!(loose.sandbox.as_deref(), Some("/run/docker-b/netns/2a1b2c3d4e5f"));
}

#[test]
fn networks() {
    let topology = replay("engine-29", |_| None).ask(PATIENCE).unwrap();
    let shop = topology.network_of_director("lb_7m2qk1x0c").unwrap();
    assert_eq!(shop.name, "shop_net");
    assert!(shop.dsr && !shop.ingress);
    assert_eq!(shop.overlay_namespace.as_deref(), Some("1-7m2qk1x0c9"));
    assert_eq!(shop.lb_address, Some("10.5.1.3".parse().unwrap()));
    // Containers attached by hand are no service; what has no address is no task.
    let names: Vec<&str> = shop.services.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["shop_dns", "shop_off", "shop_web"]);
    let [dns, off, web] = &shop.services[..] else { panic!() };
    assert_eq!((dns.vip, dns.fwmark), (None, None));
    assert_eq!((off.vip, off.fwmark, off.tasks.len()), (None, None, 0));
    assert_eq!((web.vip, web.fwmark), (Some("10.5.1.2".parse().unwrap()), Some(261)));
    let nodes: Vec<_> = web.tasks.iter().map(|task| task.node.as_deref().unwrap()).collect();
    assert_eq!(nodes, ["alpha", "beta"]);
    // Its Info is null: the list of tasks knows where it runs.
    assert_eq!(dns.tasks[0].node.as_deref(), Some("beta"));

    let ingress = topology.network_of_director("ingress_sbox").unwrap();
    assert!(ingress.ingress && !ingress.dsr);
    assert_eq!(ingress.lb_address, Some("10.0.0.2".parse().unwrap()));
    let port = Port { published: 8080, target: 80, protocol: None, host_mode: false };
    assert_eq!(ingress.services[0].ports, [port]);

    let bridges: Vec<_> = topology.networks.iter().filter_map(|it| it.bridge.as_deref()).collect();
    assert_eq!(bridges, ["docker0", "br-abcdef012345"]);
    for local in topology.networks.iter().filter(|it| it.driver != "overlay") {
        assert_eq!((&local.lb_namespace, &local.overlay_namespace), (&None, &None));
    }
}

#[test]
fn services_and_nodes() {
    let topology = replay("engine-29", |_| None).ask(PATIENCE).unwrap();
    let modes: Vec<_> =
        topology.services.iter().map(|service| (service.name.as_str(), service.mode)).collect();
    assert_eq!(
        modes,
        [
            ("shop_web", Some(EndpointMode::Vip)),
            ("shop_dns", Some(EndpointMode::Dnsrr)),
            ("shop_job", Some(EndpointMode::Vip)),
            // A mode that only newer Engines know.
            ("shop_new", None),
            // Seen in a network only: it was removed between the two questions.
            ("shop_off", Some(EndpointMode::Dnsrr)),
        ]
    );
    let tcp = Port { published: 8080, target: 80, protocol: Some("tcp".into()), host_mode: false };
    let udp = Port { published: 5353, target: 53, protocol: Some("udp".into()), host_mode: true };
    assert_eq!(topology.services[0].ports, [tcp, udp]);
    let nodes: Vec<_> = topology
        .nodes
        .iter()
        .map(|node| (node.hostname.as_str(), node.address.unwrap().to_string()))
        .collect();
    assert_eq!(nodes, [("alpha", "10.9.0.1".to_owned()), ("beta", "10.9.0.2".to_owned())]);
}

#[test]
fn the_same_over_tcp_and_in_pieces() {
    let unix = replay("engine-29", |_| None).ask(PATIENCE).unwrap();
    let answers = recorded("engine-29");
    let tcp = Fake::tcp(move |path| {
        let path = path.split_once("?filters").map_or(path, |(path, _)| path);
        Answer::Chunked(answers[path].clone())
    });
    assert_eq!(tcp.ask(PATIENCE).unwrap(), unix);
}
