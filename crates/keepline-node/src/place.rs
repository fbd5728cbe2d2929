//! Places to look: the namespaces of this machine, with names for people and a way in.

use std::path::{Path, PathBuf};

use keepline_core::snapshot::Container;
use keepline_kernel::{Error, namespaces, procfs};

use crate::NodeError;

/// Where processes are described.
pub(crate) const PROC: &str = "/proc";

/// One namespace of this machine.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub inode: u64,
    pub name: String,
    /// Ways in, the most lasting first. Empty for the namespace this process is in: no entering.
    pub ways: Vec<PathBuf>,
    pub pids: Vec<u32>,
    pub container: Option<Container>,
    /// Names by which it can be selected besides `name`.
    pub aliases: Vec<String>,
    /// The path shown to people.
    pub path: Option<PathBuf>,
}

/// Why a place cannot be entered that is not in the list.
pub(crate) const NO_WAY: &str = "there is no way into it any more";

/// Every namespace of this machine.
pub(crate) fn all() -> Result<Vec<Place>, NodeError> {
    list().map_err(|error| NodeError::Nothing { why: error.to_string() })
}

fn list() -> Result<Vec<Place>, Error> {
    let proc = Path::new(PROC);
    let own = namespaces::identify(&proc.join("self/ns/net"))?;
    let host = host(proc);
    let found = namespaces::discover(proc)?;
    Ok(found.into_iter().map(|namespace| describe(proc, namespace, own, host.as_ref())).collect())
}

/// The host's namespace, with a way to it: that of init, or where init may not be looked into
/// that of the first kernel thread.
fn host(proc: &Path) -> Option<(u64, PathBuf)> {
    let at = |pid: u32| {
        let path = proc.join(format!("{pid}/ns/net"));
        Some((namespaces::identify(&path).ok()?, path))
    };
    let first_thread = || procfs::command(proc, 2).is_some_and(|command| command == "kthreadd");
    at(1).or_else(|| first_thread().then(|| at(2)).flatten())
}

fn describe(
    proc: &Path,
    namespace: namespaces::Namespace,
    own: u64,
    host: Option<&(u64, PathBuf)>,
) -> Place {
    let inode = namespace.inode;
    let host = host.filter(|(host, _)| *host == inode);
    let is_host = host.is_some();
    let processes = namespace.pids.iter().take(3).map(|pid| proc.join(format!("{pid}/ns/net")));
    let mut ways: Vec<PathBuf> = namespace.mounts.iter().cloned().chain(processes).collect();
    let aliases: Vec<String> = namespace
        .mounts
        .iter()
        .filter_map(|mount| Some(mount.file_name()?.to_str()?.to_owned()))
        .collect();
    let container = (!is_host)
        .then(|| namespace.pids.first().and_then(|pid| procfs::container(proc, *pid)))
        .flatten()
        .map(|found| Container { id: found.id, name: None, nested: found.nested });
    let name = if is_host {
        HOST.to_owned()
    } else {
        aliases.first().cloned().unwrap_or_else(|| format!("net:[{inode}]"))
    };
    let path = host.map(|(_, path)| path.clone()).or_else(|| ways.first().cloned());
    if inode == own {
        ways.clear();
    }
    Place { inode, name, ways, pids: namespace.pids, container, aliases, path }
}

/// What the host's namespace is called.
const HOST: &str = "host";

impl Place {
    /// Whether it is the host's.
    pub(crate) fn is_host(&self) -> bool {
        self.name == HOST
    }

    /// Runs `work` in this namespace.
    pub(crate) fn enter<T: Send>(&self, work: impl Fn() -> T + Send + Sync) -> Result<T, Error> {
        let mut last = None;
        for way in &self.ways {
            match namespaces::enter(way, self.inode, &work) {
                Ok(result) => return Ok(result),
                Err(error) => last = Some(error),
            }
        }
        // No way needed: it is the one we are in.
        last.map_or_else(|| Ok(work()), Err)
    }
}
