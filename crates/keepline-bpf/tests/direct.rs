//! Virtual addresses that are answered directly, on this kernel: who answers, and what the clients
//! see. A trap listens at every VIP: nothing may reach it.

mod common;

use common::{
    Language, Place,
    net::{Net, VIP, VIP6, apply, backends, map_of, parse, service, spread, vip},
};
use keepline_bpf::{
    Changes, Direct,
    direct::{Protocol, Service},
};
use libbpf_rs::MapCore;

#[test]
fn every_kind_of_socket_reaches_a_backend_and_names_the_vip() {
    skip_if_impossible!();
    let place = Place::new();
    let net = Net::new(&["10.240.1.1", "fd00::11"]);
    let mut six = service(&net.netns, &[("fd00::11", 1)]);
    six.vip.address = VIP6.parse().unwrap();
    let direct = apply(&place, vec![service(&net.netns, &[("10.240.1.1", 1)]), six]);
    let features = Direct::features().unwrap();
    assert_eq!(*direct.supported(), features);
    let every = [
        &features.connections,
        &features.ipv6,
        &features.datagrams,
        &features.peer_name,
        &features.refusal,
    ];
    assert!(every.iter().all(|part| part.is_yes()), "{features:?}");
    for language in Language::ALL {
        for (asked, backend) in [
            (VIP, "10.240.1.1"),
            ("::ffff:10.240.0.2", "10.240.1.1"),
            (VIP6, "fd00::11"),
            // Not a VIP: as ever.
            ("10.240.1.1", "10.240.1.1"),
        ] {
            let mut client = net.client(language, &place);
            client.does(&format!("connect {asked} 7000"));
            assert_eq!(client.ask("receive"), backend, "{language:?} to {asked}");
            assert_eq!(client.ask("peer"), format!("{asked} 7000"), "{language:?}");
        }
    }
    // For the kernel there is no VIP: nothing between could forget the session.
    let mut client = net.client(Language::C, &place);
    client.does(&format!("connect {VIP} 7000"));
    let sockets =
        common::run(&format!("ip netns exec {} ss -tnH state established", net.netns.name));
    assert!(sockets.contains("10.240.1.1:7000") && !sockets.contains(VIP), "{sockets}");
}

#[test]
fn backends_are_chosen_by_weight_and_none_is_a_refusal() {
    skip_if_impossible!();
    let place = Place::new();
    let net = Net::new(&["10.240.1.1", "10.240.1.2", "10.240.1.3"]);
    apply(
        &place,
        vec![service(&net.netns, &[("10.240.1.1", 1), ("10.240.1.2", 3), ("10.240.1.3", 0)])],
    );
    let mut client = net.client(Language::Python, &place);
    let answers = spread(&mut client, VIP, 2000);
    // 500 and 1500, give or take five standard deviations.
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert!((400..600).contains(&answers["10.240.1.1"]), "{answers:?}");
    // One that is drained keeps what it has and gets nothing new.
    let mut kept = net.client(Language::C, &place);
    kept.does(&format!("connect {VIP} 7000"));
    let drained = [("10.240.1.1", 0), ("10.240.1.2", 0)];
    let changes = Direct::update(&place.bpffs, &[service(&net.netns, &drained)]).unwrap();
    assert_eq!(changes, Changes { changed: 1, ..Changes::default() });
    assert!(kept.ask("receive").starts_with("10.240.1."));
    assert_eq!(kept.ask("peer"), format!("{VIP} 7000"));
    for none in [&drained[..], &[]] {
        Direct::update(&place.bpffs, &[service(&net.netns, none)]).unwrap();
        for language in Language::ALL {
            let mut client = net.client(language, &place);
            for asked in [VIP, "::ffff:10.240.0.2"] {
                assert_eq!(client.ask(&format!("connect {asked} 7000")), "ECONNREFUSED");
            }
        }
    }
    // Taken out, the VIP is an address like any other.
    let changes = Direct::update(&place.bpffs, &[]).unwrap();
    assert_eq!(changes, Changes { removed: 1, ..Changes::default() });
    assert_eq!(spread(&mut client, VIP, 1), parse("TRAP=1"));
}

