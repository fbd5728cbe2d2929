//! The guard on real sessions through conntrack: what it keeps, what it takes back, and what becomes
//! of it all when it is killed.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    lab::{Lab, keepline, output},
    run::{Run, entries, established, in_netns, settings, wait_for},
};

/// A guard of one lab, with a file of its own.
struct Guard<'a> {
    run: &'a Run,
    child: Child,
    file: PathBuf,
    port: u16,
}

impl<'a> Guard<'a> {
    fn start(run: &'a Run, lab: &Lab, text: &str) -> Self {
        Self::of(run, &[lab], text)
    }

    /// Of several labs.
    fn of(run: &'a Run, labs: &[&Lab], text: &str) -> Self {
        fs::create_dir_all(&run.0).unwrap();
        let file = run.0.join("config.toml");
        fs::write(&file, text).unwrap();
        let port = free_port();
        let child = Self::spawn(run, labs, &file, port);
        let guard = Self { run, child, file, port };
        guard.wait_until_it_has_looked();
        guard
    }

    fn spawn(run: &Run, labs: &[&Lab], file: &std::path::Path, port: u16) -> Child {
        let log = fs::File::options().create(true).append(true).open(run.0.join("log")).unwrap();
        run.command(&["guard", "--log", "text", "--config"])
            .arg(file)
            .args(labs.iter().flat_map(|lab| ["--netns", &lab.director]))
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Another in place of one that was killed.
    fn again(&mut self, lab: &Lab) {
        self.child = Self::spawn(self.run, &[lab], &self.file, self.port);
        self.wait_until_it_has_looked();
    }

    fn wait_until_it_has_looked(&self) {
        wait_for("the guard is well", || self.get("/healthz").starts_with("HTTP/1.1 200"));
    }

    fn get(&self, path: &str) -> String {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else {
            return String::new();
        };
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    }

    /// A metric's value.
    fn metric(&self, name: &str) -> Option<f64> {
        let text = self.get("/metrics");
        let line = text.lines().find(|line| line.split(' ').next() == Some(name))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), signal)
            .unwrap();
    }

    /// Another file, and word of it.
    fn policy(&self, text: &str) {
        fs::write(&self.file, text).unwrap();
        self.signal(Signal::HUP);
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.run.0.join("log")).unwrap_or_default()
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("the guard's log:\n{}", self.log());
        }
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn status(run: &Run) -> Value {
    serde_json::from_str(&run.done(&["status", "-o", "json"])).unwrap()
}

#[test]
fn idle_sessions_outlive_four_timeouts_and_five_guards() {
    needs_root_and_nft!();
    let run = Run::new("guard");
    let lab = Lab::up("guard", &["--sessions", "20", "--backends", "3", "--tcp-timeout", "15s"]);
    let before = settings(&lab.director);
    let mut guard = Guard::start(&run, &lab, "");
    let told = status(&run);
    assert_eq!(told["guard"]["pid"], guard.child.id(), "{told}");
    assert_eq!(told["running"][0]["strategy"], "hold", "{told}");
    for _ in 0..4 {
        sleep(Duration::from_secs(14));
        guard.kill();
        guard.again(&lab);
    }
    sleep(Duration::from_secs(15));
    assert_eq!(entries(&lab.director), 20);
    assert!(guard.metric("keepline_entries_held_total").unwrap() > 0.0);
    let safe = r#"keepline_sessions{verdict="safe",network="",service=""}"#;
    assert_eq!(guard.metric(safe), Some(20.0), "{}", guard.get("/metrics"));
    assert_eq!(guard.metric("keepline_sessions_orphaned_total"), Some(0.0));
    assert!(lab.write().contains("survived 20 lost 0"));
    guard.signal(Signal::TERM);
    assert_eq!(guard.child.wait().unwrap().code(), Some(0));
    assert_eq!(settings(&lab.director), before, "holding sets nothing");
    let told = status(&run);
    assert_eq!(told["guard"], Value::Null);
    assert_eq!(told["running"], Value::Array(Vec::new()), "{told}");
}

