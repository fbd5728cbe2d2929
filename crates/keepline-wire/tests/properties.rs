//! What must hold for any input: reading what was written gives it back, and nothing panics.

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use common::fixture;
use keepline_wire::nl::{self, Request};
use keepline_wire::proc::{ip_vs_conn, mountinfo, nf_conntrack_stat, snmp, sockstat};
use keepline_wire::sock_diag::{self, PeerFilter, States};
use keepline_wire::{nftables, rtnl};
use proptest::collection::vec;
use proptest::prelude::*;

const SOCKETS: [&str; 5] =
    ["tcp4_established_info", "tcp4_time_wait", "tcp6_established", "tcp6_listen", "tcp6_mapped"];
const OTHERS: [&str; 7] = [
    "addr4_vip",
    "addr4_peer",
    "addr6",
    "chain_nat",
    "chain_regular",
    "error_text",
    "error_capped",
];

/// Every parser of bytes, on the same bytes.
fn read_all(bytes: &[u8]) {
    let _ = sock_diag::parse(bytes);
    let _ = sock_diag::TcpInfo::parse(bytes);
    let _ = rtnl::parse_address(bytes);
    let _ = rtnl::parse_link(bytes);
    let _ = rtnl::parse_neighbour(bytes);
    let _ = nftables::parse_chain(bytes);
    for message in nl::messages(bytes).flatten() {
        let _ = message.status();
        nl::attrs(message.payload).flatten().for_each(|attr| drop(attr.text()));
    }
}

/// A fixture with some bytes changed, cut off somewhere.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let names: Vec<&str> = SOCKETS.iter().chain(&OTHERS).copied().collect();
    let name = proptest::sample::select(names);
    (name, vec((any::<prop::sample::Index>(), any::<u8>()), 0..8), any::<prop::sample::Index>())
        .prop_map(|(name, changes, end)| {
            let mut bytes = fixture(name);
            for (index, value) in changes {
                let at = index.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(end.index(bytes.len() + 1));
            bytes
        })
}

fn v4() -> impl Strategy<Value = Ipv4Addr> {
    // Few addresses, so that prefixes match now and then.
    (0u32..4, 0u32..4).prop_map(|(net, host)| Ipv4Addr::from_bits(0x0a00_0000 | net << 8 | host))
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        v4().prop_map(IpAddr::from),
        v4().prop_map(|v4| v4.to_ipv6_mapped().into()),
        (0u16..4, 0u16..4)
            .prop_map(|(net, host)| Ipv6Addr::new(0x2001, 0xdb8, 0, net, 0, 0, 0, host).into()),
    ]
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (ip(), any::<u16>()).prop_map(SocketAddr::from)
}

