//! Sync messages of IPVS. What was read is written and read again.
#![no_main]

use keepline_wire::ipvs_sync::{decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((sync_id, conns)) = decode(bytes) {
        let mut again = Vec::new();
        for datagram in encode(&conns, sync_id, 1400) {
            again.extend(decode(&datagram).expect("what encode() wrote").1);
        }
        assert_eq!(again, conns);
    }
});
