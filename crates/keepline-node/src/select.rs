//! Which part of the machine is asked for.

/// What to look at. Empty: everything on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Select {
    /// Containers, by ID or unique prefix of it.
    pub containers: Vec<String>,
    /// Swarm services, by name.
    pub services: Vec<String>,
    /// Swarm networks, by name.
    pub networks: Vec<String>,
    /// Network namespaces: a path, or a name in `/var/run/netns` or Docker's netns folder.
    pub netns: Vec<String>,
    /// The namespaces of these processes.
    pub pids: Vec<u32>,
}

impl Select {
    /// Whether everything is asked for.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }
}

/// Of how many sockets the owners are wanted: naming them means walking their processes'
/// descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Of every session through a director.
    All,
    /// Of so many, the most urgent sessions first.
    MostUrgent(usize),
}
