//! What is known about a running lab, in a file: enough for another process to look at it, to
//! command its clients, and to remove it.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{LabError, io_error};
use crate::layout::{Layout, PORTS, Plan};
use crate::peer::{Answer, WriteSummary};
use crate::process::{Process, kill_all};
use crate::tools;
use crate::units::Keepalive;

/// Where labs are described: `<id>.json`, with their clients' sockets and logs beside it.
pub const DIRECTORY: &str = "/run/keepline-lab";
/// Name and version of the description's form.
const SCHEMA: &str = "keepline.lab/v1";
/// How long a client may take over a command: it waits five seconds for answers itself, and
/// writing on 100,000 sessions takes a while.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running lab.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// `keepline.lab/v1`.
    pub schema: String,
    /// The lab's name.
    pub id: String,
    /// Its layout.
    pub layout: Layout,
    /// Every namespace that belongs to it; names in `/run/netns`.
    pub namespaces: Vec<String>,
    /// The namespace of the clients.
    pub client_netns: String,
    /// The namespace that remembers the sessions.
    pub director_netns: String,
    /// Address to which the clients connect.
    pub vip: Ipv4Addr,
    /// First port of the VIP that is balanced, and the one that few sessions use.
    pub port: u16,
    /// Last port of the VIP that is balanced.
    pub last_port: u16,
    /// How long the director remembers a silent session, in seconds.
    pub tcp_timeout_seconds: u64,
    /// The backends.
    pub backends: Vec<Backend>,
    /// The processes that serve on them: one a backend, or several that share its ports when one
    /// may not open enough files.
    pub servers: Vec<Server>,
    /// The clients.
    pub clients: Vec<Client>,
}

/// A backend of a lab.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Its namespace.
    pub netns: String,
    /// Its address.
    pub address: Ipv4Addr,
}

/// A process that serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// The namespace of its backend.
    pub netns: String,
    /// First port on which it listens.
    pub port: u16,
    /// Last port on which it listens.
    pub last_port: u16,
    /// The process.
    #[serde(flatten)]
    pub process: Process,
}

/// A client process of a lab.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Client {
    /// The name its process shows.
    pub name: String,
    /// The process.
    #[serde(flatten)]
    pub process: Process,
    /// How many sessions it opened; 0 for one that opens and closes them all the time.
    pub sessions: u32,
    /// Keepalive of its sockets, if any.
    pub keepalive: Option<Keepalive>,
    /// Socket on which it takes commands, if it does.
    pub control: Option<PathBuf>,
}

