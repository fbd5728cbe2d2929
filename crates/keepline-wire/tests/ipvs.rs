//! Generic netlink, IPVS and its sync message: real messages, the bytes of requests, and what
//! must hold for any input.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;
#[path = "common/damage.rs"]
mod damage;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use common::fixture;
use keepline_wire::ipvs::{
    self, Daemon, DaemonState, Destination, Forwarding, Service, ServiceFlags, ServiceId, Timeouts,
};
use keepline_wire::ipvs_sync::{self, SyncConn};
use keepline_wire::{genl, nl};
use proptest::collection::vec;
use proptest::prelude::*;

/// The family's number on the machine where the fixtures were recorded.
const FAMILY: u16 = 32;

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn tcp4() -> ServiceId {
    ServiceId::Address { protocol: 6, address: socket("10.0.1.2:7000") }
}

fn udp6() -> ServiceId {
    ServiceId::Address { protocol: 17, address: socket("[fd00::2]:53") }
}

fn service(id: ServiceId, scheduler: &str, flags: u32, persistence: u64, prefix: u8) -> Service {
    Service {
        id,
        scheduler: scheduler.to_owned(),
        flags: ServiceFlags(flags),
        persistence_timeout: seconds(persistence),
        persistence_prefix: prefix,
        pe_name: None,
        stats: None,
    }
}

fn destination(address: &str, forwarding: Forwarding, weight: u32) -> Destination {
    Destination {
        weight,
        upper_threshold: 10,
        lower_threshold: 5,
        ..Destination::new(socket(address), forwarding)
    }
}

#[test]
fn family() {
    let family = genl::parse_family(&fixture("genl_family_ipvs")).unwrap();
    assert_eq!((family.id, family.name.as_str()), (FAMILY, "IPVS"));
    assert_eq!((family.version, family.max_attr), (1, 6));
    // Of the 17 commands SET_INFO (14) is an answer only; GET_SERVICE can dump.
    assert_eq!(family.operations.len(), 16);
    assert_eq!(family.operations[3], genl::Operation { command: 4, flags: 15 });
    assert_eq!(genl::get_family(ipvs::FAMILY_NAME, 1), fixture("genl_request_family"));
}

#[test]
fn info_and_config() {
    let info = ipvs::parse_info(&fixture("ipvs_info")).unwrap();
    assert_eq!((info.version, info.conn_tab_size), ((1, 2, 1), 4096));
    let timeouts = ipvs::parse_config(&fixture("ipvs_config")).unwrap();
    let expected = Timeouts { tcp: seconds(900), tcp_fin: seconds(120), udp: seconds(300) };
    assert_eq!(timeouts, expected);
    let timeouts = Timeouts {
        tcp: seconds(7200),
        tcp_fin: Duration::ZERO,
        udp: Duration::from_millis(60_500),
    };
    assert_eq!(ipvs::set_config(FAMILY, &timeouts, 3), fixture("ipvs_request_set_config"));
}

#[test]
fn services() {
    let parse = |name| {
        let mut service = ipvs::parse_service(&fixture(name)).unwrap();
        assert_eq!(service.stats.take(), Some(ipvs::Stats::default()));
        service
    };
    // The kernel adds HASHED (2).
    assert_eq!(parse("ipvs_service_tcp4"), service(tcp4(), "rr", 2, 0, 32));
    assert_eq!(parse("ipvs_service_udp6"), service(udp6(), "wlc", 3, 300, 64));
    let id = ServiceId::Fwmark { mark: 256, v6: false };
    assert_eq!(parse("ipvs_service_fwmark4"), service(id, "rr", 3, 360, 24));
    let id = ServiceId::Fwmark { mark: 256, v6: true };
    let with_flags = parse("ipvs_service_fwmark6");
    assert_eq!(with_flags, service(id, "sh", 0x1a, 0, 128));
    assert_eq!(with_flags.flags.scheduler_names("sh"), ["sh-fallback", "sh-port"]);
    assert_eq!(ServiceFlags(0x10).scheduler_names("mh"), ["mh-port"]);
}

#[test]
fn traffic_is_counted() {
    let service = ipvs::parse_service(&fixture("ipvs_service_traffic")).unwrap();
    let expected =
        ipvs::Stats { conns: 1, packets_in: 8, packets_out: 7, bytes_in: 592, bytes_out: 520 };
    assert_eq!(service.stats, Some(expected));
    let destination = ipvs::parse_destination(&fixture("ipvs_destination_traffic")).unwrap();
    assert_eq!(destination.stats, Some(expected));
    assert_eq!((destination.active, destination.inactive), (0, 1));
}

