//! Plans, on the same snapshots as the verdicts: what will be changed, and what is refused.

use std::time::Duration;

use keepline_core::{
    Options, Plan, Snapshot, judge,
    plan::{
        self, Change, HoldWish, KeepaliveWish, Memory, Place, TimeoutError, TimeoutWish, What,
        journal::{By, Record, standing},
    },
    session::Table,
    snapshot::{Incomplete, KeepaliveDefaults, Listing, SecondLookResult, Select, Timer},
};

use crate::build::*;

fn judged(snapshot: &Snapshot) -> keepline_core::Judgement {
    judge(snapshot, &Options::default())
}

pub fn orphaned() -> Snapshot {
    let mut snapshot = swarm(None);
    look_again(&mut snapshot, SecondLookResult::Confirmed);
    snapshot
}

fn lines(plan: &Plan) -> Vec<String> {
    plan.changes
        .iter()
        .map(|change| {
            let (object, what) = change.what.describe();
            format!("{}: {object}: {what}", change.place.name)
        })
        .collect()
}

fn timeout(snapshot: &Snapshot, tcp: u64) -> Plan {
    let wish = TimeoutWish { tcp: Some(seconds(tcp)), ..TimeoutWish::default() };
    plan::timeout(snapshot, &judged(snapshot), wish).unwrap()
}

#[test]
fn a_longer_timeout_reaches_entries_that_are_idle_already() {
    let plan = timeout(&swarm(Some(entry(300))), 7200);
    assert_eq!(
        lines(&plan),
        [
            "lb_edja88p19: IPVS timeouts: tcp 900 s → 7200 s",
            "lb_edja88p19: 1 entry in ipvs: 1 renewed (the first had 5m left), to live 1h 50m",
        ]
    );
    // 300 s of 900 were left: 6,600 of 7,200 are.
    let What::Entries { entries, .. } = &plan.changes[1].what else { panic!("{plan:?}") };
    assert_eq!((entries[0].will, entries[0].fwmark), (seconds(6600), 256));
    assert!(plan.refused.is_empty() && plan.notes.is_empty(), "{plan:?}");
}

#[test]
fn what_would_make_a_longer_timeout_worse_is_changed_first() {
    let mut snapshot = swarm(Some(entry(300)));
    tables(&mut snapshot).expire_nodest_conn = Some(false);
    let conntrack = snapshot.namespaces[DIRECTOR].conntrack.as_mut().unwrap();
    conntrack.timeouts.as_mut().unwrap().established = seconds(3600);
    assert_eq!(
        lines(&timeout(&snapshot, 7200))[..3],
        [
            "lb_edja88p19: net.ipv4.vs.expire_nodest_conn: 0 → 1",
            "lb_edja88p19: net.netfilter.nf_conntrack_tcp_timeout_established: 3600 → 7260",
            "lb_edja88p19: IPVS timeouts: tcp 900 s → 7200 s",
        ]
    );
    // The timeout that is there already: conntrack below it is lifted all the same (KL007).
    let conntrack = snapshot.namespaces[DIRECTOR].conntrack.as_mut().unwrap();
    conntrack.timeouts.as_mut().unwrap().established = seconds(600);
    assert_eq!(
        lines(&timeout(&snapshot, 900)),
        ["lb_edja88p19: net.netfilter.nf_conntrack_tcp_timeout_established: 600 → 960"]
    );
}

#[test]
fn a_timeout_that_no_kernel_takes_is_refused_beforehand() {
    let snapshot = swarm(Some(entry(300)));
    let judged = judged(&snapshot);
    let wish = |tcp, tcp_fin| {
        plan::timeout(&snapshot, &judged, TimeoutWish { tcp, tcp_fin, udp: None }).unwrap_err()
    };
    assert_eq!(wish(None, None), TimeoutError::Nothing);
    let error = wish(Some(plan::LONGEST + seconds(1)), None).to_string();
    assert!(error.contains("--tcp 24d 20h: the kernel takes no more than 24d 20h"), "{error}");
    assert!(matches!(wish(None, Some(Duration::ZERO)), TimeoutError::TooShort { .. }));
    assert!(matches!(wish(None, Some(Duration::from_millis(1500))), TimeoutError::TooShort { .. }));
}

