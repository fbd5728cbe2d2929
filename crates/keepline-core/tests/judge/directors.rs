//! Which director is found, and what is said when it has no entry.

use keepline_core::{
    Code, Judgement, Options, Session, Snapshot, Verdict, judge,
    judge::suspects,
    session::{End, LifetimeSource, Table, Why},
    snapshot::{EntryState, Listing, Mark, SecondLookResult, ServiceId, TcpState},
};

use crate::build::*;

fn verdicts(snapshot: &Snapshot) -> Judgement {
    judge(snapshot, &Options::default())
}

/// The one session of `snapshot`; backends' sockets that belong to it make no second one.
fn only(snapshot: &Snapshot) -> Session {
    let mut judgement = verdicts(snapshot);
    assert_eq!(judgement.sessions.len(), 1, "{:?}", judgement.sessions);
    judgement.sessions.remove(0)
}

#[test]
fn swarm_session_with_an_entry() {
    let session = only(&swarm(Some(entry(800))));
    assert_eq!(session.client, address(CLIENT_ADDRESS));
    assert_eq!(session.server, address(VIP));
    assert_eq!(session.backend, Some(address(BACKEND_ADDRESS)));
    assert_eq!(session.director, Some(DIRECTOR));
    assert_eq!(session.table, Some(Table::Ipvs));
    assert_eq!(session.other_end.map(|end| end.namespace), Some(BACKEND));
    assert_eq!((session.verdict, session.why), (Verdict::AtRisk, Why::NoKeepalive));
    assert_eq!(session.orphaned_in, Some(seconds(800)));
    assert_eq!(session.entry.unwrap().timeout, seconds(900));
    assert_eq!(session.findings, [Code::NO_KEEPALIVE]);
}

#[test]
fn forgotten_session_is_orphaned_only_after_a_second_look() {
    let mut snapshot = swarm(None);
    let session = only(&snapshot);
    assert_eq!((session.verdict, session.why), (Verdict::Unknown, Why::NotConfirmed));
    assert_eq!(suspects(&snapshot).len(), 1);

    look_again(&mut snapshot, SecondLookResult::Confirmed);
    let judgement = verdicts(&snapshot);
    let session = &judgement.sessions[0];
    assert_eq!((session.verdict, session.why), (Verdict::Orphaned, Why::Forgotten));
    assert_eq!(session.director, Some(DIRECTOR));
    assert_eq!(session.entry, None);
    assert_eq!(session.backend, Some(address(BACKEND_ADDRESS)), "its backend still holds on");
    assert_eq!(judgement.summary.orphaned, 1);
    assert_eq!(judgement.sessions.len(), 1, "both ends are one session");
    let finding = &judgement.findings[0];
    assert_eq!((finding.code, finding.sessions), (Code::ORPHANED, 1));
    assert_eq!(
        finding.fix,
        ["keepline heal --netns lb_edja88p19", "keepline apply hold --netns lb_edja88p19",]
    );
}

#[test]
fn other_results_of_the_second_look() {
    for (result, verdict) in [
        (SecondLookResult::Local, Some(Verdict::Untracked)),
        (SecondLookResult::Failed, Some(Verdict::Unknown)),
        (SecondLookResult::SocketGone, None),
    ] {
        let mut snapshot = swarm(None);
        // Without the backend's socket, which would want a look of its own. That of a session
        // that has ended goes with it.
        if result != SecondLookResult::SocketGone {
            snapshot.namespaces[BACKEND].sockets.clear();
        }
        look_again(&mut snapshot, result);
        let judgement = verdicts(&snapshot);
        assert_eq!(judgement.sessions.first().map(|session| session.verdict), verdict);
        assert_eq!(judgement.summary.orphaned, 0);
    }
}

/// A client that is led elsewhere than was thought of at first leaves open whose the backend's end is.
#[test]
fn a_second_look_may_leave_another_to_be_made() {
    let mut snapshot = swarm(None);
    assert_eq!(
        suspects(&snapshot).iter().map(|it| it.socket.namespace).collect::<Vec<_>>(),
        [CLIENT]
    );
    look_again(&mut snapshot, SecondLookResult::Local);
    let suspects = suspects(&snapshot);
    assert_eq!(suspects.iter().map(|it| it.socket.namespace).collect::<Vec<_>>(), [BACKEND]);
    look_again(&mut snapshot, SecondLookResult::SocketGone);
    assert_eq!(verdicts(&snapshot).summary.unknown, 0);
}

