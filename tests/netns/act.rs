//! What changes something: strategies and remedies on real sessions through conntrack, and the way
//! back.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use crate::{
    lab::{Lab, keepline, output, run_for_json},
    run::{Run, entries, in_netns, settings, wait_for},
};

fn summary(netns: &str) -> serde_json::Value {
    run_for_json(&["check", "--netns", netns, "-o", "json", "--all"])["summary"].clone()
}

#[test]
fn held_sessions_survive_four_timeouts_and_not_their_sockets() {
    needs_root_and_nft!();
    let run = Run::new("hold");
    let lab = Lab::up("hold", &["--sessions", "20", "--backends", "3", "--tcp-timeout", "6s"]);
    let mut hold = run
        .command(&["apply", "hold", "--netns", &lab.director, "--yes"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let check = || {
        let mut command = keepline();
        command.args(["check", "--netns", &lab.client, "-o", "json"]).env("KEEPLINE_RUN", &run.0);
        let output = command.output().unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    wait_for("the sessions are held", || check()["sessions"][0]["held"] == true);
    let status: serde_json::Value =
        serde_json::from_str(&run.done(&["status", "-o", "json"])).unwrap();
    assert_eq!(status["running"][0]["strategy"], "hold", "{status}");
    sleep(Duration::from_secs(4 * 6));
    let seen = check();
    assert_eq!(seen["summary"]["safe"], 20, "{}", seen["summary"]);
    assert_eq!(entries(&lab.director), 20);
    // A client that dies without a word: its sockets close, its entries are held no longer.
    mute(&lab);
    let pid = lab.client_pid.parse().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    wait_for("the entries of the dead client run out", || entries(&lab.director) == 0);
    let pid = rustix::process::Pid::from_raw(i32::try_from(hold.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(hold.wait().unwrap().code(), Some(0));
    assert!(!run.done(&["status"]).contains("hold"));
}

#[test]
fn what_is_gone_keeps_nobody_from_being_held() {
    needs_root_and_nft!();
    let run = Run::new("holdgone");
    let lab = Lab::up("holdstay", &["--sessions", "5", "--tcp-timeout", "8s"]);
    let gone = Lab::up("holdgo", &["--sessions", "1", "--tcp-timeout", "8s"]);
    let name = gone.director.clone();
    fs::create_dir_all(&run.0).unwrap();
    let log = run.0.join("log");
    let said = fs::File::create(&log).unwrap();
    let mut hold = run
        .command(&["apply", "hold", "--netns", &name, "--netns", &lab.director, "--yes"])
        .stdout(Stdio::null())
        .stderr(said)
        .spawn()
        .unwrap();
    let log = || fs::read_to_string(&log).unwrap();
    wait_for("it holds", || log().contains("keepline: holding"));
    drop(gone);
    wait_for("it is told", || log().contains(&format!("no network namespace `{name}`")));
    sleep(Duration::from_secs(20));
    assert_eq!(entries(&lab.director), 5, "{}", log());
    assert_eq!(log().matches("no network namespace").count(), 1, "told once: {}", log());
    let pid = rustix::process::Pid::from_raw(i32::try_from(hold.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(hold.wait().unwrap().code(), Some(0));
}

#[test]
fn twenty_forgotten_sessions_are_healed_to_the_backends_that_hold_them() {
    needs_root_and_nft!();
    let run = Run::new("heal");
    let lab = Lab::up("heal", &["--sessions", "20", "--backends", "3", "--tcp-timeout", "5s"]);
    wait_for("all are forgotten", || summary(&lab.client)["orphaned"] == 20);
    let text = run.done(&["heal", "--netns", &lab.director, "--dry-run"]);
    assert!(text.contains("20 entries in conntrack  20 made anew"), "{text}");
    assert_eq!(entries(&lab.director), 0, "a dry run changes nothing");
    run.done(&["heal", "--netns", &lab.director, "--yes"]);
    assert_eq!(entries(&lab.director), 20);
    let said = lab.write();
    assert!(said.contains("survived 20 lost 0"), "{said}");
}

#[test]
fn touch_renews_and_leaves_the_sockets_as_they_were() {
    needs_root_and_nft!();
    let run = Run::new("touch");
    let lab = Lab::up("touch", &["--sessions", "3", "--tcp-timeout", "20s"]);
    sleep(Duration::from_secs(4));
    let sockets = || in_netns(&lab.client, "ss -Htno state established | sort");
    let before = sockets();
    let text = run.done(&["touch", "--netns", &lab.client, "--yes"]);
    assert!(text.contains("3 sockets: 3 answered"), "{text}");
    assert_eq!(sockets(), before, "no timer, as before");
    let json = run_for_json(&["check", "--netns", &lab.client, "-o", "json"]);
    for session in json["sessions"].as_array().unwrap() {
        assert!(session["entry"]["expires_seconds"].as_f64().unwrap() > 15.0, "{session}");
    }
}

/// Drops whatever the clients of a lab send: nobody answers them.
fn mute(lab: &Lab) {
    in_netns(
        &lab.client,
        "nft add table ip mute; nft add chain ip mute out '{ type filter hook output priority 0; policy drop; }'",
    );
}

/// Killed while it waits for answers, in both namespaces at once.
#[test]
fn a_touch_that_is_killed_stands_and_undo_gives_the_settings_back() {
    needs_root_and_nft!();
    let run = Run::new("touched");
    let labs = ["t1", "t2"].map(|name| Lab::up(name, &["--sessions", "2", "--tcp-timeout", "90s"]));
    let shown = |lab: &Lab| in_netns(&lab.client, "ss -Htno state established | sort");
    let before = labs.each_ref().map(shown);
    labs.iter().for_each(mute);
    let select = ["--netns", &labs[0].client, "--netns", &labs[1].client];
    let mut touch = run
        .command(&[&["touch", "--yes"], &select[..]].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let probed = |lab: &Lab| shown(lab).matches("timer:(keepalive").count() == 2;
    wait_for("both are probed", || {
        assert_eq!(touch.try_wait().unwrap(), None, "it has ended");
        labs.iter().all(probed)
    });
    touch.kill().unwrap();
    touch.wait().unwrap();
    assert!(labs.iter().all(probed), "nobody has given them back");
    let status = run.done(&["status"]);
    assert!(status.contains("touch: since"), "{status}");
    run.done(&["undo", "--yes"]);
    assert_eq!(labs.each_ref().map(shown), before);
    assert_eq!(run.done(&["status"]), "Nothing is applied.\n");
}

/// A copy of each socket is an open file: the soft limit is raised, and the hard one named.
#[test]
fn many_sockets_are_touched_as_far_as_open_files_go() {
    needs_root_and_nft!();
    let run = Run::new("files");
    let lab = Lab::up("files", &["--sessions", "200", "--tcp-timeout", "90s"]);
    sleep(Duration::from_secs(2));
    let touch = |limit: &str| {
        let program = run.command(&[]).get_program().to_owned();
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={limit}")).arg(program);
        command.args(["touch", "--netns", &lab.client, "--yes"]).env("KEEPLINE_RUN", &run.0);
        output(&mut command)
    };
    let (status, text) = touch("100:100");
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("a process may have 100 open files"), "{text}");
    let (status, text) = touch("100:4096");
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("200 sockets: 200 answered"), "{text}");
    assert_eq!(run.done(&["status"]), "Nothing is applied.\n");
}

#[test]
fn abort_ends_both_ends_and_only_of_lost_sessions() {
    needs_root_and_nft!();
    let run = Run::new("abort");
    let lab = Lab::up("abort", &["--sessions", "4", "--tcp-timeout", "5s"]);
    let text = run.done(&["abort", "--netns", &lab.director, "--yes"]);
    assert!(text.contains("nothing to change"), "{text}");
    wait_for("all are forgotten", || summary(&lab.director)["orphaned"] == 4);
    let (status, text) = run.keepline(&["abort", "--netns", &lab.director]);
    assert_eq!(status, 2, "nobody to ask: {text}");
    assert!(text.contains("nothing was changed") && text.contains("--yes"), "{text}");
    assert_eq!(summary(&lab.director)["orphaned"], 4);
    run.done(&["abort", "--netns", &lab.director, "--yes"]);
    let after = summary(&lab.director);
    assert_eq!((&after["orphaned"], &after["at_risk"]), (&0.into(), &0.into()), "{after}");
}

#[test]
fn settings_are_byte_for_byte_as_before_after_undo() {
    needs_root_and_nft!();
    let run = Run::new("undo");
    let lab = Lab::up("undo", &["--sessions", "3", "--tcp-timeout", "9s"]);
    let all = || [settings(&lab.client), settings(&lab.director)].concat();
    let sockets = || in_netns(&lab.client, "ss -Htno state established | sort");
    let (before, sockets_before) = (all(), sockets());
    run.done(&["apply", "timeout", "--tcp", "2h", "--netns", &lab.director, "--yes"]);
    run.done(&["apply", "timeout", "--tcp", "3h", "--netns", &lab.director, "--yes"]);
    sleep(Duration::from_secs(10));
    assert_eq!(summary(&lab.client)["orphaned"], 0, "idle entries got the new time at once");
    run.done(&["apply", "keepalive", "--netns", &lab.director, "--idle", "2s", "--yes"]);
    assert_ne!(all(), before);
    let status = run.done(&["status"]);
    assert!(status.contains("timeout: since") && status.contains("in-force"), "{status}");
    let (code, text) = run.keepline(&["timeouts", "set", "--tcp", "3h", "--netns", &lab.director]);
    assert_eq!(code, 0, "nothing to do is done: {text}");
    run.done(&["undo", "--yes"]);
    assert_eq!(all(), before);
    assert_eq!(sockets(), sockets_before);
    assert_eq!(run.done(&["status"]), "Nothing is applied.\n");
    assert!(run.done(&["undo", "--yes"]).contains("nothing to change"));
}

#[test]
fn connections_to_come_get_keepalive_until_it_is_undone() {
    needs_root_and_nft!();
    let run = Run::new("tocome");
    let lab = Lab::up("tocome", &["--sessions", "1", "--tcp-timeout", "90s"]);
    let connect = "exec 3<>/dev/tcp/10.213.1.2/7000; \
                   ss -Htnop state established | grep \"pid=$$,\"";
    let timer = || in_netns(&lab.client, &format!("bash -c '{connect}'"));
    assert!(!timer().contains("keepalive"));
    let text = run.done(&["apply", "keepalive", "--netns", &lab.client, "--yes"]);
    assert!(text.contains("connections to come"), "{text}");
    assert!(timer().contains("timer:(keepalive,"), "{}", timer());
    let status = run.done(&["status"]);
    assert!(status.contains("connections to come") && !status.contains("drifted"), "{status}");
    run.done(&["undo", "--yes"]);
    assert!(!timer().contains("keepalive"));
    assert!(!run.pins().exists(), "nothing of it is left");
}

/// A namespace may have longer times than a socket can be given: back is then the longest.
#[test]
fn times_that_no_socket_takes_are_given_back_as_far_as_that_goes() {
    needs_root_and_nft!();
    let run = Run::new("longest");
    let lab = Lab::up("longest", &["--sessions", "2", "--tcp-timeout", "90s"]);
    in_netns(&lab.client, "sysctl -qw net.ipv4.tcp_keepalive_time=43200");
    run.done(&["apply", "keepalive", "--netns", &lab.client, "--idle", "20s", "--yes"]);
    let text = run.done(&["undo", "--yes"]);
    assert!(text.contains("2 set") && !text.contains("left alone"), "{text}");
    assert_eq!(in_netns(&lab.client, "sysctl -n net.ipv4.tcp_keepalive_time"), "43200\n");
    assert_eq!(run.done(&["status"]), "Nothing is applied.\n");
}

/// Connects, then sets longer times and switches keepalive off, and says what it has.
const OVERRIDES: &str = "
import socket
it = socket.create_connection(('10.213.1.2', 7000))
get = lambda: [it.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
               it.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)]
print(get(), end=' ')
it.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 7200)
it.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
print(get())
";

#[test]
fn programs_are_held_to_keepalive_unless_that_is_turned_off() {
    needs_root_and_nft!();
    let run = Run::new("enforce");
    let lab = Lab::up("enforce", &["--sessions", "1", "--tcp-timeout", "90s"]);
    let program = std::env::temp_dir().join(format!("keepline-{}.py", lab.client));
    fs::write(&program, OVERRIDES).unwrap();
    let overrides = || in_netns(&lab.client, &format!("python3 {}", program.display()));
    let apply = ["apply", "keepalive", "--netns", &lab.client, "--idle", "20s", "--yes"];
    run.done(&apply);
    assert_eq!(overrides(), "[1, 20] [1, 20]\n");
    // Turned off, in place of what stands, and back by undo; each is what it was asked to be.
    let text = run.done(&[&apply[..], &["--no-enforce"]].concat());
    let words: Vec<&str> = text.split_whitespace().collect();
    assert!(words.join(" ").contains("every 5s, not enforced"), "{text}");
    assert_eq!(overrides(), "[1, 20] [0, 7200]\n");
    let status = run.done(&["status"]);
    assert!(!status.contains("drifted"), "{status}");
    run.done(&["undo", "--yes"]);
    assert_eq!(overrides(), "[0, 7200] [0, 7200]\n");
    fs::remove_file(program).unwrap();
}

#[test]
fn what_somebody_else_has_changed_since_is_left_alone() {
    needs_root_and_nft!();
    let run = Run::new("drift");
    let lab = Lab::up("drift", &["--sessions", "1", "--tcp-timeout", "30s"]);
    run.done(&["apply", "timeout", "--tcp", "2h", "--netns", &lab.director, "--yes"]);
    in_netns(&lab.director, "sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_established=777");
    assert!(run.done(&["status"]).contains("drifted: it is 777 by now"));
    let (status, text) = run.keepline(&["undo", "--yes"]);
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("is 777 by now") && text.contains("left as it is"), "{text}");
    assert!(settings(&lab.director).contains("777"));
}

#[test]
fn a_namespace_that_was_rebuilt_is_not_touched() {
    needs_root_and_nft!();
    let run = Run::new("rebuilt");
    let name = format!("again{}", std::process::id());
    let up = || {
        let lab = ["lab", "up", "nat", "--name", &name, "--sessions", "1", "--tcp-timeout", "30s"];
        output(keepline().args(lab))
    };
    let down = || output(keepline().args(["lab", "down", "--name", &name]));
    assert_eq!(up().0, 0);
    let director = format!("kl-{name}-lb");
    run.done(&["apply", "timeout", "--tcp", "2h", "--netns", &director, "--yes"]);
    down();
    assert_eq!(up().0, 0);
    let fresh = settings(&director);
    let text = run.done(&["undo", "--yes"]);
    let after = settings(&director);
    down();
    assert!(text.contains("the network namespace is gone"), "{text}");
    assert_eq!(after, fresh);
    assert_eq!(run.done(&["status"]), "Nothing is applied.\n");
}

#[test]
fn killed_in_the_midst_the_way_back_is_known() {
    needs_root_and_nft!();
    let run = Run::new("kill");
    let labs: Vec<Lab> = (0..3)
        .map(|number| {
            Lab::up(&format!("kill{number}"), &["--sessions", "2", "--tcp-timeout", "60s"])
        })
        .collect();
    let all = || -> String { labs.iter().map(|lab| settings(&lab.director)).collect() };
    let before = all();
    let mut arguments = vec!["apply", "timeout", "--tcp", "2h", "--yes"];
    for lab in &labs {
        arguments.extend(["--netns", lab.director.as_str()]);
    }
    let (mut untouched, mut whole) = (0, 0);
    for round in 0..24 {
        let mut apply =
            run.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        sleep(Duration::from_millis(10 * round));
        apply.kill().unwrap();
        apply.wait().unwrap();
        let now = all();
        untouched += usize::from(now == before);
        whole += usize::from(now.matches("7200\n").count() > 3);
        run.done(&["undo", "--yes"]);
        assert_eq!(all(), before, "round {round}");
    }
    println!("{untouched} killed before the first change, {whole} after some, of 24");
}

#[test]
fn two_at_once_do_not_clash() {
    needs_root_and_nft!();
    let run = Run::new("lock");
    let lab = Lab::up("lock", &["--sessions", "1", "--tcp-timeout", "60s"]);
    run.done(&["undo", "--yes"]);
    let lock = run.0.join("lock");
    let other = held(&lock);
    let apply = ["apply", "timeout", "--tcp", "2h", "--netns", &lab.director, "--yes"];
    let (status, text) = run.keepline(&apply);
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("another Keepline (process"), "{text}");
    run.done(&["apply", "timeout", "--tcp", "2h", "--netns", &lab.director, "--dry-run"]);
    drop(other);
}

/// The lock, as another Keepline would have it.
fn held(lock: &Path) -> fs::File {
    let file = fs::File::open(lock).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    file
}

/// Ctrl-C ends a plan between two changes, and it is said how far it came.
#[test]
fn interrupted_it_says_what_was_not_begun() {
    needs_root_and_nft!();
    let run = Run::new("interrupted");
    let lab = Lab::up("interrupted", &["--sessions", "1", "--tcp-timeout", "60s"]);
    let before = settings(&lab.director);
    run.done(&["undo", "--yes"]);
    let lock = run.0.join("lock");
    // It waits for the lock when the signal comes, so that this comes before the first change.
    let other = held(&lock);
    let apply = run
        .command(&["apply", "timeout", "--tcp", "2h", "--netns", &lab.director, "--yes"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    sleep(Duration::from_secs(1));
    let pid = rustix::process::Pid::from_raw(i32::try_from(apply.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    drop(other);
    let output = apply.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("Done in part: 0 of 2 changes. 2 not begun: interrupted."), "{text}");
    assert_eq!(settings(&lab.director), before);
    assert_eq!(run.done(&["status"]), "Nothing is applied.\n");
}

#[test]
fn without_a_journal_nothing_is_changed() {
    needs_root_and_nft!();
    let run = Run::new("full");
    let lab = Lab::up("full", &["--sessions", "1", "--tcp-timeout", "60s"]);
    let before = settings(&lab.director);
    let apply = ["apply", "timeout", "--tcp", "2h", "--netns", &lab.director, "--yes"];
    let small = Small::mount(&run);
    small.fill();
    let (status, text) = run.keepline(&apply);
    drop(small);
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    assert_eq!(settings(&lab.director), before);

    let (status, text) = output(
        Command::new("setpriv")
            .args(["--reuid", "65534", "--clear-groups", env!("CARGO_BIN_EXE_keepline")])
            .args(apply)
            .env("KEEPLINE_RUN", "/run/keepline-test-denied"),
    );
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("Permission denied") && text.contains("root"), "{text}");
    assert_eq!(settings(&lab.director), before);
}

/// A small file system for the journal of a test.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(run: &'a Run) -> Self {
        fs::create_dir_all(&run.0).unwrap();
        let (status, text) = output(
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=16k", "none"]).arg(&run.0),
        );
        assert_eq!(status, 0, "{text}");
        Self(&run.0)
    }

    /// Fills it up. Files that are there already can grow to the end of their page.
    fn fill(&self) {
        let _ = fs::write(self.0.join("fill"), vec![b'x'; 64 << 10]);
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("fill")).unwrap();
    }

    /// Makes the journal so long, by a record of nothing.
    fn pad(&self, length: usize) {
        let path = self.0.join("journal");
        let mut text = fs::read_to_string(&path).unwrap_or_default();
        text.push_str(r#"{"record":"done","id":0,"step":0,"error":null}"#);
        let room = length - text.len() - 1;
        fs::write(path, text + &" ".repeat(room) + "\n").unwrap();
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        output(Command::new("umount").arg(self.0));
    }
}

const PAGE: usize = 4096;

/// Wherever the journal ends for want of space: what was not made is said, and what was is known.
#[test]
fn a_journal_that_is_full_in_the_midst_leaves_nothing_unsaid() {
    needs_root_and_nft!();
    let run = Run::new("midst");
    let lab = Lab::up("midst", &["--sessions", "1", "--tcp-timeout", "60s"]);
    let before = settings(&lab.director);
    let apply = ["apply", "timeout", "--tcp", "2h", "--netns", &lab.director, "--yes"];
    let (mut refused, mut not_begun, mut no_end) = (0, 0, 0);
    // Less than the shortest record, the end of a change.
    const STEP: usize = 35;
    for room in (0..1100).step_by(STEP) {
        let small = Small::mount(&run);
        fs::write(run.0.join("lock"), "x").unwrap();
        small.pad(PAGE - room);
        small.fill();
        let (status, text) = run.keepline(&apply);
        let now = settings(&lab.director);
        match status {
            2 => {
                assert_eq!(now, before, "{text}");
                assert!(text.contains("No space left on device"), "{text}");
                refused += 1;
            }
            1 => {
                assert_ne!(now, before, "{text}");
                assert!(text.contains("To take it back: keepline undo timeout"), "{text}");
                no_end += usize::from(text.contains("made, but its end could not be written"));
                not_begun += usize::from(text.contains("not made, since it could not be written"));
            }
            _ => assert_eq!(status, 0, "{text}"),
        }
        small.make_room();
        run.done(&["undo", "--yes"]);
        assert_eq!(settings(&lab.director), before, "{room}: {text}");
        assert_eq!(run.done(&["status"]), "Nothing is applied.\n", "{room}: {text}");
    }
    let seen = [refused, not_begun, no_end];
    assert!(seen.iter().all(|it| *it > 0), "{seen:?}");
}

#[test]
fn what_is_taken_back_and_cannot_be_written_down_is_found_so() {
    needs_root_and_nft!();
    let run = Run::new("unwritten");
    let lab = Lab::up("unwritten", &["--sessions", "1", "--tcp-timeout", "60s"]);
    let before = settings(&lab.director);
    let small = Small::mount(&run);
    run.done(&["apply", "timeout", "--tcp", "2h", "--netns", &lab.director, "--yes"]);
    assert_ne!(settings(&lab.director), before);
    small.pad(PAGE);
    small.fill();
    let (status, text) = run.keepline(&["undo", "--yes"]);
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("made, but its end could not be written down"), "{text}");
    assert_eq!(settings(&lab.director), before, "{text}");
    let status = run.done(&["status"]);
    assert!(status.contains("as-before"), "{status}");
    small.make_room();
    run.done(&["undo", "--yes"]);
    assert_eq!(settings(&lab.director), before);
    assert_eq!(run.done(&["status"]), "Nothing is applied.\n");
}
