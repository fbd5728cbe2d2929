//! How keepalive comes, is replaced, survives and goes.

mod common;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use common::{
    Language, Netns, Peer, Place,
    foreign::{Foreign, Statistics, attached},
    helped, helper, is_mounted, wait_for,
};
use keepline_bpf::{
    Keepalive,
    keepalive::{Config, Rule, Selector, Settings},
};
use libbpf_sys::{
    BPF_CGROUP_SETSOCKOPT, BPF_CGROUP_SOCK_OPS, BPF_PROG_TYPE_CGROUP_SOCKOPT,
    BPF_PROG_TYPE_SOCK_OPS,
};

const VIP: &str = "10.240.0.2";

fn config(place: &Place, idle: u64) -> Config {
    config_at(place.bpffs.clone(), place.cgroup.clone(), idle)
}

fn config_at(bpffs: PathBuf, cgroup: PathBuf, idle: u64) -> Config {
    let settings = Settings {
        idle: Duration::from_secs(idle),
        interval: Duration::from_secs(30),
        probes: None,
        enforce: true,
    };
    Config { bpffs, cgroup, rules: Vec::new(), others: Some(settings) }
}

/// A server that takes every connection at the VIP.
fn server(netns: &Netns, place: &Place) -> Peer {
    let mut server = Peer::new(Language::Python, netns, &place.cgroup);
    server.does(&format!("listen {VIP} 7000"));
    server.does("serve");
    server
}

/// What a new connection has.
fn options(netns: &Netns, place: &Place) -> String {
    let mut client = Peer::new(Language::C, netns, &place.cgroup);
    client.does(&format!("connect {VIP} 7000"));
    client.ask("get")
}

/// Applies without end, until it is killed: a helper of the tests below, nothing by itself.
#[test]
fn apply_for_ever() {
    let Some(argument) = helped() else { return };
    let (bpffs, cgroup) = argument.split_once(' ').unwrap();
    for idle in (100..200).cycle() {
        Keepalive::apply(&config_at(bpffs.into(), cgroup.into(), idle)).unwrap();
    }
}

fn apply_for_ever_in(place: &Place) -> std::process::Child {
    helper("apply_for_ever", &format!("{} {}", place.bpffs.display(), place.cgroup.display()))
}

#[test]
fn killed_at_any_moment_it_stays_and_is_taken_up() {
    skip_if_impossible!();
    let (place, netns) = (Place::new(), Netns::new(&["10.240.0.2/32"]));
    let _server = server(&netns, &place);
    for delay in [0, 1, 3, 7, 20, 50] {
        let mut loader = apply_for_ever_in(&place);
        wait_for("something is applied", || Keepalive::read(&place.bpffs).unwrap().is_some());
        std::thread::sleep(Duration::from_millis(delay));
        loader.kill().unwrap();
        loader.wait().unwrap();
        // What runs is what is read.
        let state = Keepalive::read(&place.bpffs).unwrap().unwrap();
        assert!(state.is_alive());
        let idle = state.others.unwrap().idle.as_secs();
        assert_eq!(options(&netns, &place), format!("1 {idle} 30 9"));
        // Taken up: one program at each hook, whatever was left.
        Keepalive::apply(&config(&place, 300)).unwrap();
        assert_eq!(options(&netns, &place), "1 300 30 9");
        for hook in [BPF_CGROUP_SOCK_OPS, BPF_CGROUP_SETSOCKOPT] {
            assert_eq!(attached(&place.cgroup, hook).len(), 1);
        }
    }
    assert!(Keepalive::remove(&place.bpffs).unwrap());
}

#[test]
fn replaced_under_load_without_a_connection_that_fails_or_is_missed() {
    skip_if_impossible!();
    let (place, netns) = (Place::new(), Netns::new(&["10.240.0.2/32"]));
    let _server = server(&netns, &place);
    Keepalive::apply(&config(&place, 300)).unwrap();
    let mut clients = Language::ALL.map(|language| Peer::new(language, &netns, &place.cgroup));
    for client in &mut clients {
        client.tell(&format!("load {VIP} 7000 6"));
    }
    let mut replaced = 0_u32;
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            for client in &mut clients {
                let answer = client.answer();
                assert!(answer.starts_with("0 0 "), "failed, without keepalive: {answer}");
                println!("{answer} connections");
            }
        });
        // One that is killed again and again does no harm, either.
        while !load.is_finished() {
            let mut other = replaced.is_multiple_of(10).then(|| apply_for_ever_in(&place));
            Keepalive::apply(&config(&place, 100 + u64::from(replaced))).unwrap();
            replaced += 1;
            if let Some(other) = &mut other {
                std::thread::sleep(Duration::from_millis(60));
                other.kill().unwrap();
                other.wait().unwrap();
            }
        }
    });
    println!("replaced {replaced} times");
}

