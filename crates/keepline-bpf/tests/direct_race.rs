//! Services that are replaced at the moment in which somebody is led to a backend.

mod common;

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

use common::{
    Netns, Place, helped, helper,
    net::{VIP, apply, backends, map_of, vip},
};
use keepline_bpf::direct::{Protocol, Service};
use keepline_kernel::namespaces::{enter, identify};
use libbpf_rs::{MapCore, MapFlags};

/// A VIP, its only backend, and the port at which nobody else is asked for it.
const SERVICES: [(&str, Ipv4Addr, u16); 2] =
    [(VIP, Ipv4Addr::new(10, 240, 1, 1), 7001), ("10.240.0.3", Ipv4Addr::new(10, 240, 1, 2), 7002)];

/// Asks for each VIP again and again, with somebody there only where it must not lead to: a helper of
/// the test below, nothing by itself.
#[test]
fn ask_for_a_while() {
    let Some(argument) = helped() else { return };
    let (cgroup, netns) = argument.split_once(' ').unwrap();
    fs::write(Path::new(cgroup).join("cgroup.procs"), "0").unwrap();
    let netns = Path::new("/run/netns").join(netns);
    enter(&netns, identify(&netns).unwrap(), || {
        // What is asked for at 0.0.0.0 is asked for here.
        let nowhere = Ipv4Addr::LOCALHOST;
        let [(_, one, first), (_, other, second)] = SERVICES;
        let wrong = [(one, second), (other, first), (nowhere, first), (nowhere, second)];
        let _listeners = wrong.map(|at| TcpListener::bind(at).unwrap());
        let sockets = wrong.map(|at| UdpSocket::bind(at).unwrap());
        let asker = UdpSocket::bind("0.0.0.0:0").unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        let mut asked = 0;
        while Instant::now() < end {
            for (vip, _, port) in SERVICES {
                let refused = TcpStream::connect((vip, port)).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
                for _ in 0..20 {
                    asker.send_to(b"who", (vip, port)).unwrap();
                }
            }
            asked += 1;
        }
        for (socket, at) in sockets.iter().zip(wrong) {
            socket.set_nonblocking(true).unwrap();
            assert!(socket.recv(&mut [0; 8]).is_err(), "astray at {at:?}");
        }
        eprintln!("asked {asked} times");
    })
    .unwrap();
}

/// The kernel gives the memory of a replaced service to the next one at once, whoever reads it still.
#[test]
fn nobody_is_led_to_the_backend_of_another_service() {
    skip_if_impossible!();
    let (place, netns) = (
        Place::new(),
        Netns::new(&["10.240.0.2/32", "10.240.0.3/32", "10.240.1.1/32", "10.240.1.2/32"]),
    );
    let cookie = netns.cookie();
    let of = |protocol| {
        SERVICES.map(|(address, backend, _)| Service {
            vip: vip(cookie, address, None, protocol),
            backends: backends(&[(&backend.to_string(), 1)]),
        })
    };
    apply(&place, [of(Protocol::Tcp), of(Protocol::Udp)].concat());
    let map = map_of(&place, "keepline_vips");
    let lookup = |key: Vec<u8>| {
        let value = map.lookup(&key, MapFlags::ANY).unwrap().unwrap();
        (key, value)
    };
    let mut all: Vec<_> = map.keys().map(lookup).collect();
    let mut asking =
        helper("ask_for_a_while", &format!("{} {}", place.cgroup.display(), netns.name));
    let mut generation = 0_u32;
    let ended = loop {
        if generation.is_multiple_of(1000)
            && let Some(ended) = asking.try_wait().unwrap()
        {
            break ended;
        }
        generation += 1;
        for (key, value) in &mut all {
            value[..4].copy_from_slice(&generation.to_ne_bytes());
            map.update(key, value, MapFlags::ANY).unwrap();
        }
    };
    println!("each replaced {generation} times");
    assert!(ended.success());
}
