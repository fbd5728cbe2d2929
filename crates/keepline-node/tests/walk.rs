//! A walk over the kernel's tables tells what netlink tells, and accuses nobody wrongly.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails by panicking")]

mod common;

use std::{
    collections::BTreeSet,
    fmt::Debug,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use common::{Nat, Netns, find, run};
use keepline_core::{
    Options, Session, Verdict, judge,
    snapshot::{Entry, KeepaliveSettings, Namespace, Socket},
};
use keepline_node::{Checked, Observer, Owners, Select, Way, check};

#[track_caller]
fn look(way: Way, owners: Owners) -> Checked {
    let look = || check(&Select::default(), owners, &Options::default(), way).unwrap();
    // Where a chain is torn by connections of others, who come and go, netlink is asked.
    let looks = std::iter::repeat_with(look).take(10);
    let checked = looks.into_iter().find(|it| it.walked == (way == Way::Walk));
    checked.expect("this kernel can be walked")
}

/// In any order, and without what time changes.
fn set<T, U: Ord + Debug>(all: &[T], is: impl Fn(&T) -> U) -> BTreeSet<U> {
    let set: BTreeSet<U> = all.iter().map(is).collect();
    assert_eq!(set.len(), all.len(), "each once: {set:#?}");
    set
}

fn sockets(namespace: &Namespace) -> BTreeSet<impl Ord + Debug + use<>> {
    set(&namespace.sockets, |socket: &Socket| {
        let on = socket.keepalive.as_deref().filter(|settings| settings.enabled);
        let times = |it: &KeepaliveSettings| (it.idle, it.interval, it.probes);
        (
            socket.local,
            socket.remote,
            format!("{:?}", socket.state),
            socket.interface,
            on.map(times),
        )
    })
}

fn entries(namespace: &Namespace) -> BTreeSet<impl Ord + Debug + use<>> {
    let entries = namespace.conntrack.as_ref().map_or(&[][..], |it| &it.entries);
    set(entries, |entry: &Entry| {
        (entry.client, entry.server, entry.backend, entry.seen_as, entry.state.name())
    })
}

/// The sessions of one namespace.
fn sessions(checked: &Checked, netns: &Netns) -> BTreeSet<impl Ord + Debug + use<>> {
    let namespaces = &checked.snapshot.namespaces;
    let own = |it: &&Session| namespaces[it.socket.namespace].name == netns.name;
    let own: Vec<_> = checked.judgement.sessions.iter().filter(own).collect();
    set(&own, |it| {
        let other = it.other_end.map(|at| namespaces[at.namespace].sockets[at.socket].local);
        let director = it.director.map(|at| namespaces[at].name.clone());
        let said = (it.verdict, format!("{:?}", it.why), it.findings.clone());
        (it.client, it.server, it.backend, other, director, said, format!("{:?}", it.keepalive))
    })
}

/// Ages and lifetimes of two looks at the same thing, of which the second ended so long after the
/// first began. Lifetimes are whole seconds.
#[track_caller]
fn nearly(one: Duration, other: Duration, between: Duration) {
    let most = between + Duration::from_secs(1);
    assert!(one.abs_diff(other) <= most, "{one:?} and {other:?} within {between:?}");
}

/// Sessions with keepalive of every kind, in a process of the client's namespace so that netlink's
/// way can read the settings.
const CLIENTS: &str = "use IO::Socket::INET; $| = 1; my @all;
    for my $set ([], [4, 770, 5, 11, 6, 3], [4, 900]) {
        my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], Proto => 'tcp') or die $!;
        setsockopt($s, SOL_SOCKET, SO_KEEPALIVE, 1) or die $!;
        while (my ($option, $value) = splice @$set, 0, 2) {
            setsockopt($s, 6, $option, $value) or die $!;
        }
        push @all, $s;
    }
    print 'ready', chr 10; <STDIN>;";