#[test]
fn a_policy_is_put_in_force_and_taken_back() {
    needs_root_and_nft!();
    let run = Run::new("policy");
    let lab = Lab::up("policy", &["--sessions", "3", "--tcp-timeout", "30s"]);
    let before = settings(&lab.director);
    let mut guard = Guard::start(&run, &lab, "strategy = \"timeout\"\ntcp-timeout = \"2h\"\n");
    wait_for("the timeout is set", || established(&lab) == "7200");
    // One who is killed leaves it in force, and the next takes it up.
    guard.kill();
    assert_eq!(established(&lab), "7200");
    guard.again(&lab);
    guard.policy("strategy = \"timeout\"\ntcp-timeout = \"3h\"\n");
    wait_for("the longer timeout is set", || established(&lab) == "10800");
    // A value that says nothing changes nothing, and is told.
    guard.policy("strategy = \"timeout\"\ntcp-timeout = \"3 hours\"\n");
    wait_for("the fault is told", || guard.metric("keepline_policy_invalid") == Some(1.0));
    assert_eq!(established(&lab), "10800");
    let troubles = || status(&run)["guard"]["troubles"].to_string();
    wait_for("status says which", || troubles().contains("tcp-timeout = `3 hours`"));
    // Nor does a file that is none.
    guard.policy("strategy = [");
    wait_for("the log says so", || guard.log().contains("not read again"));
    assert_eq!(established(&lab), "10800");
    guard.policy("strategy = \"off\"\n");
    wait_for("all is as it was", || settings(&lab.director) == before);
    wait_for("nothing stands", || status(&run)["applied"].as_array().unwrap().is_empty());
}

/// A program with one connection, which overrides its keepalive and says what it has, when asked.
const PROGRAM: &str = "
import socket, sys
it = socket.create_connection(('10.213.1.2', 7000))
for line in sys.stdin:
    if line == 'override\\n':
        it.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 7200)
        it.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
    print(it.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
          it.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), flush=True)
";

