//! What scripts rely on: exit statuses and every key of the JSON.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::run::{capture, captured, check, keepline, with_input};

#[test]
fn exit_statuses_of_check() {
    let cases: &[(&str, &[&str], i32)] = &[
        ("none", &[], 0),
        ("clean", &[], 0),
        ("clean", &["--fail-on", "at-risk"], 0),
        ("swarm", &[], 1),
        ("swarm", &["--fail-on", "orphaned"], 1),
        ("swarm", &["--fail-on", "at-risk"], 1),
        ("swarm", &["--fail-on", "never"], 0),
        ("swarm", &["-o", "json"], 1),
        ("at-risk", &[], 0),
        ("at-risk", &["--fail-on", "at-risk"], 1),
        ("at-risk", &["--fail-on", "never"], 0),
        ("at-risk", &["--fail-on", "at-risk", "--horizon", "10s"], 0),
        ("incomplete", &[], 3),
        ("incomplete", &["-o", "json"], 3),
        ("incomplete", &["--fail-on", "never"], 3),
        ("at-risk-incomplete", &[], 3),
        ("at-risk-incomplete", &["--fail-on", "at-risk"], 1),
        ("hostile", &[], 1),
        ("swarm", &["--bogus"], 2),
        ("swarm", &["--fail-on", "everything"], 2),
        ("swarm", &["-o", "html"], 2),
        ("swarm", &["--horizon", "-5s"], 2),
        ("swarm", &["--watch"], 2),
        ("swarm", &["--netns", "nowhere"], 2),
    ];
    for (name, arguments, status) in cases {
        let ran = check(name, arguments);
        assert_eq!(ran.status, Some(*status), "{name} {arguments:?}: {}", ran.err);
        assert_eq!(ran.out.is_empty(), *status == 2, "{name} {arguments:?}: {}", ran.out);
    }
}

#[test]
fn exit_statuses_of_a_monitoring_plugin() {
    let cases = [
        ("none", 0, "OK - no session through a load balancer |"),
        ("clean", 0, "OK - 2 sessions safe |"),
        ("at-risk", 1, "WARNING - 1 at risk (next in 47s) |"),
        ("at-risk-incomplete", 1, "WARNING - 1 at risk (next in 47s), scan incomplete: "),
        ("swarm", 2, "CRITICAL - 2 orphaned, 2 at risk (next in 47s), 1 unknown |"),
        ("hostile", 2, "CRITICAL - 2 orphaned, "),
        ("incomplete", 3, "UNKNOWN - no session through a load balancer, scan incomplete: "),
        ("nowhere", 3, "UNKNOWN - open "),
    ];
    for (name, status, begins) in cases {
        let ran = check(name, &["-o", "nagios", "--fail-on", "never"]);
        assert_eq!(ran.status, Some(status), "{name}: {}", ran.out);
        let line = ran.out.strip_suffix('\n').expect("a line");
        assert!(line.starts_with(&format!("KEEPLINE {begins}")), "{name}: {line}");
        assert!(!line.contains('\n'), "{name}: {line}");
        assert_eq!(line.matches('|').count(), usize::from(name != "nowhere"), "{name}: {line}");
        assert_eq!(ran.err, "");
    }
}

#[test]
fn performance_data_of_a_monitoring_plugin() {
    let data = |name: &str| {
        let line = check(name, &["-o", "nagios"]).out;
        line.split_once(" | ").expect("performance data").1.trim_end().to_owned()
    };
    assert_eq!(
        data("swarm"),
        "orphaned=2;;0;0 at_risk=2;0;;0 safe=1;;;0 unknown=1;;;0 next_loss=47.3s time=0.084s"
    );
    assert_eq!(
        data("clean"),
        "orphaned=0;;0;0 at_risk=0;0;;0 safe=2;;;0 unknown=0;;;0 next_loss=U time=0.021s"
    );
}

fn report(name: &str, arguments: &[&str]) -> Value {
    let ran = check(name, &[&["-o", "json"], arguments].concat());
    assert_eq!(ran.out.lines().count(), 1, "one line");
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}", ran.out))
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value
        .as_object()
        .unwrap_or_else(|| panic!("an object: {value}"))
        .keys()
        .map(String::as_str)
        .collect()
}

fn has(value: &Value, expected: &[&str]) {
    assert_eq!(keys(value), expected.iter().copied().collect(), "{value}");
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("a list: {value}"))
}

