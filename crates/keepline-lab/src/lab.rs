//! Setting a lab up, and taking it down whatever happens.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{ChildStdout, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{LabError, io_error};
use crate::interrupt::{Interrupt, TICK};
use crate::layout::{Layout, MAX_BACKENDS, PORTS, Plan};
use crate::peer::{OTHER_FILES, allow_open_files};
use crate::process::Process;
use crate::state::{self, Client, Server, State};
use crate::tools;
use crate::units::{Keepalive, PortRange};

/// How many sessions one port of the VIP takes before the others are used too.
const SESSIONS_A_PORT: u32 = 10_000;
/// How long a server may take to listen, and a client to connect (and a bit for each session).
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Files that a process of a small lab may open: room for `add_client` and `add_churn`.
const USUAL_FILES: u64 = 4096;

/// A lab to be set up.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The lab's name: 1 to 24 letters, digits, `-` or `_`.
    pub id: String,
    /// How its load balancer is built.
    pub layout: Layout,
    /// How many backends, 1 to 20.
    pub backends: u8,
    /// How long the director remembers a silent session; whole seconds.
    pub tcp_timeout: Duration,
    /// The client processes, in the order in which they connect.
    pub clients: Vec<ClientSpec>,
}

/// A client process to be started.
#[derive(Clone, Debug)]
pub struct ClientSpec {
    /// The name its process shows; at most 15 letters, digits or `-`, unique in the lab.
    pub name: String,
    /// How many sessions it opens.
    pub sessions: u32,
    /// Keepalive of its sockets.
    pub keepalive: Option<Keepalive>,
}

impl Spec {
    /// A lab of two backends and one client, `app`, with so many silent sessions.
    #[must_use]
    pub fn new(id: String, layout: Layout, tcp_timeout: Duration, sessions: u32) -> Self {
        let app = ClientSpec { name: "app".to_owned(), sessions, keepalive: None };
        let clients = if sessions == 0 { Vec::new() } else { vec![app] };
        Self { id, layout, backends: 2, tcp_timeout, clients }
    }

    fn check(&self) -> Result<(), LabError> {
        state::check_id(&self.id)?;
        if !(1..=MAX_BACKENDS).contains(&self.backends) {
            return Err(LabError::Invalid(format!("a lab has 1 to {MAX_BACKENDS} backends")));
        }
        let sessions: u64 = self.clients.iter().map(|client| u64::from(client.sessions)).sum();
        // One table for the whole machine's limit, counted for each namespace by itself
        // (net/netfilter/nf_conntrack_core.c, __nf_conntrack_alloc).
        let maximum = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max")
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok());
        match maximum {
            Some(maximum) if sessions > maximum => Err(LabError::Invalid(format!(
                "{sessions} sessions are more than conntrack holds here ({maximum}): \
                 `sysctl -w net.netfilter.nf_conntrack_max={}` makes room",
                sessions * 2
            ))),
            _ => Ok(()),
        }
    }
}

/// A lab that is up. Dropping it takes it down, unless [`Lab::leave`] left it running.
#[derive(Debug)]
pub struct Lab {
    state: State,
    interrupt: Interrupt,
    owned: bool,
}

impl Lab {
    /// Sets a lab up: namespaces, load balancer, backends, clients; returns when the sessions are
    /// open and each has been used once. When anything fails, nothing is left.
    ///
    /// # Errors
    /// [`LabError::Missing`] when this machine cannot do it, [`LabError::Exists`] when the name is
    /// taken, [`LabError::Interrupted`], or what went wrong.
    pub fn up(spec: &Spec, interrupt: &Interrupt) -> Result<Self, LabError> {
        Self::set_up(spec, interrupt, |_| {})
    }

    /// The same for a program that does nothing else: a panic anywhere takes the lab down, even
    /// where it aborts at once and nothing is dropped (the release build).
    pub(crate) fn up_for_this_program(
        spec: &Spec,
        interrupt: &Interrupt,
    ) -> Result<Self, LabError> {
        Self::set_up(spec, interrupt, remove_on_panic)
    }

    fn set_up(
        spec: &Spec,
        interrupt: &Interrupt,
        once_named: impl FnOnce(&str),
    ) -> Result<Self, LabError> {
        spec.check()?;
        tools::require(spec.layout)?;
        let plan = Plan {
            id: spec.id.clone(),
            layout: spec.layout,
            backends: spec.backends,
            tcp_timeout: spec.tcp_timeout,
        };
        let state = State::planned(&plan);
        state.create()?;
        let mut lab = Self { state, interrupt: interrupt.clone(), owned: true };
        once_named(&spec.id);
        // On failure the drop takes down what is there.
        lab.build(&plan, spec)?;
        Ok(lab)
    }