#[test]
fn what_a_program_chose_is_left_alone_where_nobody_is_to_be_held() {
    needs_root_and_nft!();
    let run = Run::new("chose");
    let lab = Lab::up("chose", &["--sessions", "1", "--tcp-timeout", "2m"]);
    let mut program = Command::new("ip")
        .args(["netns", "exec", &lab.client, "python3", "-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, from) = (program.stdin.take().unwrap(), program.stdout.take().unwrap());
    let mut from = BufReader::new(from);
    let mut ask = |what: &str| {
        writeln!(to, "{what}").unwrap();
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        line.trim().to_owned()
    };
    assert_eq!(ask("get"), "0 7200");
    let policy = |enforce: bool| {
        format!(
            "strategy = \"keepalive\"\nkeepalive-idle = \"20s\"\nkeepalive-enforce = {enforce}\n\
             [guard]\nlook-every = \"1s\"\n"
        )
    };
    let guard = Guard::start(&run, &lab, &policy(false));
    wait_for("it has got keepalive", || ask("get") == "1 20");
    assert_eq!(ask("override"), "0 7200", "it is not held to it");
    let looks = || guard.metric("keepline_reconcile_duration_seconds_count").unwrap_or_default();
    let before = looks();
    wait_for("the guard has looked three times more", || looks() >= before + 3.0);
    assert_eq!(ask("get"), "0 7200", "nor is it given again: {}", guard.log());
    guard.policy(&policy(true));
    wait_for("it has got keepalive again", || ask("get") == "1 20");
    assert_eq!(ask("override"), "1 20", "and is held to it");
    // What it was given is forgotten with its socket, not with its namespace.
    let of_sockets = || {
        let told = status(&run);
        let applied = told["applied"].as_array().unwrap().iter();
        applied.filter_map(|it| it["detail"].as_str()).map(str::to_owned).collect::<Vec<_>>()
    };
    let while_open = of_sockets();
    assert!(while_open.iter().any(|it| it == "1 of 1 are open"), "{while_open:?}");
    drop(to);
    program.wait().unwrap();
    wait_for("only open sockets stand", || {
        let now = of_sockets();
        now.len() < while_open.len() && !now.iter().any(|it| it.starts_with("0 of"))
    });
    drop(guard);
    run.done(&["undo", "--yes"]);
}

#[test]
fn what_is_applied_by_hand_wins_until_it_is_undone() {
    needs_root_and_nft!();
    let run = Run::new("byhand");
    let lab = Lab::up("byhand", &["--sessions", "3", "--tcp-timeout", "1m"]);
    let before = settings(&lab.director);
    let often = "[guard]\nlook-every = \"1s\"\n";
    let guard = Guard::start(&run, &lab, often);
    run.done(&["apply", "timeout", "--tcp", "2h", "--netns", &lab.director, "--yes"]);
    guard.policy(&format!("strategy = \"timeout\"\ntcp-timeout = \"5h\"\n{often}"));
    let troubles = || status(&run)["guard"]["troubles"].to_string();
    wait_for("the guard has seen it", || troubles().contains("set by hand"));
    assert_eq!(established(&lab), "7200", "{}", guard.log());
    run.done(&["undo", "timeout", "--yes"]);
    wait_for("the guard's word holds", || established(&lab) == "18000");
    // What the guard did can be undone too, and is done again.
    let (_, said) = run.keepline(&["undo", "timeout", "--yes"]);
    assert!(said.contains("the guard did some of this"), "{said}");
    wait_for("the guard's word holds again", || established(&lab) == "18000");
    drop(guard);
    run.done(&["undo", "--yes"]);
    assert_eq!(settings(&lab.director), before);
}

#[test]
fn what_was_forgotten_is_brought_back() {
    needs_root_and_nft!();
    let run = Run::new("flushed");
    let lab = Lab::up("flushed", &["--sessions", "10", "--backends", "2", "--tcp-timeout", "1h"]);
    let guard = Guard::start(&run, &lab, "[guard]\nlook-every = \"1s\"\n");
    // As when the director is made anew.
    in_netns(&lab.director, "conntrack -F 2>&1");
    wait_for("every entry is there again", || entries(&lab.director) == 10);
    wait_for("it is counted", || guard.metric("keepline_sessions_healed_total") == Some(10.0));
    assert!(lab.write().contains("survived 10 lost 0"));
    guard.policy("heal = false\n[guard]\nlook-every = \"1s\"\n");
    sleep(Duration::from_secs(2));
    in_netns(&lab.director, "conntrack -F 2>&1");
    sleep(Duration::from_secs(4));
    assert_eq!(entries(&lab.director), 0, "not unless it is wished");
}

#[test]
fn a_full_run_folder_costs_no_session_and_no_policy_for_longer_than_it_lasts() {
    needs_root_and_nft!();
    let run = Run::new("fullguard");
    fs::create_dir_all(&run.0).unwrap();
    let path = run.0.to_str().unwrap().to_owned();
    let mounted = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", &path];
    assert_eq!(output(Command::new("mount").args(mounted)).0, 0);
    let lab = Lab::up("fullguard", &["--sessions", "10", "--tcp-timeout", "20s"]);
    let guard = Guard::start(&run, &lab, "[guard]\nlook-every = \"1s\"\n");
    let fill = format!("cat /dev/zero > {path}/fill 2>/dev/null; true");
    output(Command::new("sh").args(["-c", &fill]));
    sleep(Duration::from_secs(45));
    assert_eq!(entries(&lab.director), 10, "held all the same: {}", guard.log());
    fs::remove_file(run.0.join("fill")).unwrap();
    guard.policy("strategy = \"timeout\"\ntcp-timeout = \"2h\"\n");
    wait_for("policy is in force", || established(&lab) == "7200");
    drop(guard);
    run.done(&["undo", "--yes"]);
    drop(lab);
    assert_eq!(output(Command::new("umount").arg(&path)).0, 0);
}

#[test]
fn what_is_gone_keeps_the_guard_from_nothing_else() {
    needs_root_and_nft!();
    let run = Run::new("goneguard");
    let lab = Lab::up("stays", &["--sessions", "10", "--tcp-timeout", "15s"]);
    let gone = Lab::up("goes", &["--sessions", "1", "--tcp-timeout", "15s"]);
    let name = gone.director.clone();
    let guard = Guard::of(&run, &[&gone, &lab], "");
    drop(gone);
    wait_for("it is told", || guard.log().contains(&format!("no network namespace `{name}`")));
    sleep(Duration::from_secs(20));
    assert_eq!(entries(&lab.director), 10, "{}", guard.log());
    assert!(guard.get("/healthz").starts_with("HTTP/1.1 200"), "{}", guard.get("/healthz"));
    // It comes again under its name.
    let again = Lab::up("goes", &["--sessions", "4", "--tcp-timeout", "15s"]);
    wait_for("it is seen again", || guard.log().contains("no longer: no network namespace"));
    sleep(Duration::from_secs(20));
    assert_eq!((entries(&again.director), entries(&lab.director)), (4, 10), "{}", guard.log());
}

#[test]
fn one_guard_is_enough_and_a_wrong_start_says_why() {
    needs_root_and_nft!();
    let run = Run::new("lone");
    let lab = Lab::up("lone", &["--sessions", "1", "--tcp-timeout", "1h"]);
    let guard = Guard::start(&run, &lab, "");
    let (code, said) = run.keepline(&["guard", "--once", "--netns", &lab.director]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("another guard"), "{said}");
    drop(guard);
    let (code, said) = run.keepline(&["guard", "--once", "--netns", &lab.director]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = run.keepline(&["guard", "--config", "/nonexistent.toml"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("/nonexistent.toml"), "{said}");
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) =
        run.keepline(&["guard", "--netns", &lab.director, "--listen", &address, "--log", "text"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains(&format!("listen on {address}")) && said.contains("--listen"), "{said}");
}

#[test]
fn the_control_socket_is_root_s() {
    needs_root_and_nft!();
    let run = Run::new("control");
    let lab = Lab::up("control", &["--sessions", "1", "--tcp-timeout", "1h"]);
    let guard = Guard::start(&run, &lab, "");
    let socket = run.0.join("guard.sock");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&socket).unwrap().permissions());
    assert!([0o600, 0o660].contains(&(mode & 0o777)), "{mode:o}");
    let documented = include_str!("../../docs/guard.md");
    for line in guard.get("/metrics").lines().filter(|line| !line.starts_with('#')) {
        let Some(name) = line.split(['{', ' ']).next().filter(|name| name.starts_with("keepline_"))
        else {
            continue;
        };
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let name = base.filter(|base| base.ends_with("_seconds")).unwrap_or(name);
        assert!(documented.contains(&format!("| `{name}` |")), "{name} is not in docs/guard.md");
    }
    // Over TCP nothing can be asked for that changes something.
    assert!(guard.get("/status").starts_with("HTTP/1.1 404"));
    assert!(guard.get("/reload").starts_with("HTTP/1.1 404"));
    // Over the socket it can be asked to look now, and to read its file again.
    let told = run.ask("GET /status");
    assert!(told.contains(r#""schema":"keepline.guard/v1""#), "{told}");
    let looks = || guard.metric("keepline_scan_duration_seconds_count").unwrap();
    let before = looks();
    assert!(run.ask("POST /look").starts_with("HTTP/1.0 204"));
    wait_for("it has looked", || looks() > before);
    fs::write(&guard.file, "strategy = \"of\"\n").unwrap();
    assert!(run.ask("POST /reload").starts_with("HTTP/1.0 204"));
    wait_for("it has read its file", || guard.metric("keepline_policy_invalid") == Some(1.0));
    let kept = fs::read_to_string(format!("/proc/{}/status", guard.child.id())).unwrap();
    let kept = kept.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let kept = u64::from_str_radix(kept.trim(), 16).unwrap();
    // SYS_ADMIN, NET_ADMIN, SYS_PTRACE, DAC_READ_SEARCH, SYSLOG, CHOWN, as far as it was given them.
    assert_eq!(kept & !0x4_0028_1005, 0, "rights that are kept: {kept:x}");
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]);
    let copy = std::env::temp_dir().join(format!("kl-guard-{}", std::process::id()));
    let mut cp = Command::new("cp");
    assert_eq!(output(cp.arg(keepline().get_program()).arg(&copy)).0, 0);
    nobody.arg(&copy).args(["guard", "--once"]).env("KEEPLINE_RUN", &run.0);
    let (code, said) = output(&mut nobody);
    fs::remove_file(&copy).unwrap();
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("the guard needs root"), "{said}");
}