/// `%08X` and `%pI6` of the kernel.
fn kernel_text(address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(v4) => format!("{:08X} {:04X}", v4.to_bits(), address.port()),
        IpAddr::V6(v6) => {
            let groups: Vec<String> =
                v6.segments().iter().map(|group| format!("{group:04x}")).collect();
            format!("{} {:04X}", groups.join(":"), address.port())
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        read_all(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(bytes in mutated()) {
        read_all(&bytes);
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*", bytes in vec(any::<u8>(), 0..200)) {
        let raw = String::from_utf8_lossy(&bytes);
        for text in [text.as_str(), &raw] {
            let _ = (ip_vs_conn::parse(text), mountinfo::parse(text));
            let _ = (sockstat::parse(text, text), nf_conntrack_stat::parse(text));
            let _ = sockstat::parse(&format!("TCP: {text}"), "");
            let _ = snmp::udp_in_datagrams(&format!("Udp: InDatagrams\nUdp: {text}"));
            let _ = nf_conntrack_stat::parse(&format!("entries drop\n{text}"));
        }
    }

    #[test]
    fn requests_read_back(
        kind: u16,
        sequence: u32,
        head in vec(any::<u8>(), 0..40),
        attrs in vec((0u16..0x4000, vec(any::<u8>(), 0..60)), 0..8),
    ) {
        let mut request = Request::new(kind, 0, sequence).bytes(&head);
        for (kind, value) in &attrs {
            request = request.attr(*kind, value);
        }
        let request = request.nested(5, |inner| {
            attrs.iter().fold(inner, |inner, (kind, value)| inner.attr(*kind, value))
        });
        let bytes = request.finish();
        let messages: Vec<_> = nl::messages(&bytes).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(messages.len(), 1);
        prop_assert_eq!((messages[0].kind, messages[0].sequence), (kind, sequence));
        let body = &messages[0].payload[nl::align(head.len())..];
        let read: Vec<_> = nl::attrs(body).collect::<Result<_, _>>().unwrap();
        let (nested, flat) = read.split_last().unwrap();
        let as_pairs = |list: &[nl::Attr<'_>]| -> Vec<(u16, Vec<u8>)> {
            list.iter().map(|attr| (attr.kind, attr.value.to_vec())).collect()
        };
        prop_assert_eq!(as_pairs(flat), attrs.clone());
        let inner: Vec<_> = nested.nested().collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(as_pairs(&inner), attrs);
    }

    /// An answer that begins with the addresses of the request: `inet_diag_sockid` is the same.
    #[test]
    fn the_socket_asked_for_is_the_socket_answered(
        local in address(), remote in address(), cookie: u64, state in 1u8..=12,
    ) {
        let request = sock_diag::get(local, remote, Some(cookie), true, 1);
        let (head, id) = (&request[16..24], &request[24..72]);
        let mut answer = vec![head[0], state, 0, 0];
        answer.extend_from_slice(id);
        answer.resize(72, 0);
        let socket = sock_diag::parse(&answer).unwrap();
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        prop_assert_eq!(socket.local, canonical(local));
        prop_assert_eq!(socket.remote, canonical(remote));
        prop_assert_eq!((socket.cookie, socket.state as u8), (cookie, state));
        prop_assert_eq!(socket.get_again(true, 1), request);
    }

    #[test]
    fn the_filter_passes_what_is_in_a_prefix(
        peers in vec((ip(), 0u8..=130), 0..12), port in proptest::option::of(0u16..4),
        remote in ip(), remote_port in 0u16..4,
    ) {
        let filter = PeerFilter::new(&peers);
        let filter = match port { Some(port) => filter.port(port), None => filter };
        let bytes = sock_diag::dump_filtered(States::ALL, false, &filter, 1);
        let code = nl::attrs(&bytes[76..]).next().unwrap().unwrap().value;
        prop_assert!(kernel::audit(code), "the kernel refuses {:02x?}", code);
        let expected = port.is_none_or(|port| port == remote_port)
            && peers.iter().any(|(ip, len)| contains(*ip, *len, remote));
        prop_assert_eq!(kernel::run(code, remote, remote_port), expected);
    }

    #[test]
    fn ipvs_lines_read_back(
        client in address(), vip in address(), backend in address(),
        seconds in 0u32..=i32::MAX as u32, pe in proptest::option::of("sip [!-~]{1,20}"),
    ) {
        let tail = pe.as_ref().map_or(String::new(), |pe| format!(" {pe}"));
        let line = format!(
            "TCP {} {} {} {:<11} {seconds:>7}{tail}",
            kernel_text(client), kernel_text(vip), kernel_text(backend), "LAST_ACK",
        );
        let expected = ip_vs_conn::Connection {
            protocol: 6, client, vip, backend, pe,
            state: ip_vs_conn::State::LastAck,
            expires: Duration::from_secs(u64::from(seconds)),
        };
        prop_assert_eq!(ip_vs_conn::parse_line(&line), Ok(expected));
    }

    #[test]
    fn mount_points_read_back(path in "/[ -~\\t\\n\u{e9}]{0,30}", source in "[ -~]{0,10}") {
        // mangle_path() with the escapes of fs/proc_namespace.c.
        let mangle = |text: &str| -> String {
            text.chars()
                .map(|c| match c {
                    ' ' | '\t' | '\n' | '\\' | '#' => format!("\\{:03o}", c as u32),
                    _ => c.to_string(),
                })
                .collect()
        };
        let line = format!("40 30 0:4 / {} rw shared:1 - ext4 {} rw", mangle(&path), mangle(&source));
        let mount = mountinfo::parse_line(&line).unwrap();
        prop_assert_eq!((mount.mount_point, mount.source), (path, source));
    }
}

/// What a prefix means, said another way than the byte code says it: IPv4 is the mapped part
/// of IPv6, and only a prefix inside that part reaches sockets of IPv4.
fn contains(net: IpAddr, len: u8, address: IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let len = if net.is_ipv4() { 96 + u32::from(len.min(32)) } else { u32::from(len.min(128)) };
    let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
    let reaches_v4 = len >= 96 && net.to_canonical().is_ipv4();
    (reaches_v4 || address.is_ipv6()) && bits(net) & mask == bits(address) & mask
}

/// `inet_diag_bc_audit()` and `inet_diag_bc_run()` of `net/ipv4/inet_diag.c`, restated.
mod kernel {
    use super::IpAddr;

    struct Op<'a> {
        code: u8,
        yes: usize,
        no: usize,
        rest: &'a [u8],
    }

    fn op(code: &[u8]) -> Op<'_> {
        let no = u16::from_ne_bytes([code[2], code[3]]);
        Op { code: code[0], yes: code[1].into(), no: no.into(), rest: &code[4..] }
    }

    /// `valid_cc()`: whether a walk by `yes` comes by the place with `left` bytes to go.
    fn reachable(code: &[u8], left: usize) -> bool {
        let mut at = 0;
        while code.len() - at > left {
            at += op(&code[at..]).yes;
        }
        code.len() - at == left
    }

    pub fn audit(code: &[u8]) -> bool {
        let mut at = 0;
        while at < code.len() {
            let left = code.len() - at;
            let op = op(&code[at..]);
            let least = match op.code {
                1 => 4,
                8 => {
                    let address = if op.rest[0] == 2 { 4 } else { 16 };
                    if op.rest[1] > 8 * address {
                        return false;
                    }
                    4 + 8 + usize::from(address)
                }
                _ => return false,
            };
            let fits = |jump| jump >= least && jump <= left + 4 && jump % 4 == 0;
            if left < least || !fits(op.no) || !fits(op.yes) {
                return false;
            }
            if op.no < left && !reachable(code, left - op.no) {
                return false;
            }
            at += op.yes;
        }
        at == code.len()
    }

    pub fn run(code: &[u8], remote: IpAddr, remote_port: u16) -> bool {
        let mut at = 0;
        while at < code.len() {
            let op = op(&code[at..]);
            let holds = op.code == 8 && condition(op.rest, remote, remote_port);
            at += if holds { op.yes } else { op.no };
        }
        at == code.len()
    }

    fn condition(rest: &[u8], remote: IpAddr, remote_port: u16) -> bool {
        let (family, len) = (rest[0], u32::from(rest[1]));
        let port = i32::from_ne_bytes([rest[4], rest[5], rest[6], rest[7]]);
        if port != -1 && port != i32::from(remote_port) {
            return false;
        }
        let equal = |address: &[u8]| {
            let bit = |bytes: &[u8], n: u32| bytes[n as usize / 8] >> (7 - n % 8) & 1;
            (0..len).all(|n| bit(address, n) == bit(&rest[8..], n))
        };
        match (remote, family) {
            (IpAddr::V4(v4), 2) => equal(&v4.octets()),
            (IpAddr::V6(v6), 10) => equal(&v6.octets()),
            (IpAddr::V6(v6), 2) => v6.to_ipv4_mapped().is_some_and(|v4| equal(&v4.octets())),
            _ => false,
        }
    }
}

#[test]
fn a_filter_that_does_not_fit_is_left_out() {
    let peers: Vec<(IpAddr, u8)> =
        (0..4000u32).map(|n| (Ipv4Addr::from_bits(n).into(), 32)).collect();
    assert!(PeerFilter::new(&peers[..3276]).fits());
    let filtered = sock_diag::dump_to_peers(States::ALL, false, &peers[..3276], 1);
    let code = nl::attrs(&filtered[76..]).next().unwrap().unwrap().value;
    assert!(kernel::audit(code));
    assert!(kernel::run(code, peers[3275].0, 80) && !kernel::run(code, peers[3276].0, 80));
    assert!(!PeerFilter::new(&peers).fits());
    let unfiltered = sock_diag::dump_to_peers(States::ALL, false, &peers, 1);
    assert_eq!(unfiltered, sock_diag::dump(States::ALL, false, 1));
}
