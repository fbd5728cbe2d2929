//! The launcher's script, with a `docker` that only says how it was called.

use std::{
    collections::BTreeSet,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    containers::{LAUNCHER, capabilities},
    tools::{Folder, run, strings, tool, yaml},
};

/// Runs until it is stopped, or `ENDS` says with which status it ends.
const DOCKER: &str = "#!/bin/sh
echo \"$@\" >>\"$FOLDER/calls\"
case $1 in
run) [ -z \"$ENDS\" ] || exit \"$ENDS\"
    n=0; while [ ! -e \"$FOLDER/stopped\" ] && [ $n -lt 200 ]; do sleep 0.05; n=$((n + 1)); done ;;
stop) : >\"$FOLDER/stopped\" ;;
esac
";

fn script() -> (Vec<String>, String) {
    let launcher = &yaml(LAUNCHER)[0]["services"]["launcher"];
    let command = strings(&launcher["command"]);
    assert_eq!(command.len(), 1);
    // As Compose writes a dollar.
    (strings(&launcher["entrypoint"]), command[0].replace("$$", "$"))
}

fn launch(folder: &Folder, ends: &str) -> Child {
    folder.script("docker", DOCKER);
    let (entrypoint, script) = script();
    Command::new(&entrypoint[0])
        .args(&entrypoint[1..])
        .arg(script)
        .env("PATH", format!("{}:/usr/bin:/bin", folder.0.display()))
        .env("FOLDER", &folder.0)
        .env("ENDS", ends)
        .env("KEEPLINE_IMAGE", "keepline:test")
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_launcher_that_is_stopped_stops_its_guard() {
    needs!("yaml");
    let folder = Folder::new();
    let mut launcher = launch(&folder, "");
    let patience = Instant::now() + Duration::from_secs(10);
    while !folder.read("calls").contains("run ") {
        assert!(Instant::now() < patience, "{}", folder.read("calls"));
        sleep(Duration::from_millis(20));
    }
    let pid = Pid::from_raw(i32::try_from(launcher.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert!(launcher.wait().unwrap().success());
    let calls = folder.read("calls");
    let calls: Vec<&str> = calls.lines().collect();
    assert_eq!(calls.len(), 4, "{calls:?}");
    assert_eq!(calls[0], "rm --force keepline-guard");
    assert!(calls[1].ends_with(" keepline:test guard"), "{calls:?}");
    assert_eq!(calls[2], "stop -t 25 keepline-guard");
    assert_eq!(calls[3], "rm --force keepline-guard");
}

#[test]
fn a_guard_that_ends_ends_its_launcher_so_that_swarm_starts_both_again() {
    needs!("yaml");
    for ends in ["0", "2"] {
        let folder = Folder::new();
        assert_eq!(launch(&folder, ends).wait().unwrap().code(), Some(1));
    }
}

#[test]
fn it_starts_the_guard_with_the_rights_of_the_compose_file() {
    needs!("yaml");
    let (_, script) = script();
    let words: Vec<&str> = script.split_whitespace().collect();
    let after = |option: &str| -> Vec<&str> {
        words.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1]).collect()
    };
    let given = after("--cap-add").into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(given, capabilities());
    let compose = &yaml("packaging/compose.yml")[0]["services"]["guard"];
    assert_eq!(after("--security-opt"), strings(&compose["security_opt"]));
    let volumes = after("--volume");
    for volume in strings(&compose["volumes"]) {
        let own_policy = volume.starts_with("./config.toml");
        assert!(own_policy || volumes.contains(&volume.as_str()), "{volume}");
    }
}

#[test]
fn docker_understands_how_it_is_called() {
    needs!("yaml", "docker");
    let (_, script) = script();
    let call = script.split("docker run ").nth(1).unwrap().split(" &\n").next().unwrap();
    let call = call
        .replace("\\\n", " ")
        .replace("\"$guard\"", "guard")
        .replace("\"$KEEPLINE_IMAGE\"", "image");
    let (_, said) = run(tool("docker")
        .args(["--host", "unix:///nonexistent/docker.sock", "run"])
        .args(call.split_whitespace()));
    // Every option was read; then there was nobody to ask.
    assert!(said.contains("unix:///nonexistent/docker.sock"), "{said}");
}