#[test]
fn every_key_is_there_in_every_report() {
    for name in crate::run::CAPTURES {
        let report = report(name, &["--all"]);
        has(&report, &["schema", "host", "scan", "summary", "sessions", "findings"]);
        assert_eq!(report["schema"], "keepline.check/v1");
        let scan = &report["scan"];
        has(
            scan,
            &["started", "duration_seconds", "namespaces", "sockets", "entries", "incomplete"],
        );
        for item in list(&scan["incomplete"]) {
            has(item, &["what", "why", "help"]);
        }
        has(&report["summary"], &["safe", "at_risk", "orphaned", "untracked", "unknown"]);
        for session in list(&report["sessions"]) {
            session_has_its_keys(session);
        }
        for finding in list(&report["findings"]) {
            has(finding, &["code", "severity", "title", "sessions", "detail", "fix"]);
            assert!(list(&finding["fix"]).iter().all(Value::is_string), "{finding}");
            assert!(["error", "warning", "note"].contains(&finding["severity"].as_str().unwrap()));
        }
    }
}

fn session_has_its_keys(session: &Value) {
    has(
        session,
        &[
            "client",
            "server",
            "backend",
            "verdict",
            "reason",
            "idle_seconds",
            "orphaned_in_seconds",
            "entry",
            "keepalive",
            "held",
            "netns",
            "director",
            "table",
            "network",
            "service",
            "task",
            "container",
            "process",
            "findings",
        ],
    );
    has(&session["keepalive"], &["enabled", "idle_seconds"]);
    if !session["entry"].is_null() {
        has(&session["entry"], &["state", "expires_seconds", "timeout_seconds"]);
    }
    if !session["task"].is_null() {
        has(&session["task"], &["name", "node"]);
    }
    if !session["container"].is_null() {
        has(&session["container"], &["id", "name"]);
    }
    if !session["process"].is_null() {
        has(&session["process"], &["pid", "command"]);
    }
    for address in ["client", "server"] {
        let text = session[address].as_str().expect("an address");
        assert!(text.parse::<std::net::SocketAddr>().is_ok(), "{text}");
    }
}

