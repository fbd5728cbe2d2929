//! What a test that changes something needs: a journal of its own, and a look at what is set.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::lab::{Lab, keepline, output};

/// A folder for the journal of one test.
pub struct Run(pub PathBuf);

impl Run {
    pub fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("keepline-run-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        Self(folder)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = keepline();
        command.args(arguments).env("KEEPLINE_RUN", &self.0).env("KEEPLINE_PINS", self.pins());
        command
    }

    /// Programs of one test are pinned apart from those of others.
    pub fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(self.0.file_name().unwrap())
    }

    /// Exit status and output.
    pub fn keepline(&self, arguments: &[&str]) -> (i32, String) {
        output(&mut self.command(arguments))
    }

    /// Output of a command that must end with 0.
    #[track_caller]
    pub fn done(&self, arguments: &[&str]) -> String {
        let (status, text) = self.keepline(arguments);
        assert_eq!(status, 0, "{arguments:?}: {text}");
        text
    }

    /// Asks the guard over its control socket; the answer, empty where nobody listens.
    pub fn ask(&self, line: &str) -> String {
        let Ok(mut stream) = UnixStream::connect(self.0.join("guard.sock")) else {
            return String::new();
        };
        write!(stream, "{line} HTTP/1.0\r\nHost: guard\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // With their pins go the programs that a test which failed has left.
        let _ = std::fs::remove_dir_all(self.pins());
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn in_netns(netns: &str, line: &str) -> String {
    let (status, text) =
        output(Command::new("ip").args(["netns", "exec", netns, "sh", "-c", line]));
    assert_eq!(status, 0, "{netns}: {line}: {text}");
    text
}

/// How long conntrack remembers an established session, in seconds.
pub fn established(lab: &Lab) -> String {
    let file = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";
    in_netns(&lab.director, &format!("cat {file}")).trim().to_owned()
}

/// Every setting that a strategy touches, byte for byte.
pub fn settings(netns: &str) -> String {
    in_netns(
        netns,
        "cat /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_* /proc/sys/net/ipv4/tcp_keepalive_*",
    )
}

pub fn entries(director: &str) -> usize {
    let listed = in_netns(director, "conntrack -L -p tcp --dport 7000 2>/dev/null");
    listed.lines().filter(|line| line.contains("ESTABLISHED")).count()
}

#[track_caller]
pub fn wait_for(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_true() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        sleep(Duration::from_millis(100));
    }
}
