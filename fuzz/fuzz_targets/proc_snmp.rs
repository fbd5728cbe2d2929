//! `/proc/net/snmp`.
#![no_main]

use keepline_wire::proc::snmp::udp_in_datagrams;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = udp_in_datagrams(&String::from_utf8_lossy(bytes));
});
