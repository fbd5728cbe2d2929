//! ctnetlink: real messages, the bytes of requests, and what must hold for any input.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;
#[path = "common/damage.rs"]
mod damage;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use common::fixture;
use keepline_wire::conntrack::{
    Counters, Direction, DumpFilter, Entry, NewEntry, Status, TcpConntrackState, Tuple, create,
    delete, dump, get, parse, set_timeout,
};
use keepline_wire::nl::{self, HEADER_LEN, Request};
use proptest::collection::vec;
use proptest::prelude::*;

const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;

fn tuple(protocol: u8, source: &str, destination: &str) -> Tuple {
    Tuple { source: source.parse().unwrap(), destination: destination.parse().unwrap(), protocol }
}

fn counters(packets: u64, bytes: u64) -> Option<Counters> {
    Some(Counters { packets, bytes })
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The session that the request fixtures are about.
fn session() -> Tuple {
    tuple(6, "10.9.0.1:40001", "10.9.9.9:7000")
}

/// A message without the attributes of these types at its top level.
fn without(payload: &[u8], kinds: &[u16]) -> Vec<u8> {
    let request = Request::new(0, 0, 0).bytes(&payload[..4]);
    let attrs = nl::attrs(&payload[4..]).map(Result::unwrap);
    let kept = attrs.filter(|attr| !kinds.contains(&attr.kind));
    kept.fold(request, |request, attr| request.attr(attr.kind, attr.value)).finish()[HEADER_LEN..]
        .to_vec()
}

#[test]
fn translated_tcp() {
    let entry = parse(&fixture("ct_tcp4_nat")).unwrap();
    assert_eq!(entry.original, session());
    assert_eq!(entry.reply, tuple(6, "10.9.0.2:7001", "10.9.0.9:50008"));
    assert!(entry.translated());
    assert!(entry.status.all(Status::ASSURED | Status::SEEN_REPLY | Status::CONFIRMED));
    assert!(entry.status.all(Status::SRC_NAT | Status::DST_NAT));
    assert!(!entry.status.any(Status::DYING | Status::OFFLOAD));
    assert_eq!(entry.tcp_state, Some(TcpConntrackState::Established));
    assert_eq!(entry.timeout, Some(seconds(431_999)));
    assert_eq!((entry.mark, entry.zone, entry.id), (0, 0, Some(0x1c4b_c08c)));
    assert_eq!(entry.counters_original, counters(8, 432));
    assert_eq!(entry.counters_reply, counters(6, 328));
}

#[test]
fn translated_ipv6_with_mark() {
    let entry = parse(&fixture("ct_tcp6_nat")).unwrap();
    assert_eq!(entry.original, tuple(6, "[fd09::1]:40002", "[fd09::9]:7000"));
    assert_eq!(entry.reply, tuple(6, "[fd09::2]:7001", "[fd09::1]:40002"));
    assert!(entry.translated());
    assert!(entry.status.all(Status::DST_NAT) && !entry.status.any(Status::SRC_NAT));
    assert_eq!(entry.mark, 5);
}

#[test]
fn ipvs_translates_without_the_status_bit() {
    let entry = parse(&fixture("ct_ipvs")).unwrap();
    assert_eq!(entry.original, tuple(6, "10.0.1.6:40001", "10.0.1.2:7000"));
    assert_eq!(entry.reply, tuple(6, "10.0.2.4:7000", "10.0.2.1:40001"));
    assert!(entry.translated());
    assert!(!entry.status.any(Status::DST_NAT));
    assert_eq!((entry.counters_original, entry.counters_reply), (None, None));
}

#[test]
fn icmp_is_answered_by_another_type() {
    let entry = parse(&fixture("ct_icmp4")).unwrap();
    // Identifier, then type 8 code 0; the answer has type 0.
    assert_eq!(entry.original, tuple(1, "10.9.0.1:4660", "10.9.0.2:2048"));
    assert_eq!(entry.reply, tuple(1, "10.9.0.2:4660", "10.9.0.1:0"));
    assert!(!entry.translated());
    assert_eq!(entry.tcp_state, None);

    let entry = parse(&fixture("ct_icmp6")).unwrap();
    // Type 128, the answer has 129.
    assert_eq!(entry.original, tuple(58, "[fd09::1]:17185", "[fd09::2]:32768"));
    assert_eq!(entry.reply, tuple(58, "[fd09::2]:17185", "[fd09::1]:33024"));
    assert!(!entry.translated());
}

#[test]
fn zones() {
    let entry = parse(&fixture("ct_zone")).unwrap();
    assert_eq!((entry.original, entry.zone), (tuple(17, "10.9.0.1:40009", "10.9.0.5:99"), 9));
    assert!(!entry.status.any(Status::SEEN_REPLY));
    assert_eq!(parse(&fixture("ct_zone_original")).unwrap().zone, 11);
}

#[test]
fn what_create_makes() {
    let entry = parse(&fixture("ct_created")).unwrap();
    assert_eq!(entry.original, session());
    assert_eq!(entry.reply, tuple(6, "10.9.0.2:7001", "10.9.0.9:50008"));
    assert!(entry.status.all(Status::SRC_NAT | Status::DST_NAT | Status::ASSURED));
    assert_eq!((entry.timeout, entry.mark), (Some(seconds(777)), 5));
}

#[test]
fn an_offloaded_entry_has_no_lifetime() {
    // ctnetlink_dump_info() leaves both out where IPS_OFFLOAD is set.
    let bytes = without(&fixture("ct_tcp4_nat"), &[CTA_TIMEOUT, CTA_PROTOINFO]);
    let entry = parse(&bytes).unwrap();
    assert_eq!((entry.timeout, entry.tcp_state), (None, None));
    assert_eq!(entry.original, session());
}

#[test]
fn both_tuples_are_needed() {
    for kind in [1, 2] {
        assert!(parse(&without(&fixture("ct_tcp4_nat"), &[kind])).is_err());
    }
    assert!(parse(&[2, 0, 0]).is_err());
}

#[test]
fn requests_that_a_kernel_took() {
    let filter = DumpFilter {
        family: Some(2),
        protocol: Some(6),
        mark: Some((5, 0xff)),
        status: Some((Status::DST_NAT, Status::DST_NAT)),
    };
    assert_eq!(dump(&filter, 7), fixture("ct_request_dump"));
    assert_eq!(get(&session(), Direction::Original, None, 3), fixture("ct_request_get"));
    let timeout = Duration::from_millis(1_233_500);
    assert_eq!(set_timeout(&session(), timeout, 3), fixture("ct_request_set_timeout"));
    assert_eq!(delete(&session(), Some(0x1c4b_c08c), 4), fixture("ct_request_delete"));
    let entry = NewEntry {
        original: session(),
        destination_nat: Some("10.9.0.2:7001".parse().unwrap()),
        source_nat: Some("10.9.0.9:50008".parse().unwrap()),
        timeout: seconds(777),
        mark: 5,
        zone: 0,
        tcp_state: TcpConntrackState::Established,
    };
    assert_eq!(create(&entry, 5), fixture("ct_request_create"));
}

#[test]
fn a_protocol_without_a_family_is_not_asked_for() {
    // The kernel would answer EOPNOTSUPP.
    let filter = DumpFilter { protocol: Some(6), ..DumpFilter::default() };
    assert_eq!(dump(&filter, 1), dump(&DumpFilter::default(), 1));
    assert_eq!(dump(&filter, 1).len(), HEADER_LEN + 4);
}

#[test]
fn the_filter_tells_what_was_asked_for() {
    let entry = parse(&fixture("ct_tcp6_nat")).unwrap();
    let all = DumpFilter::default();
    let matches = |filter: DumpFilter| filter.matches(&entry);
    assert!(matches(all));
    assert!(matches(DumpFilter { family: Some(10), ..all }));
    assert!(!matches(DumpFilter { family: Some(2), ..all }));
    assert!(matches(DumpFilter { protocol: Some(6), ..all }));
    assert!(!matches(DumpFilter { protocol: Some(17), ..all }));
    assert!(matches(DumpFilter { mark: Some((1, 1)), ..all }));
    assert!(!matches(DumpFilter { mark: Some((1, 3 | 4)), ..all }));
    assert!(matches(DumpFilter { status: Some((Status::DST_NAT, 0x30)), ..all }));
    assert!(!matches(DumpFilter { status: Some((Status::SRC_NAT, 0x30)), ..all }));
}

#[test]
fn names_are_those_of_conntrack() {
    for (code, name) in [(3, "ESTABLISHED"), (5, "CLOSE_WAIT"), (9, "SYN_SENT2"), (77, "UNKNOWN")] {
        let state = TcpConntrackState::from_code(code);
        assert_eq!((state.name(), state.code()), (name, code));
    }
}

const FIXTURES: [&str; 8] = [
    "ct_tcp4_nat",
    "ct_tcp6_nat",
    "ct_icmp4",
    "ct_icmp6",
    "ct_zone",
    "ct_zone_original",
    "ct_created",
    "ct_ipvs",
];

fn tuples() -> impl Strategy<Value = Tuple> {
    let pair = prop_oneof![
        any::<(Ipv4Addr, Ipv4Addr)>().prop_map(|(a, b)| (IpAddr::V4(a), IpAddr::V4(b))),
        any::<(Ipv6Addr, Ipv6Addr)>().prop_map(|(a, b)| (IpAddr::V6(a), IpAddr::V6(b))),
    ];
    let protocol = prop_oneof![Just(1u8), Just(6), Just(17), Just(58), any::<u8>()];
    (pair, any::<u16>(), any::<u16>(), protocol).prop_map(
        |((from, to), first, second, protocol)| Tuple {
            source: SocketAddr::new(from, first),
            destination: SocketAddr::new(to, second),
            protocol,
        },
    )
}

/// [`parse`] reads requests as well: they have the attributes of answers.
fn reread(request: &[u8]) -> Entry {
    let message = nl::messages(request).next().unwrap().unwrap();
    assert_eq!(message.payload.len() + HEADER_LEN, request.len());
    parse(message.payload).unwrap()
}

proptest! {
    #[test]
    fn what_create_writes_reads_back(
        original in tuples(), mark: u32, zone: u16, millis in 0u64..u64::from(u32::MAX) * 1000,
        state: u8,
    ) {
        let entry = reread(&create(&NewEntry {
            original, mark, zone,
            destination_nat: Some(original.source),
            source_nat: Some(original.destination),
            timeout: Duration::from_millis(millis),
            tcp_state: TcpConntrackState::from_code(state),
        }, 1));
        prop_assert_eq!(entry.original, original);
        prop_assert_eq!(entry.reply, original.reversed());
        prop_assert!(!entry.translated());
        prop_assert_eq!((entry.mark, entry.zone), (mark, zone));
        prop_assert_eq!(entry.timeout, Some(seconds(millis.div_ceil(1000))));
        let tcp = (original.protocol == 6).then(|| TcpConntrackState::from_code(state));
        prop_assert_eq!(entry.tcp_state, tcp);
    }

    #[test]
    fn reversing_twice_is_nothing(tuple in tuples()) {
        prop_assert_eq!(tuple.reversed().reversed(), tuple);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn damaged_entries_never_panic(
        bytes in damage::damaged(&FIXTURES),
    ) {
        let _ = parse(&bytes);
    }
}