#[test]
fn a_walk_tells_what_netlink_tells() {
    skip_if_impossible!();
    let nat = Nat::new();
    let listener = nat.listen();
    // Entries of half-closed sessions must live from one look to the next.
    for state in ["close_wait", "fin_wait"] {
        let setting = format!("net.netfilter.nf_conntrack_tcp_timeout_{state}=7200");
        run(&format!("ip netns exec {} sysctl -qw {setting}", nat.director.name));
    }
    let mut open: Vec<(TcpStream, TcpStream)> = (0..50).map(|_| nat.session(&listener)).collect();
    let forgotten: Vec<(TcpStream, TcpStream)> = (0..3).map(|_| nat.session(&listener)).collect();
    for (client, _) in &forgotten {
        let port = client.local_addr().unwrap().port();
        let director = &nat.director.name;
        run(&format!("ip netns exec {director} conntrack -D -p tcp --orig-port-src {port}"));
    }
    let kept = nat.client.spawn("perl", &["-e", CLIENTS, &nat.vip.to_string()]);
    let servers: Vec<_> = (0..3).map(|_| listener.accept().unwrap().0).collect();
    // Half-closed from either side, and closed by a process that goes on.
    open[0].0.shutdown(Shutdown::Write).unwrap();
    open[1].1.shutdown(Shutdown::Write).unwrap();
    drop(open.remove(2).0);
    // IPv6, and IPv6 that speaks IPv4; untracked.
    let inner = |address: &str| {
        let listener = nat.client.inside(|| TcpListener::bind(address).unwrap());
        let mut to: SocketAddr = listener.local_addr().unwrap();
        if to.ip().is_unspecified() {
            to.set_ip("127.0.0.1".parse().unwrap());
        }
        let client = nat.client.inside(|| TcpStream::connect(to).unwrap());
        let server = listener.accept().unwrap().0;
        (listener, client, server)
    };
    let others = [inner("[::1]:0"), inner("[::]:0"), inner("127.0.0.1:0")];
    std::thread::sleep(Duration::from_millis(200));

    // The walk first: what sockets have only by being asked for, they have not yet.
    let begin = Instant::now();
    let walk = look(Way::Walk, Owners::All);
    let netlink = look(Way::Netlink, Owners::All);
    let between = begin.elapsed();
    for netns in [&nat.client, &nat.director, &nat.backend] {
        let (one, other) = (find(&walk.snapshot, netns), find(&netlink.snapshot, netns));
        if netns.name != nat.backend.name {
            assert_eq!(sockets(one), sockets(other), "{}", netns.name);
        }
        assert_eq!(entries(one), entries(other), "{}", netns.name);
        assert_eq!(one.sockets.len(), other.sockets.len());
        assert_eq!(set(&one.listeners, |it| *it), set(&other.listeners, |it| *it));
        assert_eq!(sessions(&walk, netns), sessions(&netlink, netns), "{}", netns.name);
        for socket in &one.sockets {
            let same = |it: &&Socket| (it.local, it.remote) == (socket.local, socket.remote);
            let same = other.sockets.iter().find(same).unwrap();
            nearly(socket.idle.unwrap(), same.idle.unwrap(), between);
            nearly(socket.heard.unwrap(), same.heard.unwrap(), between);
            assert_eq!(socket.inode, same.inode, "of {}", socket.local);
        }
        let of = |it: &Namespace| it.conntrack.clone().map(|it| it.entries).unwrap_or_default();
        for entry in of(one) {
            let same = |it: &Entry| (it.client, it.server) == (entry.client, entry.server);
            let same = of(other).into_iter().find(same).unwrap();
            nearly(entry.expires, same.expires, between);
        }
    }
    let orphans = |checked: &Checked| {
        let all = checked.judgement.sessions.iter();
        let own = |it: &&Session| it.verdict == Verdict::Orphaned && it.server == nat.vip;
        all.filter(own).map(|it| it.client).collect::<BTreeSet<_>>()
    };
    let lost = forgotten.iter().map(|(client, _)| client.local_addr().unwrap()).collect();
    assert_eq!(orphans(&walk), lost);
    // By a walk, all settings are known exactly.
    let process = walk.snapshot.namespaces.iter().flat_map(|it| it.processes.values());
    assert!(process.into_iter().any(|process| process.pid == kept.0.id()));
    drop((servers, others));
}

#[test]
fn a_walk_asks_for_what_it_needs_of_a_socket_only() {
    skip_if_impossible!();
    let nat = Nat::new();
    let listener = nat.listen();
    let (client, server) = nat.session(&listener);
    nat.forget();
    let checked = look(Way::Walk, Owners::MostUrgent(10));
    let seen = find(&checked.snapshot, &nat.client);
    let [socket] = seen.sockets.as_slice() else { panic!("{:?}", seen.sockets) };
    // Looked at twice, so it has a cookie; and it is to be named, so it has an inode.
    assert_eq!(socket.cookie, rustix::net::sockopt::socket_cookie(&client).unwrap());
    assert_ne!(socket.inode, 0);
    drop(server);
}

