//! `/proc/net/sockstat` and `sockstat6`, the same bytes as both.
#![no_main]

use keepline_wire::proc::sockstat::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let _ = parse(&text, &text);
});
