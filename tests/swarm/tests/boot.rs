//! The proving ground itself: a guest boots, has what the tests need, and its output arrives
//! whole.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use keepline_swarm_tests::{Error, Guests, skip};

/// One guest for all tests of this file, with one file as its payload.
fn guests() -> &'static Guests {
    static GUESTS: OnceLock<Guests> = OnceLock::new();
    GUESTS.get_or_init(|| {
        let payload = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(payload.path().join("hello"), "from outside\n").expect("payload");
        Guests::boot(1, Some(payload.path())).expect("boot")
    })
}

#[test]
fn a_guest_boots_with_ipvs_and_the_tools() {
    if skip("a_guest_boots_with_ipvs_and_the_tools") {
        return;
    }
    let guest = guests().node(1);
    assert_eq!(guest.ok("cat /payload/hello").unwrap(), "from outside\n");
    let ipvs = guest.ok("cat /proc/net/ip_vs").unwrap();
    assert!(ipvs.starts_with("IP Virtual Server version"), "{ipvs}");
    guest.ok("ipvsadm -A -f 1 -s mh -b mh-port && ipvsadm -D -f 1").unwrap();
    for tool in ["docker", "dockerd", "ipvsadm", "conntrack", "iptables", "nft", "ss", "ip"] {
        guest.ok(&format!("command -v {tool}")).unwrap();
    }
    for tool in ["python3", "busybox", "bpftool", "tcpdump", "curl"] {
        guest.ok(&format!("command -v {tool}")).unwrap();
    }
}

#[test]
fn two_megabytes_of_output_arrive_whole() {
    if skip("two_megabytes_of_output_arrive_whole") {
        return;
    }
    let guest = guests().node(1);
    let output = guest.sh("seq -w 1 262144; echo done >&2; exit 3").unwrap();
    assert_eq!((output.status, output.stderr.as_str()), (3, "done\n"));
    let expected: String = (1..=262_144).map(|number| format!("{number:06}\n")).collect();
    assert_eq!(output.stdout.len(), expected.len());
    assert!(output.stdout == expected, "the bytes differ");
}

#[test]
fn a_command_that_hangs_is_ended_and_the_guest_lives_on() {
    if skip("a_command_that_hangs_is_ended_and_the_guest_lives_on") {
        return;
    }
    let guest = guests().node(1);
    let started = Instant::now();
    let error = guest.sh_within("echo before; sleep 60", Duration::from_secs(2)).unwrap_err();
    assert!(matches!(&error, Error::Timeout { output, .. } if output == "before\n"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(guest.ok("echo alive").unwrap(), "alive\n");
    let error = guest.ok("echo why >&2; false").unwrap_err();
    assert!(matches!(&error, Error::Command { status: 1, output, .. } if output == "why\n"));
}

#[test]
fn a_guest_that_dies_is_reported_with_its_console() {
    if skip("a_guest_that_dies_is_reported_with_its_console") {
        return;
    }
    let guests = Guests::boot(1, None).unwrap();
    let guest = guests.node(1);
    let error = guest
        .sh("echo 'the last words' >/dev/console; sleep 1; echo b >/proc/sysrq-trigger; sleep 9")
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("the machine ended") && text.contains("the last words"), "{text}");
    assert!(matches!(guest.sh("true").unwrap_err(), Error::Guest { .. }));
}

#[test]
fn a_guest_that_dies_before_the_test_is_made_once_more() {
    if skip("a_guest_that_dies_before_the_test_is_made_once_more") {
        return;
    }
    let attempts = Cell::new(0);
    let prepare = |times: u32| {
        let attempts = &attempts;
        move |guests: &Guests| {
            attempts.set(attempts.get() + 1);
            let dies = attempts.get() <= times;
            guests
                .node(1)
                .ok(if dies { "echo c >/proc/sysrq-trigger; sleep 9" } else { "true" })
                .map(drop)
        }
    };
    let guests = Guests::prepared(1, None, prepare(1)).expect("the second machine lives");
    assert_eq!(
        (attempts.take(), guests.node(1).ok("echo alive").unwrap().as_str()),
        (2, "alive\n")
    );
    drop(guests);
    let error = Guests::prepared(1, None, prepare(2)).expect_err("both machines have died");
    let text = error.to_string();
    assert!(text.contains("the machine ended") && text.contains("Call Trace"), "{text}");
    attempts.set(0);
    let failing = |guests: &Guests| {
        attempts.set(attempts.get() + 1);
        guests.node(1).ok("false").map(drop)
    };
    let error = Guests::prepared(1, None, failing).expect_err("what fails is not tried again");
    assert!(matches!(error, Error::Command { .. }) && attempts.get() == 1, "{error}");
}
