//! What people read.

use std::process::Command;

use serde_json::json;

use crate::run::{CAPTURES, capture, captured, check, expect, keepline, program, with_input};

#[test]
fn checks_read_as_expected() {
    for name in CAPTURES {
        expect(&format!("check-{name}.txt"), &check(name, &[]).out);
    }
    expect("check-swarm-all.txt", &check("swarm", &["--all"]).out);
    expect("check-clean-all.txt", &check("clean", &["--all"]).out);
}

#[test]
fn timeouts_read_as_expected() {
    for name in ["swarm", "ipv6", "none"] {
        let ran = keepline(&["timeouts", "--from", &capture(name)]);
        assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""));
        expect(&format!("timeouts-{name}.txt"), &ran.out);
    }
}

#[test]
fn findings_read_as_expected() {
    expect("explain.txt", &keepline(&["explain"]).out);
}

#[test]
fn a_healthy_machine_gets_one_line() {
    for name in ["clean", "none"] {
        let text = check(name, &[]).out;
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with('✔'), "{text}");
    }
    let text = check("incomplete", &[]).out;
    assert!(!text.contains('✔'), "half a machine is not healthy: {text}");
}

#[test]
fn eighty_columns_are_enough() {
    for name in ["at-risk", "at-risk-incomplete", "clean", "incomplete", "none", "swarm"] {
        for arguments in [&[][..], &["--all"]] {
            for line in check(name, arguments).out.lines() {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
        }
    }
}

#[test]
fn nothing_from_the_system_reaches_the_terminal_as_it_is() {
    let dangerous = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    for arguments in [&[][..], &["--all"], &["-o", "nagios"], &["--netns", "x"]] {
        let ran = check("hostile", arguments);
        assert!(!ran.out.contains(dangerous), "{:?}", ran.out);
        assert!(!ran.err.contains(dangerous), "{:?}", ran.err);
    }
    let text = check("hostile", &[]).out;
    assert!(text.contains(r"\u{1b}[2J"), "the escape is shown: {text}");
    // The names of the capture hold line ends: a forged line would begin at the left edge.
    assert!(
        !text.lines().any(|line| line.starts_with("OK - ") || line.starts_with("|x=")),
        "{text}"
    );
    let ran = keepline(&["timeouts", "--from", &capture("hostile")]);
    assert!(!ran.out.contains(dangerous) && !ran.err.contains(dangerous), "{}{}", ran.out, ran.err);
}

#[test]
fn long_lists_are_cut_and_counted() {
    let mut many = captured("at-risk");
    let client = &mut many["namespaces"][0];
    let sockets: Vec<_> = (0..1500u16)
        .map(|number| {
            let mut socket = client["sockets"][0].clone();
            socket["local"] = json!(format!("10.0.1.6:{}", 20_000 + number));
            // 1,212 sessions to one port, 12 to each of 24 others.
            let port = number.checked_sub(1212).map_or(7000, |rest| 8000 + rest / 12);
            socket["remote"] = json!(format!("10.0.1.2:{port}"));
            socket["cookie"] = json!(number + 1);
            socket
        })
        .collect();
    client["sockets"] = json!(sockets);
    let director = &mut many["namespaces"][1]["ipvs"];
    let entries: Vec<_> = sockets
        .iter()
        .map(|socket| {
            let mut entry = director["entries"][0].clone();
            entry["client"] = socket["local"].clone();
            entry["server"] = socket["remote"].clone();
            entry
        })
        .collect();
    director["entries"] = json!(entries);
    let ran = with_input(&["check", "--from", "-"], many.to_string().as_bytes());
    let text = ran.out;
    assert!(
        text.starts_with(
            "1,500 of 1,500 sessions are at risk: the next is forgotten in 47s unless traffic"
        ),
        "{text}"
    );
    let rows = text.lines().filter(|line| line.starts_with("  at-risk  ")).count();
    assert_eq!(rows, 100, "{text}");
    assert!(text.contains("\n  … and 2 more (-o json lists all)\n"), "{text}");
    assert!(text.contains("\n  … and 1,202 more (-o json lists all)\n"), "{text}");
    assert!(
        text.contains("\n… and 180 sessions to 15 more addresses (-o json lists all)\n"),
        "{text}"
    );
    assert_eq!(text.matches("warning[KL002]").count(), 3, "{text}");
    assert!(text.contains("\n… and 22 more of KL002 (-o json lists all)\n"), "{text}");
}

/// Runs `check` on the swarm capture with a terminal as its stdout. None: no `script` here.
fn on_a_terminal(environment: &[(&str, &str)]) -> Option<String> {
    let shell = format!("'{}' check --from '{}'", env!("CARGO_BIN_EXE_keepline"), capture("swarm"));
    let mut command = Command::new("script");
    command.args(["-qec", &shell, "/dev/null"]).env_remove("NO_COLOR").env("TERM", "xterm");
    command.envs(environment.iter().copied());
    match command.stdin(std::process::Stdio::null()).output() {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) => {
            assert!(
                std::env::var_os("CI").is_none(),
                "script(1) is missing and CI is set: {error}"
            );
            eprintln!("SKIP: colours on a terminal: script(1) does not run: {error}");
            None
        }
    }
}

#[test]
fn colours_on_a_terminal_only_and_not_with_no_color() {
    let piped = program().args(["check", "--from", &capture("swarm")]).output().unwrap();
    assert!(!piped.stdout.contains(&0x1b));
    let Some(coloured) = on_a_terminal(&[]) else { return };
    assert!(coloured.contains("\x1b[1;31morphaned\x1b[0m"), "{coloured:?}");
    for environment in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let plain = on_a_terminal(&[environment]).unwrap();
        assert!(
            plain.contains("orphaned") && !plain.contains('\x1b'),
            "{environment:?}: {plain:?}"
        );
    }
    // no-color.org: an empty value is no wish.
    assert!(on_a_terminal(&[("NO_COLOR", "")]).unwrap().contains('\x1b'));
}
