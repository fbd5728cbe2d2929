//! Changes that failed or ended half-way: what stands of them, and the way back. With a journal and
//! pins of their own, and programs for namespaces that do not exist.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{TcpListener, TcpStream},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::AtomicBool,
    time::Duration,
};

use keepline_bpf::{Direct, NetnsCookie, direct};
use keepline_core::{
    Plan,
    plan::{
        self, Action, Change, DirectBackend, DirectService, KeepaliveChange, KeepaliveRule,
        KeepaliveRules, KeepaliveTimes, Place, SocketId, What,
    },
    snapshot::KeepaliveSettings,
};
use keepline_node::{
    Now, Obstacle, Report, act, answered_directly, compare, keepalive_rules,
    run::{Exclusive, standing},
    undo,
};

/// Runs a test in a process of its own, where the environment names a journal and pins for it. False
/// in this one, which has done it then.
#[track_caller]
fn is_own_process(name: &str) -> bool {
    const IN_IT: &str = "KEEPLINE_TEST_ROLE";
    if std::env::var_os(IN_IT).is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: not root");
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "skipped in CI");
        return false;
    }
    let own = format!("keepline-act-{name}-{}", std::process::id());
    let folder = std::env::temp_dir().join(&own);
    let pins = Path::new("/sys/fs/bpf").join(&own);
    let ran = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(IN_IT, name)
        .env("KEEPLINE_RUN", &folder)
        .env("KEEPLINE_PINS", &pins)
        .output()
        .unwrap();
    let left = pins.exists();
    let _ = std::fs::remove_dir_all(&pins);
    let _ = std::fs::remove_dir_all(&folder);
    // Its words would be counted as results of this one.
    let said = [ran.stdout, ran.stderr].concat();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&said).replace("test result", "it")
    );
    assert!(!left, "undo left {}", pins.display());
    false
}

fn pins() -> PathBuf {
    PathBuf::from(std::env::var("KEEPLINE_PINS").unwrap())
}

/// The namespace of this process.
fn here() -> Place {
    let inode = std::fs::metadata("/proc/self/ns/net").unwrap().ino();
    Place { inode, cookie: None, name: "here".to_owned() }
}

fn carry_out(action: Action, what: What) -> Report {
    carry_out_as(Exclusive::acquire().unwrap(), action, what)
}

fn carry_out_as(mut exclusive: Exclusive, action: Action, what: What) -> Report {
    let changes = vec![Change { place: here(), what }];
    let plan = Plan { action, changes, refused: Vec::new(), notes: Vec::new() };
    act(&mut exclusive, &plan, &AtomicBool::new(false)).unwrap()
}

#[track_caller]
fn made(action: Action, what: What) {
    let report = carry_out(action, what);
    assert!(report.complete(), "{report:?}");
}

/// Takes back what stands, but for the first so many.
fn take_back(but: usize) -> Report {
    let undos = plan::undo(&standing().unwrap()[but..]);
    undo(&mut Exclusive::acquire().unwrap(), &undos, &AtomicBool::new(false)).unwrap()
}

/// What stands looks so.
fn looks() -> Vec<Now> {
    let standing = standing().unwrap();
    compare(&standing.iter().map(|it| &it.change).collect::<Vec<_>>()).unwrap()
}

#[track_caller]
fn assert_all_is_back(report: &Report) {
    assert!(report.complete(), "{report:?}");
    assert_eq!(standing().unwrap(), []);
    assert!(!pins().exists(), "{:?}", std::fs::read_dir(pins()));
}

/// Of a namespace that does not exist.
const NOWHERE: u64 = 1 << 40;

fn services(backend: u8) -> Vec<DirectService> {
    vec![DirectService {
        netns: NOWHERE,
        vip: "10.99.9.9".parse().unwrap(),
        port: None,
        udp: false,
        backends: vec![DirectBackend {
            address: [10, 99, 0, backend].into(),
            port: None,
            weight: 1,
        }],
    }]
}

fn directly(backend: u8) -> What {
    What::Direct { before: None, after: Some(services(backend)) }
}

fn rules(idle_seconds: u64) -> What {
    let times = KeepaliveTimes { idle_seconds, interval_seconds: 5, probes: None, enforce: true };
    let rules = vec![KeepaliveRule { netns: NOWHERE, peer: None, times: Some(times) }];
    What::NewSockets { before: None, after: Some(KeepaliveRules { rules, everybody: None }) }
}

/// A Keepline that is killed as it puts programs on or takes them off leaves some of them: they
/// read as nothing, and are taken off all the same.
#[test]
fn pins_that_were_left_half_are_removed() {
    if !is_own_process("pins_that_were_left_half_are_removed") {
        return;
    }
    for (action, what, main) in [
        (Action::Direct, directly(1), "direct/keepline_conn4"),
        (Action::Keepalive, rules(60), "keepalive/keepline_new"),
    ] {
        made(action, what);
        assert_eq!(looks(), [Now::InForce]);
        std::fs::remove_file(pins().join(main)).unwrap();
        assert_eq!(looks(), [Now::Drifted { is: "there in part".to_owned() }]);
        assert_all_is_back(&take_back(0));
    }
}

