//! A socket that no process holds: its descriptor is on its way from one to another.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use crate::lab::Lab;
use crate::run::{Run, in_netns};

const UNDERWAY: &str = "import socket, sys
sock = socket.create_connection(('10.213.1.2', 7000))
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
one, other = socket.socketpair(socket.AF_UNIX)
socket.send_fds(one, [b'x'], [sock.fileno()])
port = sock.getsockname()[1]
sock.close()
print(port, flush=True)
sys.stdin.readline()
[sock] = socket.recv_fds(other, 1, 1)[1]
sock = socket.socket(fileno=sock)
print(*(sock.getsockopt(socket.SOL_SOCKET if it == 'SO_KEEPALIVE' else socket.IPPROTO_TCP, getattr(socket, it))
        for it in ('SO_KEEPALIVE', 'TCP_KEEPIDLE', 'TCP_KEEPINTVL', 'TCP_KEEPCNT')), flush=True)
sys.stdin.readline()
";

/// Ends with its test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_socket_that_nobody_holds_gets_keepalive_in_the_kernel_and_exactly_its_own_back() {
    needs_root_and_nft!();
    let run = Run::new("lent");
    let lab = Lab::up("lent", &["--sessions", "1", "--tcp-timeout", "90s"]);
    let child = Command::new("ip")
        .args(["netns", "exec", &lab.client, "python3", "-c", UNDERWAY])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut program = Program(child.unwrap());
    let mut lines = BufReader::new(program.0.stdout.take().unwrap()).lines();
    let port = lines.next().unwrap().unwrap();
    let shown = || in_netns(&lab.client, &format!("ss -Htnoe state established sport = :{port}"));
    assert!(!shown().contains("timer:(keepalive"), "{}", shown());

    let text = run.done(&["apply", "keepalive", "--netns", &lab.client, "--idle", "20s", "--yes"]);
    assert!(text.contains("2 set, 1 of them in the kernel"), "{text}");
    assert!(shown().contains("timer:(keepalive,"), "{}", shown());
    let status = run.done(&["status"]).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(status.contains("1 of them by a program in the kernel"), "{status}");

    run.done(&["undo", "--yes"]);
    assert!(!shown().contains("timer:(keepalive"), "{}", shown());
    // Whoever gets it in the end finds it as it was.
    std::io::Write::write_all(program.0.stdin.as_mut().unwrap(), b"\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "0 7200 75 4");
}
