//! Addresses of interfaces.
#![no_main]

use keepline_wire::rtnl::parse_address;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(address) = parse_address(bytes) {
        assert!(address.prefix_len <= if address.ip.is_ipv4() { 32 } else { 128 });
    }
});