#[test]
fn the_most_exact_port_decides() {
    skip_if_impossible!();
    let place = Place::new();
    let net = Net::new(&["10.240.1.1", "10.240.1.2"]);
    let any = service(&net.netns, &[("10.240.1.1", 1)]);
    let mut exact = service(&net.netns, &[("10.240.1.2", 1)]);
    exact.vip.port = Some(80);
    exact.backends[0].port = Some(7000);
    apply(&place, vec![any, exact]);
    let mut client = net.client(Language::Python, &place);
    client.does(&format!("connect {VIP} 80"));
    assert_eq!(client.ask("receive"), "10.240.1.2");
    assert_eq!(client.ask("peer"), format!("{VIP} 80"));
    client.does(&format!("connect {VIP} 7000"));
    assert_eq!(client.ask("receive"), "10.240.1.1");
    // Nobody there: the backend's own refusal.
    assert_eq!(client.ask(&format!("connect {VIP} 81")), "ECONNREFUSED");
}

#[test]
fn datagrams_there_and_back() {
    skip_if_impossible!();
    let place = Place::new();
    let hosts = ["10.240.1.1", "10.240.1.2", "fd00::11"];
    let net = Net::new(&hosts);
    let udp = |address, of: &[(&str, u32)]| Service {
        vip: vip(net.netns.cookie(), address, Some(7000), Protocol::Udp),
        backends: backends(of),
    };
    let all = [udp(VIP, &[(hosts[0], 1), (hosts[1], 1)]), udp(VIP6, &[(hosts[2], 1)])];
    apply(&place, all.to_vec());
    for (asked, origin) in [(VIP, VIP), ("::ffff:10.240.0.2", "::ffff:10.240.0.2"), (VIP6, VIP6)] {
        let mut client = net.client(Language::Python, &place);
        // One socket keeps its backend, and hears from whom it asked.
        let answer = client.ask(&format!("udp {asked} 7000 50"));
        let (backend, from) = answer.split_once(' ').unwrap();
        assert!(hosts.contains(&backend), "{asked}: {answer}");
        assert_eq!(from, format!("{origin} 7000"), "{asked}: {answer}");
        // One that is connected is the director's.
        let connected = client.ask(&format!("udp-connected {asked} 7000"));
        assert_eq!(connected, format!("TRAP {origin} 7000 {origin} 7000"), "{asked}");
    }
    // Draining does not move a socket, taking away does.
    let mut client = net.client(Language::Python, &place);
    let first = client.ask(&format!("udp {VIP} 7000 1"));
    let (kept, other) =
        if first.starts_with(hosts[0]) { (hosts[0], hosts[1]) } else { (hosts[1], hosts[0]) };
    let mut set = |of: &[(&str, u32)]| {
        Direct::update(&place.bpffs, &[udp(VIP, of)]).unwrap();
        client.ask(&format!("udp {VIP} 7000 20"))
    };
    assert_eq!(set(&[(kept, 0), (other, 1)]), first);
    assert_eq!(set(&[(other, 1)]), format!("{other} {VIP} 7000"));
    assert_eq!(set(&[]), "ECONNREFUSED");
    // Only UDP was asked for.
    assert_eq!(spread(&mut client, VIP, 1), parse("TRAP=1"));
}

/// The kernel displaces what was not used for longest, each half of a flow by itself.
#[test]
fn the_origin_of_answers_is_known_again_when_it_was_displaced() {
    skip_if_impossible!();
    let (place, net) = (Place::new(), Net::new(&["10.240.1.1"]));
    let service = Service {
        vip: vip(net.netns.cookie(), VIP, None, Protocol::Udp),
        backends: backends(&[("10.240.1.1", 1)]),
    };
    apply(&place, vec![service]);
    let flows = map_of(&place, "keepline_flows");
    let mut client = net.client(Language::Python, &place);
    for is_answer in [0, 1, 1] {
        let expected = format!("10.240.1.1 {VIP} 7000");
        assert_eq!(client.ask(&format!("udp {VIP} 7000 2")), expected);
        // `is_answer` of `struct flow_key`.
        let half = flows.keys().find(|key| key[28] == is_answer).unwrap();
        flows.delete(&half).unwrap();
    }
}

