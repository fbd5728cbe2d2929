//! The doors on this kernel: in a namespace of the test's own.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails by panicking")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use keepline_kernel::{
    Error,
    namespaces::{discover, enter, identify},
    netlink::{Consistency, Event, Protocol, Socket},
};
use keepline_wire::{
    conntrack::{self, Direction, Tuple},
    nl, rtnl, sock_diag,
};

/// Why the tests cannot run here, if so.
fn impossible() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let ip = Command::new("ip").arg("-V").output();
    (!ip.is_ok_and(|output| output.status.success())).then(|| "`ip` is not installed".to_owned())
}

/// Ends a test that cannot run: visibly, and as a failure in CI.
macro_rules! skip_if_impossible {
    () => {
        if let Some(why) = impossible() {
            println!("SKIP: {why}");
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "skipped in CI: {why}");
            return;
        }
    };
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

struct Netns(String);

impl Netns {
    fn new(role: &str) -> Self {
        let name = format!("kk{}-{role}", std::process::id());
        ip(&["netns", "add", &name]);
        Self(name)
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

fn here() -> u64 {
    identify(Path::new("/proc/thread-self/ns/net")).unwrap()
}

#[test]
fn work_is_done_inside_and_the_caller_stays_outside() {
    skip_if_impossible!();
    let place = Netns::new("enter");
    let outside = here();
    let inode = identify(&place.path()).unwrap();
    assert_ne!(inode, outside);
    let (inside, of_its_thread) = enter(&place.path(), identify(&place.path()).unwrap(), || {
        (here(), std::thread::scope(|scope| scope.spawn(here).join().unwrap()))
    })
    .unwrap();
    assert_eq!((inside, of_its_thread), (inode, inode));
    assert_eq!(here(), outside);

    let found = discover(Path::new("/proc")).unwrap();
    let mut fitting = found.iter().filter(|namespace| namespace.inode == inode);
    assert_eq!(fitting.next().unwrap().mounts, [place.path()]);
    assert!(fitting.next().is_none(), "found twice");

    let path = place.path();
    drop(place);
    // The file went with the namespace.
    let error = enter(&path, 1, || ()).unwrap_err();
    assert!(error.is_gone(), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn a_socket_belongs_to_the_namespace_it_was_opened_in() {
    skip_if_impossible!();
    let place = Netns::new("dump");
    ip(&["-n", &place.0, "addr", "add", "192.0.2.77/32", "dev", "lo"]);
    let socket =
        enter(&place.path(), identify(&place.path()).unwrap(), || Socket::open(Protocol::Route))
            .unwrap()
            .unwrap();
    let mut starts = 0;
    let mut addresses = Vec::new();
    let end = socket
        .dump("list addresses", &rtnl::dump_addresses(1), |event| {
            match event {
                Event::Start => starts += 1,
                Event::Message(message) => {
                    addresses.push(rtnl::parse_address(message.payload)?.ip);
                }
            }
            Ok(())
        })
        .unwrap();
    assert_eq!((starts, end), (1, Consistency::Consistent));
    assert_eq!(addresses, [Ipv4Addr::new(192, 0, 2, 77)]);
}

#[test]
fn what_is_not_there_is_told_from_what_is_refused() {
    skip_if_impossible!();
    let place = Netns::new("exact");
    let address = |port| SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), port));
    let open = |protocol| {
        enter(&place.path(), identify(&place.path()).unwrap(), || Socket::open(protocol))
            .unwrap()
            .unwrap()
    };
    let diag = open(Protocol::SockDiag);
    let request = sock_diag::get(address(1), address(2), Some(7), false, 1);
    let error = diag.request("ask for a socket", &request, sock_diag::parse).unwrap_err();
    assert!(error.is_gone() && !error.is_permission(), "{error}");
    assert!(error.to_string().starts_with("ask for a socket: No such file"), "{error}");

    // One refusal leaves the socket usable for the next request.
    let tracking = open(Protocol::Netfilter);
    let tuple = Tuple { source: address(1), destination: address(2), protocol: 6 };
    for sequence in 1..4 {
        let request = conntrack::get(&tuple, Direction::Original, None, sequence);
        let error = tracking.request("ask conntrack", &request, conntrack::parse).unwrap_err();
        assert!(error.is_gone(), "{error}");
    }
}

#[test]
fn a_request_that_is_never_answered_does_not_hang() {
    skip_if_impossible!();
    let socket = Socket::open(Protocol::Route).unwrap();
    // Asks for no acknowledgement.
    let request = nl::Request::new(nl::NLMSG_NOOP, 1, 7).finish();
    let error = socket.request("say nothing", &request, |_| Ok(())).unwrap_err();
    assert!(matches!(error, Error::Silent { .. }), "{error:?}");
    assert_eq!(error.to_string(), "say nothing: the kernel gave no answer");
}
