//! Addresses, links, neighbours.
#![no_main]

use keepline_wire::rtnl::{parse_address, parse_link, parse_neighbour};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(address) = parse_address(bytes) {
        assert!(address.prefix_len <= if address.ip.is_ipv4() { 32 } else { 128 });
    }
    let _ = parse_link(bytes);
    let _ = parse_neighbour(bytes);
});
