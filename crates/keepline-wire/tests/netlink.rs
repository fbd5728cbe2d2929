//! Real messages, and the bytes of requests.

mod common;

use std::time::Duration;

use common::fixture;
use keepline_wire::nl::{self, WireError};
use keepline_wire::sock_diag::{self, States, TcpInfo, TcpState, Timer};
use keepline_wire::{nftables, rtnl};

#[test]
fn established_with_tcp_info() {
    let socket = sock_diag::parse(&fixture("tcp4_established_info")).unwrap();
    assert_eq!(socket.local, "127.0.0.7:34945".parse().unwrap());
    assert_eq!(socket.remote, "127.0.0.1:47011".parse().unwrap());
    assert_eq!(socket.state, TcpState::Established);
    assert_eq!(socket.timer, Timer::Keepalive);
    assert_eq!(socket.timer_expires, Duration::from_millis(7_198_700));
    assert_eq!(socket.retransmits_or_probes, 0);
    assert_eq!((socket.cookie, socket.inode), (4098, 43788));
    assert_eq!((socket.cgroup, socket.mark), (Some(1), Some(42)));
    let info = socket.info.unwrap();
    assert_eq!(info.last_data_sent, Duration::from_millis(1300));
    assert_eq!(info.last_data_recv, Duration::from_millis(1300));
    assert_eq!(info.last_ack_recv, Duration::from_millis(1300));
    assert_eq!(info.rto, Duration::from_millis(204));
    assert_eq!(info.rtt, Duration::from_micros(48));
    assert_eq!((info.retransmits, info.probes, info.backoff, info.unacked), (0, 0, 0, 0));
    assert_eq!(info.total_retransmits, Some(0));
    // One more than the five sent: the SYN counts.
    assert_eq!((info.bytes_acked, info.bytes_received), (Some(6), Some(6)));
}

#[test]
fn ipv6_without_keepalive() {
    let socket = sock_diag::parse(&fixture("tcp6_established")).unwrap();
    assert_eq!(socket.local, "[::1]:51741".parse().unwrap());
    assert_eq!(socket.remote, "[::1]:47012".parse().unwrap());
    assert_eq!((socket.timer, socket.timer_expires), (Timer::Off, Duration::ZERO));
    assert_eq!(socket.info, None);
}