/// As seen on a Swarm: a session that began in the midst of a look. The second one finds its entry in
/// the listing of IPVS, which does not tell whom the backend sees; who asks tells it.
#[test]
fn an_entry_found_for_a_backend_is_found_from_it() {
    let mut snapshot = swarm(None);
    snapshot.namespaces[CLIENT].sockets.clear();
    let entry = entry(800);
    tables(&mut snapshot).entries.push(entry.clone());
    assert_eq!(only(&snapshot).why, Why::NotConfirmed);
    tables(&mut snapshot).entries[0].seen_as = Some(address(SEEN_AS));
    let session = only(&snapshot);
    assert_eq!((session.end, session.verdict), (End::Backend, Verdict::AtRisk));
    assert_eq!((session.client, session.server), (entry.client, entry.server));
    assert_eq!(session.orphaned_in, Some(seconds(800)));
}

#[test]
fn second_look_at_another_socket_proves_nothing() {
    let mut snapshot = swarm(None);
    look_again(&mut snapshot, SecondLookResult::Confirmed);
    client(&mut snapshot).cookie += 1;
    assert_eq!(only(&snapshot).verdict, Verdict::Unknown);
}

/// As seen on a Swarm: a task that is a client of a service which was just removed. Its own service
/// makes its director lead to any of its ports.
#[test]
fn a_client_of_a_removed_service_is_no_backend() {
    let mut snapshot = swarm(None);
    let here = snapshot.namespaces[CLIENT].addresses[0];
    let service = &mut tables(&mut snapshot).services[0];
    service.id = ServiceId::Fwmark(300);
    service.destinations[0].address.set_ip(here);
    snapshot.namespaces[BACKEND].sockets.clear();
    look_again(&mut snapshot, SecondLookResult::Confirmed);
    let judgement = verdicts(&snapshot);
    assert_eq!(judgement.summary.orphaned, 0, "{:?}", judgement.sessions);
}

#[test]
fn vip_without_readable_marks_is_told_by_its_owner() {
    let mut snapshot = swarm(None);
    snapshot.namespaces[DIRECTOR].marks.clear();
    look_again(&mut snapshot, SecondLookResult::Confirmed);
    assert_eq!(only(&snapshot).verdict, Verdict::Orphaned);
}

#[test]
fn address_that_the_marks_leave_out_is_not_balanced() {
    let mut snapshot = swarm(None);
    snapshot.namespaces[DIRECTOR].marks =
        vec![Mark { address: Some("10.0.1.99".parse().unwrap()), ports: None, mark: 256 }];
    snapshot.namespaces[DIRECTOR].translates = false;
    snapshot.namespaces[BACKEND].sockets.clear();
    assert_eq!(only(&snapshot).verdict, Verdict::Untracked);
}

#[test]
fn old_layout_balances_in_the_clients_own_namespace() {
    let mut snapshot = swarm(None);
    let director = &mut snapshot.namespaces[DIRECTOR];
    let (ipvs, marks) = (director.ipvs.take(), std::mem::take(&mut director.marks));
    director.addresses.clear();
    let namespace = &mut snapshot.namespaces[CLIENT];
    (namespace.ipvs, namespace.marks) = (ipvs, marks);
    snapshot.namespaces[BACKEND].sockets.clear();
    look_again(&mut snapshot, SecondLookResult::Confirmed);
    let judgement = verdicts(&snapshot);
    assert_eq!(judgement.sessions[0].verdict, Verdict::Orphaned);
    assert_eq!(judgement.sessions[0].director, Some(CLIENT));
    assert!(judgement.findings[0].detail.contains("hangs for about 15 minutes"));
}

