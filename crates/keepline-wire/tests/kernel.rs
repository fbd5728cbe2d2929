//! The same against the running kernel, over the loopback interface. Needs no rights, except
//! where it says so.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use keepline_wire::nl::{self, NLMSG_DONE, NLMSG_ERROR};
use keepline_wire::rtnl;
use keepline_wire::sock_diag::{self, PeerFilter, Socket, States, TcpState, Timer};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink,
};

/// Asks (`None` is `NETLINK_ROUTE`, which is 0); gives the payloads of the answers, or the errno.
fn ask(protocol: Option<Protocol>, request: &[u8]) -> Result<Vec<Vec<u8>>, i32> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )
    .unwrap();
    rustix::net::send(&socket, request, SendFlags::empty()).unwrap();
    let mut buffer = vec![0; 1 << 17];
    let mut answers = Vec::new();
    loop {
        let (len, _) = rustix::net::recv(&socket, &mut buffer, RecvFlags::empty()).unwrap();
        for message in nl::messages(&buffer[..len]) {
            let message = message.unwrap();
            match (message.kind, message.status().unwrap()) {
                (NLMSG_DONE | NLMSG_ERROR, Some(status)) if status.errno != 0 => {
                    return Err(status.errno);
                }
                (NLMSG_DONE | NLMSG_ERROR, _) => return Ok(answers),
                _ => answers.push(message.payload.to_vec()),
            }
            // NLM_F_MULTI: only a dump has more to come.
            if message.flags & 2 == 0 {
                return Ok(answers);
            }
        }
    }
}

fn sockets(request: &[u8]) -> Vec<Socket> {
    let answers = ask(Some(netlink::SOCK_DIAG), request).unwrap();
    answers.iter().map(|answer| sock_diag::parse(answer).unwrap()).collect()
}

/// A listener, and a connection to it: the client's end and the server's.
fn connection(listen: &str, connect: Option<IpAddr>) -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind(listen).unwrap();
    let mut target = listener.local_addr().unwrap();
    if let Some(ip) = connect {
        target.set_ip(ip);
    }
    let client = TcpStream::connect(target).unwrap();
    let server = listener.accept().unwrap().0;
    (listener, client, server)
}

fn ends(stream: &TcpStream) -> (SocketAddr, SocketAddr) {
    let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    (canonical(stream.local_addr().unwrap()), canonical(stream.peer_addr().unwrap()))
}

const fn v4(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 77, 0, last))
}

#[test]
fn one_dump_has_ipv4_ipv6_and_mapped_sockets() {
    let four = connection("127.0.0.1:0", None);
    let six = connection("[::1]:0", None);
    let mapped = connection("[::]:0", Some(v4(1)));
    rustix::net::sockopt::set_socket_keepalive(&four.1, true).unwrap();
    let dump = sockets(&sock_diag::dump(States::CONNECTED, true, 1));
    for stream in [&four.1, &four.2, &six.1, &six.2, &mapped.1, &mapped.2] {
        let (local, remote) = ends(stream);
        let found: Vec<_> =
            dump.iter().filter(|s| (s.local, s.remote) == (local, remote)).collect();
        assert_eq!(found.len(), 1, "{local} {remote}");
        assert_eq!(found[0].state, TcpState::Established);
        assert_eq!(found[0].uid, rustix::process::getuid().as_raw());
        assert!(found[0].info.is_some() && found[0].inode != 0 && found[0].cookie != 0);
        let timer = if stream.local_addr().unwrap() == four.1.local_addr().unwrap() {
            Timer::Keepalive
        } else {
            Timer::Off
        };
        assert_eq!(found[0].timer, timer);
    }
    assert!(dump.iter().all(|socket| States::CONNECTED.contains(socket.state)));
    let listeners = sockets(&sock_diag::dump(States::LISTEN, false, 1));
    let wanted = six.0.local_addr().unwrap();
    assert!(listeners.iter().any(|s| s.local == wanted && s.info.is_none()));
}

