//! The files for containers: that their readers understand them, that they give the same rights for the same reasons, and
//! what must be mounted how.

use std::{collections::BTreeSet, fs, process::Command};

use serde_json::Value;

use crate::{
    tools::{Folder, KEEPLINE, repository, run, strings, text, tool, yaml},
    unit,
};

const COMPOSE: &str = "packaging/compose.yml";
const STACK: &str = "packaging/swarm/stack.yml";
pub const LAUNCHER: &str = "packaging/swarm/launcher.yml";
const DAEMONSET: &str = "packaging/kubernetes/daemonset.yaml";

/// Those of the unit, as containers call them; without that for the group of the control socket.
pub fn capabilities() -> BTreeSet<String> {
    let all = unit::capabilities();
    let names = all.iter().map(|it| it.strip_prefix("CAP_").unwrap().to_owned());
    names.filter(|name| name != "CHOWN").collect()
}

fn set(list: &Value) -> BTreeSet<String> {
    strings(list).into_iter().collect()
}

/// The manifest of a kind.
fn manifest(kind: &str) -> Value {
    let all = yaml(DAEMONSET);
    all.into_iter().find(|it| it["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

/// What an older docker command makes of a file before it finds nobody to deploy it to. It wants a
/// version, which newer ones call obsolete.
fn deployed_nowhere(file: &str) -> (bool, String) {
    let folder = Folder::new();
    let copy = folder.0.join("file.yml");
    let version = if text(file).contains("\nversion:") { "" } else { "version: \"3.8\"\n" };
    fs::write(&copy, format!("{version}{}", text(file))).unwrap();
    let (_, said) = run(tool("docker")
        .args(["--host", "unix:///nonexistent/docker.sock", "stack", "deploy", "--compose-file"])
        .arg(&copy)
        .arg("keepline"));
    (said.contains("unix:///nonexistent/docker.sock"), said)
}

#[test]
fn docker_understands_all_three() {
    needs!("docker");
    let knows_config =
        run(tool("docker").args(["stack", "config", "--help"])).1.contains("--compose-file");
    for file in [COMPOSE, STACK, LAUNCHER] {
        let (well, said) = if knows_config {
            run(tool("docker").args(["stack", "config", "--compose-file"]).arg(repository(file)))
        } else {
            deployed_nowhere(file)
        };
        assert!(well, "{file}: {said}");
    }
}

#[test]
fn the_same_rights_everywhere() {
    needs!("yaml");
    for (file, service) in [(COMPOSE, "guard"), (STACK, "guard")] {
        let guard = &yaml(file)[0]["services"][service];
        assert_eq!(set(&guard["cap_add"]), capabilities(), "{file}");
        assert_eq!(strings(&guard["cap_drop"]), ["ALL"], "{file}");
        assert_eq!(guard["read_only"], true, "{file}");
        assert!(guard["privileged"].is_null() && guard["ports"].is_null(), "{file}");
    }
    let guard = &manifest("DaemonSet")["spec"]["template"]["spec"]["containers"][0];
    let context = &guard["securityContext"];
    assert_eq!(set(&context["capabilities"]["add"]), capabilities());
    assert_eq!(strings(&context["capabilities"]["drop"]), ["ALL"]);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert!(context["privileged"].is_null() && guard["ports"].is_null());
}

#[test]
fn on_one_host_nothing_is_missing() {
    needs!("yaml");
    let guard = &yaml(COMPOSE)[0]["services"]["guard"];
    assert_eq!((&guard["network_mode"], &guard["pid"]), (&"host".into(), &"host".into()));
    let volumes = strings(&guard["volumes"]);
    for volume in [
        // Namespaces that come later.
        "/run:/run:ro,rslave",
        "/run/keepline:/run/keepline",
        "/sys/fs/bpf:/sys/fs/bpf",
        "/sys/fs/cgroup:/sys/fs/cgroup:ro",
    ] {
        assert!(volumes.iter().any(|it| it == volume), "{volume}");
    }
    let options = strings(&guard["security_opt"]);
    assert_eq!(
        options,
        ["no-new-privileges=true", "apparmor=unconfined", "systempaths=unconfined"]
    );
    assert!(repository("packaging").join("config.toml").exists());
}

#[test]
fn a_service_says_what_it_cannot_do() {
    needs!("yaml");
    let stack = &yaml(STACK)[0];
    let guard = &stack["services"]["guard"];
    assert_eq!(guard["deploy"]["mode"], "global");
    assert_eq!(stack["networks"]["host"]["name"], "host");
    let mounts = guard["volumes"].as_array().unwrap();
    let run = mounts.iter().find(|mount| mount["source"] == "/run").unwrap();
    assert_eq!(run["bind"]["propagation"], "rslave");
    assert!(run["read_only"].is_null(), "the journal is written there");
    // What Swarm would leave out without a word.
    for ignored in ["pid", "security_opt", "userns_mode", "network_mode", "restart"] {
        assert!(guard[ignored].is_null(), "{ignored}");
    }
    let head = text(STACK);
    let head = head.split("\nversion:").next().unwrap();
    for word in ["does not work:", "rehash", "names of processes", "launcher.yml"] {
        assert!(head.contains(word), "{word}");
    }
}

#[test]
fn in_a_cluster_it_asks_nobody_and_is_asked_on_loopback() {
    needs!("yaml");
    let set = manifest("DaemonSet");
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(
        set["spec"]["selector"]["matchLabels"],
        set["spec"]["template"]["metadata"]["labels"]
    );
    assert_eq!((&pod["hostNetwork"], &pod["hostPID"]), (&true.into(), &true.into()));
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["serviceAccountName"], manifest("ServiceAccount")["metadata"]["name"]);
    let guard = &pod["containers"][0];
    for probe in ["startupProbe", "livenessProbe"] {
        let get = &guard[probe]["httpGet"];
        assert_eq!((&get["host"], &get["path"]), (&"127.0.0.1".into(), &"/healthz".into()));
    }
    let volumes: BTreeSet<&str> =
        pod["volumes"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    let mounts = guard["volumeMounts"].as_array().unwrap();
    let mounted: BTreeSet<&str> = mounts.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(volumes, mounted);
    let netns = mounts.iter().find(|it| it["mountPath"] == "/run/netns").unwrap();
    assert_eq!(netns["mountPropagation"], "HostToContainer");
    for object in yaml(DAEMONSET).iter().filter(|it| it["kind"] != "Namespace") {
        assert_eq!(object["metadata"]["namespace"], manifest("Namespace")["metadata"]["name"]);
        // No rights at the API server.
        assert!(!object["kind"].as_str().unwrap().contains("Role"));
    }
}

#[test]
fn the_image_holds_the_program_alone() {
    let file = text("packaging/container/Dockerfile");
    let steps: Vec<&str> = file
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .filter(|line| !line.starts_with("LABEL"))
        .collect();
    assert_eq!(
        steps,
        [
            "FROM scratch",
            "COPY keepline /keepline",
            "USER 0:0",
            "STOPSIGNAL SIGTERM",
            "ENTRYPOINT [\"/keepline\"]",
            "CMD [\"guard\"]"
        ]
    );
}

#[test]
fn versions_of_images_are_that_of_the_program() {
    for file in
        [COMPOSE, STACK, LAUNCHER, DAEMONSET, "packaging/container/Dockerfile", "docs/guard.md"]
    {
        let image = concat!("keepline:", env!("CARGO_PKG_VERSION"));
        let text = text(file);
        let named: Vec<&str> =
            text.match_indices("keepline:0").map(|(at, _)| &text[at..at + image.len()]).collect();
        assert!(!named.is_empty() && named.iter().all(|it| *it == image), "{file}: {named:?}");
    }
}

#[test]
fn docker_takes_the_program_as_its_own_command() {
    needs!("docker");
    let folder = Folder::new();
    let plugins = folder.0.join("cli-plugins");
    fs::create_dir(&plugins).unwrap();
    std::os::unix::fs::symlink(KEEPLINE, plugins.join("docker-keepline")).unwrap();
    let docker = |arguments: &[&str]| -> (bool, String) {
        run(tool("docker").arg("--config").arg(&folder.0).args(arguments))
    };
    let (well, said) = docker(&["keepline", "explain", "KL001"]);
    assert!(well, "{said}");
    assert_eq!(said, run(Command::new(KEEPLINE).args(["explain", "KL001"])).1);
    assert!(docker(&["--help"]).1.contains("keepline*"));
}
