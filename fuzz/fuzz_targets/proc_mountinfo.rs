//! `/proc/<pid>/mountinfo`.
#![no_main]

use keepline_wire::proc::mountinfo::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let parsed = parse(&text);
    assert!(parsed.rows.len() + parsed.bad.len() <= text.lines().count());
});