#[test]
fn the_report_says_what_the_capture_holds() {
    let report = report("swarm", &[]);
    assert_eq!(
        report["scan"],
        json!({"started": "2026-11-25T12:00:00Z", "duration_seconds": 0.084, "namespaces": 6,
            "sockets": 11, "entries": 3, "incomplete": []})
    );
    assert_eq!(
        report["summary"],
        json!({"safe": 1, "at_risk": 2, "orphaned": 2, "untracked": 1, "unknown": 1})
    );
    let sessions = list(&report["sessions"]);
    let of = |client: &str| {
        let found = sessions.iter().find(|session| session["client"] == client);
        found.unwrap_or_else(|| panic!("no session of {client}"))
    };
    let web = "4c01db0b339cd2b6fbd5cf1e5c1c1d3a8f6f2a7b9e0d4c3b2a1908f7e6d5c4b3";
    assert_eq!(
        *of("10.0.1.6:53028"),
        json!({"client": "10.0.1.6:53028", "server": "10.0.1.2:7000", "backend": "10.0.1.4:7000",
            "verdict": "orphaned", "reason": "socket open, entry gone; silent for 15m 12s",
            "idle_seconds": 912.25, "orphaned_in_seconds": null, "entry": null,
            "keepalive": {"enabled": false, "idle_seconds": null}, "held": false,
            "netns": "5b1c0e2f9a7d", "director": "lb_edja88p19", "table": "ipvs",
            "network": null, "service": null, "task": null, "container": {"id": web, "name": "web.1"},
            "process": {"pid": 4242, "command": "psql"}, "findings": ["KL001"]})
    );
    let late = of("10.0.1.6:53032");
    assert_eq!(late["verdict"], "at-risk");
    assert_eq!(late["orphaned_in_seconds"], 500.0);
    assert_eq!(
        late["entry"],
        json!({"state": "ESTABLISHED", "expires_seconds": 500.0, "timeout_seconds": 900.0})
    );
    assert_eq!(late["keepalive"], json!({"enabled": true, "idle_seconds": 7200.0}));
    assert_eq!(of("10.0.2.6:41000")["director"], Value::Null);
    let codes: Vec<&str> =
        list(&report["findings"]).iter().map(|it| it["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["KL001", "KL012", "KL002", "KL003", "KL013"]);
}

#[test]
fn untracked_sessions_are_counted_and_listed_on_request() {
    let untracked = |arguments: &[&str]| {
        let report = report("swarm", arguments);
        assert_eq!(report["summary"]["untracked"], 1);
        list(&report["sessions"]).iter().filter(|it| it["verdict"] == "untracked").count()
    };
    assert_eq!(untracked(&[]), 0);
    assert_eq!(untracked(&["--all"]), 1);
}

#[test]
fn names_reach_programs_whole_and_terminals_harmless() {
    let text = check("hostile", &["-o", "json"]).out;
    let line = text.strip_suffix('\n').unwrap();
    assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line}");
    let report: Value = serde_json::from_str(line).unwrap();
    let process = list(&report["sessions"]).iter().find_map(|it| it["process"]["command"].as_str());
    assert_eq!(
        process,
        captured("hostile")["namespaces"][0]["processes"]["901"]["command"].as_str()
    );
    assert_eq!(report["host"], "node\u{1b}[31m|\n1");
    assert_eq!(list(&report["scan"]["incomplete"]).len(), 1);
}

#[test]
fn a_selection_narrows_a_capture_down() {
    let clients = |arguments: &[&str]| -> Vec<String> {
        let report = report("swarm", arguments);
        let mut clients: Vec<String> = list(&report["sessions"])
            .iter()
            .map(|it| it["client"].as_str().unwrap().to_owned())
            .collect();
        clients.sort();
        clients
    };
    let backend = clients(&["--netns", "a1b2c3d4e5f6"]);
    assert!(backend.contains(&"10.0.1.3:60123".to_owned()), "{backend:?}");
    assert!(!backend.contains(&"10.0.2.6:41000".to_owned()), "{backend:?}");
    assert_eq!(backend, clients(&["--container", "9e2f6a7b"]));
    assert_eq!(backend, clients(&["--pid", "990"]));
    assert_eq!(backend, clients(&["--netns", "/var/run/docker/netns/a1b2c3d4e5f6"]));
    assert_eq!(clients(&["--netns", "host"]), Vec::<String>::new());
    assert_eq!(clients(&["--netns", "host", "--container", "web.1"]).len(), 5);
}

#[test]
fn names_of_the_engine_reach_programs_and_select() {
    let whole = report("named", &[]);
    let session = list(&whole["sessions"]).iter().find(|it| it["client"] == "10.0.1.6:53030");
    let session = session.expect("the session to the other node");
    assert_eq!(session["network"], "backend");
    assert_eq!(session["service"], "db");
    assert_eq!(session["task"], json!({"name": "db.2.z9x8c7v6b5n4m3a2s1d0f9g8h", "node": "node2"}));
    assert_eq!(session["container"]["name"], "web.1.x1y2z3a4b5c6d7e8f9g0h1i2j");
    let count = |arguments: &[&str]| list(&report("named", arguments)["sessions"]).len();
    assert_eq!(count(&["--service", "db"]), 5);
    assert_eq!(count(&["--service", "db", "--network", "reports"]), 6);
    assert_eq!(count(&["--network", "backend"]), 5);
    assert_eq!(count(&["--network", "q8w7"]), 1);
    assert_eq!(count(&["--container", "db.1"]), 4);
    let ran = check("named", &["--container", "x"]);
    assert_eq!(ran.status, Some(2), "{}", ran.out);
    assert!(ran.err.contains("no container `x` on this node"), "{}", ran.err);
}

#[test]
fn stdin_is_as_good_as_a_file() {
    let bytes = std::fs::read(capture("swarm")).unwrap();
    let from_stdin = with_input(&["check", "--from", "-", "-o", "json"], &bytes);
    assert_eq!(from_stdin.out, check("swarm", &["-o", "json"]).out);
    assert_eq!(from_stdin.status, Some(1));
}

#[test]
fn timeouts_as_json() {
    let ran = keepline(&["timeouts", "-o", "json", "--from", &capture("swarm")]);
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    has(&report, &["schema", "host", "started", "directors", "incomplete"]);
    assert_eq!(report["schema"], "keepline.timeouts/v1");
    let directors = list(&report["directors"]);
    assert_eq!(
        directors.iter().map(|it| it["director"].as_str().unwrap()).collect::<Vec<_>>(),
        ["host", "lb_edja88p19", "lb_q8w7e6r5t", "lb_z1x2c3v4b"]
    );
    assert_eq!(
        directors[1],
        json!({"director": "lb_edja88p19", "path": "/var/run/docker/netns/lb_edja88p19",
            "container": null,
            "ipvs": {"tcp_seconds": 900.0, "tcp_fin_seconds": 120.0, "udp_seconds": 300.0,
                "services": 1, "destinations": 2, "conntrack": true, "expire_nodest_conn": true},
            "conntrack": {"established_seconds": 432_000.0, "fin_wait_seconds": 120.0,
                "close_wait_seconds": 60.0, "count": 3, "max": 262_144}})
    );
    let ran = keepline(&["timeouts", "-o", "json", "--from", &capture("incomplete")]);
    assert_eq!(ran.status, Some(1));
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(list(&report["incomplete"]).len(), 1);
    assert!(ran.err.starts_with("keepline: warning: not seen: "), "{}", ran.err);
}