#[test]
fn service_by_address_needs_no_owner() {
    let mut snapshot = swarm(None);
    let director = &mut snapshot.namespaces[DIRECTOR];
    director.marks.clear();
    director.addresses.clear();
    director.ipvs = Some(ipvs(ServiceId::Tcp(address(VIP))));
    snapshot.namespaces[BACKEND].sockets.clear();
    look_again(&mut snapshot, SecondLookResult::Confirmed);
    let session = only(&snapshot);
    assert_eq!((session.verdict, session.director), (Verdict::Orphaned, Some(DIRECTOR)));
}

#[test]
fn nat_director_is_told_by_its_entry_and_missed_without() {
    let session = only(&nat(Some(entry(5))));
    assert_eq!((session.verdict, session.table), (Verdict::AtRisk, Some(Table::Conntrack)));
    assert_eq!(session.backend, Some(address(BACKEND_ADDRESS)));

    let mut snapshot = nat(None);
    look_again(&mut snapshot, SecondLookResult::Confirmed);
    let session = only(&snapshot);
    assert_eq!((session.verdict, session.table), (Verdict::Orphaned, Some(Table::Conntrack)));
    assert_eq!(session.backend, Some(address(BACKEND_ADDRESS)));
}

#[test]
fn other_directors_entries_do_not_hide_the_one_that_forgot() {
    let mut snapshot = nat(None);
    let mut twin = snapshot.namespaces[DIRECTOR].clone();
    twin.inode = 22;
    twin.links = vec![[2, 0, 0, 0, 0, 2]];
    let mut others = entry(800);
    others.client = address("10.0.1.9:1");
    twin.conntrack.as_mut().unwrap().entries.push(others);
    snapshot.namespaces.push(twin);
    snapshot.namespaces[DIRECTOR].links = vec![[2, 0, 0, 0, 0, 1]];
    snapshot.namespaces[CLIENT].neighbours = vec![(address(VIP).ip(), [2, 0, 0, 0, 0, 1])];
    assert_eq!(suspects(&snapshot)[0].director, DIRECTOR);
}

#[test]
fn namespace_without_conntrack_proves_nothing() {
    let mut snapshot = nat(None);
    snapshot.namespaces[DIRECTOR].conntrack = None;
    assert_eq!(only(&snapshot).verdict, Verdict::Untracked);
    assert!(suspects(&snapshot).is_empty());

    let mut snapshot = nat(None);
    snapshot.namespaces[DIRECTOR].conntrack.as_mut().unwrap().readable = false;
    snapshot.namespaces[BACKEND].sockets.clear();
    let session = only(&snapshot);
    assert_eq!((session.verdict, session.why), (Verdict::Unknown, Why::Unreadable));
}

#[test]
fn session_to_a_task_itself_is_untracked() {
    let mut snapshot = swarm(None);
    client(&mut snapshot).remote = address(BACKEND_ADDRESS);
    snapshot.namespaces[BACKEND].sockets[0].remote = address(CLIENT_ADDRESS);
    assert_eq!(only(&snapshot).verdict, Verdict::Untracked);
    assert!(suspects(&snapshot).is_empty());

    // The task has closed and its socket is gone; the client sits in CLOSE_WAIT.
    snapshot.namespaces[BACKEND].sockets.clear();
    client(&mut snapshot).state = TcpState::CloseWait;
    assert_eq!(only(&snapshot).verdict, Verdict::Untracked);
    assert!(suspects(&snapshot).is_empty());
}

#[test]
fn session_to_a_server_of_the_directors_own_is_untracked() {
    let mut snapshot = nat(None);
    let mut own = socket(VIP, CLIENT_ADDRESS, 100);
    own.cookie = 77;
    snapshot.namespaces[DIRECTOR].sockets.push(own);
    snapshot.namespaces[BACKEND].sockets.clear();
    let judgement = verdicts(&snapshot);
    assert!(judgement.sessions.iter().all(|session| session.verdict == Verdict::Untracked));
    assert!(suspects(&snapshot).is_empty());
}