#[test]
fn programs_that_somebody_has_taken_off_need_no_way_back() {
    if !is_own_process("programs_that_somebody_has_taken_off_need_no_way_back") {
        return;
    }
    for (action, one, other) in
        [(Action::Direct, directly(1), directly(2)), (Action::Keepalive, rules(60), rules(30))]
    {
        made(action, one);
        // By somebody else: changes by one are one.
        let report = carry_out_as(Exclusive::for_guard().unwrap(), action, other);
        assert!(report.complete(), "{report:?}");
        assert_eq!(standing().unwrap().len(), 2);
        std::fs::remove_dir_all(pins()).unwrap();
        assert_all_is_back(&take_back(0));
    }
    assert_eq!((answered_directly().unwrap(), keepalive_rules().unwrap()), (None, None));
}

/// What an unfinished change has left is its own, whatever it is.
#[test]
fn half_a_table_of_services_is_taken_back() {
    if !is_own_process("half_a_table_of_services_is_taken_back") {
        return;
    }
    made(Action::Direct, directly(1));
    let first = std::fs::read_to_string(run_file()).unwrap();
    made(Action::Direct, directly(2));
    let both = std::fs::read_to_string(run_file()).unwrap();
    // Killed before its end was written, and in the midst of the table.
    let (unfinished, _end) = both.trim_end().rsplit_once('\n').unwrap();
    assert!(unfinished.len() > first.len());
    std::fs::write(run_file(), format!("{unfinished}\n")).unwrap();
    let service = &services(3)[0];
    let vip = direct::Vip {
        netns: NetnsCookie(NOWHERE),
        address: service.vip,
        port: None,
        protocol: direct::Protocol::Tcp,
    };
    let backends =
        vec![direct::Backend { address: service.backends[0].address, port: None, weight: 1 }];
    Direct::update(&pins(), &[direct::Service { vip, backends }]).unwrap();
    assert_eq!(answered_directly().unwrap(), Some(services(3)));
    let report = take_back(1);
    assert!(report.complete(), "{report:?}");
    assert_eq!(answered_directly().unwrap(), Some(services(1)));
    assert_all_is_back(&take_back(0));
}

fn run_file() -> PathBuf {
    keepline_node::run::folder().join("journal")
}

/// A connection to itself, and how it is named.
struct Connection {
    socket: TcpStream,
    _other: TcpStream,
    id: SocketId,
}

impl Connection {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let other = listener.accept().unwrap().0;
        let id = SocketId {
            local: socket.local_addr().unwrap(),
            remote: socket.peer_addr().unwrap(),
            interface: 0,
            cookie: rustix::net::sockopt::socket_cookie(&socket).unwrap(),
            inode: u32::try_from(rustix::fs::fstat(socket.as_fd()).unwrap().st_ino).unwrap(),
        };
        Self { socket, _other: other, id }
    }

    fn change(&self, idle: u64) -> KeepaliveChange {
        let after = KeepaliveSettings {
            enabled: true,
            idle: Duration::from_secs(idle),
            interval: Duration::from_secs(5),
            probes: 3,
        };
        KeepaliveChange { socket: self.id, before: None, after, in_kernel: false }
    }

    fn is_on(&self) -> bool {
        rustix::net::sockopt::socket_keepalive(&self.socket).unwrap()
    }
}

/// `TCP_KEEPIDLE` of 0 s is refused (`tcp_sock_set_keepidle_locked()`, `net/ipv4/tcp.c`).
const IMPOSSIBLE: u64 = 0;

#[test]
fn a_change_of_sockets_that_fails_half_way_stands() {
    if !is_own_process("a_change_of_sockets_that_fails_half_way_stands") {
        return;
    }
    let (one, other) = (Connection::new(), Connection::new());
    let sockets = vec![one.change(60), other.change(IMPOSSIBLE)];
    let report = carry_out(Action::Keepalive, What::Keepalive { sockets });
    let result = &report.steps[0].result;
    assert!(matches!(result, Err(Obstacle::InPart(_))), "{report:?}");
    assert!(one.is_on());
    let stands = standing().unwrap();
    assert_eq!(stands.iter().map(|it| it.finished).collect::<Vec<_>>(), [false]);
    assert_all_is_back(&take_back(0));
    assert!(!one.is_on() && !other.is_on());
}

#[test]
fn sockets_that_have_closed_are_counted_and_not_written_down() {
    if !is_own_process("sockets_that_have_closed_are_counted_and_not_written_down") {
        return;
    }
    let (one, other) = (Connection::new(), Connection::new());
    let (open, closed) = (one.change(60), other.change(60));
    drop(other);
    let said = |sockets: Vec<KeepaliveChange>| {
        let mut report = carry_out(Action::Keepalive, What::Keepalive { sockets });
        report.steps.remove(0).result.unwrap()
    };
    const GONE: &str = "1 had closed, or could not be reached";
    assert_eq!(said(vec![closed]), [GONE]);
    assert_eq!(standing().unwrap(), []);
    assert_eq!(said(vec![open, closed]), ["1 set", GONE]);
    assert_all_is_back(&take_back(0));
}

#[test]
fn a_change_that_fails_at_once_does_not_stand() {
    if !is_own_process("a_change_that_fails_at_once_does_not_stand") {
        return;
    }
    let path = "net/ipv4/tcp_keepalive_probes";
    let before = std::fs::read_to_string(Path::new("/proc/sys").join(path)).unwrap();
    let before = before.trim().to_owned();
    let what = What::Sysctl { path: path.to_owned(), before, after: "1000".to_owned() };
    let report = carry_out(Action::Keepalive, what);
    assert!(matches!(report.steps[0].result, Err(Obstacle::Kernel(_))), "{report:?}");
    assert_eq!(standing().unwrap(), []);
}
