//! The unit under a real systemd, in a container of its own that shares nothing but `/usr`: whether Keepline can work in the
//! sandbox that the unit makes, and what it cannot do there. In place of the guard, a script runs what the guard does.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use crate::tools::{Folder, KEEPLINE, run, text};

/// In the sandbox. `@@ WORDS`: how each of them ended.
const INSIDE: &str = r#"
try() { echo "-- $*"; status=0; "$@" || status=$?; echo "@@ $status $*"; }
wait_for() { n=0; until "$@" || [ $n -gt 200 ]; do sleep 0.1; n=$((n + 1)); done; }
gone() { ! [ -e /opt/out/go ]; }
keepline() { /opt/keepline "$@"; }
grep CapEff: /proc/self/status
# Namespaces that are made when the sandbox stands already.
wait_for test -e /opt/out/go
try keepline check --horizon 3h
try keepline apply hold --once --for 3h --yes
try keepline apply timeout --tcp 3h --yes
try keepline apply keepalive --netns kl-t-client --yes
try keepline check --horizon 30m
try keepline undo --yes
try keepline guard --once --log text
try keepline status
try grep -q '[1-9a-f].* tcp_v4_connect' /proc/kallsyms
try dmesg
try unshare --net true
try unshare --mount true
try nsenter --target 1 --mount true
try mount -t tmpfs none /mnt
try chroot / true
try touch /etc/nothing
try touch /usr/nothing
try touch /run/keepline/something
echo "@@ first part done"
wait_for gone
echo "@@ $(grep -c ' /run/netns/kl-' /proc/self/mountinfo) namespaces are held open"
"#;

/// Beside it, in the same container.
const BESIDE: &str = r#"
wait_for() { n=0; until "$@" || [ $n -gt 300 ]; do sleep 0.1; n=$((n + 1)); done; }
starts() { grep -q CapEff: /opt/out/log; }
ready() { grep -q 'first part done' /opt/out/log; }
active() { [ "$(systemctl show -P ActiveState keepline)" = activating ]; }
ended() { ! active; }
# One of its own, over the host's.
mount -t bpf bpf /sys/fs/bpf
systemctl start --no-block keepline
wait_for starts
/opt/keepline lab up nat --name t --sessions 3 --tcp-timeout 1h >/opt/out/lab 2>&1
: >/opt/out/go
wait_for ready
/opt/keepline lab down --name t >>/opt/out/lab 2>&1
rm /opt/out/go
wait_for ended
ls -ld /run/keepline >/opt/out/folder
systemctl poweroff --force
"#;

/// The root of the container.
fn lay(root: &Path) {
    for folder in
        ["etc/systemd/system/probe.target.wants", "mnt", "opt/out", "var/log", "usr", "run", "tmp"]
    {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        if Path::new("/").join(link).is_symlink() {
            symlink(format!("usr/{link}"), root.join(link)).unwrap();
        }
    }
    let write = |path: &str, text: &str| fs::write(root.join(path), text).unwrap();
    write("etc/os-release", "ID=probe\n");
    write("etc/machine-id", "");
    write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
    write("etc/group", "root:x:0:\n");
    write("opt/inside", INSIDE);
    write("opt/beside", BESIDE);
    fs::copy(KEEPLINE, root.join("opt/keepline")).unwrap();
    // All of the unit but what makes it a daemon.
    let daemon = ["Type=", "NotifyAccess=", "Restart=", "WatchdogSec=", "ExecReload="];
    let unit: String = text("packaging/systemd/keepline.service")
        .lines()
        .filter(|line| !daemon.iter().any(|it| line.starts_with(it)))
        .map(|line| match line {
            "ExecStart=/usr/bin/keepline guard" => "Type=oneshot\n\
                StandardOutput=append:/opt/out/log\nStandardError=append:/opt/out/log\n\
                ExecStart=/bin/sh /opt/inside\n"
                .to_owned(),
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(unit.contains("Type=oneshot"));
    write("etc/systemd/system/keepline.service", &unit);
    write(
        "etc/systemd/system/probe.target",
        "[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n",
    );
    write(
        "etc/systemd/system/beside.service",
        "[Unit]\nAfter=basic.target\n[Service]\nType=oneshot\nExecStart=/bin/sh /opt/beside\n",
    );
    let system = root.join("etc/systemd/system");
    symlink("probe.target", system.join("default.target")).unwrap();
    symlink("../beside.service", system.join("probe.target.wants/beside.service")).unwrap();
}

#[test]
fn keepline_works_in_the_sandbox_of_its_unit_and_nothing_else_does() {
    needs!("root", "systemd-nspawn", "timeout", "ip", "nft");
    let folder = Folder::new();
    let root = folder.0.join("root");
    lay(&root);
    let name = format!("keepline-probe-{}", std::process::id());
    let (_, console) = run(Command::new("timeout")
        .args(["--kill-after=10", "120", "systemd-nspawn", "--boot", "--quiet"])
        .args(["--register=no", "--keep-unit", "--console=pipe", "--private-network"])
        .args(["--bind-ro=/usr", "--bind=/sys/fs/bpf", "--capability=all"])
        // What a machine of its own would not restrict.
        .args(["--system-call-filter=bpf pidfd_getfd @mount"])
        .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "yes")
        .arg(format!("--machine={name}"))
        .arg("--directory")
        .arg(&root)
        .stdin(std::process::Stdio::null()));
    // nspawn leaves it where /run is no tmpfs.
    let _ = fs::remove_dir(Path::new("/run/systemd/nspawn/propagate").join(&name));
    let log = fs::read_to_string(root.join("opt/out/log")).unwrap_or_default();
    let said = format!("{log}\n{}\n{console}", folder.read("root/opt/out/lab"));
    // SYS_ADMIN, NET_ADMIN, SYS_PTRACE, DAC_READ_SEARCH, SYSLOG, CHOWN.
    assert!(log.contains("CapEff:\t0000000400281005"), "{said}");
    for well in [
        "keepline check --horizon 3h",
        "keepline apply hold --once --for 3h --yes",
        "keepline apply timeout --tcp 3h --yes",
        "keepline apply keepalive --netns kl-t-client --yes",
        "keepline check --horizon 30m",
        "keepline guard --once --log text",
        "keepline undo --yes",
        "keepline status",
        "grep -q [1-9a-f].* tcp_v4_connect /proc/kallsyms",
        "unshare --net true",
        "touch /run/keepline/something",
    ] {
        assert!(log.contains(&format!("@@ 0 {well}\n")), "{well}\n{said}");
    }
    for forbidden in [
        "dmesg",
        "unshare --mount true",
        "nsenter --target 1 --mount true",
        "mount -t tmpfs none /mnt",
        "chroot / true",
        "touch /etc/nothing",
        "touch /usr/nothing",
    ] {
        assert!(log.contains(&format!(" {forbidden}\n")), "{forbidden}\n{said}");
        assert!(!log.contains(&format!("@@ 0 {forbidden}\n")), "{forbidden}\n{said}");
    }
    // Seen although made later; sessions of both ends, and their processes; all of it undone.
    assert!(log.contains("3 sessions: 3 at risk"), "{said}");
    assert!(log.contains("kl-t-client: 3 sockets: 3 set"), "{said}");
    assert!(log.contains("connections to come"), "{said}");
    assert!(log.contains("Nothing is applied."), "{said}");
    // Let go of, too: what goes on the host goes here.
    assert!(log.contains("@@ 0 namespaces are held open"), "{said}");
    // It outlives the unit; others may go through it, and not look.
    assert!(folder.read("root/opt/out/folder").starts_with("drwx--x--x"), "{said}");
}
