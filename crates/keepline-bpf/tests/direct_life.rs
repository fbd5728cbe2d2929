//! How direct comes, is changed and replaced under load, survives and goes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeSet, process::Child, time::Duration};

use common::{
    Language, Peer, Place,
    foreign::{Foreign, Statistics, attached},
    helped, helper, is_mounted,
    net::{Net, VIP, apply, backends, parse, service, spread, vip},
    other_version::OtherVersion,
    wait_for,
};
use keepline_bpf::{
    Direct, NetnsCookie,
    direct::{Config, Protocol, Service},
};
use libbpf_sys::{
    BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET4_GETPEERNAME, BPF_CGROUP_INET6_CONNECT,
    BPF_CGROUP_INET6_GETPEERNAME, BPF_CGROUP_UDP4_RECVMSG, BPF_CGROUP_UDP4_SENDMSG,
    BPF_CGROUP_UDP6_RECVMSG, BPF_CGROUP_UDP6_SENDMSG, BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
};

const HOOKS: [u32; 8] = [
    BPF_CGROUP_INET4_CONNECT,
    BPF_CGROUP_INET6_CONNECT,
    BPF_CGROUP_UDP4_SENDMSG,
    BPF_CGROUP_UDP6_SENDMSG,
    BPF_CGROUP_UDP4_RECVMSG,
    BPF_CGROUP_UDP6_RECVMSG,
    BPF_CGROUP_INET4_GETPEERNAME,
    BPF_CGROUP_INET6_GETPEERNAME,
];
const HOSTS: [&str; 6] =
    ["10.240.1.1", "10.240.1.2", "10.240.1.3", "10.240.1.4", "10.240.1.5", "10.240.1.6"];

fn first(count: usize) -> Vec<(&'static str, u32)> {
    HOSTS.iter().take(count).map(|host| (*host, 1)).collect()
}

/// Applies and updates without end, until it is killed: a helper of the tests below, nothing by
/// itself.
#[test]
fn apply_for_ever() {
    let Some(argument) = helped() else { return };
    let words: Vec<&str> = argument.split(' ').collect();
    let service = |count| Service {
        vip: vip(NetnsCookie(words[2].parse().unwrap()), VIP, None, Protocol::Tcp),
        backends: backends(&first(count)),
    };
    for count in [2, 6, 1, 3].into_iter().cycle() {
        let services = vec![service(count)];
        let config = Config { bpffs: words[0].into(), cgroup: words[1].into(), services };
        Direct::apply(&config).unwrap();
        for count in 1..=6 {
            Direct::update(&config.bpffs, &[service(count)]).unwrap();
        }
    }
}

fn apply_for_ever_in(place: &Place, net: &Net) -> Child {
    let (bpffs, cgroup) = (place.bpffs.display(), place.cgroup.display());
    helper("apply_for_ever", &format!("{bpffs} {cgroup} {}", net.netns.cookie().0))
}

/// Runs `change` again and again while two programs connect; nothing fails or reaches the trap.
fn under_load(place: &Place, net: &Net, mut change: impl FnMut(u32)) -> u32 {
    let mut python = net.client(Language::Python, place);
    let mut c = net.client(Language::C, place);
    python.tell(&format!("spread-for {VIP} 7000 6"));
    c.tell(&format!("load {VIP} 7000 6"));
    let mut changes = 0;
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let answers = python.answer();
            let failed = c.answer();
            println!("{answers}; {failed}");
            assert!(failed.starts_with("0 "), "failed: {failed}");
            let names: BTreeSet<_> = parse(&answers).into_keys().collect();
            assert!(names.iter().all(|name| HOSTS.contains(&name.as_str())), "{answers}");
        });
        while !load.is_finished() {
            change(changes);
            changes += 1;
        }
    });
    changes
}

#[test]
fn scaled_under_load_without_a_connection_that_fails_or_goes_astray() {
    skip_if_impossible!();
    let (place, net) = (Place::new(), Net::new(&HOSTS));
    apply(&place, vec![service(&net.netns, &first(2))]);
    let mut witness = net.client(Language::Python, &place);
    let changes = under_load(&place, &net, |number| {
        let count = [2, 6, 1, 4][number as usize % 4];
        let mut of = first(count);
        of.rotate_left(number as usize % count);
        Direct::update(&place.bpffs, &[service(&net.netns, &of)]).unwrap();
        // From now on nobody goes where none is.
        let answers = spread(&mut witness, VIP, 10);
        let known: Vec<_> = of.iter().map(|(host, _)| *host).collect();
        assert!(answers.keys().all(|name| known.contains(&name.as_str())), "{answers:?}: {of:?}");
    });
    println!("scaled {changes} times");
}

