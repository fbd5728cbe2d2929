//! Capture files that are none: one clear error, exit status 2, no panic.

use serde_json::{Value, json};

use crate::run::{Ran, capture, captured, keepline, with_input};

/// The run failed with one clear error; its text.
fn refused(ran: &Ran, what: &str) -> String {
    assert_eq!(ran.status, Some(2), "{what}: {}{}", ran.out, ran.err);
    assert_eq!(ran.out, "", "{what}");
    let lines: Vec<&str> = ran.err.lines().collect();
    assert!(lines.len() <= 2, "{what}: {}", ran.err);
    assert!(lines[0].starts_with("keepline: error: "), "{what}: {}", ran.err);
    assert!(lines.get(1).is_none_or(|line| line.starts_with("help: ")), "{what}: {}", ran.err);
    assert!(!ran.err.contains(|c: char| c.is_control() && c != '\n'), "{what}: {:?}", ran.err);
    ran.err.clone()
}

fn from_stdin(input: &[u8]) -> Ran {
    with_input(&["check", "--from", "-"], input)
}

#[test]
fn a_truncated_capture_is_refused_wherever_it_ends() {
    let whole = std::fs::read(capture("swarm")).unwrap();
    let end = whole.iter().rposition(|byte| *byte == b'}').unwrap();
    for length in (0..end).step_by(601) {
        let said = refused(&from_stdin(&whole[..length]), &format!("{length} bytes"));
        assert!(said.contains("not a Keepline capture"), "{length} bytes: {said}");
    }
    let said = refused(&from_stdin(&whole[..end]), "all but the last brace");
    assert!(said.contains("ends too early"), "{said}");
    assert_eq!(from_stdin(&whole[..=end]).status, Some(1));
}

#[test]
fn other_schemas_are_refused_by_name() {
    let mut other = captured("clean");
    other["schema"] = json!("keepline.snapshot/v2");
    let said = refused(&from_stdin(other.to_string().as_bytes()), "schema");
    assert!(
        said.contains("keepline.snapshot/v2") && said.contains("keepline.snapshot/v1"),
        "{said}"
    );
    other["schema"] = json!("\u{1b}[2J\n".repeat(10_000));
    let said = refused(&from_stdin(other.to_string().as_bytes()), "hostile schema");
    assert!(said.len() < 1000, "{said}");
}

#[test]
fn impossible_values_are_refused() {
    let changes: &[(&str, Value)] = &[
        ("/duration_seconds", json!(-1)),
        ("/duration_seconds", json!(1e300)),
        ("/started", json!("yesterday")),
        ("/namespaces/1/sockets/0/idle_seconds", json!(-0.5)),
        ("/namespaces/1/sockets/0/local", json!("10.0.1.6:99999")),
        ("/namespaces/1/sockets/0/state", json!("\u{1b}[31mRED")),
        ("/namespaces/1/sockets/0/cookie", json!(-1)),
        ("/namespaces/2/ipvs/timeouts/tcp_seconds", json!(-900)),
        ("/namespaces/2/ipvs/entries/0/expires_seconds", json!("soon")),
        ("/namespaces/2/ipvs/entries", json!({})),
        ("/second_look", Value::Null),
        ("/incomplete", json!([1])),
    ];
    for (pointer, value) in changes {
        let mut changed = captured("clean");
        *changed.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} is there")) =
            value.clone();
        let said = refused(&from_stdin(changed.to_string().as_bytes()), pointer);
        assert!(said.contains("not a Keepline capture"), "{pointer}: {said}");
    }
}

