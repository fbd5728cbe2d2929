//! `/proc/net/stat/nf_conntrack`.
#![no_main]

use keepline_wire::proc::nf_conntrack_stat::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = parse(&String::from_utf8_lossy(bytes));
});