#[test]
fn without_ipvs_conntrack_remembers_for_longer() {
    let mut snapshot = nat(Some(entry(300)));
    let conntrack = snapshot.namespaces[DIRECTOR].conntrack.as_mut().unwrap();
    conntrack.timeouts.as_mut().unwrap().established = seconds(900);
    let shorter = timeout(&snapshot, 600);
    assert!(shorter.changes.is_empty(), "never made worse: {shorter:?}");
    assert!(shorter.notes[0].contains("remembers for 15m already"), "{shorter:?}");
    let plan = timeout(&snapshot, 7200);
    assert_eq!(
        lines(&plan),
        [
            "lb_edja88p19: net.netfilter.nf_conntrack_tcp_timeout_established: 900 → 7200",
            "lb_edja88p19: 1 entry in conntrack: 1 renewed (the first had 5m left), to live 1h 50m",
        ]
    );
}

#[test]
fn a_wider_effect_than_asked_for_is_said() {
    let mut snapshot = swarm(Some(entry(300)));
    let inodes = [snapshot.namespaces[CLIENT].inode].into();
    snapshot.select(&Select { pids: vec![1], ..Select::default() }, &inodes).unwrap();
    let plan = timeout(&snapshot, 7200);
    assert_eq!(plan.changes.len(), 2);
    assert!(plan.notes[0].contains("holds for every session through it"), "{:?}", plan.notes);
}

#[test]
fn rehash_switches_and_carries_over() {
    let snapshot = swarm(Some(entry(300)));
    let plan = plan::rehash(&snapshot, &judged(&snapshot), seconds(86_400));
    assert_eq!(
        lines(&plan),
        [
            "lb_edja88p19: service FWM 256: rr → mh (mh-fallback, mh-port)",
            "lb_edja88p19: net.ipv4.vs.sloppy_tcp: 0 → 1",
            "lb_edja88p19: 1 entry in ipvs: 1 renewed (the first had 5m left), to live 24h",
        ]
    );
    assert!(plan.notes[0].contains("placed by another scheduler"), "{:?}", plan.notes);
    // A large table on an old kernel: conntrack's entry lives for days, that of IPVS does not.
    let mut unlisted = swarm(Some(entry(300)));
    tables(&mut unlisted).listing = Listing::TooSlow;
    tables(&mut unlisted).entries.clear();
    let conntrack = unlisted.namespaces[DIRECTOR].conntrack.as_mut().unwrap();
    conntrack.entries[0].expires = seconds(432_000);
    let plan = plan::rehash(&unlisted, &judged(&unlisted), seconds(86_400));
    let What::Entries { table: Table::Ipvs, entries } = &plan.changes[2].what else { panic!() };
    assert_eq!(entries[0].will, seconds(86_400));
    let plan = plan::rehash(&nat(Some(entry(300))), &judged(&snapshot), seconds(60));
    assert!(plan.changes.is_empty() && plan.refused[0].why.contains("no IPVS there"), "{plan:?}");
}

/// Not in silence: they run out like all others.
#[test]
fn what_cannot_be_seen_is_not_held_and_said() {
    let mut snapshot = swarm(None);
    tables(&mut snapshot).listing = Listing::TooSlow;
    tables(&mut snapshot).services[0].destinations[0].active = 100_000;
    let plan = plan::hold(&snapshot, &judged(&snapshot), HoldWish::default());
    let [refused] = plan.refused.as_slice() else { panic!("{:?}", plan.refused) };
    assert_eq!(refused.what, "1 that could not be judged");
}

#[test]
fn rehash_done_is_nothing_to_do_and_makes_sessions_safe() {
    let mut snapshot = swarm(Some(entry(300)));
    let ipvs = tables(&mut snapshot);
    ipvs.sloppy_tcp = Some(true);
    ipvs.services[0].scheduler = "mh".to_owned();
    ipvs.services[0].flags |= 0x18;
    let judgement = judged(&snapshot);
    assert_eq!(judgement.summary.safe, 1, "{:?}", judgement.sessions);
    assert!(plan::rehash(&snapshot, &judgement, seconds(60)).changes.is_empty());
    // What is forgotten comes back with the client's next packet, if the backends are the same.
    let ipvs = tables(&mut snapshot);
    ipvs.entries.clear();
    snapshot.namespaces[DIRECTOR].conntrack.as_mut().unwrap().entries.clear();
    look_again(&mut snapshot, SecondLookResult::Confirmed);
    assert_eq!(judged(&snapshot).summary.at_risk, 1);
}

