//! Framing, attributes and errors of netlink.
#![no_main]

use keepline_wire::nl::{self, Attrs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for message in nl::messages(bytes).flatten() {
        assert!(message.payload.len() + nl::HEADER_LEN <= bytes.len());
        let _ = message.status();
        let _ = message.interrupted();
        walk(nl::attrs(message.payload), 8);
    }
});

/// Every attribute read in every way, and as a list of attributes.
fn walk(attrs: Attrs<'_>, depth: u8) {
    for attr in attrs.flatten() {
        let _ = (attr.u8("x"), attr.u16("x"), attr.u32("x"), attr.u64("x"));
        let _ = (attr.be16("x"), attr.be32("x"), attr.be64("x"), attr.text());
        if depth > 0 {
            walk(attr.nested(), depth - 1);
        }
    }
}
