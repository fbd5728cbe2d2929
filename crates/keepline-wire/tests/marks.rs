//! Rules that mark packets: of iptables in their two kinds, and of nftables.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::net::IpAddr;

use common::fixture;
use keepline_wire::iptables::{self, MarkRule};
use keepline_wire::nftables::{self, Rule};
use keepline_wire::nl::WireError;
use proptest::collection::vec;
use proptest::prelude::*;

const ALL: u32 = u32::MAX;
const NFT: [&str; 5] =
    ["nft_rule_iptables", "nft_rule_multiport", "nft_rule_range", "nft_rule_or", "nft_rule_inet6"];
/// Offset of the first entry in the answer.
const ENTRIES: usize = 40;

fn rule(
    destination: Option<(&str, u8)>,
    protocol: u8,
    ports: &[(u16, u16)],
    mark: u32,
) -> MarkRule {
    MarkRule {
        destination: destination.map(|(address, prefix)| (address.parse().unwrap(), prefix)),
        protocol,
        ports: ports.to_vec(),
        mark,
        mask: ALL,
        partial: false,
    }
}

#[test]
fn a_table_of_iptables() {
    let rules = iptables::parse(&fixture("iptables_mangle")).unwrap();
    let expected = [
        rule(None, 6, &[(8080, 8080)], 257),
        rule(Some(("10.9.0.1", 32)), 6, &[(80, 80), (443, 443), (8000, 8010)], 1),
        rule(Some(("10.0.1.2", 32)), 0, &[], 256),
        // Not `! -d 10.0.1.3`.
        MarkRule { mask: 0x10, partial: true, ..rule(Some(("10.0.1.4", 32)), 0, &[], 0x10) },
        rule(Some(("10.2.0.0", 16)), 17, &[(53, 53)], 3),
    ];
    assert_eq!(rules, expected);
}

#[test]
fn a_table_of_ip6tables() {
    let rules = iptables::parse_v6(&fixture("ip6tables_mangle")).unwrap();
    assert_eq!(rules, [rule(Some(("fd00::2", 128)), 6, &[(80, 80)], 258)]);
}

/// The fixture's first entry is at [`ENTRIES`], its `xt_tcp` data 144 bytes on.
#[test]
fn what_narrows_and_what_inverts() {
    const TCP: usize = 144;
    let first = |at: usize, value: u8| {
        let mut bytes = fixture("iptables_mangle");
        bytes[ENTRIES + at] = value;
        iptables::parse(&bytes).unwrap().remove(0)
    };
    let plain = rule(None, 6, &[(8080, 8080)], 257);
    let partial = MarkRule { partial: true, ..plain.clone() };
    for (what, at, value, expected) in [
        ("source", 11, 0xff, &partial),
        ("incoming interface", 48, 0xff, &partial),
        ("outgoing interface", 79, 0xff, &partial),
        ("fragment", 82, 1, &partial),
        ("goto", 82, 2, &plain),
        ("inverted interface", 83, 1, &partial),
        ("source port", TCP, 1, &partial),
        ("TCP option", TCP + 8, 1, &partial),
        ("TCP flags", TCP + 9, 2, &partial),
        ("inverted source port", TCP + 11, 1, &partial),
    ] {
        assert_eq!(first(at, value), *expected, "{what}");
    }
    // The next one moves up.
    for (what, at, value) in [
        ("inverted destination", 83, 0x10),
        ("inverted protocol", 83, 0x40),
        ("inverted port", TCP + 11, 2),
        ("-p udp -m tcp", 80, 17),
        ("another target", 162, b'X'),
        ("another revision of MARK", 191, 1),
    ] {
        assert_eq!(first(at, value).mark, 1, "{what}");
    }
}

#[test]
fn sizes_that_cannot_be() {
    let good = fixture("iptables_mangle");
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        iptables::parse(&bytes)
    };
    assert!(matches!(iptables::parse(&good[..good.len() - 1]), Err(WireError::Short { .. })));
    assert!(matches!(iptables::parse(&good[..35]), Err(WireError::Short { .. })));
    assert!(matches!(with(ENTRIES + 90, 0), Err(WireError::Invalid { .. })), "next_offset 0");
    assert!(matches!(with(ENTRIES + 88, 0), Err(WireError::Invalid { .. })), "target in header");
    assert!(with(ENTRIES + 88, 200).is_err(), "no target");
    assert!(matches!(with(ENTRIES + 112, 0), Err(WireError::Invalid { .. })), "match of size 0");
    // An empty table has no entries.
    assert_eq!(iptables::parse(&[0; 40]), Ok(Vec::new()));
}

