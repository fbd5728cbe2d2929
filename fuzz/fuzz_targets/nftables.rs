//! Chains and rules of nftables.
#![no_main]

use keepline_wire::nftables::{parse_chain, parse_rule};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = parse_chain(bytes);
    let _ = parse_rule(bytes);
});
