//! The program on this kernel, as its users type it: the lab's nat layout, selections, exit
//! codes, missing rights, and that looking changes nothing.
//!
//! Needs root and nftables. Where they are missing a test says SKIP and why; where CI is set it
//! fails instead.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

/// Leaves a test that cannot run here, aloud. It runs beside others, or `alone`.
macro_rules! needs_root_and_nft {
    () => {
        needs_root_and_nft!(beside_others);
    };
    ($turn:ident) => {
        if let Some(why) = $crate::lab::impossible() {
            assert!(std::env::var_os("CI").is_none(), "cannot run in CI: {why}");
            println!("SKIP: {why}");
            return;
        }
        let _turn = $crate::lab::$turn();
    };
}

mod act;
mod asked;
mod day;
mod guard;
mod lab;
mod lent;
mod run;

use std::{path::Path, process::Command, thread::sleep, time::Duration};

use lab::{Lab, keepline, output, run_for_json};

#[test]
fn demo_ends_as_told_and_leaves_nothing() {
    needs_root_and_nft!();
    let (status, text) = output(keepline().args(["lab", "demo", "--layout", "nat"]));
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("As told."), "{text}");
    assert!(text.contains("error[KL001]") && text.contains("warning[KL002]"), "{text}");
    let id = text.split("--netns kl-").nth(1).unwrap().split("-client").next().unwrap();
    let (_, left) = output(Command::new("ip").args(["netns", "list"]));
    assert!(!left.contains(&format!("kl-{id}-")), "{left}");
}

#[test]
fn sessions_that_come_and_go_are_never_called_orphaned() {
    needs_root_and_nft!();
    // A timeout far above any stall of a busy machine: no session here may really be forgotten.
    let churn = ["lab", "run", "churn", "--layout", "nat", "--for", "10s", "--tcp-timeout", "5m"];
    let (status, text) = output(keepline().args(churn));
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("0 orphans reported"), "{text}");
}

#[test]
fn verdicts_and_exit_codes_along_a_session_s_life() {
    needs_root_and_nft!();
    let lab = Lab::up("life", &["--sessions", "3", "--tcp-timeout", "20s"]);
    let check =
        |more: &[&str]| output(keepline().args(["check", "--netns", &lab.client]).args(more)).0;
    let json = run_for_json(&["check", "--netns", &lab.client, "-o", "json"]);
    assert_eq!(json["summary"]["at_risk"], 3, "{json:#}");
    assert_eq!(json["sessions"][0]["director"], lab.director.as_str());
    assert_eq!(json["sessions"][0]["table"], "conntrack");
    let left = json["sessions"][0]["orphaned_in_seconds"].as_f64().unwrap();
    assert!(left > 0.0 && left <= 20.0, "{left}");
    assert_eq!(check(&[]), 0);
    assert_eq!(check(&["--fail-on", "at-risk"]), 1);
    // What is lost later than the horizon is safe in this look.
    assert_eq!(check(&["--fail-on", "at-risk", "--horizon", "0s"]), 0);

    sleep(Duration::from_secs(21));
    let json = run_for_json(&["check", "--netns", &lab.client, "-o", "json"]);
    assert_eq!(json["summary"]["orphaned"], 3, "{json:#}");
    for session in json["sessions"].as_array().unwrap() {
        assert_eq!(session["verdict"], "orphaned");
        assert!(session["entry"].is_null());
        assert_eq!(session["process"]["command"], "app");
        assert!(session["backend"].is_string(), "both ends are here: {session:#}");
    }
    assert_eq!(json["findings"][0]["code"], "KL001");
    assert_eq!(check(&[]), 1);
    assert_eq!(check(&["--fail-on", "never"]), 0);
    assert_eq!(check(&["-o", "nagios"]), 2);

    // The same by another way of naming it, by its director, and from a capture.
    let file = std::env::temp_dir().join(format!("{}.json", lab.client));
    let path = format!("/run/netns/{}", lab.client);
    for select in [["--netns", &path], ["--netns", &lab.director], ["--pid", &lab.client_pid]] {
        let json = run_for_json(&["check", select[0], select[1], "-o", "json"]);
        assert_eq!(json["summary"]["orphaned"], 3, "{select:?}");
    }
    let capture = ["capture", "--netns", &lab.client, file.to_str().unwrap()];
    let (status, text) = output(keepline().args(capture));
    assert_eq!(status, 0, "{text}");
    let again = run_for_json(&["check", "--from", file.to_str().unwrap(), "-o", "json"]);
    std::fs::remove_file(file).unwrap();
    assert_eq!(again["summary"]["orphaned"], 3);
}

/// Runs a command as the reader of a finding would, but for the question.
fn typed(fix: &str) {
    let folder = Path::new(env!("CARGO_BIN_EXE_keepline")).parent().unwrap().display();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap());
    let line = format!("{fix} --yes");
    let (status, text) = output(Command::new("sh").args(["-c", &line]).env("PATH", path));
    assert_eq!(status, 0, "{line}: {text}");
}

