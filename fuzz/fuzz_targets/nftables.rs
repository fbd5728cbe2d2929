//! Chains of nftables.
#![no_main]

use keepline_wire::nftables::parse_chain;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = parse_chain(bytes);
});
