//! The second look: what it confirms, and that it accuses nobody wrongly.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails by panicking")]

mod common;

use std::net::TcpListener;

use common::{Nat, Netns, find};
use keepline_core::{Options, Session, Snapshot, Verdict, judge, snapshot::SecondLookResult};
use keepline_node::{Owners, Select, observe};

/// Looks at everything on this machine, as an unselected check does.
fn look() -> Snapshot {
    observe(&Select::default(), Owners::MostUrgent(10)).unwrap()
}

/// The sessions whose client is in `netns`.
fn sessions_of(snapshot: &Snapshot, netns: &Netns) -> Vec<Session> {
    let mut sessions = judge(snapshot, &Options::default()).sessions;
    sessions.retain(|session| snapshot.namespaces[session.socket.namespace].name == netns.name);
    sessions
}

#[test]
fn a_forgotten_session_is_confirmed_and_a_remembered_one_is_not_suspected() {
    skip_if_impossible!();
    let nat = Nat::new();
    let listener = nat.listen();
    let (client, server) = nat.session(&listener);
    let cookie = rustix::net::sockopt::socket_cookie(&client).unwrap();
    let looked = |snapshot: &Snapshot| {
        let inode = find(snapshot, &nat.client).inode;
        let looks = snapshot.second_look.iter();
        let mut own = looks.filter(|look| (look.namespace, look.cookie) == (inode, cookie));
        own.next().map(|look| look.result)
    };

    let snapshot = look();
    assert_eq!(looked(&snapshot), None);
    let [session] = sessions_of(&snapshot, &nat.client).try_into().unwrap();
    assert_ne!(session.verdict, Verdict::Orphaned);
    assert_eq!(session.backend, Some(nat.server));

    nat.forget();
    let snapshot = look();
    assert_eq!(looked(&snapshot), Some(SecondLookResult::Confirmed));
    let [session] = sessions_of(&snapshot, &nat.client).try_into().unwrap();
    assert_eq!(session.verdict, Verdict::Orphaned);
    assert_eq!((session.client, session.server), (client.local_addr().unwrap(), nat.vip));
    drop(server);
}

#[test]
fn a_session_with_the_director_itself_is_no_orphan() {
    skip_if_impossible!();
    let nat = Nat::new();
    // On the VIP's address, but a port that nobody translates.
    let listener = nat.director.inside(|| TcpListener::bind((nat.vip.ip(), 7001)).unwrap());
    let to = listener.local_addr().unwrap();
    let client = nat.client.inside(|| std::net::TcpStream::connect(to).unwrap());
    let server = listener.accept().unwrap().0;
    // With the listener gone nothing but the accepted socket tells that it ends here.
    drop(listener);
    let snapshot = look();
    let [session] = sessions_of(&snapshot, &nat.client).try_into().unwrap();
    assert_eq!(session.verdict, Verdict::Untracked);
    assert_eq!(session.client, client.local_addr().unwrap());
    drop(server);
}

#[test]
fn sessions_that_come_and_go_are_never_orphans() {
    skip_if_impossible!();
    let nat = Nat::new();
    let listener = nat.listen();
    nat.churn(&listener, 10, 1000, || {
        let snapshot = look();
        let orphans: Vec<_> = sessions_of(&snapshot, &nat.client)
            .into_iter()
            .filter(|session| session.verdict == Verdict::Orphaned)
            .collect();
        assert!(orphans.is_empty(), "{orphans:#?}");
    });
}
