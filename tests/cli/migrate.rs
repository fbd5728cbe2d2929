//! `migrate` from end to end, against an Engine on a socket.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::engine::{Swarm, serve};
use crate::run::{Ran, folder, program};

struct Bench {
    socket: PathBuf,
    swarm: Arc<Mutex<Swarm>>,
}

impl Bench {
    fn new(name: &str, swarm: Swarm) -> Self {
        // The paths of sockets must be short.
        let socket = std::env::temp_dir()
            .join(format!("keepline-cli-migrate-{}-{name}.sock", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let swarm = serve(&socket, swarm);
        Self { socket, swarm }
    }

    fn with(name: &str, spec: &Value) -> Self {
        let mut swarm = Swarm::manager();
        swarm.add(spec);
        Self::new(name, swarm)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command
            .arg("migrate")
            .args(arguments)
            .env("DOCKER_HOST", format!("unix://{}", self.socket.display()))
            .env_remove("DOCKER_TLS_VERIFY")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn migrate(&self, arguments: &[&str]) -> Ran {
        crate::run::ran(self.command(arguments).output().expect("the program starts"))
    }

    fn specs(&self) -> Vec<Value> {
        self.swarm.lock().expect("no test panics with it").specs().into_values().collect()
    }

    fn changes(&self) -> Vec<String> {
        self.swarm.lock().expect("no test panics with it").changes.clone()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn db(mode: &str) -> Value {
    json!({
        "Name": "db", "Labels": {"a": "b"},
        "TaskTemplate": {"ContainerSpec": {"Image": "x"}, "Networks": [{"Target": "net1"}],
            "FromTheFuture": 1},
        "Mode": {"Replicated": {"Replicas": 1}},
        "EndpointSpec": {"Mode": mode},
    })
}

#[test]
fn there_step_by_step() {
    let bench = Bench::with("there", &db("vip"));
    let ran = bench.migrate(&["db", "--to", "dnsrr", "--yes"]);
    assert_eq!((ran.status, ran.out.as_str()), (Some(0), "db is in mode dnsrr.\n"), "{}", ran.err);
    assert_eq!(bench.specs(), [db("dnsrr")]);
    for number in 1..=11 {
        assert!(ran.err.contains(&format!("\n[{number}/11] ")), "{}", ran.err);
    }
    assert!(ran.err.contains("  1. create db-keepline"), "{}", ran.err);
    assert!(ran.err.contains("note: network net1: not looked up"), "{}", ran.err);
    assert_eq!(
        bench.changes(),
        [
            "POST /services/create",
            "POST /services/id2/update",
            "DELETE /services/id1",
            "POST /services/create",
            "POST /services/id2/update",
            "DELETE /services/id2"
        ]
    );
    let again = bench.migrate(&["db", "--to", "dnsrr", "--yes"]);
    assert_eq!((again.status, again.out.as_str()), (Some(1), ""));
    assert!(again.err.contains("db is in mode dnsrr already"), "{}", again.err);
}

#[test]
fn the_plan_is_shown_and_nothing_done() {
    let bench = Bench::with("dry", &db("vip"));
    let ran = bench.migrate(&["id1", "--to", "dnsrr", "--dry-run"]);
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""));
    assert!(ran.out.starts_with("db to mode dnsrr:\n   1. create db-keepline"), "{}", ran.out);
    assert!(ran.out.contains("\nTo know:\n- ") && ran.out.ends_with("Nothing was changed.\n"));
    assert!(ran.out.lines().all(|line| line.chars().count() <= 110), "{}", ran.out);
    assert!(bench.changes().is_empty());
}

#[test]
fn without_a_terminal_yes_must_be_said() {
    let bench = Bench::with("yes", &db("vip"));
    let ran = bench.migrate(&["db", "--to", "dnsrr"]);
    assert_eq!((ran.status, ran.out.as_str()), (Some(2), ""));
    assert!(
        ran.err
            .contains("nothing was changed: there is no terminal to ask on\nhelp: --yes does it"),
        "{}",
        ran.err
    );
    assert!(bench.changes().is_empty());
}

#[test]
fn what_is_refused_changes_nothing() {
    let port = json!([{"TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}]);
    let stack = json!("shop");
    let cases = [
        ("ingress", "/EndpointSpec/Ports", port, "port 8080 on the ingress network"),
        (
            "stack",
            "/Labels/com.docker.stack.namespace",
            stack,
            "\n            endpoint_mode: dnsrr",
        ),
        ("room", "/TaskTemplate/Placement", json!({"MaxReplicas": 1}), ""),
        (
            "constraint",
            "/TaskTemplate/Placement",
            json!({"Constraints": ["node.role==worker"]}),
            "no room for the copy",
        ),
    ];
    for (name, pointer, value, part) in cases {
        let mut spec = db("vip");
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        spec.pointer_mut(parent).unwrap()[key] = value;
        let bench = Bench::with(name, &spec);
        let ran = bench.migrate(&["db", "--to", "dnsrr", "--dry-run"]);
        let refused = !part.is_empty();
        assert_eq!(ran.status, Some(i32::from(refused)), "{name}: {}", ran.err);
        assert!(ran.err.contains(part), "{name}: {}", ran.err);
        assert!(!refused || ran.err.contains("help: "), "{name}: {}", ran.err);
        assert!(bench.changes().is_empty());
    }
}

#[test]
fn what_cannot_run_says_why() {
    let bench = Bench::with("unknown", &db("vip"));
    let ran = bench.migrate(&["web", "--to", "dnsrr", "--yes"]);
    assert_eq!(ran.status, Some(2));
    assert!(ran.err.contains("there is no service web"), "{}", ran.err);
    let ran = bench.migrate(&["db"]);
    assert_eq!(ran.status, Some(2));
    assert!(ran.err.contains("--to <MODE>"), "{}", ran.err);
    assert!(bench.changes().is_empty());

    let mut worker = Swarm::manager();
    worker.info = json!({"LocalNodeState": "active", "ControlAvailable": false,
        "RemoteManagers": [{"Addr": "10.0.0.1:2377"}]});
    let ran = Bench::new("worker", worker).migrate(&["db", "--to", "dnsrr", "--yes"]);
    assert_eq!(ran.status, Some(2));
    assert!(ran.err.contains("help: run it on a manager: 10.0.0.1:2377"), "{}", ran.err);

    let socket = folder("migrate").join("none.sock");
    let mut command = program();
    command
        .args(["migrate", "db", "--to", "vip"])
        .env("DOCKER_HOST", format!("unix://{}", socket.display()));
    let ran = crate::run::ran(command.output().unwrap());
    assert_eq!(ran.status, Some(2));
    assert!(ran.err.contains("no Docker Engine at"), "{}", ran.err);
}

#[test]
fn interrupted_it_says_what_to_type_and_that_works() {
    let bench = Bench::with("interrupt", &db("vip"));
    let mut child = bench.command(&["db", "--to", "dnsrr", "--yes"]).spawn().unwrap();
    let begun = Instant::now();
    while bench.changes().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no copy is made");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    child.wait().unwrap();
    let ran = crate::run::ran(child.wait_with_output().unwrap());
    assert_eq!(ran.status, Some(1), "{}", ran.err);
    for command in ["keepline migrate db --resume\n", "keepline migrate db --rollback\n"] {
        assert!(ran.err.contains(command), "{}", ran.err);
    }
    let begun = bench.migrate(&["db", "--to", "dnsrr", "--yes"]);
    assert_eq!(begun.status, Some(1));
    assert!(begun.err.contains("has begun and not ended"), "{}", begun.err);
    let other = bench.migrate(&["db", "--to", "vip", "--resume", "--yes"]);
    assert_eq!(other.status, Some(1));

    let dry = bench.migrate(&["db", "--rollback", "--dry-run"]);
    assert!(
        dry.out.starts_with("db to mode vip:\n   1. wait until 1 task of db run"),
        "{}",
        dry.out
    );
    let back = bench.migrate(&["db", "--rollback", "--yes"]);
    assert_eq!((back.status, back.out.as_str()), (Some(0), "db is in mode vip.\n"), "{}", back.err);
    assert_eq!(bench.specs(), [db("vip")]);
    let again = bench.migrate(&["db", "--resume", "--yes"]);
    assert_eq!(again.status, Some(1));
    assert!(again.err.contains("no migration of db has begun"), "{}", again.err);
}
