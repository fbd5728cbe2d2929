//! Keepalive of single sockets, by both ways that lead to one: a descriptor, and a program in the kernel.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::Duration,
};

use common::{Netns, run};
use keepline_bpf::exact::{self, Change, Settings};
use keepline_kernel::pidfd::{self, Keepalive};

#[derive(Debug, Clone, Copy)]
enum Way {
    Descriptor,
    Program,
}

const fn settings(enabled: bool, idle: u64, interval: u64, probes: u32) -> Settings {
    let (idle, interval) = (Duration::from_secs(idle), Duration::from_secs(interval));
    Settings { enabled, idle, interval, probes }
}

fn read(socket: &OwnedFd) -> Settings {
    let Keepalive { enabled, idle, interval, probes } = pidfd::keepalive(socket).unwrap();
    Settings { enabled, idle, interval, probes }
}

/// What the socket has afterwards.
fn set(socket: &OwnedFd, to: Settings, way: Way) -> Settings {
    match way {
        Way::Descriptor => {
            let Settings { enabled, idle, interval, probes } = to;
            let to = Keepalive { enabled, idle, interval, probes };
            pidfd::set_keepalive(socket, &to).unwrap();
        }
        Way::Program => {
            let cookie = pidfd::cookie(socket).unwrap();
            let now = exact::set(&[Change { cookie, before: read(socket), after: to }]).unwrap();
            assert_eq!(now[&cookie], read(socket));
        }
    }
    read(socket)
}

/// A namespace's sysctls may say more than a socket can be given.
#[test]
fn times_of_the_namespace_are_given_back_as_far_as_can_be() {
    skip_if_impossible!();
    let netns = Netns::new(&[]);
    let long = settings(true, 43_200, 40_000, 200);
    for name in ["time=43200", "intvl=40000", "probes=200"] {
        run(&format!("ip netns exec {} sysctl -qw net.ipv4.tcp_keepalive_{name}", netns.name));
    }
    netns.inside(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for way in [Way::Descriptor, Way::Program] {
            let client: OwnedFd =
                TcpStream::connect(listener.local_addr().unwrap()).unwrap().into();
            assert_eq!(read(&client), Settings { enabled: false, ..long });
            // Nothing but that is set.
            assert_eq!(set(&client, long, way), long, "{way:?}");
            let short = settings(true, 300, 30, 5);
            assert_eq!(set(&client, short, way), short, "{way:?}");
            let most = settings(true, 32_767, 32_767, 127);
            assert_eq!(set(&client, long, way), most, "{way:?}");
        }
    });
}

#[test]
fn as_many_sockets_as_are_asked_for() {
    skip_if_impossible!();
    let socket = OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let own = pidfd::cookie(&socket).unwrap();
    // A cookie counts sockets: nobody has had so many.
    let mut cookies: Vec<u64> = (1 << 60..).take(70_000).collect();
    cookies.push(own);
    let found = exact::read(&cookies).unwrap();
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [(own, read(&socket))]);
    assert!(exact::read(&[]).unwrap().is_empty());
}
