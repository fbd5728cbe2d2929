//! What the package's scripts do on a node: with programs that only say how they were called, in a mount namespace whose
//! `/run` is its own.

use std::process::Command;

use crate::tools::{Folder, repository, run, tool};

/// What a script did.
struct Did {
    well: bool,
    said: String,
    /// Calls of the programs it uses, in order.
    calls: String,
    /// What is in `/run` then.
    left: String,
}

/// Runs a script as dpkg does, on a node with systemd; `undo` is the exit status of keepline, none: nothing was applied.
fn script(name: &str, arguments: &str, undo: Option<u8>) -> Did {
    let folder = Folder::new();
    let say = "#!/bin/sh\necho \"$(basename \"$0\") $*\" >>\"$CALLS\"\n";
    for program in ["deb-systemd-invoke", "deb-systemd-helper", "systemctl", "addgroup", "delgroup"]
    {
        folder.script(program, say);
    }
    folder.script("getent", "#!/bin/sh\nexit 2\n");
    folder.script("keepline", &format!("{say}exit {}\n", undo.unwrap_or(0)));
    let prepare =
        if undo.is_some() { "mkdir /run/keepline; echo {} >/run/keepline/journal" } else { ":" };
    let shell = format!(
        "mount -t tmpfs none /run && mkdir -p /run/systemd/system && {prepare}\n\
         status=0; sh '{}' {arguments} || status=$?\n\
         ls /run >\"$LEFT\"; exit $status",
        repository("packaging/debian").join(name).display()
    );
    let path = format!("{}:{}", folder.0.display(), "/usr/sbin:/usr/bin:/sbin:/bin");
    let (well, said) = run(Command::new("unshare")
        .args(["--mount", "sh", "-c", &shell])
        .env("PATH", path)
        .env("CALLS", folder.0.join("calls"))
        .env("LEFT", folder.0.join("left")));
    Did { well, said, calls: folder.read("calls"), left: folder.read("left") }
}

#[test]
fn all_are_shell() {
    for name in ["postinst", "prerm", "postrm"] {
        let (well, said) = run(tool("sh").arg("-n").arg(repository("packaging/debian").join(name)));
        assert!(well, "{name}: {said}");
    }
}

#[test]
fn removal_stops_the_guard_then_takes_back_what_was_applied() {
    needs!("root", "unshare");
    let did = script("prerm", "remove", Some(0));
    assert!(did.well, "{}", did.said);
    assert_eq!(did.calls, "deb-systemd-invoke stop keepline.service\nkeepline undo --yes\n");
    assert_eq!(did.left, "systemd\n");
    // Somebody has changed a setting since: that was said, and is no reason to stay. The journal still tells.
    let did = script("prerm", "remove", Some(1));
    assert!(did.well && did.left.contains("keepline"), "{}", did.said);
    // Nothing could be taken back: the program is still needed, and the guard runs again.
    let did = script("prerm", "remove", Some(2));
    assert!(!did.well && did.said.contains("the package stays"), "{}", did.said);
    assert!(did.left.contains("keepline"));
    let did = script("postinst", "abort-remove", Some(2));
    assert!(did.calls.contains("deb-systemd-invoke start keepline.service"), "{}", did.calls);
    // Nothing was ever applied, as in a chroot.
    assert!(!script("prerm", "remove", None).calls.contains("undo"));
}

#[test]
fn an_upgrade_takes_nothing_back_and_restarts_the_guard_once() {
    needs!("root", "unshare");
    let did = script("prerm", "upgrade 0.2.0", Some(0));
    assert!(did.well && did.calls.is_empty(), "{}", did.calls);
    assert!(script("postrm", "upgrade 0.2.0", Some(0)).calls.is_empty());
    let did = script("postinst", "configure 0.1.0", Some(0));
    assert!(did.well, "{}", did.said);
    let acts: Vec<&str> =
        did.calls.lines().filter(|line| line.starts_with("deb-systemd-invoke")).collect();
    assert_eq!(acts, ["deb-systemd-invoke restart keepline.service"]);
    assert!(did.left.contains("keepline"));
}

#[test]
fn the_first_installation_makes_the_group_and_starts_the_guard() {
    needs!("root", "unshare");
    let did = script("postinst", "configure", None);
    assert!(did.well, "{}", did.said);
    assert!(did.calls.starts_with("addgroup --quiet --system keepline\n"), "{}", did.calls);
    assert!(did.calls.contains("deb-systemd-helper enable keepline.service\n"), "{}", did.calls);
    assert!(did.calls.ends_with("deb-systemd-invoke start keepline.service\n"), "{}", did.calls);
}

#[test]
fn purging_leaves_nothing() {
    needs!("root", "unshare");
    let did = script("postrm", "purge", Some(0));
    assert!(did.well, "{}", did.said);
    assert_eq!(did.left, "systemd\n");
    assert!(did.calls.contains("delgroup --quiet --system keepline\n"), "{}", did.calls);
    assert!(!script("postrm", "remove", Some(0)).calls.contains("delgroup"));
}