#[test]
fn mapped_addresses_become_ipv4() {
    let socket = sock_diag::parse(&fixture("tcp6_mapped")).unwrap();
    assert_eq!(socket.local, "127.0.0.1:47013".parse().unwrap());
    assert_eq!(socket.remote, "127.0.0.1:51998".parse().unwrap());
    // AF_INET, and the cookie with its low half first.
    let again = socket.get_again(true, 1);
    assert_eq!(again[16..20], [2, 6, 2, 0]);
    assert_eq!(again[24..28], [0xb7, 0xa5, 0xcb, 0x1e]);
    assert_eq!(again[28..44], [127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(again[64..72], 4102u64.to_le_bytes());
}

#[test]
fn listener_and_time_wait() {
    let listener = sock_diag::parse(&fixture("tcp6_listen")).unwrap();
    assert_eq!(listener.local, "[::]:47013".parse().unwrap());
    assert_eq!(listener.state, TcpState::Listen);
    assert_eq!((listener.rqueue, listener.wqueue), (0, 128));
    let closed = sock_diag::parse(&fixture("tcp4_time_wait")).unwrap();
    assert_eq!((closed.state, closed.timer), (TcpState::TimeWait, Timer::TimeWait));
    assert_eq!(closed.timer_expires, Duration::from_secs(60));
    assert_eq!((closed.inode, closed.cgroup, closed.info), (0, None, None));
}

#[test]
fn link_local_addresses_carry_the_interface() {
    let mut bytes = fixture("tcp6_established");
    bytes[8..10].copy_from_slice(&[0xfe, 0x80]);
    bytes[40..44].copy_from_slice(&7u32.to_ne_bytes());
    let socket = sock_diag::parse(&bytes).unwrap();
    assert_eq!(socket.local, "[fe80::1%7]:51741".parse().unwrap());
    let request = sock_diag::get(socket.local, socket.remote, None, false, 1);
    assert_eq!(request[60..64], 7u32.to_ne_bytes());
}

#[test]
fn tcp_info_of_any_length() {
    let message = fixture("tcp4_established_info");
    // After the fixed part, four attributes: 8 + 8 + 12 + 8 bytes, and the header.
    let info = &message[72 + 36 + 4..];
    assert_eq!(info.len(), 280);
    let whole = TcpInfo::parse(info).unwrap();
    // Linux 2.6.18: up to tcpi_rcv_space.
    let old = TcpInfo::parse(&info[..100]).unwrap();
    assert_eq!((old.total_retransmits, old.bytes_acked, old.bytes_received), (None, None, None));
    assert_eq!(old.idle(), whole.idle());
    // Linux 4.0: pacing rates, and no byte counts yet.
    let middle = TcpInfo::parse(&info[..120]).unwrap();
    assert_eq!((middle.total_retransmits, middle.bytes_acked), (Some(0), None));
    // A kernel of the future.
    let mut long = info.to_vec();
    long.resize(500, 0xee);
    assert_eq!(TcpInfo::parse(&long), Some(whole));
    assert_eq!(TcpInfo::parse(&info[..60]), None);
    assert_eq!(TcpInfo::parse(&[]), None);
}

#[test]
fn idle_is_the_least_of_the_three_ages() {
    let whole = sock_diag::parse(&fixture("tcp4_established_info")).unwrap().info.unwrap();
    let age = Duration::from_millis;
    for (sent, received, acked) in [(7, 9, 9), (9, 7, 9), (9, 9, 7)] {
        let info = TcpInfo {
            last_data_sent: age(sent),
            last_data_recv: age(received),
            last_ack_recv: age(acked),
            ..whole
        };
        assert_eq!(info.idle(), age(7));
    }
}

#[test]
fn bad_answers_are_refused() {
    let good = fixture("tcp4_established_info");
    let changed = |offset: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[offset] = value;
        sock_diag::parse(&bytes)
    };
    assert_eq!(
        sock_diag::parse(&good[..71]),
        Err(WireError::Short { what: "inet_diag_msg", need: 72, have: 71 })
    );
    assert_eq!(changed(0, 1), Err(WireError::invalid("inet_diag_msg", "address family 1")));
    assert_eq!(changed(1, 0), Err(WireError::invalid("inet_diag_msg", "TCP state 0")));
    assert_eq!(changed(1, 13), Err(WireError::invalid("inet_diag_msg", "TCP state 13")));
    // INET_DIAG_SHUTDOWN claims to be longer than the message.
    assert!(matches!(changed(73, 0xff), Err(WireError::Short { .. })));
}

#[test]
fn requests() {
    let dump = sock_diag::dump(States::of(&[TcpState::Established, TcpState::CloseWait]), true, 9);
    let message = nl::messages(&dump).next().unwrap().unwrap();
    assert_eq!((message.kind, message.flags, message.sequence), (18, 0x301, 9));
    let mut expected = [0; 60];
    expected[3] = 2; // idiag_ext: INET_DIAG_INFO
    expected[52..56].copy_from_slice(&0x102u32.to_ne_bytes()); // idiag_states
    assert_eq!(message.payload, expected);
    assert_eq!(sock_diag::dump(States::ALL, false, 9)[19], 0);

    let (local, remote) =
        ("[::ffff:10.0.0.1]:80".parse().unwrap(), "10.0.0.2:443".parse().unwrap());
    let get = sock_diag::get(local, remote, None, false, 3);
    let mut expected = vec![2, 6, 0, 0];
    expected.extend(0x1ffeu32.to_ne_bytes());
    expected.extend([0, 80, 1, 0xbb]);
    expected.extend([10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([0; 4]);
    expected.extend([0xff; 8]); // INET_DIAG_NOCOOKIE
    assert_eq!(get[4..8], [20, 0, 1, 0]);
    assert_eq!(get[16..], expected);
    let destroy = sock_diag::destroy(local, remote, None, 3);
    assert_eq!(destroy[4..8], [21, 0, 5, 0]);
    assert_eq!(destroy[16..], expected);

    assert_eq!(
        rtnl::dump_addresses(1)[4..],
        [22, 0, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(nftables::dump_chains(1)[4..], [4, 10, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn states() {
    for value in 0..=u8::MAX {
        match TcpState::from_u8(value) {
            Some(state) => {
                assert_eq!(state as u8, value);
                assert!(States::ALL.contains(state));
                assert!(States::of(&[state]).contains(state));
            }
            None => assert!(value == 0 || value > 12, "{value}"),
        }
    }
    assert_eq!(States::CONNECTED.0, 0b1011_0011_0010);
    assert!(!States::CONNECTED.contains(TcpState::Listen));
    assert_eq!(TcpState::FinWait1.name(), "FIN_WAIT1");
}

#[test]
fn addresses() {
    let vip = rtnl::parse_address(&fixture("addr4_vip")).unwrap();
    assert_eq!((vip.ip, vip.prefix_len), ("10.0.1.9".parse().unwrap(), 32));
    assert_eq!((vip.interface, vip.scope), (1, 0));
    // IFA_ADDRESS is the peer here.
    let here = rtnl::parse_address(&fixture("addr4_peer")).unwrap();
    assert_eq!(here.ip, "192.0.2.1".parse::<std::net::IpAddr>().unwrap());
    let six = rtnl::parse_address(&fixture("addr6")).unwrap();
    assert_eq!((six.ip, six.prefix_len), ("2001:db8::5".parse().unwrap(), 64));

    let mut bytes = fixture("addr4_vip");
    assert!(rtnl::parse_address(&bytes[..8]).is_err(), "no address");
    bytes[1] = 33;
    assert!(rtnl::parse_address(&bytes).is_err(), "prefix length 33");
    bytes[..2].copy_from_slice(&[7, 32]);
    assert!(rtnl::parse_address(&bytes).is_err(), "family 7");
}

#[test]
fn chains() {
    let nat = nftables::parse_chain(&fixture("chain_nat")).unwrap();
    let expected = nftables::Chain {
        family: 2,
        table: "nat".into(),
        name: "PREROUTING".into(),
        kind: Some("nat".into()),
        hook: Some(0),
        priority: Some(-100),
    };
    assert_eq!(nat, expected);
    let regular = nftables::parse_chain(&fixture("chain_regular")).unwrap();
    assert_eq!((regular.name.as_str(), regular.kind, regular.hook), ("DOCKER", None, None));
    assert!(nftables::parse_chain(&fixture("chain_regular")[..12]).is_err(), "no name");
    assert!(nftables::parse_chain(&[2, 0, 0]).is_err(), "short");
}

#[test]
fn errors_with_and_without_the_request_echoed() {
    for name in ["error_text", "error_capped"] {
        let bytes = fixture(name);
        let message = nl::messages(&bytes).next().unwrap().unwrap();
        let status = message.status().unwrap().unwrap();
        assert_eq!(status.errno, 19, "{name}");
        assert_eq!(status.text.as_deref(), Some("ipv4: Device not found"), "{name}");
    }
}

#[test]
fn a_dump_ends_with_done() {
    let done = nl::Request::new(nl::NLMSG_DONE, 0x02, 7).bytes(&(-4i32).to_ne_bytes()).finish();
    let message = nl::messages(&done).next().unwrap().unwrap();
    assert_eq!(message.status().unwrap(), Some(nl::Status { errno: 4, text: None }));
    assert!(!message.interrupted());
    let interrupted = nl::Request::new(20, nl::NLM_F_DUMP_INTR, 7).finish();
    let message = nl::messages(&interrupted).next().unwrap().unwrap();
    assert!(message.interrupted());
    assert_eq!(message.status().unwrap(), None);
    // errno of i32::MIN cannot be negated.
    let worst = nl::Request::new(nl::NLMSG_ERROR, 0, 7).bytes(&i32::MIN.to_ne_bytes()).finish();
    let status = nl::messages(&worst).next().unwrap().unwrap().status().unwrap().unwrap();
    assert_eq!(status.errno, i32::MAX);
}