#[test]
fn enormous_values_are_judged_without_a_panic() {
    let mut changed = captured("swarm");
    for pointer in [
        "/duration_seconds",
        "/namespaces/1/sockets/1/idle_seconds",
        "/namespaces/1/sockets/2/heard_seconds",
        "/namespaces/1/sockets/3/keepalive/interval_seconds",
        "/namespaces/3/ipvs/timeouts/tcp_seconds",
        "/namespaces/3/ipvs/entries/0/expires_seconds",
        "/namespaces/3/conntrack/timeouts/established_seconds",
    ] {
        *changed.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} is there")) =
            json!(1.8e19);
    }
    changed["namespaces"][3]["conntrack"]["count"] = json!(u64::MAX);
    changed["namespaces"][3]["conntrack"]["max"] = json!(u64::MAX);
    for form in ["human", "json", "nagios"] {
        let ran = with_input(&["check", "--from", "-", "-o", form], changed.to_string().as_bytes());
        assert!(matches!(ran.status, Some(1 | 2)) && ran.err.is_empty(), "{form}: {}", ran.err);
        assert!(!ran.out.is_empty());
    }
    let ran = with_input(&["timeouts", "--from", "-"], changed.to_string().as_bytes());
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""));
}

#[test]
fn what_is_no_json_is_refused() {
    let deep = [b"[".repeat(200_000), b"]".repeat(200_000)].concat();
    let field = format!("{{\"schema\":{}", "[".repeat(200_000));
    let cases: [(&str, &[u8]); 9] = [
        ("empty", b""),
        ("white space", &b" \n".repeat(100_000)),
        ("text", b"Netid State Recv-Q"),
        ("not UTF-8", b"{\"schema\":\"\xff\xfe\""),
        ("zeroes", &[0; 65_536]),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0"),
        ("a list", b"[]"),
        ("deep", &deep),
        ("deep in a field", field.as_bytes()),
    ];
    for (what, input) in cases {
        refused(&from_stdin(input), what);
    }
    let mut trailing = std::fs::read(capture("clean")).unwrap();
    trailing.extend(b"{}");
    refused(&from_stdin(&trailing), "trailing characters");
    let said = refused(&keepline(&["check", "--from", "/dev/zero"]), "/dev/zero");
    assert!(said.contains("/dev/zero"), "{said}");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let said = refused(&keepline(&["check", "--from", "/nowhere/at-all"]), "missing");
    assert!(said.contains("/nowhere/at-all: No such file"), "{said}");
    let said = refused(&keepline(&["timeouts", "--from", "/"]), "a folder");
    assert!(said.contains("read /: Is a directory"), "{said}");
}

#[test]
fn names_that_a_capture_does_not_hold_are_named() {
    let from = capture("swarm");
    let cases: &[(&[&str], &str)] = &[
        (&["--netns", "nowhere"], "no network namespace nowhere"),
        (&["--container", "nobody"], "no container `nobody`"),
        (&["--container", ""], "no container ``"),
        (&["--pid", "4294967295"], "no process 4294967295"),
        (&["--netns", "host", "--netns", "b\u{1b}[2Jad"], r"no network namespace b\u{1b}[2Jad"),
        (&["--service", "db"], "no service `db`"),
        (&["--network", "net1"], "no network `net1`"),
    ];
    for (arguments, expected) in cases {
        let ran = keepline(&[&["check", "--from", &from], *arguments].concat());
        let said = refused(&ran, expected);
        assert!(said.contains(expected), "{said}");
    }
}

/// Whatever is changed in a capture, the program answers and does not fall over.
#[test]
fn damaged_captures_never_make_it_panic() {
    let whole = std::fs::read(capture("swarm")).unwrap();
    // Numerical Recipes' generator: the same damage every time.
    let mut state = 1u32;
    let mut random = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    for round in 0..120 {
        let mut damaged = whole.clone();
        for _ in 0..=random(3) {
            let at = random(damaged.len());
            let replacement = b"0123456789\"{}[],:.-eE tfn\\"[random(26)];
            damaged[at] = replacement;
        }
        let ran = with_input(&["check", "--from", "-", "-o", "json"], &damaged);
        assert!(matches!(ran.status, Some(0..=3)), "round {round}: {:?} {}", ran.status, ran.err);
        assert!(!ran.err.contains("panicked"), "round {round}: {}", ran.err);
    }
}
