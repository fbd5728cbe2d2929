//! Tables of `/proc`. The rows of `ip_vs_conn` are written as `ip_vs_conn_seq_show()` does
//! (the kernel of the development machine has no IPVS); the others are of Linux 6.18.

use std::time::Duration;

use keepline_wire::proc::{ip_vs_conn, mountinfo, nf_conntrack_stat, sockstat};

const IP_VS_CONN: &str = "\
Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP 0A000106 CF24 0A000102 1B58 0A000104 1B58 ESTABLISHED     893
UDP 0A000106 0035 0A000102 0035 0A000104 0035 UDP              12
IP  0A000106 0000 00000100 0000 0A000104 0000 ASSURED         297
TCP 2001:0db8:0000:0000:0000:0000:0000:0006 CF24 2001:0db8:0000:0000:0000:0000:0000:0002 1B58 2001:0db8:0000:0000:0000:0000:0000:0004 1B58 CLOSE_WAIT       59
TCP 2001:0db8:0000:0000:0000:0000:0000:0006 CF24 2001:0db8:0000:0000:0000:0000:0000:0002 1B58 0A000104 1B58 FIN_WAIT        119
UDP 0A000106 13C4 0A000102 13C4 0A000104 13C4 UDP             299 sip 4711@10.0.0.9 x
SCTP 0A000106 CF24 0A000102 1B58 0A000104 1B58 COOKIE_WAIT       3
IP_47 0A000106 0000 0A000102 0000 0A000104 0000 NONE              1
";

#[test]
fn ipvs_entries() {
    let parsed = ip_vs_conn::parse(IP_VS_CONN);
    assert_eq!(parsed.bad, []);
    assert_eq!(parsed.rows.len(), 8);
    let expected = ip_vs_conn::Connection {
        protocol: 6,
        client: "10.0.1.6:53028".parse().unwrap(),
        vip: "10.0.1.2:7000".parse().unwrap(),
        backend: "10.0.1.4:7000".parse().unwrap(),
        state: ip_vs_conn::State::Established,
        expires: Duration::from_secs(893),
        pe: None,
    };
    assert_eq!(parsed.rows[0], expected);
    let rows: Vec<_> = parsed
        .rows
        .iter()
        .map(|row| (row.protocol, row.state.name(), row.expires.as_secs()))
        .collect();
    assert_eq!(
        rows[1..],
        [
            (17, "UDP", 12),
            (0, "ASSURED", 297),
            (6, "CLOSE_WAIT", 59),
            (6, "FIN_WAIT", 119),
            (17, "UDP", 299),
            (132, "OTHER", 3),
            (47, "NONE", 1),
        ]
    );
    assert_eq!(parsed.rows[3].client, "[2001:db8::6]:53028".parse().unwrap());
    // An IPv6 service may tunnel to an IPv4 backend.
    assert_eq!(parsed.rows[4].backend, "10.0.1.4:7000".parse().unwrap());
    assert_eq!(parsed.rows[5].pe.as_deref(), Some("sip 4711@10.0.0.9 x"));
}

/// `tcp_state_name_table` in `ip_vs_proto_tcp.c`.
#[test]
fn ipvs_states_by_number_are_those_by_name() {
    let names = [
        "NONE",
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "SYNACK",
    ];
    for (number, name) in (0..).zip(names) {
        assert_eq!(ip_vs_conn::State::from_tcp(number).name(), name);
    }
    assert_eq!(ip_vs_conn::State::from_tcp(11), ip_vs_conn::State::Other);
}

#[test]
fn ipvs_lifetime_that_wrapped_around_is_zero() {
    // 2.6.38: (unsigned long)(expires - jiffies) / HZ, two jiffies late.
    let line = "TCP 0A000106 CF24 0A000102 1B58 0A000104 1B58 ESTABLISHED 73786976294838206";
    assert_eq!(ip_vs_conn::parse_line(line).unwrap().expires, Duration::ZERO);
    let longest = "TCP 0A000106 CF24 0A000102 1B58 0A000104 1B58 ESTABLISHED 2147483647";
    assert_eq!(ip_vs_conn::parse_line(longest).unwrap().expires.as_secs(), 2_147_483_647);
}

#[test]
fn ipvs_lines_that_cannot_be() {
    let good = "TCP 0A000106 CF24 0A000102 1B58 0A000104 1B58 ESTABLISHED     893";
    assert!(ip_vs_conn::parse_line(good).is_ok());
    for (from, to, why) in [
        ("TCP", "TPC", "unknown protocol \"TPC\""),
        ("TCP", "IP_256", "unknown protocol \"IP_256\""),
        ("0A000106", "+A000106", "bad address \"+A000106\""),
        ("0A000106", "0A00010", "bad address \"0A00010\""),
        ("0A000106", "2001:::1", "bad address \"2001:::1\""),
        ("CF24", "1CF24", "bad port \"1CF24\""),
        ("     893", " 893s", "bad lifetime \"893s\""),
        ("     893", " -1", "bad lifetime \"-1\""),
        ("     893", "", "lifetime is missing"),
    ] {
        assert_eq!(ip_vs_conn::parse_line(&good.replacen(from, to, 1)), Err(why.to_owned()));
    }
    let table = format!("{good}\n\nTPC é{}\n{good}", "é".repeat(300));
    let parsed = ip_vs_conn::parse(&table);
    assert_eq!((parsed.rows.len(), parsed.bad.len()), (2, 1));
    assert_eq!(parsed.bad[0].line, 3);
    assert_eq!(parsed.bad[0].text.chars().count(), 80);
}

