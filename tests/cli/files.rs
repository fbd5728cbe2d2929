//! What is written where, and how it ends.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::run::{capture, folder, keepline, program};

/// Whatever this machine is like: a capture is whole (0) or done in part (1).
fn done(status: Option<i32>) -> bool {
    matches!(status, Some(0 | 1))
}

#[test]
fn a_capture_is_private_whole_and_can_be_replayed() {
    let folder = folder("capture");
    let file = folder.join("state.json");
    fs::write(&file, "old").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let path = file.display().to_string();
    let ran = keepline(&["capture", &path]);
    assert!(done(ran.status), "{}", ran.err);
    assert_eq!(ran.out, "");
    assert!(ran.err.starts_with(&format!("keepline: wrote {path}: ")), "{}", ran.err);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left there");
    let captured: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(captured["schema"], "keepline.snapshot/v1");
    let replayed = keepline(&["check", "--from", &path, "-o", "json"]);
    let replayed: Value = serde_json::from_str(&replayed.out).unwrap();
    assert_eq!(replayed["scan"]["started"], captured["started"]);
}

#[test]
fn a_link_stays_a_link() {
    let folder = folder("capture-link");
    let (target, link) = (folder.join("target.json"), folder.join("link.json"));
    fs::write(&target, "old").unwrap();
    symlink(&target, &link).unwrap();
    assert!(done(keepline(&["capture", &link.display().to_string()]).status));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read(&target).unwrap().starts_with(b"{"));
}

#[test]
fn devices_are_written_to_and_not_replaced() {
    assert!(done(keepline(&["capture", "/dev/null"]).status));
    use std::os::unix::fs::FileTypeExt as _;
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    let ran = keepline(&["capture", "-"]);
    assert!(done(ran.status) && ran.out.starts_with("{\"schema\":\"keepline.snapshot/v1\""));
    assert!(!ran.err.contains("wrote"), "{}", ran.err);
}

#[test]
fn a_capture_that_cannot_be_written_leaves_nothing_behind() {
    let folder = folder("capture-fails");
    let taken = folder.join("taken");
    fs::create_dir(&taken).unwrap();
    for path in [taken.clone(), folder.join("missing/state.json")] {
        let ran = keepline(&["capture", &path.display().to_string()]);
        assert_eq!(ran.status, Some(2), "{}", ran.err);
        assert!(ran.err.starts_with("keepline: error: write "), "{}", ran.err);
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    assert_eq!(fs::read_dir(&taken).unwrap().count(), 0);
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    for form in ["human", "json", "nagios"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = program()
            .args(["check", "--from", &capture("swarm"), "-o", form])
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{form}");
        assert_eq!(output.status.code(), Some(if form == "nagios" { 2 } else { 1 }), "{form}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = program()
        .args(["check", "--from", &capture("swarm"), "-o", "json"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("keepline: error: write to stdout: No space left"), "{said}");
}

#[test]
fn a_watch_repeats_until_a_signal_and_ends_with_its_last_status() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut child = program()
            .args(["check", "--watch", "100ms", "-o", "json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut started = || {
            let line = lines.next().expect("another look").unwrap();
            let report: Value = serde_json::from_str(&line).unwrap();
            report["scan"]["started"].as_str().unwrap().to_owned()
        };
        assert!(started() < started(), "the second look is a new one");
        let asked = Instant::now();
        kill_process(Pid::from_child(&child), signal).unwrap();
        // The look it is at may still be printed.
        let rest = lines.count();
        let status = child.wait().unwrap();
        assert!(matches!(status.code(), Some(0 | 1 | 3)), "{signal:?}: {status}");
        assert!(asked.elapsed() < Duration::from_secs(20) && rest < 20, "it ended at once");
    }
}
