//! Keepalive on this kernel: what sockets have, as their own programs read it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{path::Path, time::Duration};

use common::{Language, Netns, Peer, Place};
use keepline_bpf::{
    Keepalive, NetnsCookie,
    keepalive::{Config, Rule, Selector, Settings, State},
};

const VIP: &str = "10.240.0.2";
/// What a socket reads that was left alone: keepalive, idle, interval, probes.
const UNTOUCHED: &str = "0 7200 75 9";

fn settings(idle: u64, interval: u64, probes: u8) -> Settings {
    Settings {
        idle: Duration::from_secs(idle),
        interval: Duration::from_secs(interval),
        probes: Some(probes),
        enforce: true,
    }
}

fn rule(netns: NetnsCookie, peer: Option<&str>, port: Option<u16>, settings: Settings) -> Rule {
    let peer = peer.map(|peer| peer.parse().unwrap());
    Rule { selector: Selector { netns, peer, port }, settings: Some(settings) }
}

/// All sockets of the place's control group.
fn all(place: &Place, settings: Settings) -> Config {
    Config {
        bpffs: place.bpffs.clone(),
        cgroup: place.cgroup.clone(),
        rules: Vec::new(),
        others: Some(settings),
    }
}

/// A server that takes connections at the VIP, outside of the control group.
fn server(netns: &Netns) -> Peer {
    let root = keepline_bpf::place::cgroup_root(Path::new("/proc")).unwrap();
    let mut server = Peer::new(Language::Python, netns, &root);
    server.does(&format!("listen {VIP} 7000"));
    server
}

fn state(place: &Place) -> Option<State> {
    Keepalive::read(&place.bpffs).unwrap()
}

#[test]
fn new_sockets_of_both_ends_and_every_kind() {
    skip_if_impossible!();
    let (place, netns) = (Place::new(), Netns::new(&["10.240.0.2/32", "fd00::2/128"]));
    let keepalive = Keepalive::apply(&all(&place, settings(300, 30, 5))).unwrap();
    // This kernel can do everything, with rules and without.
    let features = Keepalive::features().unwrap();
    assert_eq!(*keepalive.supported(), features);
    let every = [&features.new_sockets, &features.setsockopt, &features.selection];
    assert!(every.iter().all(|part| part.is_yes()), "{features:?}");
    let mut server = Peer::new(Language::Python, &netns, &place.cgroup);
    server.does("listen :: 7000");
    for language in Language::ALL {
        for vip in [VIP, "::ffff:10.240.0.2", "fd00::2"] {
            let mut client = Peer::new(language, &netns, &place.cgroup);
            client.does(&format!("connect {vip} 7000"));
            server.does("accept");
            assert_eq!(client.ask("get"), "1 300 30 5", "{language:?} to {vip}");
            assert_eq!(server.ask("get"), "1 300 30 5", "from {language:?} at {vip}");
            // The kernel's timer runs: not only the options say so.
            let timers = run_in(&netns, "ss -tnoH state established dport 7000");
            assert!(timers.contains("timer:(keepalive,4min"), "{timers}");
        }
    }
}

#[track_caller]
fn run_in(netns: &Netns, line: &str) -> String {
    common::run(&format!("ip netns exec {} {line}", netns.name))
}

#[test]
fn applications_own_shorter_times_are_kept() {
    skip_if_impossible!();
    let (place, netns) = (Place::new(), Netns::new(&["10.240.0.2/32"]));
    Keepalive::apply(&all(&place, settings(300, 30, 5))).unwrap();
    let _server = server(&netns);
    for language in Language::ALL {
        for (wishes, expected) in [
            (&["keepalive 1", "idle 60"][..], "1 60 30 5"),
            (&["idle 60", "interval 5", "probes 3"], "1 60 5 3"),
            // Asked for without a time, as nearly everybody does: 7200 s.
            (&["keepalive 1"], "1 300 30 5"),
            (&["keepalive 1", "idle 3600", "interval 600", "probes 9"], "1 300 30 9"),
        ] {
            let mut client = Peer::new(language, &netns, &place.cgroup);
            for wish in wishes {
                client.does(&format!("wish {wish}"));
            }
            client.does(&format!("connect {VIP} 7000"));
            assert_eq!(client.ask("get"), expected, "{language:?}: {wishes:?}");
        }
    }
    // A namespace whose own default is shorter is followed.
    run_in(&netns, "sysctl -qw net.ipv4.tcp_keepalive_time=120");
    let mut client = Peer::new(Language::C, &netns, &place.cgroup);
    client.does(&format!("connect {VIP} 7000"));
    assert_eq!(client.ask("get"), "1 120 30 5");
}

#[test]
fn who_overrides_later_is_held_to_the_limit() {
    skip_if_impossible!();
    let (place, netns) = (Place::new(), Netns::new(&["10.240.0.2/32"]));
    let mut config = all(&place, settings(300, 30, 5));
    let _server = server(&netns);
    for by_rule in [false, true] {
        if by_rule {
            config.rules = vec![rule(netns.cookie(), Some(VIP), Some(7000), settings(300, 30, 5))];
            config.others = None;
        }
        let keepalive = Keepalive::apply(&config).unwrap();
        assert!(keepalive.supported().setsockopt.is_yes(), "{:?}", keepalive.supported());
        for language in Language::ALL {
            let mut client = Peer::new(language, &netns, &place.cgroup);
            client.does(&format!("connect {VIP} 7000"));
            for (set, expected) in [
                ("idle 7200", "1 300 30 5"),
                ("interval 75", "1 300 30 5"),
                ("idle 100", "1 100 30 5"),
                ("interval 7", "1 100 7 5"),
                ("probes 9", "1 100 7 9"),
                ("keepalive 0", "1 100 7 9"),
                ("idle 400", "1 300 7 9"),
            ] {
                client.does(&format!("set {set}"));
                assert_eq!(client.ask("get"), expected, "{language:?}, by rule {by_rule}: {set}");
            }
            // Errors stay the application's.
            assert_eq!(client.ask("set idle 40000"), "EINVAL");
            assert_eq!(client.ask("set idle 0"), "EINVAL");
            // More than a page: the kernel alone decides.
            client.does("big 70000");
        }
    }
}