#[test]
fn destinations() {
    let parse = |name| {
        let mut destination = ipvs::parse_destination(&fixture(name)).unwrap();
        assert_eq!(destination.stats.take(), Some(ipvs::Stats::default()));
        destination
    };
    let masquerade = destination("10.0.1.4:7000", Forwarding::Masquerade, 3);
    assert_eq!(parse("ipvs_destination_masq4"), masquerade);
    let tunnel = destination("[fd00::5]:7000", Forwarding::Tunnel, 1);
    assert_eq!(parse("ipvs_destination_tunnel6"), tunnel);
}

#[test]
fn before_3_18_the_address_family_is_guessed() {
    const ADDR_FAMILY: u16 = 11;
    for name in ["ipvs_destination_masq4", "ipvs_destination_tunnel6"] {
        let payload = fixture(name);
        let list = nl::attrs(&payload[4..]).next().unwrap().unwrap();
        let kept = list.nested().map(Result::unwrap).filter(|attr| attr.kind != ADDR_FAMILY);
        let old = nl::Request::new(0, 0, 0)
            .bytes(&payload[..4])
            .nested(list.kind, |list| {
                kept.fold(list, |list, attr| list.attr(attr.kind, attr.value))
            })
            .finish();
        let guessed = ipvs::parse_destination(&old[nl::HEADER_LEN..]).unwrap();
        assert_eq!(guessed, ipvs::parse_destination(&payload).unwrap());
    }
}

#[test]
fn daemons() {
    let master = Daemon {
        state: DaemonState::Master,
        interface: "lo".to_owned(),
        sync_id: 7,
        sync_maxlen: Some(1000),
        mcast_group: Some(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 99))),
        mcast_port: Some(9000),
        mcast_ttl: Some(3),
    };
    assert_eq!(ipvs::parse_daemon(&fixture("ipvs_daemon_master")).unwrap(), master);
    assert_eq!(ipvs::new_daemon(FAMILY, &master, 9), fixture("ipvs_request_new_daemon"));
    let backup = ipvs::parse_daemon(&fixture("ipvs_daemon_backup")).unwrap();
    assert_eq!((backup.state, backup.sync_id), (DaemonState::Backup, 0));
    assert_eq!(backup.mcast_group, Some(ipvs_sync::GROUP.into()));
    assert_eq!(backup.mcast_port, Some(ipvs_sync::PORT));
    let stop = ipvs::del_daemon(FAMILY, DaemonState::Master, 9);
    assert_eq!(stop, fixture("ipvs_request_del_daemon"));
}

#[test]
fn requests_that_a_kernel_took() {
    let new = service(udp6(), "wlc", ServiceFlags::PERSISTENT, 300, 64);
    assert_eq!(ipvs::new_service(FAMILY, &new, 4), fixture("ipvs_request_new_service"));
    // What `rehash` does: everything as it was, but scheduler and flag.
    let mut changed = ipvs::parse_service(&fixture("ipvs_service_fwmark4")).unwrap();
    changed.scheduler = "mh".to_owned();
    changed.flags.0 |= ServiceFlags::SCHED2;
    assert_eq!(ipvs::set_service(FAMILY, &changed, 8), fixture("ipvs_request_set_service"));
    assert_eq!(ipvs::del_service(FAMILY, &udp6(), 8), fixture("ipvs_request_del_service"));
    let tunnel = destination("[fd00::5]:7000", Forwarding::Tunnel, 1);
    let request = ipvs::new_destination(FAMILY, &tcp4(), &tunnel, 5);
    assert_eq!(request, fixture("ipvs_request_new_destination"));
    let request = ipvs::del_destination(FAMILY, &tcp4(), socket("10.0.1.5:7000"), 8);
    assert_eq!(request, fixture("ipvs_request_del_destination"));
    let id = ServiceId::Fwmark { mark: 256, v6: true };
    let request = ipvs::dump_destinations(FAMILY, &id, 6);
    assert_eq!(request, fixture("ipvs_request_destinations"));
}

/// The sessions in the messages of a kernel's master daemon.
fn sessions(state: u16, flags: u32, timeout: u64) -> [SyncConn; 2] {
    let conn = |client, vip, backend| SyncConn {
        protocol: 6,
        flags: flags | 0x10000, // IP_VS_CONN_F_NFCT
        state,
        client: socket(client),
        vip: socket(vip),
        backend: socket(backend),
        fwmark: 0,
        timeout: seconds(timeout),
    };
    [
        conn("10.0.1.6:40001", "10.0.1.2:7000", "10.0.2.4:7000"),
        conn("[fd00:1::6]:40002", "[fd00:1::2]:7000", "[fd00:2::4]:7000"),
    ]
}