#[test]
fn hold_renews_what_runs_out_soon_and_no_more() {
    let mut snapshot = swarm(Some(entry(300)));
    snapshot.namespaces[DIRECTOR].conntrack.as_mut().unwrap().entries[0].expires = seconds(8000);
    let judgement = judged(&snapshot);
    let hold = |wish| plan::hold(&snapshot, &judgement, wish);
    let plan = hold(HoldWish::default());
    let What::Entries { table: Table::Ipvs, entries } = &plan.changes[0].what else { panic!() };
    assert_eq!((entries[0].was, entries[0].will), (Some(seconds(300)), seconds(900)));
    assert_eq!(entries[0].backend, address(BACKEND_ADDRESS));
    let due = |due| hold(HoldWish { due_within: Some(seconds(due)), ..HoldWish::default() });
    assert!(due(299).changes.is_empty());
    assert_eq!(due(300).changes.len(), 1);
    // What translates must outlive what balances.
    let longer = hold(HoldWish { lifetime: Some(seconds(9000)), due_within: None });
    assert_eq!(longer.changes.len(), 2);
    assert!(matches!(longer.changes[1].what, What::Entries { table: Table::Conntrack, .. }));
}

#[test]
fn hold_leaves_alone_what_needs_no_help_or_is_beyond_it() {
    let mut snapshot = swarm(Some(entry(300)));
    client(&mut snapshot).keepalive = keepalive(30, 5).map(Box::new);
    assert!(plan::hold(&snapshot, &judged(&snapshot), HoldWish::default()).changes.is_empty());

    let lost = orphaned();
    let plan = plan::hold(&lost, &judged(&lost), HoldWish::default());
    assert!(plan.changes.is_empty());
    assert!(plan.refused[0].why.contains("keepline heal"), "{plan:?}");

    let mut closed = swarm(Some(entry(300)));
    closed.namespaces[CLIENT].sockets.clear();
    let hold = |snapshot: &Snapshot| {
        !plan::hold(snapshot, &judged(snapshot), HoldWish::default()).changes.is_empty()
    };
    assert!(!hold(&closed), "its client was here, and is gone");
    closed.namespaces[CLIENT].addresses.clear();
    assert!(hold(&closed), "its client is elsewhere");

    let mut removed = swarm(Some(entry(300)));
    tables(&mut removed).services[0].destinations.clear();
    let plan = plan::hold(&removed, &judged(&removed), HoldWish::default());
    assert!(plan.changes.is_empty());
    assert!(plan.refused[0].what.contains("no longer has"), "{plan:?}");
}

#[test]
fn what_is_held_is_safe() {
    let mut snapshot = swarm(Some(entry(300)));
    snapshot.held.push(snapshot.scope());
    let judgement = judged(&snapshot);
    assert_eq!(judgement.summary.safe, 1);
    assert!(judgement.findings.is_empty(), "{:?}", judgement.findings);
    // Somebody else's sessions.
    snapshot.held[0].namespaces = Some([77].into());
    assert_eq!(judged(&snapshot).summary.at_risk, 1);
}

#[test]
fn keepalive_is_set_below_the_timeout_where_it_is_missing_or_late() {
    let mut snapshot = swarm(Some(entry(300)));
    snapshot.namespaces[CLIENT].keepalive_defaults =
        Some(KeepaliveDefaults { time: 7200, intvl: 75, probes: 9 });
    let wish = KeepaliveWish::default();
    let plan = plan::keepalive(&snapshot, &judged(&snapshot), wish);
    assert_eq!(
        lines(&plan),
        [
            "client: 1 socket: keepalive after 5m, every 75s, 9 probes",
            "client: net.ipv4.tcp_keepalive_time: 7200 → 300",
            "client: connections to come: every program of this machine: keepalive after 5m, every \
             75s",
        ]
    );
    client(&mut snapshot).timer = Timer::Hidden;
    client(&mut snapshot).keepalive = keepalive(120, 10).map(Box::new);
    let plan = plan::keepalive(&snapshot, &judged(&snapshot), wish);
    assert_eq!(plan.changes.len(), 1, "its own stay: {plan:?}");

    snapshot.namespaces[CLIENT].cookie = Some(70);
    let inodes = [snapshot.namespaces[CLIENT].inode].into();
    snapshot.select(&Select { pids: vec![1], ..Select::default() }, &inodes).unwrap();
    let plan = plan::keepalive(&snapshot, &judged(&snapshot), wish);
    let What::NewSockets { after: Some(rules), .. } = &plan.changes[0].what else { panic!() };
    assert_eq!(rules.everybody, None, "nobody else's");
    assert_eq!(rules.rules.len(), 1);
    assert_eq!((rules.rules[0].netns, rules.rules[0].peer), (70, None));
}

