//! `keepline policy`: what a file and labels come to, on a recorded node.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::run::{Ran, captured, folder, keepline};

/// Runs it on the recorded Swarm node, with a file and labels of the first service.
fn policy(file: &str, labels: &Value, more: &[&str]) -> Ran {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let folder = folder(&format!("policy-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    let (config, capture) = (folder.join("config.toml"), folder.join("capture.json"));
    std::fs::write(&config, file).expect("written");
    let mut snapshot = captured("named");
    snapshot["topology"]["services"][0]["labels"] = labels.clone();
    std::fs::write(&capture, snapshot.to_string()).expect("written");
    let [config, capture] = [config, capture].map(|it| it.display().to_string());
    let ran = keepline(&[&["policy", "--config", &config, "--from", &capture], more].concat());
    std::fs::remove_dir_all(folder).expect("removed");
    ran
}

#[test]
fn what_holds_where_and_who_said_so() {
    let file =
        "strategy = \"hold\"\n[network.backend]\nstrategy = \"timeout\"\ntcp-timeout = \"8h\"\n";
    let labels = json!({"keepline.strategy": "off"});
    let ran = policy(file, &labels, &[]);
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{}", ran.out);
    let lines: Vec<Vec<&str>> =
        ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["everything", "hold", "file"], "{}", ran.out);
    let network = ["network", "backend", "timeout", "file,", "network", "tcp-timeout", "8h"];
    assert!(lines.iter().any(|line| *line == network), "{}", ran.out);
    assert!(ran.out.contains("off      service's label"), "{}", ran.out);
    assert!(ran.out.lines().all(|line| line.chars().count() <= 80), "{}", ran.out);

    let ran = policy(file, &labels, &["-o", "json"]);
    let document: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(document["schema"], "keepline.policy/v1");
    assert_eq!(document["everything"]["strategy"], json!({"value": "hold", "source": "file"}));
    assert_eq!(document["everything"]["acts"], json!(["hold", "heal"]));
    let networks = document["networks"].as_array().expect("a list");
    let backend = networks.iter().find(|it| it["name"] == "backend").expect("backend");
    assert_eq!(
        backend["tcp_timeout_seconds"],
        json!({"value": 28800.0, "source": "file, network"})
    );
    let services = backend["services"].as_array().expect("a list");
    assert!(services.iter().any(|it| it["acts"] == json!([])), "off: {services:?}");
    assert_eq!(document["invalid"], json!([]));
}

#[test]
fn what_says_nothing_is_told_and_escaped() {
    let labels = json!({"keepline.strategy": "hold\u{1b}[31m", "keepline.hea": "x"});
    let ran = policy("tcp-timeout = 5\n", &labels, &[]);
    assert_eq!(ran.status, Some(1), "{}", ran.out);
    assert_eq!(ran.out.matches("not understood: ").count(), 3, "{}", ran.out);
    assert!(!ran.out.contains('\u{1b}'), "{:?}", ran.out);
    let ran = policy("strategy = ", &json!({}), &[]);
    assert_eq!(ran.status, Some(2), "{}", ran.out);
    assert!(ran.err.contains("config.toml: line 1: "), "{}", ran.err);
}