#[test]
fn overlapping_addresses_are_told_by_the_entry_or_not_at_all() {
    let mut snapshot = swarm(None);
    let mut twin = snapshot.namespaces[DIRECTOR].clone();
    twin.inode = 22;
    twin.name = "lb_other".to_owned();
    snapshot.namespaces.push(twin);
    snapshot.namespaces[BACKEND].sockets.clear();
    let judgement = verdicts(&snapshot);
    assert_eq!(judgement.sessions[0].why, Why::Ambiguous);
    assert_eq!(judgement.sessions[0].verdict, Verdict::Unknown);
    assert!(judgement.findings.iter().any(|finding| finding.code == Code::AMBIGUOUS));

    // On the link one of them answers.
    snapshot.namespaces[DIRECTOR].links = vec![[2, 0, 0, 0, 0, 1]];
    snapshot.namespaces[3].links = vec![[2, 0, 0, 0, 0, 2]];
    for (link, director) in [([2, 0, 0, 0, 0, 1], DIRECTOR), ([2, 0, 0, 0, 0, 2], 3)] {
        snapshot.namespaces[CLIENT].neighbours = vec![(address(VIP).ip(), link)];
        assert_eq!(suspects(&snapshot)[0].director, director);
    }
    // An entry of the other's, for the same addresses, is not this session's.
    tables(&mut snapshot).entries.push(entry(800));
    assert_eq!(suspects(&snapshot)[0].director, 3);

    snapshot.namespaces[CLIENT].neighbours.clear();
    let session = only(&snapshot);
    assert_eq!((session.verdict, session.director), (Verdict::AtRisk, Some(DIRECTOR)));
}

/// Client on the host → the host's DNAT → ingress → task; the host remembers for five days.
fn published(ingress_remembers: bool) -> Snapshot {
    let mut snapshot = swarm(None);
    let published = "192.168.77.1:8080";
    let mut first = entry(431_000);
    first.client = address("192.168.77.1:40000");
    first.server = address(published);
    first.backend = address("172.18.0.2:8080");
    first.seen_as = Some(address("172.18.0.1:40000"));
    let host = &mut snapshot.namespaces[CLIENT];
    host.addresses = vec!["192.168.77.1".parse().unwrap(), "172.18.0.1".parse().unwrap()];
    host.sockets = vec![socket("192.168.77.1:40000", published, 100)];
    host.conntrack.as_mut().unwrap().entries = vec![first.clone()];
    let ingress = &mut snapshot.namespaces[DIRECTOR];
    ingress.addresses = vec!["172.18.0.2".parse().unwrap(), "10.0.1.3".parse().unwrap()];
    ingress.marks = vec![Mark { address: None, ports: Some((8080, 8080)), mark: 256 }];
    if ingress_remembers {
        let mut second = entry(700);
        second.client = first.seen_as.unwrap();
        second.server = first.backend;
        tables(&mut snapshot).entries.push(second.clone());
        second.seen_as = Some(address("10.0.1.3:40000"));
        snapshot.namespaces[DIRECTOR].conntrack.as_mut().unwrap().entries.push(second);
    }
    snapshot.namespaces[BACKEND].sockets[0].remote = address("10.0.1.3:40000");
    snapshot
}

#[test]
fn published_port_is_followed_through_two_directors() {
    let session = only(&published(true));
    assert_eq!((session.verdict, session.director), (Verdict::AtRisk, Some(DIRECTOR)));
    assert_eq!(session.backend, Some(address(BACKEND_ADDRESS)));
    assert_eq!(session.orphaned_in, Some(seconds(700)));

    let mut snapshot = published(false);
    let second_hop = (address("172.18.0.1:40000"), address("172.18.0.2:8080"));
    assert_eq!(suspects(&snapshot)[0].pair, second_hop, "asked for what it is sent");
    look_again(&mut snapshot, SecondLookResult::Confirmed);
    let session = only(&snapshot);
    assert_eq!((session.verdict, session.director), (Verdict::Orphaned, Some(DIRECTOR)));
}