#[test]
fn direct_follows_the_directors_own_table() {
    let mut snapshot = swarm(Some(entry(300)));
    snapshot.namespaces[CLIENT].cookie = Some(70);
    let plan = plan::direct(&snapshot, &judged(&snapshot), None);
    let What::Direct { after: Some(services), .. } = &plan.changes[0].what else { panic!() };
    assert_eq!(services.len(), 2, "TCP and UDP: a mark knows no protocol");
    let service = &services[0];
    assert_eq!((service.netns, service.vip, service.port), (70, address(VIP).ip(), None));
    assert_eq!(service.backends.len(), 1);
    assert_eq!((service.backends[0].port, service.backends[0].weight), (None, 1));

    // A task that goes strands whoever is connected to it directly, in this namespace only.
    let known = services.clone();
    client(&mut snapshot).remote = address(BACKEND_ADDRESS);
    let follow = |snapshot: &Snapshot| plan::follow(snapshot, &judged(snapshot), &known);
    let connected = swarm(Some(entry(300)));
    snapshot.namespaces[CLIENT].sockets.extend(connected.namespaces[CLIENT].sockets.clone());
    assert!(follow(&snapshot).changes.is_empty(), "as it was");
    let destination = &mut tables(&mut snapshot).services[0].destinations[0];
    destination.weight = 0;
    let kinds = |plan: &Plan| -> Vec<bool> {
        plan.changes.iter().map(|it| matches!(it.what, What::Disconnect { .. })).collect()
    };
    assert_eq!(kinds(&follow(&snapshot)), [false], "drained: those that are connected stay");
    tables(&mut snapshot).services[0].destinations.clear();
    let plan = follow(&snapshot);
    assert_eq!(kinds(&plan), [false, true, false]);
    // Whoever goes on after a death in the midst finds it in the table still.
    let What::Direct { after: Some(services), .. } = &plan.changes[0].what else { panic!() };
    assert_eq!((services[0].backends.len(), services[0].backends[0].weight), (1, 0));
    assert_eq!(plan.changes[1].place.cookie, Some(70));
    let again = plan::direct(&snapshot, &judged(&snapshot), Some(services));
    assert_eq!(kinds(&again), [true, false], "the table is as it shall be meanwhile");
    snapshot.incomplete.push(Incomplete { what: "x".into(), why: "y".into(), help: None });
    assert!(follow(&snapshot).changes.is_empty(), "a table not seen is not an empty one");
    snapshot.incomplete.clear();
    // The service is removed: nothing is answered any more.
    let services = std::mem::take(&mut tables(&mut snapshot).services);
    let plan = follow(&snapshot);
    assert_eq!(kinds(&plan), [false], "its tasks tell their clients themselves");
    assert!(
        matches!(&plan.changes[0].what, What::Direct { after: Some(none), .. } if none.is_empty())
    );
    tables(&mut snapshot).services = services;
    snapshot.namespaces[CLIENT].cookie = Some(71);
    assert_eq!(kinds(&follow(&snapshot)), [false], "another namespace's sockets");
}

fn heal(snapshot: &Snapshot, memory: &Memory) -> Plan {
    plan::heal(snapshot, &judged(snapshot), memory)
}

#[test]
fn heal_goes_to_the_backend_that_holds_the_other_end() {
    let plan = heal(&orphaned(), &Memory::default());
    let What::Entries { table: Table::Ipvs, entries } = &plan.changes[0].what else { panic!() };
    let made = entries[0];
    assert_eq!((made.client, made.server), (address(CLIENT_ADDRESS), address(VIP)));
    assert_eq!((made.backend, made.was, made.fwmark), (address(BACKEND_ADDRESS), None, 256));
}

/// Two backends, and the one of the session is on another node.
fn elsewhere() -> Snapshot {
    let mut snapshot = orphaned();
    snapshot.namespaces.truncate(2);
    let destinations = &mut tables(&mut snapshot).services[0].destinations;
    let mut second = destinations[0].clone();
    second.address.set_ip("10.0.1.5".parse().unwrap());
    destinations.push(second);
    snapshot
}

#[test]
fn heal_never_guesses() {
    let snapshot = elsewhere();
    let plan = heal(&snapshot, &Memory::default());
    assert!(plan.changes.is_empty());
    assert!(plan.refused[0].why.contains("no earlier look knows it"), "{plan:?}");

    let mut memory = Memory::default();
    memory.learn(&swarm(Some(entry(300))), 0);
    let plan = heal(&snapshot, &memory);
    let What::Entries { entries, .. } = &plan.changes[0].what else { panic!("{plan:?}") };
    assert_eq!(entries[0].backend, address(BACKEND_ADDRESS), "an earlier look");

    let mut single = elsewhere();
    tables(&mut single).services[0].destinations.truncate(1);
    assert_eq!(heal(&single, &Memory::default()).changes.len(), 1, "there is only one");
}