/// The command that a finding names does what it promises.
#[test]
fn help_of_a_finding_can_be_typed() {
    needs_root_and_nft!();
    let lab = Lab::up("fix", &["--sessions", "2", "--tcp-timeout", "5s"]);
    sleep(Duration::from_secs(6));
    let json = run_for_json(&["check", "--netns", &lab.client, "-o", "json"]);
    assert_eq!(json["findings"][0]["code"], "KL001");
    typed(json["findings"][0]["fix"][0].as_str().unwrap());
    let json = run_for_json(&["check", "--netns", &lab.client, "-o", "json"]);
    assert_eq!(json["summary"]["orphaned"], 0, "healed: {json:#}");
    assert_eq!(json["findings"][0]["code"], "KL002");
    typed(json["findings"][0]["fix"][1].as_str().unwrap());
    let timeouts = run_for_json(&["timeouts", "--netns", &lab.director, "-o", "json"]);
    assert!(timeouts.to_string().contains("7200"), "{timeouts:#}");
    sleep(Duration::from_secs(6));
    assert!(lab.write().contains("survived 2 lost 0"));
}

#[test]
fn keepalive_below_the_timeout_is_safe_and_above_it_is_lost() {
    needs_root_and_nft!();
    let keepalive = ["--sessions", "1", "--tcp-timeout", "9s", "--keepalive"];
    let safe = Lab::up("ka1", &[&keepalive[..], &["2s,2s,5"]].concat());
    let late = Lab::up("ka2", &[&keepalive[..], &["1m,2s,5"]].concat());
    let verdict = |lab: &Lab| {
        let json = run_for_json(&["check", "--netns", &lab.client, "-o", "json"]);
        let session = &json["sessions"][0];
        (session["verdict"].clone(), session["keepalive"]["idle_seconds"].clone())
    };
    assert_eq!(verdict(&safe), ("safe".into(), 2.0.into()));
    assert_eq!(verdict(&late), ("at-risk".into(), 60.0.into()));
    sleep(Duration::from_secs(10));
    assert_eq!(verdict(&safe).0, "safe");
    assert_eq!(verdict(&late).0, "orphaned");
    assert!(safe.write().contains("survived 1 lost 0"));
    assert!(late.write().contains("survived 0 lost 1"));
}

#[test]
fn looking_changes_nothing() {
    needs_root_and_nft!();
    let lab = Lab::up("calm", &["--sessions", "2", "--tcp-timeout", "2h"]);
    let state = || {
        let inside = "nft list ruleset; ip -4 addr; sysctl -a 2>/dev/null | \
                      grep -E 'netfilter|tcp_keepalive|ipv4.vs' | \
                      grep -vE 'nf_conntrack_count|nf_log'; ss -tn | grep -v Recv";
        let command = ["netns", "exec", &lab.director, "sh", "-c", inside];
        let (_, director) = output(Command::new("ip").args(command));
        let (_, client) =
            output(Command::new("ip").args(["netns", "exec", &lab.client, "sh", "-c", inside]));
        let modules = std::fs::read_to_string("/proc/modules").unwrap_or_default();
        let modules: Vec<_> =
            modules.lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect();
        (director, client, modules)
    };
    // The first look may bring in what lists sockets (tcp_diag), as `ss` does.
    output(keepline().arg("check"));
    let before = state();
    for _ in 0..3 {
        output(keepline().args(["check", "-o", "json", "--all"]));
        output(keepline().arg("timeouts"));
    }
    let after = state();
    assert!(after == before, "before: {before:#?}\nafter: {after:#?}");
}

#[test]
fn what_is_not_there_is_named_with_what_is() {
    needs_root_and_nft!();
    let lab = Lab::up("near", &["--sessions", "1", "--tcp-timeout", "1h"]);
    let wrong = format!("{}x", lab.client);
    let (status, text) = output(keepline().args(["check", "--netns", &wrong]));
    assert_eq!(status, 2, "{text}");
    assert!(text.contains(&wrong) && text.contains(&lab.client), "{text}");
    for select in [
        ["--pid", "4194305"],
        ["--netns", "/proc/version"],
        ["--netns", "/proc/self/ns/mnt"],
        ["--container", "ffffffffffff"],
        ["--service", "db"],
    ] {
        let (status, text) = output(keepline().arg("check").args(select));
        assert_eq!(status, 2, "{select:?}: {text}");
        assert!(text.starts_with("keepline: error: "), "{text}");
    }
}

#[test]
fn without_rights_it_says_which_and_goes_on() {
    needs_root_and_nft!();
    // Where a user without rights can reach it.
    let copy = std::env::temp_dir().join(format!("kl-no-rights-{}", std::process::id()));
    // Not by our own hands: a test that forks meanwhile would hold the copy open for writing.
    assert_eq!(output(Command::new("cp").arg(env!("CARGO_BIN_EXE_keepline")).arg(&copy)).0, 0);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]);
    let (status, text) = output(command.arg(&copy).arg("check"));
    std::fs::remove_file(copy).unwrap();
    assert_eq!(status, 3, "{text}");
    assert!(text.contains("CAP_SYS_ADMIN") && text.contains("KL010"), "{text}");
}

#[test]
fn many_namespaces_are_each_looked_at() {
    needs_root_and_nft!();
    const MANY: usize = 300;
    let names: Vec<String> =
        (0..MANY).map(|number| format!("kl-many{}-{number}", std::process::id())).collect();
    for name in &names {
        assert_eq!(output(Command::new("ip").args(["netns", "add", name])).0, 0);
    }
    let json = run_for_json(&["check", "-o", "json"]);
    for name in &names {
        output(Command::new("ip").args(["netns", "delete", name]));
    }
    assert!(json["scan"]["namespaces"].as_u64().unwrap() > MANY as u64, "{:#}", json["scan"]);
    assert_eq!(json["scan"]["incomplete"], serde_json::json!([]));
}