/// It hears its peer only, and that is the VIP: the answer of a backend would be lost.
#[test]
fn connected_datagram_sockets_stay_with_their_director() {
    skip_if_impossible!();
    let place = Place::new();
    let net = Net::new(&["10.240.1.1", "fd00::11"]);
    let udp = |address, backend| Service {
        vip: vip(net.netns.cookie(), address, None, Protocol::Udp),
        backends: backends(&[(backend, 1)]),
    };
    let services = vec![udp(VIP, "10.240.1.1"), udp(VIP6, "fd00::11")];
    let mut clients = [VIP, "::ffff:10.240.0.2", VIP6].map(|asked| {
        let mut client = net.client(Language::Python, &place);
        client.does(&format!("udp-connect {asked} 7000"));
        (asked, client)
    });
    let mut all_reach = |when: &str| {
        for (asked, client) in &mut clients {
            for to in [String::new(), format!(" {asked} 7000")] {
                let answer = client.ask(&format!("udp-send{to}"));
                assert_eq!(answer, format!("TRAP {asked} 7000"), "{when}, to `{to}`");
            }
        }
    };
    all_reach("before");
    apply(&place, services);
    all_reach("afterwards");
    // To another VIP than its peer: it would not hear the answer, whoever gave it.
    let mut client = net.client(Language::Python, &place);
    client.does("udp-connect 10.240.1.1 7000");
    assert_eq!(client.ask(&format!("udp-send {VIP} 7000")), "timed out");
    assert_eq!(client.ask("udp-send"), "10.240.1.1 10.240.1.1 7000");
    // Connected while it is applied.
    client.does(&format!("udp-connect {VIP} 7000"));
    assert_eq!(client.ask("udp-send"), format!("TRAP {VIP} 7000"));
}

#[test]
fn a_socket_that_is_connected_elsewhere_names_its_new_peer() {
    skip_if_impossible!();
    let place = Place::new();
    let net = Net::new(&["10.240.1.1"]);
    apply(&place, vec![service(&net.netns, &[("10.240.1.1", 1)])]);
    let mut client = net.client(Language::Python, &place);
    client.does(&format!("connect {VIP} 7000"));
    assert_eq!(client.ask("peer"), format!("{VIP} 7000"));
    for asked in ["10.240.1.1", VIP] {
        client.does(&format!("reconnect {asked} 7000"));
        assert_eq!(client.ask("peer"), format!("{asked} 7000"));
    }
}

#[test]
fn the_same_vip_in_two_networks() {
    skip_if_impossible!();
    let place = Place::new();
    let [one, two, none] = [&["10.240.1.1"][..], &["10.240.1.2"], &[]].map(Net::new);
    let mut services =
        vec![service(&one.netns, &[("10.240.1.1", 1)]), service(&two.netns, &[("10.240.1.2", 1)])];
    // A later namespace may have a smaller cookie: each processor has a range of its own.
    services.sort_unstable_by_key(|service| service.vip);
    apply(&place, services.clone());
    for (net, expected) in [(&one, "10.240.1.1=20"), (&two, "10.240.1.2=20"), (&none, "TRAP=20")] {
        let mut client = net.client(Language::Python, &place);
        assert_eq!(spread(&mut client, VIP, 20), parse(expected));
        assert_eq!(spread(&mut client, "::ffff:10.240.0.2", 20), parse(expected));
    }
    let state = Direct::read(&place.bpffs).unwrap().unwrap();
    assert_eq!(state.services, services);
    assert_eq!(state.version, env!("CARGO_PKG_VERSION"));
    assert!(state.is_alive());
}