const SOCKSTAT: &str = "\
sockets: used 20
TCP: inuse 4 orphan 1 tw 2 alloc 9 mem 116
UDP: inuse 7 mem 0
UDPLITE: inuse 0
RAW: inuse 0
FRAG: inuse 0 memory 0
";
const SOCKSTAT6: &str = "TCP6: inuse 3\nUDP6: inuse 8\nUDPLITE6: inuse 0\nRAW6: inuse 0\n";

#[test]
fn socket_counts() {
    let expected = sockstat::SockStat {
        tcp_inuse: 4,
        tcp6_inuse: 3,
        orphan: 1,
        tw: 2,
        alloc: 9,
        mem_pages: 116,
    };
    assert_eq!(sockstat::parse(SOCKSTAT, SOCKSTAT6), Ok(expected));
    assert_eq!(sockstat::parse(SOCKSTAT, "").unwrap().tcp6_inuse, 0);
    assert!(sockstat::parse("", SOCKSTAT6).is_err(), "no TCP line");
    assert!(sockstat::parse("TCP: orphan 1", "").is_err(), "no inuse");
    assert!(sockstat::parse("TCP: inuse many", "").is_err());
    assert!(sockstat::parse("TCP: inuse", "").is_err());
    assert!(sockstat::parse(SOCKSTAT, "TCP6: inuse -3").is_err());
}

const NF_CONNTRACK: &str = "\
entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart
0000001f  00000000 00000002 00000000 0000000a 00000005 00000000 00000000 00000000 00000001 00000010 00000000 00000000  00000000 00000000 00000000 00000000
0000001f  00000000 00000000 00000000 00000001 00000001 00000000 00000000 00000000 00000002 00000001 00000003 00000000  00000000 00000000 00000000 00000000
";

#[test]
fn conntrack_statistics() {
    let expected = nf_conntrack_stat::ConntrackStat {
        entries: 31,
        invalid: 11,
        insert_failed: 3,
        drop: 17,
        early_drop: 3,
    };
    assert_eq!(nf_conntrack_stat::parse(NF_CONNTRACK), Ok(expected));
    // Linux 2.6.11 knew fewer columns, a future one may know others.
    let few = nf_conntrack_stat::parse("entries news drop\n00000002 x 00000003\n").unwrap();
    assert_eq!((few.entries, few.drop, few.invalid), (2, 3, 0));
    assert!(nf_conntrack_stat::parse("").is_err());
    assert!(nf_conntrack_stat::parse("entries drop\n").is_err(), "no CPU");
    assert!(nf_conntrack_stat::parse("drop\n00000001\n").is_err(), "no entries");
    assert!(nf_conntrack_stat::parse("entries\nnone\n").is_err());
}

const MOUNTINFO: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
36 35 98:0 /mnt1 /mnt\\0402\\134 rw,noatime shared:7 master:1 - ext3 /dev/root rw,errors=continue
540 28 0:4 net:[4026532311] /run/docker/netns/lb_edja88p19 rw shared:301 - nsfs nsfs rw
541 28 0:52 / /mnt/x\\099 rw -  none  rw
";

#[test]
fn mounts() {
    let parsed = mountinfo::parse(MOUNTINFO);
    assert_eq!(parsed.bad, []);
    assert_eq!(parsed.rows[1].mount_point, "/mnt 2\\");
    assert_eq!((parsed.rows[1].mount_id, parsed.rows[1].parent), (36, 35));
    assert_eq!(parsed.rows[1].source, "/dev/root");
    let expected = mountinfo::Mount {
        mount_id: 540,
        parent: 28,
        root: "net:[4026532311]".into(),
        mount_point: "/run/docker/netns/lb_edja88p19".into(),
        fs_type: "nsfs".into(),
        source: "nsfs".into(),
    };
    assert_eq!(parsed.rows[2], expected);
    // \099 is not octal and stays; the type is empty, as FUSE may make it.
    assert_eq!(parsed.rows[3].mount_point, "/mnt/x\\099");
    assert_eq!((parsed.rows[3].fs_type.as_str(), parsed.rows[3].source.as_str()), ("", "none"));
    for line in
        ["", "22", "22 27 0:21 / /proc rw proc proc rw", "x 27 0:21 / /proc rw - proc proc rw"]
    {
        assert!(mountinfo::parse_line(line).is_err(), "{line:?}");
    }
    let here = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let parsed = mountinfo::parse(&here);
    assert_eq!(parsed.bad, []);
    assert!(
        parsed.rows.iter().any(|mount| mount.mount_point == "/proc" && mount.fs_type == "proc")
    );
}