#[test]
fn others_programs_before_and_after_are_respected() {
    skip_if_impossible!();
    let (place, netns) = (Place::new(), Netns::new(&["10.240.0.2/32"]));
    let _server = server(&netns, &place);
    let foreign = || {
        [
            (BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS),
            (BPF_PROG_TYPE_CGROUP_SOCKOPT, BPF_CGROUP_SETSOCKOPT),
        ]
        .map(|(kind, hook)| (hook, Foreign::attach(&place.cgroup, kind, hook)))
    };
    let before = foreign();
    Keepalive::apply(&config(&place, 300)).unwrap();
    let after = foreign();
    let _statistics = Statistics::on();
    let runs = |programs: &[(u32, Foreign); 2]| programs.each_ref().map(|(_, one)| one.runs());
    for round in 0..2 {
        for (before, after) in before.iter().zip(&after) {
            let ids = attached(&place.cgroup, before.0);
            assert_eq!(ids.len(), 3);
            assert_eq!((ids[0], ids[2]), (before.1.id(), after.1.id()));
        }
        let counts = (runs(&before), runs(&after));
        let mut client = Peer::new(Language::C, &netns, &place.cgroup);
        client.does(&format!("connect {VIP} 7000"));
        client.does("set idle 7200");
        assert_eq!(client.ask("get"), "1 300 30 9");
        for (was, is) in [(counts.0, runs(&before)), (counts.1, runs(&after))] {
            assert!(was.iter().zip(is).all(|(was, is)| *was < is), "round {round}: {was:?} {is:?}");
        }
        // Replacing keeps the order.
        Keepalive::apply(&config(&place, 300)).unwrap();
    }
    Keepalive::remove(&place.bpffs).unwrap();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(attached(&place.cgroup, before.0), [before.1.id(), after.1.id()]);
    }
}

