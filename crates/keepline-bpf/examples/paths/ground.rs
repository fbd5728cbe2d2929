//! Where it is measured: namespaces on one bridge, as Engine 18.09 arranges a network, control
//! groups, and the programs that run in them. All of it is removed by `Drop`.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use keepline_bpf::{NetnsCookie, place};
use keepline_kernel::namespaces::{enter, identify};

/// The backend.
pub const BACKEND: &str = "10.240.0.20";
/// What `direct` answers. Nobody has it: a packet that is sent there is lost.
pub const ANSWERED: &str = "10.240.0.2";

type Error = Box<dyn std::error::Error>;

/// Runs a line of words that must succeed.
pub fn run(line: &str) -> Result<String, Error> {
    let mut words = line.split_ascii_whitespace();
    let output = Command::new(words.next().unwrap_or_default()).args(words).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// The same for a script.
fn script(script: &str) -> Result<(), Error> {
    let output = Command::new("sh").args(["-ec", script]).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into())
}

/// Namespaces, control groups and a place for pins.
#[derive(Debug)]
pub struct Ground {
    name: String,
    namespaces: Vec<String>,
    cgroup: PathBuf,
    mount_point: PathBuf,
}

impl Ground {
    pub fn new() -> Result<Self, Error> {
        let name = format!("kp{}", std::process::id());
        let root =
            place::cgroup_root(Path::new("/proc")).ok_or("no control groups of version 2")?;
        let mut ground = Self {
            cgroup: root.join(format!("keepline-paths-{name}")),
            mount_point: std::env::temp_dir().join(format!("keepline-paths-{name}")),
            name,
            namespaces: Vec::new(),
        };
        fs::create_dir(&ground.cgroup)?;
        fs::create_dir(&ground.mount_point)?;
        let bridge = ground.namespace("br")?;
        run(&format!("ip -n {bridge} link add br0 type bridge"))?;
        run(&format!("ip -n {bridge} link set br0 up"))?;
        // Where it is switched on for all, frames would pass the firewall in every way.
        let _ = script(&format!(
            "ip netns exec {bridge} sysctl -qw net.bridge.bridge-nf-call-iptables=0"
        ));
        ground.host("client", &["10.240.0.10"])?;
        ground.host("server", &[BACKEND])?;
        Ok(ground)
    }

    fn namespace(&mut self, part: &str) -> Result<String, Error> {
        let name = format!("{}{part}", self.name);
        run(&format!("ip netns add {name}"))?;
        self.namespaces.push(name.clone());
        run(&format!("ip -n {name} link set lo up"))?;
        Ok(name)
    }

    /// A namespace on the bridge with these addresses.
    pub fn host(&mut self, part: &str, addresses: &[&str]) -> Result<String, Error> {
        let name = self.namespace(part)?;
        let bridge = format!("{}br", self.name);
        run(&format!("ip -n {name} link add eth0 type veth peer name {part} netns {bridge}"))?;
        run(&format!("ip -n {bridge} link set {part} master br0 up"))?;
        for address in addresses {
            run(&format!("ip -n {name} addr add {address}/24 dev eth0"))?;
        }
        run(&format!("ip -n {name} link set eth0 up"))?;
        Ok(name)
    }

    /// A director with a virtual address: the script makes it one.
    pub fn director(&mut self, part: &str, vip: &str, own: &str, with: &str) -> Result<(), Error> {
        let name = self.host(part, &[own, vip])?;
        script(&format!(
            "on() {{ ip netns exec {name} \"$@\"; }}
             on sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 \
                net.ipv4.conf.eth0.send_redirects=0
             {with}"
        ))
    }

    pub fn netns(&self, part: &str) -> String {
        format!("{}{part}", self.name)
    }

    pub fn cookie(&self, part: &str) -> Result<NetnsCookie, Error> {
        let path = Path::new("/run/netns").join(self.netns(part));
        Ok(enter(&path, identify(&path)?, NetnsCookie::current)??)
    }

    /// A control group below the one of all.
    pub fn cgroup(&self, part: &str) -> Result<PathBuf, Error> {
        let path = self.cgroup.join(part);
        if !path.is_dir() {
            fs::create_dir(&path)?;
        }
        Ok(path)
    }

    pub fn bpffs(&self) -> PathBuf {
        self.mount_point.join("keepline")
    }

    /// For files.
    pub fn file(&self, name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("keepline-paths-{}-{name}", self.name))
    }

    /// The processor's time that all programs here have taken: both ends, a proxy, and the kernel
    /// on their behalf.
    pub fn processor(&self) -> Result<Duration, Error> {
        let text = fs::read_to_string(self.cgroup.join("cpu.stat"))?;
        let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Ok(Duration::from_micros(usage.ok_or("no usage_usec in cpu.stat")?.parse()?))
    }

    /// Starts a program in a namespace and a control group. It goes before what else runs here,
    /// which is not what is measured.
    pub fn start(&self, part: &str, group: &str, command: &[&str]) -> Result<Program, Error> {
        let procs = self.cgroup(group)?.join("cgroup.procs");
        let mut child = Command::new("sh")
            .args(["-c", "echo $$ >\"$0\" && exec nice -n -15 ip netns exec \"$@\""])
            .arg(procs)
            .arg(self.netns(part))
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let answers = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        Ok(Program { child, answers })
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            let _ = run(&format!("ip netns del {namespace}"));
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if mounts.lines().any(|line| line.split(' ').nth(1) == self.mount_point.to_str()) {
            let _ = run(&format!("umount {}", self.mount_point.display()));
        }
        let _ = fs::remove_dir(&self.mount_point);
        // Processes that were killed leave a moment later.
        let deadline = Instant::now() + Duration::from_secs(3);
        while self.cgroup.exists() && Instant::now() < deadline {
            for entry in fs::read_dir(&self.cgroup).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(entry.path());
            }
            let _ = fs::remove_dir(&self.cgroup);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A running program that is killed in the end, by its own number.
#[derive(Debug)]
pub struct Program {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Program {
    pub fn answer(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() { Err("a program has ended".into()) } else { Ok(line.trim().into()) }
    }

    pub fn ask(&mut self, line: &str) -> Result<String, Error> {
        writeln!(self.child.stdin.as_mut().ok_or("no stdin")?, "{line}")?;
        self.answer()
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