impl State {
    /// The description of a lab before anything of it exists.
    pub(crate) fn planned(plan: &Plan) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            id: plan.id.clone(),
            layout: plan.layout,
            namespaces: plan.namespaces(),
            client_netns: plan.client(),
            director_netns: plan.director(),
            vip: plan.vip(),
            port: PORTS.first,
            last_port: PORTS.last,
            tcp_timeout_seconds: plan.tcp_timeout.as_secs(),
            backends: plan
                .backends()
                .into_iter()
                .map(|(netns, address)| Backend { netns, address })
                .collect(),
            servers: Vec::new(),
            clients: Vec::new(),
        }
    }

    /// How long the director remembers a silent session.
    #[must_use]
    pub fn tcp_timeout(&self) -> Duration {
        Duration::from_secs(self.tcp_timeout_seconds)
    }

    /// Names of the labs that are up, sorted.
    ///
    /// # Errors
    /// When the directory cannot be read (its absence is no error).
    pub fn list() -> Result<Vec<String>, LabError> {
        let entries = match fs::read_dir(DIRECTORY) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error(format!("read {DIRECTORY}"))(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(io_error(format!("read {DIRECTORY}")))?.file_name();
            if let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".json")) {
                names.push(id.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Reads the lab of that name.
    ///
    /// # Errors
    /// [`LabError::Unknown`], or that the description cannot be read.
    pub fn load(id: &str) -> Result<Self, LabError> {
        check_id(id)?;
        let path = path(id, "json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(LabError::Unknown(id.to_owned()));
            }
            Err(error) => return Err(io_error(format!("read {}", path.display()))(error)),
        };
        serde_json::from_slice(&text).map_err(|source| LabError::State { path, source })
    }

    /// The lab of that name, or the only one when none is named.
    ///
    /// # Errors
    /// When there is none or the choice is not clear.
    pub fn choose(id: Option<&str>) -> Result<Self, LabError> {
        if let Some(id) = id {
            return Self::load(id);
        }
        let names = Self::list()?;
        match &names[..] {
            [] => Err(LabError::NoneUp),
            [only] => Self::load(only),
            _ => Err(LabError::Several(names.join(", "))),
        }
    }

    /// Writes the description of a new lab; the name must be free.
    pub(crate) fn create(&self) -> Result<(), LabError> {
        fs::create_dir_all(DIRECTORY).map_err(io_error(format!("make {DIRECTORY}")))?;
        let (draft, target) = (self.write_draft()?, path(&self.id, "json"));
        // A hard link, unlike a rename, fails when the name is taken.
        let linked = fs::hard_link(&draft, &target);
        let _ = fs::remove_file(&draft);
        match linked {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(LabError::Exists(self.id.clone()))
            }
            other => other.map_err(io_error(format!("make {}", target.display()))),
        }
    }

    /// Writes the description anew.
    pub(crate) fn save(&self) -> Result<(), LabError> {
        let target = path(&self.id, "json");
        fs::rename(self.write_draft()?, &target)
            .map_err(io_error(format!("write {}", target.display())))
    }

    fn write_draft(&self) -> Result<PathBuf, LabError> {
        let draft = path(&self.id, &format!("{}.draft", std::process::id()));
        let text = serde_json::to_vec_pretty(self)
            .map_err(|source| LabError::State { path: draft.clone(), source })?;
        fs::write(&draft, text).map_err(io_error(format!("write {}", draft.display())))?;
        Ok(draft)
    }

    /// Lets every client write on every session and wait for the answers.
    ///
    /// # Errors
    /// When a client cannot be reached, or the lab has none that takes commands.
    pub fn write(&self) -> Result<WriteSummary, LabError> {
        let mut total = WriteSummary::default();
        let mut asked = false;
        for client in self.clients.iter().filter(|client| client.control.is_some()) {
            total.add(&client.write()?);
            asked = true;
        }
        if !asked {
            return Err(LabError::Invalid(format!("lab {} has no idle clients", self.id)));
        }
        Ok(total)
    }

    /// Removes the whole lab: processes, namespaces, files. What is gone already is no error,
    /// and everything is tried even when something fails.
    ///
    /// # Errors
    /// [`LabError::Leftover`] with all that is still there; the description then stays too.
    pub fn remove(&self) -> Result<(), LabError> {
        let mut problems = Vec::new();
        let servers = self.servers.iter().map(|server| server.process);
        let clients = self.clients.iter().map(|client| client.process);
        // One killed between its start and its note in the description is found by where it is.
        problems.extend(kill_all(servers.chain(clients).chain(self.stray_peers())));
        for name in &self.namespaces {
            if tools::namespace_exists(name) {
                problems.extend(tools::delete_namespace(name).err().map(|error| error.to_string()));
            }
        }
        if problems.is_empty() {
            problems.extend(self.remove_files().err().map(|error| error.to_string()));
        }
        if problems.is_empty() { Ok(()) } else { Err(LabError::Leftover { problems }) }
    }

    /// Peers inside the lab's namespaces.
    fn stray_peers(&self) -> Vec<Process> {
        let spaces: Vec<(u64, u64)> = self
            .namespaces
            .iter()
            .filter_map(|name| inode(&Path::new("/run/netns").join(name)))
            .collect();
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &u32| {
                inode(Path::new(&format!("/proc/{pid}/ns/net")))
                    .is_some_and(|id| spaces.contains(&id))
                    && fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| is_peer(&line))
            })
            .filter_map(Process::find)
            .collect()
    }

    /// Removes the lab's files, its description last.
    fn remove_files(&self) -> Result<(), LabError> {
        let prefix = format!("{}.", self.id);
        let description = path(&self.id, "json");
        let entries = match fs::read_dir(DIRECTORY) {
            Ok(entries) => entries,
            // Another `down` was faster.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error(format!("read {DIRECTORY}"))(error)),
        };
        let mut files: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .map(|entry| entry.path())
            .collect();
        files.sort_by_key(|file| *file == description);
        for file in files {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(io_error(format!("remove {}", file.display()))(error));
                }
                _ => {}
            }
        }
        // Fails while other labs are up, and should.
        let _ = fs::remove_dir(DIRECTORY);
        Ok(())
    }
}