    fn build(&mut self, plan: &Plan, spec: &Spec) -> Result<(), LabError> {
        for name in &self.state.namespaces {
            self.interrupt.check()?;
            tools::add_namespace(name)?;
        }
        for script in plan.scripts() {
            self.interrupt.check()?;
            tools::run_script(&script)?;
        }
        let sizes = Sizes::of(spec)?;
        for (netns, _) in plan.backends() {
            for ports in &sizes.server_ports {
                let arguments = ["serve".to_owned(), format!("--ports={ports}")];
                let note = |state: &mut State, process| {
                    let (port, last_port) = (ports.first, ports.last);
                    state.servers.push(Server { netns: netns.clone(), port, last_port, process });
                };
                self.start("a backend", &netns, &arguments, "ready", START_PATIENCE, note)?;
            }
        }
        for client in &spec.clients {
            for part in sizes.split(client) {
                self.add_client(&part)?;
            }
        }
        Ok(())
    }

    /// Starts one more client and waits until its sessions are open.
    ///
    /// # Errors
    /// What went wrong; the lab stays.
    pub fn add_client(&mut self, client: &ClientSpec) -> Result<Client, LabError> {
        let control = state::path(&self.state.id, &format!("{}.sock", client.name));
        let ports = ports_for(client.sessions);
        let mut arguments = vec![
            "idle".to_owned(),
            format!("--to={}", self.state.vip),
            format!("--ports={ports}"),
            format!("--sessions={}", client.sessions),
            format!("--control={}", control.display()),
            format!("--name={}", client.name),
        ];
        arguments.extend(client.keepalive.map(|keepalive| format!("--keepalive={keepalive}")));
        let patience = START_PATIENCE + Duration::from_millis(2) * client.sessions;
        self.start_client(client, Some(control), &arguments, patience)
    }

    /// Starts a client that opens and closes sessions all the time: so many open at once, so many
    /// new ones in a second (0: as many as it can).
    ///
    /// # Errors
    /// What went wrong; the lab stays.
    pub fn add_churn(&mut self, rate: u32, parallel: u32) -> Result<Client, LabError> {
        let client = ClientSpec { name: "app-churn".to_owned(), sessions: 0, keepalive: None };
        let arguments = [
            "churn".to_owned(),
            format!("--to={}", self.state.vip),
            format!("--ports={PORTS}"),
            format!("--rate={rate}"),
            format!("--parallel={parallel}"),
            format!("--name={}", client.name),
        ];
        self.start_client(&client, None, &arguments, START_PATIENCE)
    }

    fn start_client(
        &mut self,
        client: &ClientSpec,
        control: Option<PathBuf>,
        arguments: &[String],
        patience: Duration,
    ) -> Result<Client, LabError> {
        let netns = self.state.client_netns.clone();
        let make = |process| Client {
            name: client.name.clone(),
            process,
            sessions: client.sessions,
            keepalive: client.keepalive,
            control: control.clone(),
        };
        let what = format!("client `{}`", client.name);
        let process =
            self.start(&what, &netns, arguments, "connected", patience, |state, process| {
                state.clients.push(make(process));
            })?;
        Ok(make(process))
    }

    /// Starts a peer, notes it in the description, and waits for its first line.
    fn start(
        &mut self,
        what: &str,
        netns: &str,
        arguments: &[String],
        expected: &str,
        patience: Duration,
        note: impl FnOnce(&mut State, Process),
    ) -> Result<Process, LabError> {
        self.interrupt.check()?;
        let program = std::env::current_exe().map_err(io_error("find this program"))?;
        let log_path = state::path(&self.state.id, "log");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(io_error(format!("open {}", log_path.display())))?;
        let mut child = tools::inside(netns, &program)
            .args(["lab", "peer"])
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Not the terminal's: a lab left running must not hold on to it.
            .stderr(log)
            .spawn()
            .map_err(io_error(format!("start {what} in {netns}")))?;
        let failed =
            |message: String| LabError::Peer { peer: format!("{what} in {netns}"), message };
        let process = Process::find(child.id())
            .ok_or_else(|| failed(format!("process {} vanished", child.id())))?;
        note(&mut self.state, process);
        self.state.save()?;
        let line = match child.stdout.take() {
            Some(stdout) => first_line(stdout, patience, &self.interrupt)?,
            None => String::new(),
        };
        if line.starts_with(expected) {
            return Ok(process);
        }
        let log = fs::read_to_string(&log_path).unwrap_or_default();
        Err(failed(match log.lines().last() {
            Some(last) => last.to_owned(),
            None if line.is_empty() => "did not start in time".to_owned(),
            None => format!("said `{line}`"),
        }))
    }

    /// What there is.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Leaves the lab running when this value goes.
    #[must_use]
    pub fn leave(mut self) -> State {
        self.owned = false;
        self.state.clone()
    }

    /// Takes the lab down.
    ///
    /// # Errors
    /// [`LabError::Leftover`].
    pub fn down(mut self) -> Result<(), LabError> {
        self.owned = false;
        self.state.remove()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = self.state.remove()
        {
            eprintln!("keepline lab: {error}");
        }
    }
}