#[test]
fn replaced_and_killed_under_load_without_a_failure() {
    skip_if_impossible!();
    let (place, net) = (Place::new(), Net::new(&HOSTS));
    apply(&place, vec![service(&net.netns, &first(2))]);
    // Sockets that were there before know their VIP after.
    let mut connected = net.client(Language::C, &place);
    connected.does(&format!("connect {VIP} 7000"));
    let changes = under_load(&place, &net, |number| {
        let mut other = number.is_multiple_of(3).then(|| apply_for_ever_in(&place, &net));
        apply(&place, vec![service(&net.netns, &first(1 + number as usize % 6))]);
        if let Some(other) = &mut other {
            std::thread::sleep(Duration::from_millis(100 + u64::from(number)));
            other.kill().unwrap();
            other.wait().unwrap();
        }
    });
    println!("replaced {changes} times");
    assert_eq!(connected.ask("peer"), format!("{VIP} 7000"));
    // Taken up: one program at each hook, whatever was left.
    let services = vec![service(&net.netns, &first(1))];
    apply(&place, services.clone());
    for hook in HOOKS {
        assert_eq!(attached(&place.cgroup, hook).len(), 1);
    }
    assert_eq!(Direct::read(&place.bpffs).unwrap().unwrap().services, services);
}

#[test]
fn another_versions_programs_are_replaced_under_load_and_taken_off() {
    skip_if_impossible!();
    let (place, net) = (Place::new(), Net::new(&HOSTS));
    let two = service(&net.netns, &first(2));
    let mut client = net.client(Language::Python, &place);
    // It mounts what pins need.
    apply(&place, vec![two.clone()]);
    OtherVersion::apply(&place, &two);
    let answers = spread(&mut client, VIP, 20);
    assert!(answers.keys().eq(&HOSTS[..2]), "it does work: {answers:?}");
    // What it has cannot be read or changed, and that is said.
    for refused in [
        Direct::read(&place.bpffs).map(drop),
        Direct::update(&place.bpffs, std::slice::from_ref(&two)).map(drop),
    ] {
        let why = refused.unwrap_err().to_string();
        assert!(why.contains("of another version: apply it again"), "{why}");
    }
    // Forwards and back.
    let changes = under_load(&place, &net, |number| {
        if number.is_multiple_of(2) {
            apply(&place, vec![service(&net.netns, &first(1 + number as usize % 6))]);
        } else {
            OtherVersion::apply(&place, &two);
        }
    });
    println!("replaced {changes} times");
    let services = vec![two.clone()];
    apply(&place, services.clone());
    assert_eq!(Direct::read(&place.bpffs).unwrap().unwrap().services, services);
    for hook in HOOKS {
        assert_eq!(attached(&place.cgroup, hook).len(), 1);
    }
    OtherVersion::apply(&place, &two);
    assert!(Direct::remove(&place.bpffs).unwrap());
    for hook in HOOKS {
        assert_eq!(attached(&place.cgroup, hook), [0; 0]);
    }
    assert!(!place.bpffs.exists(), "nothing is left of another version's either");
}

#[test]
fn datagrams_keep_their_way_when_the_programs_are_replaced() {
    skip_if_impossible!();
    let (place, net) = (Place::new(), Net::new(&HOSTS));
    let services = vec![Service {
        vip: vip(net.netns.cookie(), VIP, None, Protocol::Udp),
        backends: backends(&first(6)),
    }];
    apply(&place, services.clone());
    let mut client = net.client(Language::Python, &place);
    let before = client.ask(&format!("udp {VIP} 7000 5"));
    assert!(before.ends_with(&format!(" {VIP} 7000")) && !before.contains(','), "{before}");
    for _ in 0..3 {
        apply(&place, services.clone());
        assert_eq!(client.ask(&format!("udp {VIP} 7000 5")), before);
    }
}

#[test]
fn others_programs_before_and_after_are_respected() {
    skip_if_impossible!();
    let (place, net) = (Place::new(), Net::new(&HOSTS));
    let foreign =
        || HOOKS.map(|hook| Foreign::attach(&place.cgroup, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, hook));
    let before = foreign();
    apply(&place, vec![service(&net.netns, &first(1))]);
    let after = foreign();
    for _ in 0..2 {
        for ((hook, before), after) in HOOKS.iter().zip(&before).zip(&after) {
            let ids = attached(&place.cgroup, *hook);
            assert_eq!(ids.len(), 3);
            assert_eq!((ids[0], ids[2]), (before.id(), after.id()));
        }
        let _statistics = Statistics::on();
        let counts = [before[0].runs(), after[0].runs()];
        let mut client = net.client(Language::C, &place);
        client.does(&format!("connect {VIP} 7000"));
        assert_eq!(client.ask("receive"), HOSTS[0]);
        assert_eq!(client.ask("peer"), format!("{VIP} 7000"));
        assert!(before[0].runs() > counts[0] && after[0].runs() > counts[1]);
        // Replacing keeps the order.
        apply(&place, vec![service(&net.netns, &first(1))]);
    }
    Direct::remove(&place.bpffs).unwrap();
    for ((hook, before), after) in HOOKS.iter().zip(&before).zip(&after) {
        assert_eq!(attached(&place.cgroup, *hook), [before.id(), after.id()]);
    }
}

