//! Networks of namespaces for the tests: made with `ip` and `nft`, removed by `Drop`.

#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![expect(clippy::unwrap_used, reason = "a helper of a test fails by panicking")]

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering},
    time::{Duration, Instant},
};

use keepline_core::{Snapshot, snapshot::Namespace};
use keepline_kernel::namespaces::{enter, identify};

/// Why the tests cannot run here, if so.
pub fn impossible() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    ["ip", "nft", "conntrack", "perl"].into_iter().find_map(|tool| {
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
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "skipped in CI: {why}");
            return;
        }
    };
}

#[track_caller]
pub fn run(line: &str) {
    let mut words = line.split_ascii_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A namespace made by `ip netns`.
#[derive(Debug)]
pub struct Netns {
    pub name: String,
}

impl Netns {
    pub fn new(role: &str) -> Self {
        static NUMBER: AtomicU8 = AtomicU8::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("kn{}-{number}-{role}", std::process::id());
        run(&format!("ip netns add {name}"));
        run(&format!("ip -n {name} link set lo up"));
        Self { name }
    }

    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs `work` in it; sockets made there stay there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        enter(&self.path(), identify(&self.path()).unwrap(), work).unwrap()
    }

    /// A program in it, which is ready when it has printed a line.
    pub fn spawn(&self, program: &str, arguments: &[&str]) -> Running {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.name, program])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        assert!(!line.is_empty(), "{program} did not start");
        Running(child)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// A process that ends with the test.
#[derive(Debug)]
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Client, director and backend: the director owns the VIP and translates it to the backend.
///
/// Each has addresses of its own, as the tests of one program run side by side.
#[derive(Debug)]
pub struct Nat {
    pub client: Netns,
    pub director: Netns,
    pub backend: Netns,
    pub vip: SocketAddr,
    pub server: SocketAddr,
}

impl Nat {
    pub const PORT: u16 = 7000;

    pub fn new() -> Self {
        static NUMBER: AtomicU8 = AtomicU8::new(1);
        let net = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (client, director, backend) =
            (Netns::new("client"), Netns::new("director"), Netns::new("backend"));
        let (c, d, b) = (&client.name, &director.name, &backend.name);
        for line in [
            format!("ip link add name client netns {d} type veth peer name director netns {c}"),
            format!("ip link add name backend netns {d} type veth peer name director netns {b}"),
            format!("ip -n {c} addr add 10.231.{net}.2/30 dev director"),
            format!("ip -n {d} addr add 10.231.{net}.1/30 dev client"),
            format!("ip -n {d} addr add 10.231.{net}.5/30 dev backend"),
            format!("ip -n {d} addr add 10.231.{net}.9/32 dev lo"),
            format!("ip -n {b} addr add 10.231.{net}.6/30 dev director"),
            format!("ip -n {c} link set director up"),
            format!("ip -n {d} link set client up"),
            format!("ip -n {d} link set backend up"),
            format!("ip -n {b} link set director up"),
            format!("ip -n {c} route add default via 10.231.{net}.1"),
            format!("ip -n {b} route add default via 10.231.{net}.5"),
            format!("ip netns exec {d} sysctl -qw net.ipv4.ip_forward=1"),
            format!("ip netns exec {d} nft add table ip keep"),
            format!(
                "ip netns exec {d} nft add chain ip keep pre \
                 {{ type nat hook prerouting priority dstnat; }}"
            ),
            format!(
                "ip netns exec {d} nft add rule ip keep pre ip daddr 10.231.{net}.9 \
                 tcp dport 7000 dnat to 10.231.{net}.6:7000"
            ),
        ] {
            run(&line);
        }
        let at = |host| SocketAddr::from((Ipv4Addr::new(10, 231, net, host), Self::PORT));
        Self { client, director, backend, vip: at(9), server: at(6) }
    }

    pub fn listen(&self) -> TcpListener {
        self.backend.inside(|| TcpListener::bind(self.server).unwrap())
    }

    /// A session through the director: the client's end and the backend's.
    pub fn session(&self, listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = self.client.inside(|| TcpStream::connect(self.vip).unwrap());
        let server = listener.accept().unwrap().0;
        (client, server)
    }

    /// Opens and closes sessions as fast as it can while `look` is called: at least so many times,
    /// and as often as it takes for more than so many sessions to come.
    pub fn churn(
        &self,
        listener: &TcpListener,
        looks: usize,
        sessions: u32,
        mut look: impl FnMut(),
    ) {
        let stop = AtomicBool::new(false);
        let opened = AtomicU32::new(0);
        std::thread::scope(|scope| {
            // It takes the first byte of each session and answers until the client closes.
            scope.spawn(|| {
                for server in listener.incoming() {
                    let mut byte = [0];
                    let mut server = server.unwrap();
                    if server.read(&mut byte).is_ok_and(|read| read == 1) && byte == [b'q'] {
                        return;
                    }
                    let _ = server.read(&mut byte);
                }
            });
            let client = scope.spawn(|| {
                self.client.inside(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let mut client = TcpStream::connect(self.vip).unwrap();
                        client.write_all(b"x").unwrap();
                        opened.fetch_add(1, Ordering::Relaxed);
                    }
                    let mut last = TcpStream::connect(self.vip).unwrap();
                    last.write_all(b"q").unwrap();
                });
            });
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let end = Instant::now() + Duration::from_secs(60);
                let mut looked = 0;
                while looked < looks
                    || (opened.load(Ordering::Relaxed) <= sessions && Instant::now() < end)
                {
                    looked += 1;
                    look();
                }
            }));
            stop.store(true, Ordering::Relaxed);
            client.join().unwrap();
            if let Err(panic) = result {
                std::panic::resume_unwind(panic);
            }
        });
        // Otherwise nothing came and went.
        let opened = opened.into_inner();
        assert!(opened > sessions, "{opened} sessions");
    }

    /// Makes the director forget every session.
    pub fn forget(&self) {
        run(&format!("ip netns exec {} conntrack -F", self.director.name));
    }
}

/// The namespace of this name.
#[track_caller]
pub fn find<'a>(snapshot: &'a Snapshot, netns: &Netns) -> &'a Namespace {
    let mut fitting = snapshot.namespaces.iter().filter(|at| at.name == netns.name);
    let found = fitting.next().unwrap_or_else(|| panic!("{} is not seen", netns.name));
    assert!(fitting.next().is_none(), "{} is seen twice", netns.name);
    found
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

/// Inode of a namespace by its path, as another program would find it.
pub fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap())
}
