//! Tables of iptables, both address families.
#![no_main]

use keepline_wire::iptables::{parse, parse_v6};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for rule in parse(bytes).unwrap_or_default() {
        assert!(rule.destination.is_none_or(|(address, prefix)| address.is_ipv4() && prefix <= 32));
    }
    for rule in parse_v6(bytes).unwrap_or_default() {
        assert!(
            rule.destination.is_none_or(|(address, prefix)| address.is_ipv6() && prefix <= 128)
        );
    }
});
