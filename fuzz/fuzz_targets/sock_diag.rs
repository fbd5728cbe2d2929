//! Answers of sock_diag; what could be read can be asked for again.
#![no_main]

use keepline_wire::sock_diag::{self, TcpInfo};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = TcpInfo::parse(bytes);
    if let Ok(socket) = sock_diag::parse(bytes) {
        let again = socket.get_again(true, 1);
        // The family and the socket id of the request, as the answer has them.
        let mut answer = vec![again[16], socket.state as u8, 0, 0];
        answer.extend_from_slice(&again[24..72]);
        answer.resize(72, 0);
        let same = sock_diag::parse(&answer).expect("our own request");
        assert_eq!((same.local, same.remote), (socket.local, socket.remote));
        assert_eq!((same.cookie, same.interface), (socket.cookie, socket.interface));
    }
});