#[test]
fn rules_of_nftables() {
    let expected = [
        ("mangle", "INPUT", rule(Some(("10.0.1.2", 32)), 0, &[], 256)),
        (
            "mangle",
            "PREROUTING",
            rule(Some(("10.9.0.1", 32)), 6, &[(80, 80), (443, 443), (8000, 8010)], 1),
        ),
        (
            "plain",
            "c",
            MarkRule { partial: true, ..rule(Some(("10.0.5.2", 32)), 6, &[(80, 90)], 0x106) },
        ),
        (
            "plain",
            "c",
            MarkRule {
                mask: 0x107,
                partial: true,
                ..rule(Some(("10.0.6.0", 23)), 6, &[(80, 80)], 0x107)
            },
        ),
        ("both", "c", rule(Some(("fd00::5", 128)), 6, &[(80, 80)], 0x205)),
    ];
    for (name, (table, chain, marks)) in NFT.into_iter().zip(expected) {
        let family = if table == "both" { 1 } else { 2 };
        let expected =
            Rule { family, table: table.into(), chain: chain.into(), marks: Some(marks) };
        assert_eq!(nftables::parse_rule(&fixture(name)), Ok(expected), "{name}");
    }
    let bytes = fixture("nft_rule_iptables");
    assert!(nftables::parse_rule(&bytes[..12]).is_err(), "no chain");
    assert!(nftables::parse_rule(&bytes[..3]).is_err(), "short");
    // NLM_F_REQUEST | NLM_F_DUMP.
    assert_eq!(nftables::dump_rules(1)[4..], [7, 10, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

/// Some bytes of a fixture changed, the end cut off.
fn mutated(name: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>());
    (vec(change, 0..8), any::<prop::sample::Index>(), any::<bool>()).prop_map(
        move |(changes, end, cut)| {
            let mut bytes = fixture(name);
            for (index, value) in changes {
                let at = index.index(bytes.len());
                bytes[at] = value;
            }
            if cut {
                bytes.truncate(end.index(bytes.len() + 1));
            }
            bytes
        },
    )
}

proptest! {
    #[test]
    fn what_was_put_in_comes_out(
        octets: [u8; 4], prefix in 1u8..=32, ports: [u16; 2], mark: u32, mask: u32,
    ) {
        let mut bytes = fixture("iptables_mangle");
        let mut put = |at: usize, value: &[u8]| {
            bytes[ENTRIES + at..ENTRIES + at + value.len()].copy_from_slice(value);
        };
        put(4, &octets);
        put(12, &(u32::MAX << (32 - prefix)).to_be_bytes());
        put(148, &ports[0].to_ne_bytes());
        put(150, &ports[1].to_ne_bytes());
        put(192, &mark.to_ne_bytes());
        put(196, &mask.to_ne_bytes());
        let found = iptables::parse(&bytes).unwrap().remove(0);
        let any = ports == [0, u16::MAX];
        let expected = MarkRule {
            destination: Some((IpAddr::from(octets), prefix)),
            protocol: 6,
            ports: if any { Vec::new() } else { vec![(ports[0], ports[1])] },
            mark,
            mask,
            partial: false,
        };
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_mask_with_gaps_is_no_prefix(mask in 1u32..) {
        let mut bytes = fixture("iptables_mangle");
        bytes[ENTRIES + 12..ENTRIES + 16].copy_from_slice(&mask.to_be_bytes());
        let found = iptables::parse(&bytes).unwrap().remove(0);
        let contiguous = mask.leading_ones() == mask.count_ones();
        prop_assert_eq!(found.destination.is_some(), contiguous);
        prop_assert_eq!(found.partial, !contiguous);
    }

    #[test]
    fn nothing_panics(bytes in vec(any::<u8>(), 0..400)) {
        let _ = iptables::parse(&bytes);
        let _ = iptables::parse_v6(&bytes);
        let _ = nftables::parse_rule(&bytes);
    }

    #[test]
    fn nothing_almost_right_panics(
        v4 in mutated("iptables_mangle"), v6 in mutated("ip6tables_mangle"),
        rule in proptest::sample::select(&NFT[..]).prop_flat_map(mutated),
    ) {
        let _ = iptables::parse(&v4);
        let _ = iptables::parse_v6(&v6);
        let _ = nftables::parse_rule(&rule);
    }
}
