//! The lab on this kernel, seen with other eyes: `conntrack`, `ss` and `ip` say what is there.
//!
//! Uses the example program of this crate, which `cargo test` builds.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails by panicking")]

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Why the tests cannot run here, if so.
fn impossible() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    ["ip", "ss", "nft", "conntrack"].into_iter().find_map(|tool| {
        let found =
            Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().unwrap();
        (!found.status.success()).then(|| format!("`{tool}` is not installed"))
    })
}

/// Ends a test that cannot run: visibly, and as a failure in CI.
macro_rules! skip_if_impossible {
    () => {
        if let Some(why) = impossible() {
            println!("SKIP: {why}");
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "skipped in CI: {why}");
            return;
        }
    };
}

fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples/lab");
    assert!(
        program.exists(),
        "{} is not built: run all of `cargo test -p keepline-lab`",
        program.display()
    );
    program
}

fn lab(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Lines that a tool prints inside a namespace.
fn lines(netns: &str, command: &[&str]) -> Vec<String> {
    let output = Command::new("ip").args(["netns", "exec", netns]).args(command).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn entries(netns: &str) -> Vec<String> {
    lines(netns, &["conntrack", "-L", "-p", "tcp", "--state", "ESTABLISHED"])
}

/// Removes a lab even when its test fails.
struct Named(String);

impl Named {
    fn new(name: &str) -> Self {
        Self(format!("{name}{}", std::process::id()))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        lab(&["down", "--name", &self.0]);
    }
}

/// Waits for something that must come true within so many seconds.
#[track_caller]
fn wait_for(seconds: u64, what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !is_true() {
        assert!(Instant::now() < deadline, "not within {seconds} s: {what}");
        sleep(Duration::from_millis(50));
    }
}

fn namespaces(id: &str) -> Vec<String> {
    let output = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let prefix = format!("kl-{id}-");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter(|line| line.starts_with(&prefix))
        .map(str::to_owned)
        .collect()
}

/// Nothing of the lab is there any more, nor any of these processes.
#[track_caller]
fn assert_nothing_left(id: &str, pids: &[u64]) {
    assert_eq!(namespaces(id), [""; 0]);
    for pid in pids {
        // One that ended stays a zombie until init, its parent now, comes round to it.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        assert!(status.is_empty() || status.contains("State:\tZ"), "{pid} still runs:\n{status}");
    }
    let files: Vec<_> = std::fs::read_dir("/run/keepline-lab")
        .map(|entries| {
            entries
                .flatten()
                .map(|entry| entry.file_name())
                .filter(|name| name.to_string_lossy().starts_with(&format!("{id}.")))
                .collect()
        })
        .unwrap_or_default();
    assert!(files.is_empty(), "{files:?}");
}

fn pids(state: &Value) -> Vec<u64> {
    let all = ["servers", "clients"].map(|kind| state[kind].as_array().unwrap().clone());
    all.iter().flatten().map(|peer| peer["pid"].as_u64().unwrap()).collect()
}

#[test]
fn an_idle_session_is_forgotten_and_then_reset() {
    skip_if_impossible!();
    let name = Named::new("idle");
    let up = json(&lab(&[
        "up",
        "nat",
        "--name",
        &name.0,
        "--tcp-timeout",
        "3s",
        "--sessions",
        "3",
        "-o",
        "json",
    ]));
    let (client, director) =
        (up["client_netns"].as_str().unwrap(), up["director_netns"].as_str().unwrap());
    let pids = pids(&up);
    assert_eq!(pids.len(), 3, "two backends, one client");

    let remembered = entries(director);
    assert_eq!(remembered.len(), 3, "{remembered:?}");
    // To the VIP in one direction, from a backend in the other.
    assert!(
        remembered
            .iter()
            .all(|line| line.contains("dst=10.213.1.2 ") && line.contains("src=10.213.1.1"))
    );
    // No entry in the client's own namespace could be mistaken for the director's.
    assert_eq!(lines(client, &["conntrack", "-L"]), [""; 0]);

    wait_for(6, "the entries are gone", || entries(director).is_empty());
    let sockets = lines(client, &["ss", "-Htnp", "state", "established"]);
    assert_eq!(sockets.len(), 3, "the sockets are open as before: {sockets:?}");
    assert!(sockets.iter().all(|line| line.contains("\"app\"")), "{sockets:?}");

    let written = json(&lab(&["write", "--name", &name.0, "-o", "json"]));
    assert_eq!((&written["lost"], &written["reset"]), (&3.into(), &3.into()), "{written}");
    assert!(written["seconds"].as_f64().unwrap() < 2.0, "{written}");

    assert!(lab(&["down", "--name", &name.0]).status.success());
    assert_nothing_left(&name.0, &pids);
}

#[test]
fn keepalive_below_the_timeout_keeps_a_session() {
    skip_if_impossible!();
    let name = Named::new("kept");
    let up = lab(&[
        "up",
        "nat",
        "--name",
        &name.0,
        "--tcp-timeout",
        "3s",
        "--keepalive",
        "1s,1s,3",
        "--backends",
        "1",
    ]);
    assert!(up.status.success(), "{up:?}");
    sleep(Duration::from_secs(5));
    assert_eq!(entries(&format!("kl-{}-lb", name.0)).len(), 4);
    let output = lab(&["write", "--name", &name.0]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "survived 4 lost 0 (reset 0, timed out 0, closed 0)\n"
    );
}

#[test]
fn a_name_is_taken_only_once() {
    skip_if_impossible!();
    let name = Named::new("twice");
    let arguments = ["up", "nat", "--name", &name.0, "--sessions", "1"];
    assert!(lab(&arguments).status.success());
    let second = lab(&arguments);
    assert_eq!(second.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&second.stderr).contains("is up already"), "{second:?}");
    let written = json(&lab(&["write", "--name", &name.0, "-o", "json"]));
    assert_eq!(written["survived"], 1, "the first is unharmed");
}

/// Starts the demo and waits until it is in the midst of its story.
fn demo(stdout: Stdio) -> (Named, Child, Vec<u64>) {
    let child = Command::new(program())
        .args(["demo", "--layout", "nat"])
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let name = Named(child.id().to_string());
    let path = format!("/run/keepline-lab/{}.json", name.0);
    let mut found = Vec::new();
    wait_for(20, "the demo's clients are connected", || {
        let Ok(text) = std::fs::read(&path) else { return false };
        let state: Value = serde_json::from_slice(&text).unwrap();
        found = pids(&state);
        state["clients"].as_array().unwrap().len() == 3
    });
    (name, child, found)
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    skip_if_impossible!();
    for signal in [Signal::INT, Signal::TERM] {
        let (name, mut child, pids) = demo(Stdio::null());
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert_nothing_left(&name.0, &pids);
    }
}

#[test]
fn a_demo_whose_reader_left_leaves_nothing() {
    skip_if_impossible!();
    let (name, mut child, pids) = demo(Stdio::piped());
    drop(child.stdout.take());
    wait_for(30, "the demo ends", || child.try_wait().unwrap().is_some());
    assert_nothing_left(&name.0, &pids);
}

#[test]
fn after_kill_9_down_removes_everything() {
    skip_if_impossible!();
    let (name, mut child, pids) = demo(Stdio::null());
    send(&child, Signal::KILL);
    child.wait().unwrap();
    assert!(!namespaces(&name.0).is_empty());
    assert!(lab(&["down", "--name", &name.0]).status.success());
    assert_nothing_left(&name.0, &pids);
}
