//! A line of `/proc/net/udp`.
#![no_main]

use keepline_wire::proc::udp::parse_line;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = parse_line(&String::from_utf8_lossy(bytes));
});