#[test]
fn backend_whose_client_is_elsewhere_is_judged_by_its_own_end() {
    let mut snapshot = swarm(Some(entry(800)));
    snapshot.namespaces[CLIENT].sockets.clear();
    let session = only(&snapshot);
    assert_eq!((session.end, session.verdict), (End::Backend, Verdict::AtRisk));
    assert_eq!(session.client, address(CLIENT_ADDRESS));
    assert_eq!(session.server, address(VIP));
    // Its clock is that of the director's own entry: an entry that is held outlives the silence.
    let view = session.entry.unwrap();
    assert_eq!((view.expires, view.source), (seconds(800), LifetimeSource::Entry));

    let mut snapshot = swarm(None);
    snapshot.namespaces[CLIENT].sockets.clear();
    look_again(&mut snapshot, SecondLookResult::Confirmed);
    let judgement = verdicts(&snapshot);
    assert_eq!(judgement.sessions[0].why, Why::ForgottenAtBackend);
    assert_eq!(judgement.sessions[0].findings, [Code::FORGOTTEN_AT_BACKEND]);
    assert_eq!(judgement.findings[0].code, Code::FORGOTTEN_AT_BACKEND);
}

#[test]
fn only_selected_sessions_are_told() {
    for chosen in [CLIENT, DIRECTOR, BACKEND] {
        let mut snapshot = swarm(Some(entry(800)));
        for (at, namespace) in snapshot.namespaces.iter_mut().enumerate() {
            namespace.selected = at == chosen;
        }
        assert_eq!(verdicts(&snapshot).sessions.len(), 1, "by namespace {chosen}");
    }
    let mut snapshot = swarm(Some(entry(800)));
    snapshot.namespaces.iter_mut().for_each(|namespace| namespace.selected = false);
    assert!(verdicts(&snapshot).sessions.is_empty());
}

#[test]
fn slow_table_is_replaced_by_conntrack_and_silence() {
    let mut snapshot = swarm(Some(entry(800)));
    tables(&mut snapshot).listing = Listing::TooSlow;
    tables(&mut snapshot).entries.clear();
    let judgement = verdicts(&snapshot);
    let session = &judgement.sessions[0];
    assert_eq!(session.table, Some(Table::Ipvs));
    assert_eq!(session.orphaned_in, Some(seconds(800)), "900 s less 100 s of silence");
    assert!(judgement.findings.iter().any(|finding| finding.code == Code::SLOW_TABLE));
}

/// Without an entry in either there is an orphan; where conntrack was emptied by hand there is none.
#[test]
fn an_emptied_conntrack_does_not_stand_in_for_ipvs() {
    let mut snapshot = swarm(None);
    tables(&mut snapshot).listing = Listing::TooSlow;
    look_again(&mut snapshot, SecondLookResult::Confirmed);
    let verdict = |snapshot: &Snapshot| {
        let session = only(snapshot);
        (session.verdict, session.why)
    };
    assert_eq!(verdict(&snapshot).0, Verdict::Orphaned);
    tables(&mut snapshot).services[0].destinations[0].active = 100_000;
    let conntrack = |snapshot: &mut Snapshot, count| {
        snapshot.namespaces[DIRECTOR].conntrack.as_mut().unwrap().count = count;
    };
    conntrack(&mut snapshot, 12);
    assert_eq!(verdict(&snapshot), (Verdict::Unknown, Why::Unreadable));
    // As many as there were a moment ago.
    conntrack(&mut snapshot, 99_900);
    assert_eq!(verdict(&snapshot).0, Verdict::Orphaned);
}

#[test]
fn findings_about_directors() {
    let mut snapshot = swarm(Some(entry(800)));
    tables(&mut snapshot).expire_nodest_conn = Some(false);
    tables(&mut snapshot).services[0].destinations.clear();
    tables(&mut snapshot).timeouts.tcp = seconds(500_000);
    let conntrack = snapshot.namespaces[DIRECTOR].conntrack.as_mut().unwrap();
    (conntrack.count, conntrack.max) = (95, Some(100));
    let codes: Vec<Code> = verdicts(&snapshot).findings.iter().map(|found| found.code).collect();
    for code in [Code::BACKEND_GONE, Code::CONNTRACK_SHORTER, Code::TABLE_FULL] {
        assert!(codes.contains(&code), "{code} is not in {codes:?}");
    }
    let quiet: Vec<Code> =
        verdicts(&swarm(Some(entry(800)))).findings.iter().map(|found| found.code).collect();
    assert_eq!(quiet, [Code::NO_KEEPALIVE]);
}