#[test]
fn the_kernel_filters_by_peer() {
    let one = connection("127.77.0.11:0", None);
    let two = connection("127.77.0.12:0", None);
    let far = connection("127.77.1.12:0", None);
    let six = connection("[::1]:0", None);
    let mapped = connection("[::]:0", Some(v4(13)));
    let all = [&one.1, &two.1, &far.1, &six.1, &mapped.1, &mapped.2].map(ends);
    // Only this test's sockets: others run beside it.
    let passing = |filter: &PeerFilter| -> Vec<(SocketAddr, SocketAddr)> {
        let dump = sockets(&sock_diag::dump_filtered(States::CONNECTED, false, filter, 1));
        all.iter()
            .filter(|ends| dump.iter().any(|s| (s.local, s.remote) == **ends))
            .copied()
            .collect()
    };
    let filter = |peers: &[(IpAddr, u8)]| passing(&PeerFilter::new(peers));
    assert_eq!(filter(&[(v4(11), 32)]), [all[0]]);
    assert_eq!(filter(&[(v4(99), 32), (v4(12), 32), (v4(11), 32)]), [all[0], all[1]]);
    assert_eq!(filter(&[(v4(0), 24)]), [all[0], all[1], all[4]]);
    assert_eq!(filter(&[(v4(0), 16), (Ipv6Addr::LOCALHOST.into(), 128)]), all[..5]);
    assert_eq!(filter(&[(Ipv6Addr::LOCALHOST.into(), 128)]), [all[3]]);
    // The server's end of an IPv4 client at an IPv6 listener has mapped addresses.
    let client = all[5].1;
    let to_client = PeerFilter::new(&[(client.ip(), 32)]).port(client.port());
    assert_eq!(passing(&to_client), [all[5]]);
    assert_eq!(filter(&[]), []);
    let none = sock_diag::dump_to_peers(States::ALL, false, &[], 1);
    assert!(sockets(&none).is_empty());
    // As many as fit: the kernel takes them, and the last one counts.
    let mut many: Vec<_> =
        (0..3275u32).map(|n| (Ipv4Addr::from_bits(n | 1 << 31).into(), 32)).collect();
    many.push((v4(11), 32));
    assert!(PeerFilter::new(&many).fits());
    assert_eq!(filter(&many), [all[0]]);
}

#[test]
fn exact_queries_by_tuple_and_cookie() {
    let four = connection("127.0.0.1:0", None);
    let six = connection("[::1]:0", None);
    let mapped = connection("[::]:0", Some(v4(2)));
    for stream in [&four.1, &six.2, &mapped.1, &mapped.2] {
        let (local, remote) = ends(stream);
        let found = sockets(&sock_diag::get(local, remote, None, true, 1));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].local, found[0].remote), (local, remote));
        let again = sockets(&found[0].get_again(false, 2));
        assert_eq!((again[0].cookie, again[0].info), (found[0].cookie, None));
        let other = sock_diag::get(local, remote, Some(found[0].cookie + 1), false, 3);
        assert_eq!(
            ask(Some(netlink::SOCK_DIAG), &other),
            Err(rustix::io::Errno::NOENT.raw_os_error())
        );
    }
    let (local, remote) = ends(&four.1);
    let absent = sock_diag::get(local, SocketAddr::new(v4(200), remote.port()), None, false, 4);
    assert_eq!(
        ask(Some(netlink::SOCK_DIAG), &absent),
        Err(rustix::io::Errno::NOENT.raw_os_error())
    );
}

#[test]
fn destroy_aborts_the_session() {
    let (_listener, mut client, mut server) = connection("127.0.0.1:0", None);
    let (local, remote) = ends(&client);
    let cookie = sockets(&sock_diag::get(local, remote, None, false, 1))[0].cookie;
    match ask(Some(netlink::SOCK_DIAG), &sock_diag::destroy(local, remote, Some(cookie), 2)) {
        Ok(_) => {}
        Err(errno) if errno == rustix::io::Errno::PERM.raw_os_error() => {
            eprintln!("SKIP: destroy_aborts_the_session: needs CAP_NET_ADMIN");
            return;
        }
        Err(errno) if errno == rustix::io::Errno::OPNOTSUPP.raw_os_error() => {
            eprintln!("SKIP: destroy_aborts_the_session: kernel without CONFIG_INET_DIAG_DESTROY");
            return;
        }
        Err(errno) => panic!("errno {errno}"),
    }
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert_eq!(server.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn addresses_of_loopback() {
    let answers = ask(None, &rtnl::dump_addresses(1)).unwrap();
    let addresses: Vec<_> =
        answers.iter().map(|answer| rtnl::parse_address(answer).unwrap()).collect();
    let lo = addresses.iter().find(|a| a.ip == IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
    assert_eq!((lo.prefix_len, lo.interface, lo.scope), (8, 1, 254));
}

#[test]
fn links_and_neighbours_are_listed() {
    let links: Vec<_> = ask(None, &rtnl::dump_links(1))
        .unwrap()
        .iter()
        .map(|answer| rtnl::parse_link(answer).unwrap())
        .collect();
    assert!(links.contains(&Some([0; 6])), "loopback: {links:?}");
    for answer in ask(None, &rtnl::dump_neighbours(2)).unwrap() {
        rtnl::parse_neighbour(&answer).unwrap();
    }
}