#[test]
fn sync_messages_of_a_kernel() {
    let [v4, v6] = sessions(ipvs_sync::STATE_ESTABLISHED, 0, 900);
    let datagram = fixture("sync_kernel_established");
    assert_eq!(ipvs_sync::decode(&datagram).unwrap(), (5, vec![v4, v6]));
    // What the kernel writes is what we write.
    assert_eq!(ipvs_sync::encode(&[v4, v6], 5, 1400), [datagram]);
    let [v4, v6] = sessions(7, ipvs_sync::FLAG_INACTIVE, 60);
    let decoded = ipvs_sync::decode(&fixture("sync_kernel_closed")).unwrap();
    assert_eq!(decoded, (5, vec![v6, v4]));
}

/// The entries that a kernel's backup daemon took from us.
fn taken(v6: bool) -> SyncConn {
    let [client, vip, backend] = if v6 {
        ["[fd00::6]:53028", "[fd00::2]:7000", "[fd00::4]:7000"]
    } else {
        ["10.0.1.6:53028", "10.0.1.2:7000", "10.0.1.4:7000"]
    };
    SyncConn {
        protocol: 6,
        flags: Forwarding::Masquerade.code(),
        state: ipvs_sync::STATE_ESTABLISHED,
        client: socket(client),
        vip: socket(vip),
        backend: socket(backend),
        fwmark: if v6 { 256 } else { 0 },
        timeout: seconds(7199),
    }
}

#[test]
fn sync_messages_that_a_kernel_took() {
    assert_eq!(ipvs_sync::encode(&[taken(false)], 0, 1400), [fixture("sync_sent_v4")]);
    assert_eq!(ipvs_sync::encode(&[taken(true)], 0, 1400), [fixture("sync_sent_v6")]);
}

#[test]
fn sync_parameters_are_skipped() {
    let mut datagram = fixture("sync_parameters");
    let with_sequence_numbers = SyncConn { flags: 0x600, ..taken(false) };
    let expected = (0, vec![with_sequence_numbers, taken(false)]);
    assert_eq!(ipvs_sync::decode(&datagram).unwrap(), expected);
    // A parameter that says to be longer than the entry.
    datagram[8 + 36 + 1] = 200;
    assert!(ipvs_sync::decode(&datagram).is_err());
    datagram[8 + 36 + 1] = 0;
    assert!(ipvs_sync::decode(&datagram).is_err());
}

#[test]
fn what_the_kernel_drops_is_refused() {
    let good = fixture("sync_sent_v4");
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        ipvs_sync::decode(&bytes)
    };
    assert!(changed(0, 1).is_err(), "version 0 has its count here");
    assert!(changed(3, good[3] + 1).is_err(), "size is not that of the datagram");
    assert!(changed(4, 2).is_err(), "one more entry than there is");
    assert!(changed(5, 2).is_err(), "another version");
    assert!(changed(8, 2).is_err(), "unknown type");
    assert!(changed(10, 0x10).is_err(), "another layout");
    assert!(changed(11, 35).is_err(), "entry too short");
}

#[test]
fn sync_messages_are_split() {
    // The count has 8 bits.
    let many = ipvs_sync::encode(&[taken(false); 300], 9, usize::MAX);
    assert_eq!(many.iter().map(|datagram| datagram[4]).collect::<Vec<_>>(), [255, 45]);
    // The largest that a limit allows, and one at least.
    let some = ipvs_sync::encode(&[taken(false), taken(false), taken(true)], 9, 8 + 2 * 36);
    assert_eq!(some.iter().map(Vec::len).collect::<Vec<_>>(), [80, 80]);
    assert_eq!(ipvs_sync::encode(&[taken(true); 2], 9, 0).len(), 2);
    assert!(ipvs_sync::encode(&[], 9, 1400).is_empty());
}

#[test]
fn mixed_families_have_no_sync_form() {
    let mixed = SyncConn { backend: socket("[fd00::4]:7000"), ..taken(false) };
    assert!(!mixed.encodable() && taken(true).encodable());
    assert_eq!(
        ipvs_sync::encode(&[mixed, taken(false)], 0, 1400),
        ipvs_sync::encode(&[taken(false)], 0, 1400)
    );
}