#[test]
fn half_closed_session_runs_on_its_own_clock() {
    let mut half = entry(50);
    half.state = EntryState::CloseWait;
    let mut snapshot = swarm(Some(half));
    client(&mut snapshot).state = TcpState::CloseWait;
    let session = only(&snapshot);
    assert_eq!((session.verdict, session.why), (Verdict::AtRisk, Why::HalfClosed));
    assert_eq!(session.entry.unwrap().timeout, seconds(60));
    assert_eq!(session.findings, [Code::HALF_CLOSED]);
}

/// On a Swarm a client is as a rule the task of a service itself, and a service with marks leads to
/// any port of its tasks.
#[test]
fn client_that_is_a_backend_of_another_service_is_a_client() {
    for remembered in [Some(entry(800)), None] {
        let mut snapshot = swarm(remembered.clone());
        let other = &mut ipvs(ServiceId::Fwmark(257)).services[0];
        other.destinations[0].address = address("10.0.1.6:0");
        tables(&mut snapshot).services.push(other.clone());
        look_again(&mut snapshot, SecondLookResult::Confirmed);
        let session = only(&snapshot);
        let expected = if remembered.is_some() { Verdict::AtRisk } else { Verdict::Orphaned };
        assert_eq!((session.verdict, session.end), (expected, End::Client));
        assert_eq!(session.client, address(CLIENT_ADDRESS));
        assert_eq!(session.other_end.map(|end| end.namespace), Some(BACKEND));
    }
}

/// A task with a published port: its own namespace redirects 8080 to 7000, the client is outside.
fn redirected() -> Snapshot {
    let mut snapshot = swarm(None);
    snapshot.namespaces[CLIENT].sockets.clear();
    let published = address("10.0.1.4:8080");
    snapshot.namespaces[BACKEND].conntrack.as_mut().unwrap().entries.push(
        keepline_core::snapshot::Entry {
            client: address(SEEN_AS),
            server: published,
            backend: address(BACKEND_ADDRESS),
            seen_as: Some(address(SEEN_AS)),
            expires: seconds(431_000),
            ..entry(0)
        },
    );
    snapshot
}

#[test]
fn redirection_at_the_backend_does_not_hide_that_its_director_has_forgotten() {
    let mut snapshot = redirected();
    assert_eq!(suspects(&snapshot)[0].pair, (address("10.0.1.4:8080"), address(SEEN_AS)));
    look_again(&mut snapshot, SecondLookResult::Confirmed);
    let session = only(&snapshot);
    assert_eq!((session.verdict, session.why), (Verdict::Orphaned, Why::ForgottenAtBackend));
    assert_eq!(session.director, Some(DIRECTOR));
}

/// It came in by another node, whose director cannot be seen from here.
#[test]
fn redirection_at_the_backend_alone_is_no_load_balancer() {
    let mut snapshot = redirected();
    snapshot.namespaces.remove(DIRECTOR);
    assert_eq!(verdicts(&snapshot).sessions.len(), 0);
}

/// A published port from the host itself, after the Engine's restart: no table remembers it.
#[test]
fn client_of_an_own_address_without_its_other_end_was_led_elsewhere() {
    let mut host = namespace(1, "host", &["192.168.77.1"]);
    host.translates = true;
    host.conntrack = Some(conntrack());
    host.listeners.push(address("0.0.0.0:8080"));
    host.sockets.push(socket("192.168.77.1:34502", "192.168.77.1:8080", 100));
    let mut snapshot = snapshot(vec![host]);
    look_again(&mut snapshot, SecondLookResult::Confirmed);
    let session = only(&snapshot);
    assert_eq!((session.verdict, session.table), (Verdict::Orphaned, Some(Table::Conntrack)));

    // With the other end beside it, nobody translates.
    let other = socket("192.168.77.1:8080", "192.168.77.1:34502", 100);
    snapshot.namespaces[0].sockets.push(other);
    let judgement = verdicts(&snapshot);
    assert_eq!(judgement.summary.orphaned, 0);
    assert_eq!(judgement.summary.untracked, judgement.sessions.len());
}
