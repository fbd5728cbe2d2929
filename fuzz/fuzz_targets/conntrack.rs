//! Entries of ctnetlink.
#![no_main]

use keepline_wire::conntrack::{DumpFilter, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(entry) = parse(bytes) {
        assert!(DumpFilter::default().matches(&entry));
        assert_eq!(entry.original.reversed().reversed(), entry.original);
    }
});
