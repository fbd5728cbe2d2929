//! Preflight: each refusal with its reason and a way out, and nothing changed.

use std::collections::BTreeSet;

use keepline_migrate::preflight::{self, Allow, Report};
use keepline_migrate::{Engine as _, Mode};
use serde_json::{Value, json};

use crate::model::Fake;

fn look(fake: &Fake, to: Mode, allowed: &[Allow]) -> Report {
    let mut engine = fake.clone();
    let service = engine.service("db").unwrap().unwrap();
    let tasks = engine.tasks("db").unwrap();
    let around = engine.surroundings().unwrap();
    let allowed: BTreeSet<Allow> = allowed.iter().copied().collect();
    let report = preflight::look(&service, to, &tasks, &around, &allowed);
    assert_eq!(fake.0.borrow().changes, 0);
    report
}

/// The one refusal, as text.
fn refused(report: &Report) -> String {
    let [refusal] = report.refusals.as_slice() else { panic!("{report:#?}") };
    assert!(!refusal.help.is_empty());
    format!("{}\n{}", refusal.what, refusal.help.join("\n"))
}

fn with(pointer: &str, value: Value) -> Fake {
    let fake = Fake::with(Mode::Vip);
    // The change may take the name away; only preflight is looked at here.
    fake.0.borrow_mut().guarded = None;
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    fake.0.borrow_mut().change_spec("db", |spec| {
        spec.pointer_mut(parent).unwrap()[key] = value.clone();
    });
    fake
}

#[test]
fn an_ordinary_service_may_go() {
    let fake = Fake::with(Mode::Vip);
    let report = look(&fake, Mode::Dnsrr, &[]);
    assert_eq!(report.refusals, []);
    assert!(report.notes.iter().any(|note| note.contains("600 s")), "{report:#?}");
    assert!(report.notes.iter().any(|note| note.contains("old VIP")), "{report:#?}");
    let fake = Fake::with(Mode::Dnsrr);
    assert_eq!(look(&fake, Mode::Vip, &[]).refusals, []);
}

#[test]
fn already_there() {
    let text = refused(&look(&Fake::with(Mode::Vip), Mode::Vip, &[]));
    assert!(text.contains("in mode vip already"), "{text}");
}

#[test]
fn ingress_ports_forbid_dnsrr() {
    let port = json!([{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080,
        "PublishMode": "ingress"}]);
    let text = refused(&look(&with("/EndpointSpec/Ports", port), Mode::Dnsrr, &[]));
    assert!(text.contains("port 8080 on the ingress network"), "{text}");
    assert!(
        text.contains("--publish-rm 80/tcp --publish-add mode=host,target=80,published=8080"),
        "{text}"
    );
    assert!(text.contains("keepline apply hold --service db"), "{text}");
}

#[test]
fn what_two_copies_cannot_share_must_be_allowed() {
    let port = json!([{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080,
        "PublishMode": "host"}]);
    let volume = json!([{"Type": "volume", "Source": "data", "Target": "/data"}]);
    let global = json!({"Global": {}});
    let stack = json!("shop");
    for (pointer, value, allow, part) in [
        ("/EndpointSpec/Ports", port, Allow::HostPorts, "host port 8080"),
        ("/TaskTemplate/ContainerSpec/Mounts", volume, Allow::Volumes, "write to data"),
        ("/Mode", global, Allow::Global, "second task on every node"),
        ("/Labels/com.docker.stack.namespace", stack, Allow::Stack, "endpoint_mode: dnsrr"),
    ] {
        let fake = with(pointer, value);
        let text = refused(&look(&fake, Mode::Dnsrr, &[]));
        assert!(text.contains(part), "{text}");
        assert!(text.contains(&format!("--allow {}", allow.name())), "{text}");
        assert_eq!(look(&fake, Mode::Dnsrr, &[allow]).refusals, [], "{pointer}");
    }
}

#[test]
fn the_lines_of_the_stacks_file_are_given() {
    let fake = with("/Labels/com.docker.stack.namespace", json!("shop"));
    let text = refused(&look(&fake, Mode::Dnsrr, &[]));
    let lines = "  services:\n    db:\n      deploy:\n        endpoint_mode: dnsrr\n";
    assert!(text.contains(lines), "{text}");
}