/// As the guard does: what was loaded for one look serves the next.
#[test]
fn who_looks_again_and_again_walks_from_fewer_sockets_on() {
    skip_if_impossible!();
    const SESSIONS: usize = 300;
    let nat = Nat::new();
    let listener = nat.listen();
    let sessions: Vec<_> = (0..SESSIONS).map(|_| nat.session(&listener)).collect();
    let lost = sessions[7].0.local_addr().unwrap();
    let (director, port) = (&nat.director.name, lost.port());
    run(&format!("ip netns exec {director} conntrack -D -p tcp --orig-port-src {port}"));
    let mut observer = Observer::default();
    let mut look = |owners| {
        let snapshot = observer.observe(&Select::default(), owners, None).unwrap();
        let judgement = judge(&snapshot, &Options::default());
        let own = judgement.sessions.iter().filter(|it| it.server == nat.vip);
        let (orphans, others): (Vec<_>, Vec<_>) =
            own.partition(|it| it.verdict == Verdict::Orphaned);
        assert_eq!(orphans.iter().map(|it| it.client).collect::<Vec<_>>(), [lost]);
        assert!(others.len() >= SESSIONS - 1, "{}", others.len());
        let sockets = &find(&snapshot, &nat.client).sockets;
        assert_eq!(sockets.len(), SESSIONS);
        sockets.iter().filter(|it| it.cookie != 0).map(|it| it.local).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        // Whom it looked at twice has got a cookie, the others were only walked by.
        assert_eq!(look(Owners::Nobody), [lost]);
    }
    assert_eq!(look(Owners::MostUrgent(0)).len(), SESSIONS, "by netlink all have cookies");
}

#[test]
fn a_namespace_with_a_socket_table_of_its_own_is_seen_too() {
    skip_if_impossible!();
    let parent = Netns::new("parent");
    let place = Netns::new("apart");
    let setting = "net.ipv4.tcp_child_ehash_entries";
    if std::fs::metadata("/proc/sys/net/ipv4/tcp_child_ehash_entries").is_err() {
        println!("SKIP: this kernel has one table for all namespaces");
        return;
    }
    let (inside, again) = (&parent.name, &place.name);
    run(&format!("ip netns exec {inside} sysctl -qw {setting}=64"));
    run(&format!("ip netns del {again}"));
    // Made from inside, but mounted where all can see it.
    run(&format!("nsenter --net=/run/netns/{inside} ip netns add {again}"));
    run(&format!("ip -n {again} link set lo up"));
    let listener = place.inside(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let to = listener.local_addr().unwrap();
    let client = place.inside(|| TcpStream::connect(to).unwrap());
    // Something to walk for.
    let nat = Nat::new();
    let other = nat.listen();
    let session = nat.session(&other);
    let checked = look(Way::Walk, Owners::MostUrgent(0));
    assert_eq!(find(&checked.snapshot, &place).sockets.len(), 2);
    assert_eq!(find(&checked.snapshot, &nat.client).sockets.len(), 1);
    drop((client, session));
}

#[test]
fn sessions_that_come_and_go_are_never_orphans_of_a_walk() {
    skip_if_impossible!();
    const STAY: usize = 20;
    let nat = Nat::new();
    let listener = nat.listen();
    let stay: Vec<_> = (0..STAY).map(|_| nat.session(&listener)).collect();
    nat.churn(&listener, 10, 2000, || {
        // Where too much moves at once it falls back to netlink.
        let owners = Owners::MostUrgent(10);
        let checked = check(&Select::default(), owners, &Options::default(), Way::Walk).unwrap();
        let own: Vec<_> =
            checked.judgement.sessions.iter().filter(|it| it.server == nat.vip).collect();
        let orphans: Vec<_> = own.iter().filter(|it| it.verdict == Verdict::Orphaned).collect();
        assert!(orphans.is_empty(), "{orphans:#?}");
        // Those that stay are seen each time, with their entries.
        for (client, _) in &stay {
            let client = client.local_addr().unwrap();
            let session = own.iter().find(|it| it.client == client).unwrap();
            assert!(session.entry.is_some(), "{session:?}");
        }
    });
}