#[test]
fn removed_without_trace_beside_keepalive() {
    skip_if_impossible!();
    let (place, net) = (Place::new(), Net::new(&HOSTS));
    let services = vec![service(&net.netns, &first(2))];
    assert_eq!(Direct::read(&place.bpffs).unwrap(), None);
    assert!(!Direct::remove(&place.bpffs).unwrap());
    let error = Direct::update(&place.bpffs, &services).unwrap_err().to_string();
    assert!(error.contains("nothing direct in"), "{error}");

    apply(&place, services);
    let mut client = net.client(Language::C, &place);
    client.does(&format!("connect {VIP} 7000"));
    let state = Direct::read(&place.bpffs).unwrap().unwrap();
    assert_eq!(state.hooks.len(), HOOKS.len());
    assert!(Direct::remove(&place.bpffs).unwrap());
    // The session goes on, and shows its backend.
    assert!(client.ask("receive").starts_with("10.240.1."));
    assert!(client.ask("peer").starts_with("10.240.1."));
    let mut client: Peer = net.client(Language::Python, &place);
    assert_eq!(spread(&mut client, VIP, 3), parse("TRAP=3"));
    for hook in HOOKS {
        assert_eq!(attached(&place.cgroup, hook), []);
    }
    wait_for("the programs are gone from the kernel", || {
        state.hooks.iter().all(|hook| libbpf_rs::Program::fd_from_id(hook.program).is_err())
    });
    assert!(!is_mounted(&place.mount_point));

    // Neither takes the other's pins away.
    let both = Config {
        bpffs: place.bpffs.clone(),
        cgroup: place.cgroup.clone(),
        services: vec![service(&net.netns, &first(1))],
    };
    Direct::apply(&both).unwrap();
    let keepalive = keepline_bpf::keepalive::Config {
        bpffs: place.bpffs.clone(),
        cgroup: place.cgroup.clone(),
        rules: Vec::new(),
        others: Some(keepline_bpf::keepalive::Settings {
            idle: Duration::from_secs(300),
            interval: Duration::from_secs(30),
            probes: None,
            enforce: true,
        }),
    };
    keepline_bpf::Keepalive::apply(&keepalive).unwrap();
    let mut client = net.client(Language::C, &place);
    client.does(&format!("connect {VIP} 7000"));
    assert_eq!(client.ask("get"), "1 300 30 9");
    assert_eq!(client.ask("receive"), HOSTS[0]);
    Direct::remove(&place.bpffs).unwrap();
    assert!(keepline_bpf::Keepalive::read(&place.bpffs).unwrap().unwrap().is_alive());
    keepline_bpf::Keepalive::remove(&place.bpffs).unwrap();
    assert!(!is_mounted(&place.mount_point));
}

/// By the kernel's own count, without what that count itself costs: a program that does nothing
/// tells.
#[test]
fn what_a_connect_costs() {
    skip_if_impossible!();
    let (place, net) = (Place::new(), Net::new(&HOSTS));
    apply(&place, vec![service(&net.netns, &first(6))]);
    let connect = BPF_CGROUP_INET4_CONNECT;
    let nothing = Foreign::attach(&place.cgroup, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, connect);
    let _statistics = Statistics::on();
    let mut client = net.client(Language::C, &place);
    let costs = [VIP, HOSTS[0]].map(|host| {
        let before = (cost(&place), nothing.cost());
        let answer = client.ask(&format!("load {host} 7000 2"));
        assert!(answer.starts_with("0 "), "{answer}");
        let after = (cost(&place), nothing.cost());
        let runs = u32::try_from(after.1.0 - before.1.0).unwrap();
        ((after.0 - before.0).saturating_sub(after.1.1 - before.1.1) / runs, runs)
    });
    println!("to a VIP {:?} ({} times), to others {:?}", costs[0].0, costs[0].1, costs[1].0);
}

/// Time that connect4 has taken.
fn cost(place: &Place) -> Duration {
    let state = Direct::read(&place.bpffs).unwrap().unwrap();
    state.hooks.iter().find(|hook| hook.name == "keepline_conn4").unwrap().cost.time
}
