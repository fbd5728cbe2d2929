//! What needs IPVS and is no comparison with tools: hard cases, and the lab's own scenarios.

use std::time::Duration;

use keepline_swarm_tests::{Guest, Output, oracle, skip};
use serde_json::Value;

use crate::{
    compare::{entries, same_entries},
    story::guest,
};

/// Scenarios run for half a minute on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(300);

fn the_guest() -> &'static Guest {
    guest().unwrap_or_else(|error| panic!("{error}"))
}

fn keepline(arguments: &str) -> Output {
    the_guest().sh_within(&format!("/payload/keepline {arguments}"), PATIENCE).unwrap_or_else(
        |error| {
            let _ = the_guest().sh("/payload/keepline lab down --all");
            panic!("{error}")
        },
    )
}

fn json(arguments: &str) -> Value {
    let Output { stdout, stderr, .. } = keepline(arguments);
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"))
}

/// Labs use the same addresses, as Docker's overlay networks may: a session of one must never be
/// judged by the other's director. That the right director cannot be told may be said (KL013).
#[test]
fn networks_with_the_same_addresses_are_told_apart() {
    if skip("scenarios::networks_with_the_same_addresses_are_told_apart") {
        return;
    }
    // The one that remembers comes first, so that no order of names or inodes helps.
    json("lab up swarm --name keeps --sessions 4 --tcp-timeout 10m -o json");
    json("lab up swarm --name forgets --sessions 4 --tcp-timeout 5s -o json");
    the_guest()
        .ok("while nsenter --net=/run/netns/kl-forgets-lb ipvsadm -Lnc | grep -q ESTABLISHED
             do sleep 0.5; done")
        .unwrap();
    let forgets = json("check -o json --netns kl-forgets-client");
    let keeps = json("check -o json --netns kl-keeps-client");
    let all = json("check -o json");
    keepline("lab down --all");

    for check in [&forgets, &keeps, &all] {
        let sessions = check["sessions"].as_array().expect("sessions");
        assert!(sessions.len() >= 4, "{check:#}");
        for session in sessions {
            let keeps = session["netns"].as_str().is_some_and(|ns| ns.starts_with("kl-keeps-"));
            let ambiguous = session["findings"] == serde_json::json!(["KL013"]);
            let expected = match (ambiguous, keeps) {
                (true, _) => "unknown",
                (false, true) => "at-risk",
                (false, false) => "orphaned",
            };
            assert_eq!(session["verdict"], expected, "{session:#}");
        }
    }
}

/// Where somebody's backup daemon runs already (keepalived), `hold` speaks to that one, sends nothing
/// to its peers, and leaves it as it is.
#[test]
fn hold_respects_a_sync_daemon_that_runs() {
    if skip("scenarios::hold_respects_a_sync_daemon_that_runs") {
        return;
    }
    json("lab up swarm --name peer --sessions 4 --tcp-timeout 60s -o json");
    let director = |line: &str| {
        let script = format!("nsenter --net=/run/netns/kl-peer-lb {line}");
        the_guest().ok(&script).unwrap_or_else(|error| {
            let _ = the_guest().sh("/payload/keepline lab down --all");
            panic!("{error}")
        })
    };
    director("ipvsadm --start-daemon backup --mcast-interface eth0 --syncid 9");
    let daemons = director("ipvsadm -Ln --daemon");
    assert!(daemons.contains("eth0") && daemons.contains("syncid=9"), "{daemons}");
    // Whoever is on the director's network would hear what leaves it.
    the_guest()
        .ok("(nsenter --net=/run/netns/kl-peer-db1 timeout 60 python3 -c 'import socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x800))
print(\"listening\", flush=True)
while True:
    p = s.recv(2048)
    if p[16:20] == bytes([224, 0, 0, 81]): print(\"heard\", flush=True)' >/run/heard 2>&1 &)
             until grep -q listening /run/heard; do sleep 0.1; done")
        .unwrap();
    let held = keepline("apply hold --once --for 1h --netns kl-peer-lb --yes");
    let entries = director("ipvsadm -Lnc");
    let after = director("ipvsadm -Ln --daemon");
    let heard = the_guest().ok("cat /run/heard").unwrap();
    keepline("lab down --all");

    assert_eq!(held.status, 0, "{}{}", held.stdout, held.stderr);
    let long = entries.lines().filter(|line| line.contains(" 59:")).count();
    assert_eq!(long, 4, "{entries}");
    assert_eq!(after, daemons);
    assert_eq!(heard, "listening\n");
}

/// A Keepline that is killed while its sync receiver runs leaves that: it is told, and taken away by the
/// next guard, by `undo`, and by the next that uses it. Somebody else's stays.
#[test]
fn a_receiver_that_a_killed_one_left_is_taken_away() {
    if skip("scenarios::a_receiver_that_a_killed_one_left_is_taken_away") {
        return;
    }
    json("lab up swarm --name left --sessions 4 --tcp-timeout 60s -o json");
    let said = the_guest().sh_within(
        "PATH=/payload:$PATH
         director() { nsenter --net=/run/netns/kl-left-lb \"$@\"; }
         left() { director ipvsadm -Ln --daemon | grep -q 'mcast=lo, syncid=75,'; }
         is_left() { left || { echo \"nothing is left: $1\"; exit 1; }; }
         # It waits for its receiver, which hears nothing.
         director iptables -I INPUT -d 224.0.0.81 -j DROP
         killed() {
             keepline apply \"$@\" --netns kl-left-lb --yes >/run/killed 2>&1 & pid=$!
             for i in $(seq 100); do left && break; sleep 0.1; done
             kill -9 $pid; wait $pid; is_left \"$*\"
         }
         killed rehash
         keepline status; keepline status -o json; keepline undo --dry-run
         keepline undo timeout --yes; keepline undo --netns kl-left-db1 --yes; is_left 'not meant'
         keepline undo hold --netns kl-left-lb --yes; left && exit 2
         keepline undo --yes

         killed hold --once --for 1h
         keepline guard --once 2>&1; left && exit 3
         killed hold --once --for 1h
         director iptables -D INPUT -d 224.0.0.81 -j DROP
         keepline apply hold --once --for 1h --netns kl-left-lb --yes; left && exit 4
         director ipvsadm --start-daemon backup --mcast-interface lo --syncid 9
         keepline status; keepline undo --yes
         director ipvsadm -Ln --daemon",
        PATIENCE,
    );
    keepline("lab down --all");
    let said = said.unwrap_or_else(|error| panic!("{error}"));
    println!("{}{}", said.stdout, said.stderr);
    assert_eq!(said.status, 0, "{}", said.stderr);
    let said = &said.stdout;
    let left = r#""left":[{"netns":"kl-left-lb","object":"IPVS sync receiver on lo"}]"#;
    for words in [
        "left behind, by a Keepline that was killed",
        "  kl-left-lb: IPVS sync receiver on lo\n",
        left,
        "left by a Keepline that was killed → stopped",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(said.matches("undo: nothing to change.").count(), 3, "{said}");
    assert!(said.contains("Nothing is applied."), "{said}");
    assert!(
        said.trim_end().ends_with("syncid=9, maxlen=65507, group=224.0.0.81, port=8848, ttl=1)")
    );
}

/// Who says no to `direct`, or goes away without a word, leaves nothing in the kernel; who says yes does.
/// What was begun for everything is followed for everything.
#[test]
fn direct_begins_with_consent() {
    if skip("scenarios::direct_begins_with_consent") {
        return;
    }
    json("lab up swarm --name consent --sessions 2 --tcp-timeout 10m -o json");
    let said = the_guest().sh_within(
        "PATH=/payload:$PATH
         answer() {
             (sleep 1; printf \"$1\"; sleep 5) | script --quiet --return --command \
                 'keepline apply direct --once --netns kl-consent-client' /dev/null
             echo \"ended with $?\"
             ls /sys/fs/bpf/keepline 2>/dev/null | wc -l
             keepline status
         }
         answer 'n\\n'; answer '\\004'
         answer 'y\\n'
         keepline undo --yes

         keepline apply direct --yes >/run/followed 2>&1 & follower=$!
         for i in $(seq 100); do grep -q 'following' /run/followed && break; sleep 0.1; done
         before=$(keepline status); sleep 10
         [ \"$(keepline status)\" = \"$before\" ] && echo 'as at first'
         kill -INT $follower; wait $follower; cat /run/followed; keepline undo --yes",
        PATIENCE,
    );
    keepline("lab down --all");
    let said = said.unwrap_or_else(|error| panic!("{error}")).stdout.replace('\r', "");
    println!("{said}");
    let parts: Vec<&str> = said.split("Do this? [y/N]").collect();
    assert_eq!(parts.len(), 4, "{said}");
    for refused in &parts[1..3] {
        assert!(refused.contains("keepline: nothing was changed"), "{refused}");
        assert!(refused.contains("ended with 1\n0\nNothing is applied."), "{refused}");
    }
    assert!(parts[3].contains("ended with 0"), "{said}");
    assert!(parts[3].contains("direct: since"), "{said}");
    assert!(parts[3].contains("as at first"), "who follows changes nothing of itself: {said}");
}

/// The receiver is started and stopped while others use the processors: its thread, and the softirq that
/// brings what it is told, come late then. Nothing is lost, and nothing hangs.
#[test]
fn hold_takes_on_a_busy_machine() {
    if skip("scenarios::hold_takes_on_a_busy_machine") {
        return;
    }
    // More than one datagram holds.
    json("lab up swarm --name busy --sessions 300 --tcp-timeout 60s -o json");
    let script = "
        for i in 1 2 3 4 5 6; do (exec timeout 300 sh -c 'while :; do :; done') & done
        for hours in 1 2 3 4 5 6 7 8 9 10; do
            timeout 60 /payload/keepline apply hold --once --for ${hours}h --netns kl-busy-lb --yes >/run/held 2>&1 ||
                { echo \"$hours: $?\"; cat /run/held; }
            nsenter --net=/run/netns/kl-busy-lb ipvsadm -Ln --daemon
        done
        kill $(jobs -p)
        nsenter --net=/run/netns/kl-busy-lb ipvsadm -Lnc | grep -c ' 599:'";
    let said = the_guest().sh_within(script, PATIENCE);
    keepline("lab down --all");
    let said = said.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(said.stdout.trim(), "300", "{}", said.stderr);
}

/// This kernel lists a long table in quadratic time: it is walked. That says what `ipvsadm` says, also
/// when conntrack, which would stand in for it, has been emptied; and who is forgotten is found.
#[test]
fn a_long_table_is_walked() {
    const SESSIONS: usize = 6;
    if skip("scenarios::a_long_table_is_walked") {
        return;
    }
    json(&format!("lab up swarm --name long --sessions {SESSIONS} --tcp-timeout 2h -o json"));
    let remember = format!(
        "cat >/run/remember.py <<'END'\n{}END\n
         remember() {{ nsenter --net=/run/netns/kl-long-lb \
             python3 /run/remember.py 10.213.1.2:7000 10.213.1.11:7000 256; }}\n",
        include_str!("remember.py")
    );
    let director = |script: &str| {
        let script = format!("{remember}{script}");
        the_guest().ok_within(&script, PATIENCE).unwrap_or_else(|error| {
            let _ = the_guest().sh("/payload/keepline lab down --all");
            panic!("{error}")
        })
    };
    let tool = |command: &str| director(&format!("nsenter --net=/run/netns/kl-long-lb {command}"));
    let numbers = "for a in $(seq 84); do for p in $(seq 250); do echo 172.16.0.$a:$((p + 9999)) 3600; done; done";
    director(&format!("{numbers} | remember"));

    let before = tool("ipvsadm -Lnc");
    let captured = json("capture --netns kl-long-lb -");
    let after = tool("ipvsadm -Lnc");
    tool("conntrack -F");
    let emptied = json("check -o json --netns kl-long-client");
    let written = json("lab write --name long -o json");
    let held = keepline("apply hold --once --for 3h --netns kl-long-client --yes");
    let renewed = tool("ipvsadm -Lnc");
    // The lab's own have two seconds from now on.
    director(
        "ipvsadm() { nsenter --net=/run/netns/kl-long-lb ipvsadm -Lnc | grep ' 10.213.1.10:'; }
              ipvsadm | awk '{ print $4, 2 }' | remember
              while ipvsadm; do sleep 0.5; done",
    );
    let forgotten = keepline("check -o json --netns kl-long-client");
    keepline("lab down --all");

    let namespaces = captured["namespaces"].as_array().expect("namespaces");
    let captured = namespaces.iter().find(|it| it["name"] == "kl-long-lb").expect("the director");
    let ours = entries(&captured["ipvs"]);
    assert_eq!(ours.len(), 84 * 250 + SESSIONS);
    same_entries(&ours, &oracle::ipvs_entries(&before), &oracle::ipvs_entries(&after));
    assert_eq!(emptied["summary"]["safe"], SESSIONS, "{emptied:#}");
    assert_eq!(emptied["findings"], serde_json::json!([]), "{emptied:#}");
    assert_eq!(written["lost"], 0, "{written}");
    assert_eq!(held.status, 0, "{}{}", held.stdout, held.stderr);
    let long = oracle::ipvs_entries(&renewed).iter().filter(|(_, left)| *left > 7_200.0).count();
    assert_eq!(long, SESSIONS);
    let check: Value = serde_json::from_str(&forgotten.stdout).expect("JSON");
    assert_eq!(
        (&check["summary"]["orphaned"], forgotten.status),
        (&SESSIONS.into(), 1),
        "{check:#}"
    );
}

/// Thousands of sessions come and go while checks run. The timeout is long: in an emulated guest
/// some wait for their turn for seconds, and with a short one are orphaned in truth.
#[test]
fn churn_makes_no_false_orphan() {
    if skip("scenarios::churn_makes_no_false_orphan") {
        return;
    }
    let churn = keepline("lab run churn --layout swarm --tcp-timeout 5m --for 20s");
    assert_eq!(churn.status, 0, "{}{}", churn.stdout, churn.stderr);
    assert!(churn.stdout.contains(" 0 orphans reported"), "{}", churn.stdout);
}

/// The demo, on the layout that it has where the kernel has IPVS.
#[test]
fn the_demo_goes_as_told() {
    if skip("scenarios::the_demo_goes_as_told") {
        return;
    }
    // What a failed test left behind is not the demo's.
    keepline("lab down --all");
    let demo = keepline("lab demo");
    assert_eq!(demo.status, 0, "{}{}", demo.stdout, demo.stderr);
    assert!(demo.stdout.contains("KL001"), "{}", demo.stdout);
    assert_eq!(the_guest().ok("ls -A /run/netns").unwrap(), "", "namespaces left by the demo");
}