#[test]
fn removed_without_trace() {
    skip_if_impossible!();
    let (place, netns) = (Place::new(), Netns::new(&["10.240.0.2/32"]));
    let _server = server(&netns, &place);
    assert_eq!(Keepalive::read(&place.bpffs).unwrap(), None);
    assert!(!Keepalive::remove(&place.bpffs).unwrap());
    let keepalive = Keepalive::apply(&config(&place, 300)).unwrap();
    assert!(is_mounted(&place.mount_point));
    let state = Keepalive::read(&place.bpffs).unwrap().unwrap();
    assert_eq!(state.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(state.hooks.len(), 2);
    // The same code has the same tag.
    Keepalive::apply(&config(&place, 400)).unwrap();
    let again = Keepalive::read(&place.bpffs).unwrap().unwrap();
    assert_eq!(state.hooks[0].tag, again.hooks[0].tag);
    assert_ne!(state.hooks[0].program, again.hooks[0].program);
    drop(keepalive);

    assert!(Keepalive::remove(&place.bpffs).unwrap());
    assert_eq!(Keepalive::read(&place.bpffs).unwrap(), None);
    assert_eq!(options(&netns, &place), "0 7200 75 9");
    for hook in [BPF_CGROUP_SOCK_OPS, BPF_CGROUP_SETSOCKOPT] {
        assert_eq!(attached(&place.cgroup, hook), []);
    }
    wait_for("the programs are gone from the kernel", || {
        again.hooks.iter().all(|hook| libbpf_rs::Program::fd_from_id(hook.program).is_err())
    });
    // The mount was Keepline's.
    assert!(!is_mounted(&place.mount_point));
    assert_eq!(fs::read_dir(&place.mount_point).unwrap().count(), 0);
    assert!(!Keepalive::remove(&place.bpffs).unwrap());
}

#[test]
fn only_an_empty_place_is_mounted_on() {
    skip_if_impossible!();
    let place = Place::new();
    // Somebody's file: not hidden by a mount.
    let file = place.mount_point.join("file");
    fs::write(&file, "").unwrap();
    let error = Keepalive::apply(&config(&place, 300)).unwrap_err().to_string();
    assert!(error.contains("there is something in it"), "{error}");
    fs::remove_file(&file).unwrap();
    // Somebody's mount: not covered.
    common::run(&format!("mount -t tmpfs tmpfs {}", place.mount_point.display()));
    let error = Keepalive::apply(&config(&place, 300)).unwrap_err().to_string();
    assert!(error.contains("something else is mounted there"), "{error}");
    common::run(&format!("umount {}", place.mount_point.display()));
    // Somebody's BPF file system, with something in it: used, and kept.
    common::run(&format!("mount -t bpf bpf {}", place.mount_point.display()));
    fs::create_dir(place.mount_point.join("cilium")).unwrap();
    Keepalive::apply(&config(&place, 300)).unwrap();
    Keepalive::remove(&place.bpffs).unwrap();
    assert!(is_mounted(&place.mount_point) && !place.bpffs.exists());
    // A control group of version 1, or a plain directory, is none.
    let mut wrong = config(&place, 300);
    wrong.cgroup = "/tmp".into();
    let error = Keepalive::apply(&wrong).unwrap_err().to_string();
    assert!(error.contains("control group /tmp: this is no control group of version 2"), "{error}");
}

#[test]
fn a_control_group_that_went_is_noticed_and_another_taken() {
    skip_if_impossible!();
    let (place, netns) = (Place::new(), Netns::new(&["10.240.0.2/32"]));
    let gone = place.cgroup.join("gone");
    fs::create_dir(&gone).unwrap();
    Keepalive::apply(&Config { cgroup: gone.clone(), ..config(&place, 300) }).unwrap();
    fs::remove_dir(&gone).unwrap();
    wait_for("it is noticed", || !Keepalive::read(&place.bpffs).unwrap().unwrap().is_alive());
    Keepalive::apply(&config(&place, 200)).unwrap();
    assert!(Keepalive::read(&place.bpffs).unwrap().unwrap().is_alive());
    let _server = server(&netns, &place);
    assert_eq!(options(&netns, &place), "1 200 30 9");
    Keepalive::remove(&place.bpffs).unwrap();
    assert_eq!(attached(&place.cgroup, BPF_CGROUP_SOCK_OPS), []);
}

/// As on a host that has mounted only version 1: the programs are at the same root.
#[test]
fn the_root_of_all_without_a_mount() {
    skip_if_impossible!();
    let (place, netns) = (Place::new(), Netns::new(&["10.240.0.2/32"]));
    let mounted = keepline_bpf::place::cgroup_root(Path::new("/proc")).unwrap();
    let mounts = || common::run("grep -w cgroup2 /proc/self/mounts");
    let before = mounts();
    let root = keepline_bpf::place::PrivateCgroupRoot::mount(Path::new("/proc")).unwrap();
    assert_eq!(mounts(), before);
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(&root.path().join(".")), inode(&mounted));
    // Other tests' sockets are under that root, too: one namespace only.
    let mut config = config_at(place.bpffs.clone(), root.path(), 300);
    config.rules = vec![Rule {
        selector: Selector { netns: netns.cookie(), peer: None, port: None },
        settings: config.others.take(),
    }];
    let before = attached(&mounted, BPF_CGROUP_SOCK_OPS).len();
    Keepalive::apply(&config).unwrap();
    assert_eq!(attached(&mounted, BPF_CGROUP_SOCK_OPS).len(), before + 1);
    drop(root);
    let _server = server(&netns, &place);
    assert_eq!(options(&netns, &place), "1 300 30 9");
    // From the mounted root it is the same link that is replaced.
    Keepalive::apply(&Config { cgroup: mounted.clone(), ..config }).unwrap();
    assert_eq!(attached(&mounted, BPF_CGROUP_SOCK_OPS).len(), before + 1);
    Keepalive::remove(&place.bpffs).unwrap();
    assert_eq!(attached(&mounted, BPF_CGROUP_SOCK_OPS).len(), before);
}

/// By the kernel's own count, without what that count itself costs: a program that does nothing
/// tells.
#[test]
fn what_a_connection_costs() {
    skip_if_impossible!();
    let (place, netns) = (Place::new(), Netns::new(&["10.240.0.2/32"]));
    let _server = server(&netns, &place);
    Keepalive::apply(&config(&place, 300)).unwrap();
    let nothing = Foreign::attach(&place.cgroup, BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS);
    let _statistics = Statistics::on();
    let mut client = Peer::new(Language::C, &netns, &place.cgroup);
    let answer = client.ask(&format!("load {VIP} 7000 2"));
    let ends = 2 * answer.strip_prefix("0 0 ").unwrap().parse::<u32>().unwrap();
    let state = Keepalive::read(&place.bpffs).unwrap().unwrap();
    let cost = state.hooks.iter().find(|hook| hook.name == "keepline_new").unwrap().cost;
    let (runs, counting) = nothing.cost();
    // Both ends are in the control group.
    let [with, without] = [cost.time, cost.time.saturating_sub(counting)].map(|time| time / ends);
    println!("{runs} runs: {with:?} an end of a connection, {without:?} without the counting");
    assert!(cost.runs >= ends.into());
    // For the benchmark to judge: other tests run beside this one, and an emulated processor is
    // twenty times slower.
    assert!(without < Duration::from_micros(100), "{without:?}");
}
