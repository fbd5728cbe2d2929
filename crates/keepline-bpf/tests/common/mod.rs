//! Namespaces, a control group and a BPF file system of a test's own, removed by `Drop`.

#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![expect(clippy::unwrap_used, reason = "a helper of a test fails by panicking")]

pub mod foreign;
pub mod net;
pub mod other_version;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use keepline_bpf::{NetnsCookie, place};
use keepline_kernel::namespaces::{enter, identify};

/// Why the tests cannot run here, if so.
pub fn impossible() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("this kernel does not describe itself (BTF)".to_owned());
    }
    if place::cgroup_root(Path::new("/proc")).is_none() {
        return Some("no control groups of version 2".to_owned());
    }
    let compiler = if std::env::var_os("KEEPLINE_TEST_PEERS").is_some() { "ip" } else { "cc" };
    ["ip", "ss", "python3", compiler].into_iter().find_map(|tool| {
        let found =
            Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().unwrap();
        (!found.status.success()).then(|| format!("`{tool}` is not installed"))
    })
}

/// Ends a test that cannot run: visibly, and as a failure in CI.
#[macro_export]
macro_rules! skip_if_impossible {
    () => {
        if let Some(why) = common::impossible() {
            println!("SKIP: {why}");
            assert!(std::env::var_os("CI").is_none(), "skipped in CI: {why}");
            return;
        }
    };
}

/// A number that no other test of this run has.
fn unique() -> String {
    static NUMBER: AtomicU16 = AtomicU16::new(0);
    format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

#[track_caller]
pub fn run(line: &str) -> String {
    let mut words = line.split_ascii_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A control group, and a place for pins where nothing is mounted yet.
#[derive(Debug)]
pub struct Place {
    pub cgroup: PathBuf,
    pub mount_point: PathBuf,
    pub bpffs: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let name = format!("keepline-bpf-{}", unique());
        let cgroup = place::cgroup_root(Path::new("/proc")).unwrap().join(&name);
        fs::create_dir(&cgroup).unwrap();
        let mount_point = std::env::temp_dir().join(&name);
        fs::create_dir(&mount_point).unwrap();
        let bpffs = mount_point.join("keepline");
        Self { cgroup, mount_point, bpffs }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if is_mounted(&self.mount_point) {
            let _ = Command::new("umount").arg(&self.mount_point).output();
        }
        let _ = fs::remove_dir(&self.mount_point);
        // Killed processes leave it a moment later.
        for _ in 0..100 {
            if fs::remove_dir(&self.cgroup).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whether something is mounted at a path.
pub fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}

/// A namespace made by `ip netns`.
#[derive(Debug)]
pub struct Netns {
    pub name: String,
}

impl Netns {
    /// With loopback up, these addresses on it, and the range 10.240.0.0/16 for more.
    pub fn new(addresses: &[&str]) -> Self {
        let name = format!("kb{}", unique());
        run(&format!("ip netns add {name}"));
        run(&format!("ip -n {name} link set lo up"));
        for address in addresses {
            run(&format!("ip -n {name} addr add {address} dev lo"));
        }
        Self { name }
    }

    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = Path::new("/run/netns").join(&self.name);
        enter(&path, identify(&path).unwrap(), work).unwrap()
    }

    pub fn cookie(&self) -> NetnsCookie {
        self.inside(|| NetnsCookie::current().unwrap())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// What a program with sockets is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Python,
    /// Statically linked.
    C,
}

impl Language {
    pub const ALL: [Self; 2] = [Self::Python, Self::C];

    fn command(self) -> Vec<String> {
        static COMPILED: OnceLock<PathBuf> = OnceLock::new();
        // A guest that only has what it is given: peer.py, and peer.c compiled.
        let given = std::env::var("KEEPLINE_TEST_PEERS").ok();
        let source = |name: &str| match &given {
            Some(directory) => format!("{directory}/{name}"),
            None => format!("{}/tests/common/{name}", env!("CARGO_MANIFEST_DIR")),
        };
        match self {
            Self::Python => vec!["python3".to_owned(), source("peer.py")],
            Self::C if given.is_some() => vec![source("peer")],
            Self::C => {
                let program = COMPILED.get_or_init(|| {
                    let name = format!("peer-{}", unique());
                    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
                    run(&format!(
                        "cc -static -O1 -Wall -o {} {}",
                        path.display(),
                        source("peer.c")
                    ));
                    path
                });
                vec![program.display().to_string()]
            }
        }
    }
}

/// A program with sockets.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts it in a namespace and a control group.
    pub fn new(language: Language, netns: &Netns, cgroup: &Path) -> Self {
        let procs = cgroup.join("cgroup.procs");
        // One that hangs fails its test instead of stopping all; it ends with its stdin, too.
        let mut command = Command::new("timeout");
        command.args(["180", "ip", "netns", "exec", &netns.name]).args(language.command());
        // SAFETY: nothing but `open`, `write` and `close` happens between fork and exec.
        unsafe { command.pre_exec(move || fs::write(&procs, "0")) };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut peer = Self { child, answers };
        assert_eq!(peer.answer(), "ready");
        peer
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "a peer has ended");
        line.trim_end().to_owned()
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.answer()
    }

    /// Does what must work.
    #[track_caller]
    pub fn does(&mut self, line: &str) {
        assert_eq!(self.ask(line), "ok", "{line}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the test `name` of this program as a process of its own, with an argument.
pub fn helper(name: &str, argument: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("KEEPLINE_TEST_HELPER", argument)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// The argument, in such a process.
pub fn helped() -> Option<String> {
    std::env::var("KEEPLINE_TEST_HELPER").ok()
}

/// Waits for something that must come true soon.
#[track_caller]
pub fn wait_for(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_true() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