#[test]
fn reading_and_private_mounts_are_no_matter() {
    let mounts = json!([
        {"Type": "volume", "Source": "data", "Target": "/data", "ReadOnly": true},
        {"Type": "volume", "Target": "/cache"},
        {"Type": "tmpfs", "Target": "/tmp"},
    ]);
    let fake = with("/TaskTemplate/ContainerSpec/Mounts", mounts);
    assert_eq!(look(&fake, Mode::Dnsrr, &[]).refusals, []);
}

#[test]
fn no_room() {
    for (pointer, value) in [
        ("/TaskTemplate/Placement/Constraints", json!(["node.hostname==nowhere"])),
        ("/TaskTemplate/Resources", json!({"Reservations": {"MemoryBytes": 9_000_000_000_u64}})),
        ("/TaskTemplate/Resources", json!({"Reservations": {"NanoCPUs": 5_000_000_000_u64}})),
    ] {
        let text = refused(&look(&with(pointer, value), Mode::Dnsrr, &[]));
        assert!(text.contains("no room for the copy of db: 0 of its 2 tasks"), "{text}");
    }
    let fake = with("/TaskTemplate/Placement/MaxReplicas", json!(1));
    assert_eq!(look(&fake, Mode::Dnsrr, &[]).refusals, []);
    fake.0.borrow_mut().down.insert(1);
    let text = refused(&look(&fake, Mode::Dnsrr, &[]));
    assert!(text.contains("1 of its 2 tasks"), "{text}");
}

#[test]
fn what_is_gone_or_not_as_it_should_be() {
    let cases = [
        ("/TaskTemplate/ContainerSpec/Secrets", json!([{"SecretID": "s2"}]), "secret s2"),
        ("/TaskTemplate/ContainerSpec/Configs", json!([{"ConfigID": "c2"}]), "config c2"),
        ("/TaskTemplate/Networks", json!([]), "nobody resolves its name"),
        ("/Mode", json!({"Replicated": {"Replicas": 0}}), "docker service scale db=1"),
        ("/Mode", json!({"Replicated": {"Replicas": 3}}), "2 of 3 tasks of db run"),
        ("/Mode", json!({"ReplicatedJob": {}}), "a job"),
    ];
    for (pointer, value, part) in cases {
        let text = refused(&look(&with(pointer, value), Mode::Dnsrr, &[]));
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn an_update_in_progress() {
    let fake = Fake::with(Mode::Vip);
    let mut engine = fake.clone();
    let mut service = engine.service("db").unwrap().unwrap();
    service.update = Some("updating".to_owned());
    let (tasks, around) = (engine.tasks("db").unwrap(), engine.surroundings().unwrap());
    let report = preflight::look(&service, Mode::Dnsrr, &tasks, &around, &BTreeSet::new());
    assert!(refused(&report).contains("in progress (updating)"), "{report:#?}");
}

#[test]
fn a_migration_that_has_begun_is_not_begun_again() {
    let fake = Fake::with(Mode::Vip);
    fake.0.borrow_mut().interrupt = Some(8);
    fake.run(|run| run.start(Mode::Dnsrr));
    fake.0.borrow_mut().changes = 0;
    let text = refused(&look(&fake, Mode::Dnsrr, &[]));
    assert!(text.contains("keepline migrate db --resume"), "{text}");
    assert!(text.contains("keepline migrate db --rollback"), "{text}");
}

#[test]
fn placeholders_and_aliases_elsewhere_are_told() {
    let fake = with("/TaskTemplate/ContainerSpec/Hostname", json!("{{.Service.Name}}"));
    let mut other = crate::specs::db(Mode::Vip);
    other["Name"] = json!("replica");
    other["TaskTemplate"]["Networks"][0]["Aliases"] = json!(["db"]);
    fake.0.borrow_mut().add(&other).unwrap();
    let report = look(&fake, Mode::Dnsrr, &[]);
    for part in ["they give db-keepline", "replica has the alias db too"] {
        assert!(report.notes.iter().any(|note| note.contains(part)), "{report:#?}");
    }
}
