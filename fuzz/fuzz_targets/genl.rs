//! Families of generic netlink.
#![no_main]

use keepline_wire::genl::parse_family;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = parse_family(bytes);
});
