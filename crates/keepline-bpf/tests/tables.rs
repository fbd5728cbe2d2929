//! The kernel's tables, walked while they move.

mod common;

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use keepline_bpf::tables::Tables;

/// A socket that sends while the walk goes on is younger than the walk.
#[test]
fn busy_sockets_are_not_taken_for_silent_ones() {
    skip_if_impossible!();
    let tables = Tables::load().unwrap();
    let mut walker = tables.walker(0);
    let last = walker.socket_buckets().unwrap() - 1;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let pairs: Vec<_> = (0..200)
        .map(|_| (TcpStream::connect(server).unwrap(), listener.accept().unwrap().0))
        .collect();
    let own: BTreeSet<_> = pairs.iter().map(|(client, _)| client.local_addr().unwrap()).collect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                for (mut client, mut server) in pairs.iter().map(|(one, other)| (one, other)) {
                    // There and back: each is acknowledged at once.
                    client.write_all(b"x").unwrap();
                    server.read_exact(&mut [0]).unwrap();
                    server.write_all(b"x").unwrap();
                    client.read_exact(&mut [0]).unwrap();
                }
            }
        });
        let end = Instant::now() + Duration::from_secs(3);
        let (mut walks, mut missed, mut longest) = (0, 0, Duration::ZERO);
        while Instant::now() < end {
            let mut met = BTreeSet::new();
            let tell = |socket: keepline_bpf::tables::SocketSeen| {
                if socket.remote == server && own.contains(&socket.local) {
                    met.insert(socket.local);
                    longest = longest.max(socket.idle).max(socket.heard);
                }
            };
            let walked = walker.sockets((0, last), false, tell).unwrap();
            walks += 1;
            missed += usize::from(walked.torn == 0 && met != own);
        }
        is_over.store(true, Ordering::Relaxed);
        println!("{walks} walks over {last} buckets, the most silent: {longest:?}");
        assert_eq!(missed, 0, "walks that did not meet each");
        // Slow machines have been waited for.
        assert!(longest < Duration::from_secs(60), "{longest:?}");
    });
}