impl Client {
    /// Lets this client write on every session and wait for the answers.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub fn write(&self) -> Result<WriteSummary, LabError> {
        match self.command("write")? {
            Answer::Written(summary) => Ok(summary),
            other => Err(self.wrong(format!("answered `{other}`"))),
        }
    }

    /// Lets this client close its `count` oldest sessions.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub fn close(&self, count: u32) -> Result<(), LabError> {
        match self.command(&format!("close {count}"))? {
            Answer::Closed { .. } => Ok(()),
            other => Err(self.wrong(format!("answered `{other}`"))),
        }
    }

    fn command(&self, command: &str) -> Result<Answer, LabError> {
        let control =
            self.control.as_ref().ok_or_else(|| self.wrong("takes no commands".to_owned()))?;
        let io = || io_error::<std::io::Error>(format!("command the client `{}`", self.name));
        let mut stream = UnixStream::connect(control).map_err(io())?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(io())?;
        writeln!(stream, "{command}").map_err(io())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).map_err(io())?;
        serde_json::from_str(&line)
            .map_err(|error| self.wrong(format!("answered nonsense: {error}")))
    }

    fn wrong(&self, message: String) -> LabError {
        LabError::Peer { peer: format!("client `{}`", self.name), message }
    }
}

/// A file of a lab.
pub(crate) fn path(id: &str, suffix: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{id}.{suffix}"))
}

/// Refuses names that would not do as part of a file's or namespace's name.
pub(crate) fn check_id(id: &str) -> Result<(), LabError> {
    let good = (1..=24).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        && !id.starts_with('-');
    if good {
        Ok(())
    } else {
        Err(LabError::Invalid(format!(
            "`{}` is no name for a lab: 1 to 24 letters, digits, - or _",
            id.escape_default()
        )))
    }
}

/// Device and inode of a file, or of what a link in `/proc` means.
fn inode(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Whether a command line (NUL-separated, as in `/proc/<pid>/cmdline`) is that of a peer.
fn is_peer(cmdline: &[u8]) -> bool {
    cmdline.windows(b"\0lab\0peer\0".len()).any(|window| window == b"\0lab\0peer\0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_survives_being_written_and_read() {
        let plan = Plan {
            id: "t".to_owned(),
            layout: Layout::Swarm,
            backends: 2,
            tcp_timeout: Duration::from_secs(8),
        };
        let mut state = State::planned(&plan);
        state.servers.push(Server {
            netns: "kl-t-db1".to_owned(),
            port: 7000,
            last_port: 7009,
            process: Process { pid: 7, start_time: 8 },
        });
        state.clients.push(Client {
            name: "app".to_owned(),
            process: Process { pid: 9, start_time: 10 },
            sessions: 4,
            keepalive: Some("2s,1s,3".parse().unwrap()),
            control: Some("/run/keepline-lab/t.app.sock".into()),
        });
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state, "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["schema"], "keepline.lab/v1");
        assert_eq!(value["layout"], "swarm");
        assert_eq!(value["servers"][0]["pid"], 7);
        assert_eq!(value["backends"][1]["address"], "10.213.1.12");
        assert_eq!(value["clients"][0]["pid"], 9);
        assert_eq!(value["clients"][0]["keepalive"], "2s,1s,3");
        assert_eq!(value["director_netns"], "kl-t-lb");
    }

    #[test]
    fn names_cannot_leave_the_directory() {
        for id in ["a", "my-lab_2", "4711"] {
            check_id(id).unwrap();
        }
        for id in ["", "../x", "a/b", "a.b", "-x", "a b", "a\u{1b}[m", &"x".repeat(25)] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn only_peers_are_taken_for_peers() {
        assert!(is_peer(b"/usr/bin/keepline\0lab\0peer\0idle\0--to\0x\0"));
        assert!(!is_peer(b"vi\0lab\0peer"));
        assert!(!is_peer(b"bash\0-c\0lab peer idle\0"));
    }
}
