//! Keepalive against the clock.

use keepline_core::{
    Options, Verdict, judge,
    session::{Keepalive, Why},
    snapshot::{KeepaliveSettings, Timer},
};

use crate::build::*;

fn with(
    settings: Option<KeepaliveSettings>,
    expires: u64,
    idle: u64,
) -> (Verdict, Why, Option<u64>) {
    let mut snapshot = swarm(Some(entry(expires)));
    let socket = client(&mut snapshot);
    socket.keepalive = settings.map(Box::new);
    socket.timer = Timer::Keepalive { expires: seconds(1) };
    (socket.idle, socket.heard) = (Some(seconds(idle)), Some(seconds(idle)));
    let session = judge(&snapshot, &Options::default()).sessions.remove(0);
    (session.verdict, session.why, session.orphaned_in.map(|left| left.as_secs()))
}

#[test]
fn keepalive_in_time_is_safe() {
    assert_eq!(with(keepalive(300, 75), 800, 100), (Verdict::Safe, Why::KeptAlive, None));
    assert_eq!(with(keepalive(600, 75), 800, 100), (Verdict::Safe, Why::KeptAlive, None));
}

#[test]
fn classic_two_hours_against_fifteen_minutes() {
    let late = (Verdict::AtRisk, Why::KeepaliveLate, Some(800));
    assert_eq!(with(keepalive(7200, 75), 800, 100), late);
}

#[test]
fn keepalive_at_the_timeout_itself_is_late() {
    assert_eq!(
        with(keepalive(900, 75), 800, 100),
        (Verdict::AtRisk, Why::KeepaliveLate, Some(800))
    );
}

#[test]
fn one_lost_probe_is_one_too_many() {
    let tight = (Verdict::AtRisk, Why::KeepaliveTight, Some(800));
    assert_eq!(with(keepalive(850, 75), 800, 100), tight);
    assert_eq!(with(keepalive(825, 75), 800, 100), tight, "the second probe comes at the timeout");
    assert_eq!(with(keepalive(824, 75), 800, 100).0, Verdict::Safe);
}

#[test]
fn keepalive_switched_on_too_late_for_this_round() {
    // The next probe comes in 200 s, the entry (already shortened) lives for 100 s.
    let late = (Verdict::AtRisk, Why::KeepaliveLate, Some(100));
    assert_eq!(with(keepalive(300, 10), 100, 100), late);
}

#[test]
fn probe_in_time_now_but_not_after_it() {
    // Held for an hour; the probe after 1000 s sets the lifetime back to 900 s.
    let late = (Verdict::AtRisk, Why::KeepaliveLate, Some(1000 - 100 + 900));
    let options = Options { horizon: seconds(3600) };
    let mut snapshot = swarm(Some(entry(3600)));
    client(&mut snapshot).keepalive = keepalive(1000, 10).map(Box::new);
    let session = judge(&snapshot, &options).sessions.remove(0);
    let left = session.orphaned_in.map(|left| left.as_secs());
    assert_eq!((session.verdict, session.why, left), late);
}

#[test]
fn loss_beyond_the_horizon_is_safe_in_this_look() {
    for (horizon, verdict) in [(30, Verdict::Safe), (60, Verdict::AtRisk), (900, Verdict::AtRisk)] {
        let options = Options { horizon: seconds(horizon) };
        let session = judge(&swarm(Some(entry(60))), &options).sessions.remove(0);
        assert_eq!(session.verdict, verdict, "horizon {horizon}");
        assert_eq!(session.orphaned_in, Some(seconds(60)), "told all the same");
    }
}

#[test]
fn settings_that_could_not_be_read() {
    let mut snapshot = swarm(Some(entry(800)));
    client(&mut snapshot).timer = Timer::Keepalive { expires: seconds(900) };
    let session = judge(&snapshot, &Options::default()).sessions.remove(0);
    assert_eq!((session.verdict, session.why), (Verdict::AtRisk, Why::KeepaliveLate));

    for timer in [Timer::Keepalive { expires: seconds(200) }, Timer::Hidden] {
        client(&mut snapshot).timer = timer;
        let session = judge(&snapshot, &Options::default()).sessions.remove(0);
        assert_eq!((session.verdict, session.why), (Verdict::Unknown, Why::KeepaliveUnproven));
    }
}

#[test]
fn keepalive_of_the_backend_counts() {
    let mut snapshot = swarm(Some(entry(800)));
    snapshot.namespaces[BACKEND].sockets[0].keepalive = keepalive(300, 75).map(Box::new);
    let session = judge(&snapshot, &Options::default()).sessions.remove(0);
    assert_eq!((session.verdict, session.why), (Verdict::Safe, Why::KeptAlive));
    assert!(matches!(session.keepalive, Keepalive::On { .. }));
}

#[test]
fn keepalive_switched_off_is_off() {
    let off = KeepaliveSettings { enabled: false, ..keepalive(300, 75).unwrap() };
    assert_eq!(with(Some(off), 800, 100).1, Why::NoKeepalive);
}
