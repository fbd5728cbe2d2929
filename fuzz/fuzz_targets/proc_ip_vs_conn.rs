//! `/proc/net/ip_vs_conn`.
#![no_main]

use keepline_wire::proc::ip_vs_conn::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let parsed = parse(&text);
    assert!(parsed.rows.len() + parsed.bad.len() <= text.lines().count());
    assert!(parsed.bad.iter().all(|bad| bad.text.chars().count() <= 80));
});