/// Of each rule on its own; where nobody is held to anything the program for that is not there.
#[test]
fn who_overrides_later_may_where_nobody_is_to_be_held() {
    skip_if_impossible!();
    let (place, netns) = (Place::new(), Netns::new(&["10.240.0.2/32"]));
    let _server = server(&netns);
    let free = Settings { enforce: false, ..settings(300, 30, 5) };
    let own = rule(netns.cookie(), Some(VIP), Some(7000), free);
    let later = |rules: &[Rule], others, expected: &str| {
        let config = Config { rules: rules.to_vec(), others, ..all(&place, free) };
        Keepalive::apply(&config).unwrap();
        let now = state(&place).unwrap();
        assert_eq!((now.rules.as_slice(), now.others), (rules, others), "as it was asked for");
        let mut client = Peer::new(Language::C, &netns, &place.cgroup);
        client.does(&format!("connect {VIP} 7000"));
        assert_eq!(client.ask("get"), "1 300 30 5");
        client.does("set idle 7200");
        client.does("set keepalive 0");
        assert_eq!(client.ask("get"), expected);
        now.hooks.len()
    };
    assert_eq!(later(&[], Some(free), "0 7200 30 5"), 1);
    assert_eq!(later(&[own], Some(settings(300, 30, 5)), "0 7200 30 5"), 2);
    let held = Rule { settings: Some(settings(300, 30, 5)), ..own };
    assert_eq!(later(&[held], Some(free), "1 300 30 5"), 2);
    assert_eq!(later(&[own], None, "0 7200 30 5"), 1);
    // Nobody but this one, whatever others get.
    let config = Config { rules: vec![Rule { settings: None, ..own }], ..all(&place, free) };
    Keepalive::apply(&config).unwrap();
    assert_eq!(state(&place).unwrap().rules, config.rules);
    let mut client = Peer::new(Language::C, &netns, &place.cgroup);
    client.does(&format!("connect {VIP} 7000"));
    assert_eq!(client.ask("get"), UNTOUCHED);
}

#[test]
fn rules_select_by_namespace_and_peer() {
    skip_if_impossible!();
    let place = Place::new();
    let addresses = ["10.240.0.2/32", "10.240.0.3/32", "fd00::2/128"];
    // The same VIP twice, and a namespace without a rule.
    let [one, two, none] = [0; 3].map(|_| Netns::new(&addresses));
    let config = Config {
        others: None,
        rules: vec![
            rule(one.cookie(), Some(VIP), None, settings(100, 10, 1)),
            rule(one.cookie(), Some(VIP), Some(7001), settings(101, 10, 1)),
            rule(one.cookie(), Some("fd00::2"), None, settings(102, 10, 1)),
            rule(two.cookie(), Some(VIP), None, settings(200, 20, 2)),
            rule(two.cookie(), None, None, settings(201, 20, 2)),
        ],
        ..all(&place, settings(1, 1, 1))
    };
    Keepalive::apply(&config).unwrap();
    for (netns, host, port, expected) in [
        (&one, VIP, 7000, "1 100 10 1"),
        (&one, "::ffff:10.240.0.2", 7000, "1 100 10 1"),
        (&one, VIP, 7001, "1 101 10 1"),
        (&one, "fd00::2", 7001, "1 102 10 1"),
        (&one, "10.240.0.3", 7000, UNTOUCHED),
        (&two, VIP, 7000, "1 200 20 2"),
        (&two, "10.240.0.3", 7000, "1 201 20 2"),
        (&two, "fd00::2", 7000, "1 201 20 2"),
        (&none, VIP, 7000, UNTOUCHED),
    ] {
        let mut server = Peer::new(Language::Python, netns, &place.cgroup);
        server.does(&format!("listen :: {port}"));
        let mut client = Peer::new(Language::C, netns, &place.cgroup);
        client.does(&format!("connect {host} {port}"));
        assert_eq!(client.ask("get"), expected, "{host}:{port} in {}", netns.name);
        // What the application may do with a socket that is not selected.
        if expected == UNTOUCHED {
            client.does("set idle 9000");
            assert_eq!(client.ask("get"), "0 9000 75 9");
        }
    }
    let state = state(&place).unwrap();
    let mut rules = config.rules.clone();
    rules.sort_unstable_by_key(|rule| rule.selector);
    assert_eq!(state.rules, rules);
    assert_eq!(state.others, None);
    let told = state.settings_for(two.cookie(), "::ffff:10.240.0.2".parse().unwrap(), 1);
    assert_eq!(told, Some(settings(200, 20, 2)));

    // Namespaces come and go.
    let changed = vec![
        rule(two.cookie(), None, None, settings(201, 20, 2)),
        rule(two.cookie(), Some(VIP), None, settings(210, 20, 2)),
        rule(none.cookie(), Some(VIP), None, settings(50, 5, 5)),
    ];
    let options = |netns: &Netns| {
        let _server = server(netns);
        let mut client = Peer::new(Language::C, netns, &place.cgroup);
        client.does(&format!("connect {VIP} 7000"));
        client.ask("get")
    };
    Keepalive::apply(&Config { rules: changed, ..config }).unwrap();
    assert_eq!([&one, &two, &none].map(options), [UNTOUCHED, "1 210 20 2", "1 50 5 5"]);
}
