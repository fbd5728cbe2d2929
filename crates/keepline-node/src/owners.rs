//! Who holds a socket, and how its keepalive is set: read only where it matters.

use std::{collections::BTreeMap, path::Path};

use keepline_core::{
    Snapshot,
    judge::Questions,
    session::SocketRef,
    snapshot::{Incomplete, KeepaliveSettings, Process},
};
use keepline_kernel::{
    pidfd,
    procfs::{self, Holder},
};
use rustc_hash::FxHashMap;

use crate::{
    parallel,
    place::{PROC, Place},
};

/// Of how many sockets the owners are wanted: naming them means walking their processes'
/// descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Of every session through a director.
    All,
    /// Of so many, the most urgent sessions first; of a few also where all is well.
    MostUrgent(usize),
    /// The same, and of none where all is well.
    OfTrouble(usize),
    /// Of none, and keepalive settings stay unread: a session that has keepalive may then be taken
    /// for one that has none, which costs only that its entry is renewed besides.
    Nobody,
}

impl Owners {
    /// Takes from the questions what is not wanted.
    pub(crate) fn limit(self, questions: &mut Questions) {
        /// Safe sessions are shown beside others, a few of them.
        const FEW: usize = 20;
        let urgent = questions.urgent;
        let most = match self {
            Self::All => return,
            Self::Nobody => {
                questions.keepalive.clear();
                0
            }
            Self::OfTrouble(_) if urgent == 0 => 0,
            Self::MostUrgent(most) | Self::OfTrouble(most) => most.min(urgent.max(FEW)),
        };
        questions.processes.truncate(most);
    }
}

/// Holders of sockets, namespace by namespace.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    by_namespace: BTreeMap<usize, FxHashMap<u32, Option<Holder>>>,
    complete: bool,
}

impl Holders {
    /// Finds who holds `sockets`.
    pub(crate) fn find(snapshot: &Snapshot, places: &[Place], sockets: &[SocketRef]) -> Self {
        let mut wanted: BTreeMap<usize, FxHashMap<u32, Option<Holder>>> = BTreeMap::new();
        for at in sockets {
            let inode = snapshot.namespaces[at.namespace].sockets[at.socket].inode;
            if inode != 0 {
                wanted.entry(at.namespace).or_default().insert(inode, None);
            }
        }
        let wanted: Vec<_> = wanted.into_iter().collect();
        let found = parallel::map(&wanted, |(namespace, inodes)| {
            let mut inodes = inodes.clone();
            let inode = snapshot.namespaces[*namespace].inode;
            let pids = places.iter().find(|place| place.inode == inode).map(|place| &place.pids);
            let complete =
                procfs::holders(Path::new(PROC), pids.map_or(&[], Vec::as_slice), &mut inodes);
            (*namespace, inodes, complete)
        });
        let complete = found.iter().all(|(_, _, complete)| *complete);
        let by_namespace =
            found.into_iter().map(|(namespace, inodes, _)| (namespace, inodes)).collect();
        Self { by_namespace, complete }
    }

    fn of(&self, snapshot: &Snapshot, at: SocketRef) -> Option<Holder> {
        let inode = snapshot.namespaces[at.namespace].sockets[at.socket].inode;
        *self.by_namespace.get(&at.namespace)?.get(&inode)?
    }

    /// Says what is missing where processes could not be looked into.
    pub(crate) fn missed(&self) -> Option<Incomplete> {
        (!self.complete).then(|| Incomplete {
            what: "processes of other users".to_owned(),
            why: "their descriptors may not be read: sockets without a name, keepalive unproven"
                .to_owned(),
            help: Some("run as root, or with CAP_SYS_PTRACE".to_owned()),
        })
    }
}

/// Reads the keepalive settings of `sockets` from the sockets themselves.
pub(crate) fn read_keepalive(snapshot: &mut Snapshot, holders: &Holders, sockets: &[SocketRef]) {
    for at in sockets {
        let Some(holder) = holders.of(snapshot, *at) else { continue };
        let socket = &mut snapshot.namespaces[at.namespace].sockets[at.socket];
        let Ok(copy) = pidfd::borrow(holder.pid, holder.fd) else { continue };
        // The descriptor may have been closed and used again since it was found.
        if pidfd::cookie(&copy).ok() != Some(socket.cookie) {
            continue;
        }
        socket.keepalive = pidfd::keepalive(&copy).ok().map(|settings| {
            Box::new(KeepaliveSettings {
                enabled: settings.enabled,
                idle: settings.idle,
                interval: settings.interval,
                probes: settings.probes,
            })
        });
    }
}

/// Names the processes that hold `sockets`.
pub(crate) fn name_processes(snapshot: &mut Snapshot, holders: &Holders, sockets: &[SocketRef]) {
    let mut commands: FxHashMap<u32, Option<String>> = FxHashMap::default();
    for at in sockets {
        let Some(holder) = holders.of(snapshot, *at) else { continue };
        let command = commands
            .entry(holder.pid)
            .or_insert_with(|| procfs::command(Path::new(PROC), holder.pid));
        let Some(command) = command.clone() else { continue };
        let namespace = &mut snapshot.namespaces[at.namespace];
        let inode = namespace.sockets[at.socket].inode;
        namespace.processes.insert(inode, Process { pid: holder.pid, command });
    }
}