/// How a lab is spread over processes, so that none opens more files than it may.
struct Sizes {
    /// The ports of each server process of a backend.
    server_ports: Vec<PortRange>,
    /// The most sessions that a client process may have.
    client_sessions: u32,
}

impl Sizes {
    /// Raises the limit of open files as far as needed and possible, and divides by what it is.
    fn of(spec: &Spec) -> Result<Self, LabError> {
        let all: u64 = spec.clients.iter().map(|client| u64::from(client.sessions)).sum();
        // Twice as many a server as its share: ports are not divided evenly.
        let each = 2 * all.div_ceil(u64::from(spec.backends));
        let allowed = allow_open_files(all.max(each).max(USUAL_FILES)) - OTHER_FILES;
        Self::divide(each, allowed).ok_or_else(|| {
            LabError::Invalid(format!(
                "{all} sessions take more open files than the {allowed} that are allowed here: \
                 `ulimit -n {each}` allows more"
            ))
        })
    }

    /// `None` when even one process a port is not enough.
    fn divide(each: u64, allowed: u64) -> Option<Self> {
        let parts = u16::try_from(each.div_ceil(allowed.max(1)).max(1)).ok()?;
        (usize::from(parts) <= PORTS.ports().len()).then(|| Self {
            server_ports: PORTS.split(parts),
            client_sessions: u32::try_from(allowed).unwrap_or(u32::MAX),
        })
    }

    /// A client as one process, or as several when it would open too many files.
    fn split(&self, client: &ClientSpec) -> Vec<ClientSpec> {
        let mut parts = vec![client.clone()];
        let mut left = client.sessions;
        while left > self.client_sessions {
            if let Some(last) = parts.last_mut() {
                last.sessions = self.client_sessions;
            }
            left -= self.client_sessions;
            let name = format!("{}-{}", client.name, parts.len() + 1);
            parts.push(ClientSpec { name, sessions: left, keepalive: client.keepalive });
        }
        parts
    }
}

/// Takes the lab of this name down if the program panics.
fn remove_on_panic(id: &str) {
    let id = id.to_owned();
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if let Ok(state) = State::load(&id) {
            // The panic is the message; `keepline lab down` tells about the rest.
            let _ = state.remove();
        }
    }));
}

/// The ports of the VIP over which so many sessions are spread.
fn ports_for(sessions: u32) -> PortRange {
    if sessions > SESSIONS_A_PORT {
        PORTS
    } else {
        PortRange { first: PORTS.first, last: PORTS.first }
    }
}

/// The first line that a child prints; what came so far when it ends or takes too long.
fn first_line(
    mut stdout: ChildStdout,
    patience: Duration,
    interrupt: &Interrupt,
) -> Result<String, LabError> {
    let deadline = Instant::now() + patience;
    let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
    let mut line = Vec::new();
    let mut buffer = [0; 512];
    while !line.contains(&b'\n') && Instant::now() < deadline {
        interrupt.check()?;
        let mut fds = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&tick)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(io_error("wait for a peer")(error)),
        }
        match stdout.read(&mut buffer).map_err(io_error("read from a peer"))? {
            0 => break,
            length => line.extend_from_slice(&buffer[..length]),
        }
    }
    let text = String::from_utf8_lossy(&line);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// A name for a lab that nobody named: this process's id.
pub(crate) fn default_id() -> String {
    std::process::id().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_sessions_are_spread_over_the_ports() {
        assert_eq!(ports_for(10_000).to_string(), "7000");
        assert_eq!(ports_for(10_001).to_string(), "7000-7009");
    }

    #[test]
    fn no_process_opens_more_files_than_it_may() {
        let app = ClientSpec { name: "app".to_owned(), sessions: 45_000, keepalive: None };
        let sizes = Sizes::divide(45_000, 20_000).unwrap();
        assert_eq!(sizes.server_ports.len(), 3);
        let parts: Vec<(String, u32)> =
            sizes.split(&app).into_iter().map(|part| (part.name, part.sessions)).collect();
        let expected = [("app", 20_000), ("app-2", 20_000), ("app-3", 5_000)];
        assert_eq!(parts, expected.map(|(name, sessions)| (name.to_owned(), sessions)));

        let roomy = Sizes::divide(8, 4_000).unwrap();
        assert_eq!(roomy.server_ports, [PORTS]);
        assert_eq!(roomy.split(&ClientSpec { sessions: 4, ..app }).len(), 1);

        assert!(Sizes::divide(100_000, 1_000).is_none());
    }

    #[test]
    fn impossible_labs_are_refused_before_anything_is_made() {
        let good = Spec::new("t".to_owned(), Layout::Nat, Duration::from_secs(8), 1);
        good.check().unwrap();
        let backends = Spec { backends: 0, ..good.clone() };
        assert!(matches!(backends.check(), Err(LabError::Invalid(_))));
        let name = Spec { id: "../x".to_owned(), ..good };
        assert!(matches!(name.check(), Err(LabError::Invalid(_))));
    }
}