const FIXTURES: [&str; 13] = [
    "genl_family_ipvs",
    "ipvs_info",
    "ipvs_config",
    "ipvs_service_tcp4",
    "ipvs_service_udp6",
    "ipvs_service_fwmark4",
    "ipvs_service_traffic",
    "ipvs_destination_masq4",
    "ipvs_destination_tunnel6",
    "ipvs_daemon_master",
    "sync_kernel_established",
    "sync_kernel_closed",
    "sync_parameters",
];

/// Every parser here, on the same bytes.
fn read_all(bytes: &[u8]) {
    let _ = genl::parse_family(bytes);
    let _ = ipvs::parse_info(bytes);
    let _ = ipvs::parse_config(bytes);
    let _ = ipvs::parse_service(bytes);
    let _ = ipvs::parse_destination(bytes);
    let _ = ipvs::parse_daemon(bytes);
    let _ = ipvs_sync::decode(bytes);
}

fn addresses<const N: usize>() -> impl Strategy<Value = [SocketAddr; N]>
where
    [u16; N]: Arbitrary,
    [Ipv4Addr; N]: Arbitrary,
    [Ipv6Addr; N]: Arbitrary,
{
    let ips = prop_oneof![
        any::<[Ipv4Addr; N]>().prop_map(|ips| ips.map(IpAddr::V4)),
        any::<[Ipv6Addr; N]>().prop_map(|ips| ips.map(IpAddr::V6)),
    ];
    (ips, any::<[u16; N]>())
        .prop_map(|(ips, ports)| std::array::from_fn(|i| SocketAddr::new(ips[i], ports[i])))
}

fn ids() -> impl Strategy<Value = ServiceId> {
    prop_oneof![
        (any::<u8>(), addresses::<1>())
            .prop_map(|(protocol, [address])| ServiceId::Address { protocol, address }),
        (any::<u32>(), any::<bool>()).prop_map(|(mark, v6)| ServiceId::Fwmark { mark, v6 }),
    ]
}

fn is_v4(id: &ServiceId) -> bool {
    match id {
        ServiceId::Address { address, .. } => address.is_ipv4(),
        ServiceId::Fwmark { v6, .. } => !v6,
    }
}

fn conns() -> impl Strategy<Value = SyncConn> {
    let rest = any::<(u8, u32, u16, u32, u32)>();
    (addresses::<3>(), rest).prop_map(
        |([client, vip, backend], (protocol, flags, state, fwmark, timeout))| SyncConn {
            protocol,
            flags,
            state,
            client,
            vip,
            backend,
            fwmark,
            timeout: seconds(timeout.into()),
        },
    )
}

fn payload(request: &[u8]) -> &[u8] {
    nl::messages(request).next().unwrap().unwrap().payload
}

proptest! {
    /// The parsers read requests as well: they have the attributes of answers.
    #[test]
    fn services_read_back(
        id in ids(), scheduler in "[a-z]{1,15}", flags: u32, persistence: u32,
        prefix in 0u8..=128, pe_name in proptest::option::of("[a-z]{1,15}"),
    ) {
        let prefix = if is_v4(&id) { prefix % 33 } else { prefix };
        let persistence_timeout = seconds(persistence.into());
        let service = Service {
            pe_name, persistence_timeout, ..service(id, &scheduler, flags, 0, prefix)
        };
        let request = ipvs::set_service(FAMILY, &service, 1);
        prop_assert_eq!(ipvs::parse_service(payload(&request)), Ok(service));
    }

    #[test]
    fn destinations_read_back(
        id in ids(), [address] in addresses::<1>(), fields: [u32; 4],
    ) {
        let [weight, method, upper_threshold, lower_threshold] = fields;
        let destination = Destination {
            weight, upper_threshold, lower_threshold,
            ..Destination::new(address, Forwarding::from_code(method))
        };
        let request = ipvs::new_destination(FAMILY, &id, &destination, 1);
        prop_assert_eq!(ipvs::parse_destination(payload(&request)), Ok(destination));
    }

    #[test]
    fn sync_messages_read_back(
        conns in vec(conns(), 0..12), sync_id: u8, max_len in 0usize..600,
    ) {
        let mut decoded = Vec::new();
        for datagram in ipvs_sync::encode(&conns, sync_id, max_len) {
            let (id, mut part) = ipvs_sync::decode(&datagram).unwrap();
            prop_assert_eq!(id, sync_id);
            prop_assert!(datagram.len() <= max_len || part.len() == 1);
            decoded.append(&mut part);
        }
        prop_assert_eq!(decoded, conns);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        read_all(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(
        bytes in damage::damaged(&FIXTURES),
    ) {
        read_all(&bytes);
    }
}