#[test]
fn heal_refuses_a_backend_that_was_replaced_or_has_closed() {
    let mut replaced = orphaned();
    let other: std::net::SocketAddr = "10.0.1.9:0".parse().unwrap();
    tables(&mut replaced).services[0].destinations[0].address = other;
    replaced.namespaces[BACKEND].addresses = vec![other.ip()];
    replaced.namespaces[BACKEND].sockets.clear();
    let plan = heal(&replaced, &Memory::default());
    assert!(plan.changes.is_empty(), "the new task knows nothing of it");
    assert!(plan.refused[0].why.contains("has no socket for it"), "{plan:?}");
    let mut memory = Memory::default();
    memory.learn(&swarm(Some(entry(300))), 0);
    let plan = heal(&replaced, &memory);
    assert!(plan.refused[0].why.contains("the task was replaced"), "{plan:?}");

    let mut closed = orphaned();
    closed.namespaces[BACKEND].sockets.clear();
    let mut memory = Memory::default();
    memory.learn(&swarm(Some(entry(300))), 0);
    let plan = heal(&closed, &memory);
    assert!(plan.changes.is_empty());
    assert!(plan.refused[0].why.contains("has closed the session"), "{plan:?}");
}

#[test]
fn abort_and_touch_are_for_different_sessions() {
    let lost = orphaned();
    let abort = plan::abort(&lost, &judged(&lost));
    assert_eq!(abort.changes.len(), 2, "both ends: {abort:?}");
    assert!(plan::touch(&lost, &judged(&lost)).changes.is_empty());
    let alive = swarm(Some(entry(300)));
    assert!(plan::abort(&alive, &judged(&alive)).changes.is_empty());
    assert_eq!(plan::touch(&alive, &judged(&alive)).changes.len(), 1);
}

fn sysctl(before: &str, after: &str) -> Change {
    let place = Place { inode: 7, cookie: Some(70), name: "lb".to_owned() };
    let (before, after) = (before.to_owned(), after.to_owned());
    Change { place, what: What::Sysctl { path: "net/ipv4/vs/x".to_owned(), before, after } }
}

#[test]
fn the_journal_knows_what_stands_and_the_way_back() {
    let at = jiff::Timestamp::UNIX_EPOCH;
    let by = By { pid: 1, user: "root".to_owned(), command: "keepline".to_owned(), guard: false };
    let begin = |id| Record::Begin { id, at, action: plan::Action::Timeout, by: by.clone() };
    let change = |id, step, change| Record::Change { id, step, change };
    let done =
        |id, step, error: Option<&str>| Record::Done { id, step, error: error.map(str::to_owned) };
    let mut records = vec![
        begin(1),
        change(1, 0, sysctl("0", "1")),
        done(1, 0, None),
        change(1, 1, sysctl("5", "6")),
        done(1, 1, Some("refused")),
        begin(2),
        change(2, 0, sysctl("1", "2")),
    ];
    let stands = standing(&records);
    let what: Vec<(u64, usize, bool)> =
        stands.iter().map(|it| (it.id, it.step, it.finished)).collect();
    assert_eq!(what, [(1, 0, true), (2, 0, false)], "killed in the midst of the second plan");
    let back: Vec<Change> = plan::undo(&stands).into_iter().map(|it| it.change).collect();
    assert_eq!(back, [sysctl("2", "1"), sysctl("1", "0")], "the last first");
    records.push(Record::Undone { id: 2, step: 0, at });
    assert_eq!(standing(&records).len(), 1);
    assert_eq!(plan::journal::next_id(&records), 3);
    // Of what leaves nothing to undo there is the number.
    let entries =
        plan::hold(&swarm(Some(entry(9))), &judged(&swarm(Some(entry(9)))), HoldWish::default());
    let line = serde_json::to_string(&change(3, 0, entries.changes[0].clone())).unwrap();
    assert!(line.contains(r#""entries":1"#), "{line}");
    serde_json::from_str::<Record>(&line).unwrap();
    let lines: Vec<String> =
        records.iter().map(|record| serde_json::to_string(record).unwrap()).collect();
    let read: Vec<Record> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read, records);
}

#[test]
fn a_namespace_made_later_is_another() {
    let place = |cookie| Place { inode: 7, cookie, name: "lb".to_owned() };
    assert!(place(Some(70)).is(7, Some(70)));
    assert!(!place(Some(70)).is(7, Some(71)), "the inode was given anew");
    assert!(!place(Some(70)).is(8, Some(70)));
    assert!(place(None).is(7, Some(70)), "an old kernel has no cookies");
}
