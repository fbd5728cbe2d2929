//! What is seen of namespaces that the test made itself.

mod common;

use std::{
    net::{Shutdown, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use common::{Nat, Netns, find, inode, wait_for};
use keepline_core::snapshot::{EntryState, TcpState, Timer};
use keepline_node::{NodeError, Owners, Select, observe};

fn netns(namespaces: &[&Netns]) -> Select {
    let netns = namespaces.iter().map(|netns| netns.name.clone()).collect();
    Select { netns, ..Select::default() }
}

#[test]
fn sockets_are_seen_where_they_are() {
    skip_if_impossible!();
    let place = Netns::new("sockets");
    let listener = place.inside(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let to = listener.local_addr().unwrap();
    let client = place.inside(|| TcpStream::connect(to).unwrap());
    let server = listener.accept().unwrap().0;
    rustix::net::sockopt::set_socket_keepalive(&server, true).unwrap();
    rustix::net::sockopt::set_tcp_keepidle(&server, Duration::from_secs(5000)).unwrap();

    let snapshot = observe(&netns(&[&place]), Owners::All).unwrap();
    let seen = find(&snapshot, &place);
    assert_eq!(seen.inode, inode(&place.path()));
    assert_eq!(seen.path.as_deref(), place.path().to_str());
    assert!(seen.selected);
    assert!(snapshot.namespaces.iter().filter(|at| at.selected).count() == 1);
    assert_eq!(seen.listeners, [to]);
    assert_eq!(seen.sockets.len(), 2, "{:?}", seen.sockets);
    let own = |stream: &TcpStream| {
        let cookie = rustix::net::sockopt::socket_cookie(stream).unwrap();
        seen.sockets.iter().find(|socket| socket.cookie == cookie).expect("it is seen")
    };
    let from_client = own(&client);
    assert_eq!(from_client.local, client.local_addr().unwrap());
    assert_eq!(from_client.remote, to);
    assert_eq!((from_client.state, from_client.timer), (TcpState::Established, Timer::Off));
    assert!(from_client.idle.unwrap() < Duration::from_secs(5));
    assert_ne!(from_client.inode, 0);
    let Timer::Keepalive { expires } = own(&server).timer else {
        panic!("{:?}", own(&server));
    };
    assert!(expires > Duration::from_secs(4900) && expires <= Duration::from_secs(5000));
}

#[test]
fn half_closed_sockets_are_seen_and_those_nobody_holds_are_not() {
    skip_if_impossible!();
    let place = Netns::new("half");
    let listener = place.inside(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let to = listener.local_addr().unwrap();
    let connect = || {
        let client = place.inside(|| TcpStream::connect(to).unwrap());
        (client, listener.accept().unwrap().0)
    };
    let (half, other_half) = connect();
    half.shutdown(Shutdown::Write).unwrap();
    let (left_alone, server) = connect();
    drop(server);

    let states = |local| {
        let snapshot = observe(&netns(&[&place]), Owners::All).unwrap();
        let mut states: Vec<_> = find(&snapshot, &place)
            .sockets
            .iter()
            .filter(|socket| socket.local == local || socket.remote == local)
            .map(|socket| (socket.local == local, socket.state))
            .collect();
        states.sort_by_key(|(is_local, _)| *is_local);
        states
    };
    let both = [(false, TcpState::CloseWait), (true, TcpState::FinWait2)];
    wait_for("half-closed", || states(half.local_addr().unwrap()) == both);
    // The server's end is in FIN_WAIT2 too, but closed by its process.
    let one = [(true, TcpState::CloseWait)];
    wait_for("left alone", || states(left_alone.local_addr().unwrap()) == one);
    drop(other_half);
}

#[test]
fn the_director_s_entry_is_seen_with_its_clock() {
    skip_if_impossible!();
    let nat = Nat::new();
    let listener = nat.listen();
    let (client, server) = nat.session(&listener);
    let from = client.local_addr().unwrap();

    let snapshot = observe(&Select::default(), Owners::All).unwrap();
    let director = find(&snapshot, &nat.director);
    assert!(director.translates);
    assert!(director.addresses.contains(&nat.vip.ip()), "{:?}", director.addresses);
    assert!(director.sockets.is_empty() && director.listeners.is_empty());
    let conntrack = director.conntrack.as_ref().expect("it is active");
    assert!(conntrack.readable);
    assert_eq!(conntrack.count, 1);
    let [entry] = conntrack.entries.as_slice() else { panic!("{:?}", conntrack.entries) };
    assert_eq!((entry.client, entry.server, entry.backend), (from, nat.vip, nat.server));
    assert_eq!(entry.seen_as, Some(from));
    assert_eq!(entry.state, EntryState::Established);
    let established = conntrack.timeouts.expect("the kernel tells them").established;
    assert!(entry.expires <= established && entry.expires + Duration::from_secs(60) > established);
    for (place, translates) in [(&nat.client, false), (&nat.backend, false)] {
        let seen = find(&snapshot, place);
        assert_eq!(seen.translates, translates);
        assert_eq!(seen.sockets.len(), 1, "{:?}", seen.sockets);
    }
    drop(server);
}

#[test]
fn owners_and_keepalive_of_sessions_are_read_from_their_processes() {
    skip_if_impossible!();
    const CLIENT: &str = "use IO::Socket::INET; $| = 1;
        my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], Proto => 'tcp') or die $!;
        setsockopt($s, SOL_SOCKET, SO_KEEPALIVE, 1) or die $!;
        my ($idle, $interval, $count) = (4, 5, 6);
        setsockopt($s, 6, $idle, 77) or die $!;
        setsockopt($s, 6, $interval, 11) or die $!;
        setsockopt($s, 6, $count, 3) or die $!;
        print 'ready', chr 10; <STDIN>;";
    let nat = Nat::new();
    let listener = nat.listen();
    let client = nat.client.spawn("perl", &["-e", CLIENT, &nat.vip.to_string()]);
    let server = listener.accept().unwrap().0;

    let snapshot = observe(&netns(&[&nat.client]), Owners::All).unwrap();
    let seen = find(&snapshot, &nat.client);
    let [socket] = seen.sockets.as_slice() else { panic!("{:?}", seen.sockets) };
    let settings = socket.keepalive.as_deref().expect("read from the socket");
    assert!(settings.enabled);
    assert_eq!(settings.idle, Duration::from_secs(77));
    assert_eq!(settings.interval, Duration::from_secs(11));
    assert_eq!(settings.probes, 3);
    let process = &seen.processes[&socket.inode];
    // `ip netns exec` becomes the program it runs.
    assert_eq!((process.pid, process.command.as_str()), (client.0.id(), "perl"));

    // The same by its process.
    let select = Select { pids: vec![client.0.id()], ..Select::default() };
    let snapshot = observe(&select, Owners::MostUrgent(0)).unwrap();
    assert!(find(&snapshot, &nat.client).selected);
    assert!(!find(&snapshot, &nat.director).selected);
    assert!(find(&snapshot, &nat.client).processes.is_empty(), "none was asked for");
    drop(server);
}

#[test]
fn what_does_not_exist_is_named_with_what_does() {
    skip_if_impossible!();
    let place = Netns::new("exists");
    let wrong = format!("{}x", place.name);
    let error = observe(&Select { netns: vec![wrong.clone()], ..Select::default() }, Owners::All)
        .unwrap_err();
    let NodeError::Unknown { kind, name, near } = &error else { panic!("{error:?}") };
    assert_eq!((*kind, name), ("network namespace", &wrong));
    assert!(near.starts_with(&format!("there are {}", place.name)), "{near}");

    for (select, kind) in [
        (Select { containers: vec!["db".to_owned()], ..Select::default() }, "container"),
        (Select { pids: vec![u32::MAX], ..Select::default() }, "process"),
        (Select { netns: vec!["/proc/version".to_owned()], ..Select::default() }, "network"),
        (Select { netns: vec!["/proc/self/ns/mnt".to_owned()], ..Select::default() }, "network"),
        (Select { netns: vec!["/nowhere/at/all".to_owned()], ..Select::default() }, "network"),
    ] {
        let error = observe(&select, Owners::All).unwrap_err().to_string();
        assert!(error.starts_with(&format!("no {kind}")), "{error}");
    }
}

#[test]
fn namespaces_that_come_and_go_are_no_failure() {
    skip_if_impossible!();
    let stays = Netns::new("stays");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                drop(Netns::new("fleeting"));
            }
        });
        // The last line of the scope, also after a panic, so that the other thread ends.
        let result = std::panic::catch_unwind(|| {
            for _ in 0..30 {
                let snapshot = observe(&Select::default(), Owners::All).unwrap();
                find(&snapshot, &stays);
                let told: Vec<_> = snapshot
                    .incomplete
                    .iter()
                    .filter(|missed| missed.what.contains("fleeting"))
                    .collect();
                assert!(told.is_empty(), "{told:?}");
            }
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Looks without any right, by the example of this crate, which `cargo test` builds.
#[test]
fn without_rights_the_own_namespace_is_seen_and_the_missing_right_named() {
    skip_if_impossible!();
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples/observe");
    assert!(program.exists(), "{} is not built", program.display());
    // Where everyone can reach it.
    let copy = std::env::temp_dir().join(format!("kl-observe-{}", std::process::id()));
    std::fs::copy(&program, &copy).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"])
        .arg(&copy)
        .output();
    std::fs::remove_file(&copy).unwrap();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.starts_with("1 namespaces,"), "{text}");
    assert!(text.contains("CAP_SYS_ADMIN"), "{text}");
}
