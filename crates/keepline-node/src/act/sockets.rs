//! Other processes' sockets in the current namespace: keepalive, and their end.

use std::{collections::BTreeMap, net::IpAddr, os::fd::OwnedFd};

use keepline_bpf::exact;
use keepline_core::{
    plan::{KeepaliveChange, SocketId, What},
    snapshot::KeepaliveSettings,
};
use keepline_kernel::{
    Error,
    netlink::{Event, Protocol, Socket as Netlink},
    pidfd::{self, Keepalive},
    procfs::{self, Holder},
};
use keepline_wire::sock_diag::{self, Exact, TcpState};
use rustc_hash::FxHashMap;
use rustix::{
    io::Errno,
    process::{Resource, getrlimit},
};

use super::Obstacle;
use crate::place::Place;

pub(super) fn exact(socket: &SocketId) -> Exact {
    let SocketId { local, remote, interface, cookie, .. } = *socket;
    Exact { local, remote, interface, cookie }
}

pub(super) fn settings(from: Keepalive) -> KeepaliveSettings {
    let Keepalive { enabled, idle, interval, probes } = from;
    KeepaliveSettings { enabled, idle, interval, probes }
}

fn keepalive(from: KeepaliveSettings) -> Keepalive {
    let KeepaliveSettings { enabled, idle, interval, probes } = from;
    Keepalive { enabled, idle, interval, probes }
}

/// Copies of the descriptors of sockets, for those that still are what they were.
pub(super) fn borrow<'a>(
    place: &Place,
    sockets: impl Iterator<Item = &'a SocketId> + Clone,
) -> Result<Vec<Option<OwnedFd>>, Obstacle> {
    let mut holders: FxHashMap<u32, Option<Holder>> =
        sockets.clone().map(|socket| (socket.inode, None)).collect();
    let complete = procfs::holders(super::proc(), &place.pids, &mut holders);
    let mut found = 0;
    let copies: Vec<Option<OwnedFd>> = sockets
        .map(|socket| {
            let Some(holder) = holders.get(&socket.inode).copied().flatten() else {
                return Ok(None);
            };
            let copy = match pidfd::borrow(holder.pid, holder.fd) {
                Ok(copy) => copy,
                Err(error) => return too_many(&error).map_or(Ok(None), Err),
            };
            // The descriptor may have been closed and used again since it was found.
            let same = pidfd::cookie(&copy).ok() == Some(socket.cookie);
            found += usize::from(same);
            Ok(same.then_some(copy))
        })
        .collect::<Result<_, _>>()?;
    if found == 0 && !copies.is_empty() && !complete {
        return Err(Obstacle::Refused(
            "the descriptors of other users' processes may not be copied: run as root, or with \
             CAP_SYS_PTRACE"
                .to_owned(),
        ));
    }
    Ok(copies)
}

/// Whether a copy was one too many, by which limit.
fn too_many(error: &Error) -> Option<Obstacle> {
    let limit = match Errno::from_raw_os_error(error.errno()?) {
        Errno::MFILE => {
            let most = getrlimit(Resource::Nofile).current;
            let most = most.map_or("infinity".to_owned(), |most| most.to_string());
            format!("a process may have {most} open files (RLIMIT_NOFILE, `ulimit -n`)")
        }
        Errno::NFILE => "this machine may have no more open files (fs.file-max)".to_owned(),
        _ => return None,
    };
    Some(Obstacle::Refused(format!("too many sockets at once: {limit}")))
}

/// Of how many sockets nothing else is to be said.
pub(super) fn unreached(count: usize) -> Option<String> {
    (count > 0).then(|| format!("{count} had closed, or could not be reached"))
}

/// What the settings of the sockets are now: they must be known before they are changed. None for
/// changes that need no such thing.
pub(super) fn prepare(place: &Place, what: &What) -> Result<Option<What>, Obstacle> {
    let What::Keepalive { sockets } = what else { return Ok(None) };
    let Reached { copies, in_kernel } = reach(place, sockets)?;
    let sockets = sockets
        .iter()
        .zip(copies)
        .filter_map(|(change, copy)| {
            let (before, in_kernel) = match copy {
                Some(copy) => (settings(pidfd::keepalive(&copy).ok()?), false),
                None => (*in_kernel.get(&change.socket.cookie)?, true),
            };
            Some(KeepaliveChange { before: Some(before), in_kernel, ..*change })
        })
        .collect();
    Ok(Some(What::Keepalive { sockets }))
}

/// Sockets, each by the way that leads to it.
struct Reached {
    copies: Vec<Option<OwnedFd>>,
    /// Settings of those that no process lends.
    in_kernel: BTreeMap<u64, KeepaliveSettings>,
}

fn reach(place: &Place, changes: &[KeepaliveChange]) -> Result<Reached, Obstacle> {
    let (copies, refusal) = match borrow(place, changes.iter().map(|change| &change.socket)) {
        Ok(copies) => (copies, None),
        Err(refusal) => (changes.iter().map(|_| None).collect(), Some(refusal)),
    };
    let missing: Vec<u64> = changes
        .iter()
        .zip(&copies)
        .filter(|(_, copy)| copy.is_none())
        .map(|(change, _)| change.socket.cookie)
        .collect();
    if missing.is_empty() {
        return Ok(Reached { copies, in_kernel: BTreeMap::new() });
    }
    match (exact::read(&missing), refusal) {
        (Ok(found), _) => {
            let in_kernel = found.into_iter().map(|(cookie, is)| (cookie, told(is))).collect();
            Ok(Reached { copies, in_kernel })
        }
        (Err(_), Some(refusal)) => Err(refusal),
        // Before kernel 5.15: they count as closed, as ever.
        (Err(_), None) => Ok(Reached { copies, in_kernel: BTreeMap::new() }),
    }
}

fn told(from: exact::Settings) -> KeepaliveSettings {
    let exact::Settings { enabled, idle, interval, probes } = from;
    KeepaliveSettings { enabled, idle, interval, probes }
}

fn wished(from: KeepaliveSettings) -> exact::Settings {
    let KeepaliveSettings { enabled, idle, interval, probes } = from;
    exact::Settings { enabled, idle, interval, probes }
}

/// Whether a socket has what it was given, as far as that can be.
fn took(is: Keepalive, given: Keepalive) -> bool {
    is == given || is == given.possible()
}

/// Changes keepalive. Sockets that are gone, or that their owners have set otherwise since, are
/// left alone.
pub(super) fn set_keepalive(
    place: &Place,
    changes: &[KeepaliveChange],
) -> Result<Vec<String>, Obstacle> {
    let Reached { copies, in_kernel } = reach(place, changes)?;
    let (mut set, mut closed, mut drifted) = (0, 0, 0);
    let mut by_program = Vec::new();
    for (change, copy) in changes.iter().zip(copies) {
        let Some(copy) = copy else {
            match in_kernel.get(&change.socket.cookie) {
                Some(is) if Some(*is) == change.before || *is == change.after => {
                    by_program.push(exact::Change {
                        cookie: change.socket.cookie,
                        before: wished(*is),
                        after: wished(change.after),
                    });
                }
                Some(_) => drifted += 1,
                None => closed += 1,
            }
            continue;
        };
        let is = settings(pidfd::keepalive(&copy)?);
        if Some(is) != change.before && is != change.after {
            drifted += 1;
            continue;
        }
        if let Err(error) = pidfd::set_keepalive(&copy, &keepalive(change.after)) {
            // Half of them would be neither what was there nor what was wished.
            let _ = pidfd::set_keepalive(&copy, &keepalive(is));
            return Err(error.into());
        }
        if took(pidfd::keepalive(&copy)?, keepalive(change.after)) {
            set += 1;
        } else {
            drifted += 1;
        }
    }
    let mut programmed = 0;
    if !by_program.is_empty() {
        let now = exact::set(&by_program)?;
        for change in &by_program {
            match now.get(&change.cookie) {
                Some(is) if took(keepalive(told(*is)), keepalive(told(change.after))) => {
                    programmed += 1;
                }
                Some(_) => drifted += 1,
                None => closed += 1,
            }
        }
    }
    let mut said = vec![format!("{} set", set + programmed)];
    if programmed > 0 {
        said.push(format!("{programmed} of them in the kernel, by a program"));
    }
    said.extend(unreached(closed));
    if drifted > 0 {
        said.push(format!("{drifted} left alone: their owners have changed them since"));
    }
    Ok(said)
}

/// Whether any of them has what it shall have, and had not before.
pub(super) fn is_any_set(place: &Place, changes: &[KeepaliveChange]) -> Result<bool, Obstacle> {
    let Reached { copies, in_kernel } = reach(place, changes)?;
    Ok(changes.iter().zip(copies).any(|(change, copy)| {
        let is = match copy {
            Some(copy) => pidfd::keepalive(&copy).ok().map(settings),
            None => in_kernel.get(&change.socket.cookie).copied(),
        };
        // One half-way between the two counts, too.
        is.is_some() && is != change.before
    }))
}

/// How many of the sockets are open still.
pub(super) fn still_open(changes: &[KeepaliveChange]) -> Result<usize, Obstacle> {
    let netlink = Netlink::open(Protocol::SockDiag)?;
    let mut open = 0;
    for change in changes {
        let request = exact(&change.socket).get(1);
        open += usize::from(ask(&netlink, &request)?.is_some());
    }
    Ok(open)
}

pub(super) fn ask(netlink: &Netlink, request: &[u8]) -> Result<Option<sock_diag::Socket>, Error> {
    match netlink.request("ask for a socket", request, sock_diag::parse) {
        Ok(socket) => Ok(socket),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Closes every connection of this namespace to `peers`, also one that is being made: its owner
/// would wait for two minutes (`tcp_syn_retries`).
pub(super) fn disconnect(peers: &[IpAddr]) -> Result<Vec<String>, Obstacle> {
    let netlink = Netlink::open(Protocol::SockDiag)?;
    let states = sock_diag::States::of(&[TcpState::Established, TcpState::SynSent]);
    let mut sockets = Vec::new();
    netlink.dump("list sockets", &sock_diag::dump(states, false, 1), |event| {
        match event {
            // What the interrupted walk has found already is found again.
            Event::Start => sockets.clear(),
            Event::Message(message) => {
                let socket = sock_diag::parse(message.payload)?;
                if peers.contains(&socket.remote.ip().to_canonical()) {
                    sockets.push(Exact {
                        local: socket.local,
                        remote: socket.remote,
                        interface: socket.interface,
                        cookie: socket.cookie,
                    });
                }
            }
        }
        Ok(())
    })?;
    destroy(&netlink, &sockets)
}

/// Closes sockets: their owners get `ECONNABORTED`, their peers a reset (`tcp_abort()`).
pub(super) fn abort(sockets: &[SocketId]) -> Result<Vec<String>, Obstacle> {
    let netlink = Netlink::open(Protocol::SockDiag)?;
    destroy(&netlink, &sockets.iter().map(exact).collect::<Vec<_>>())
}

fn destroy(netlink: &Netlink, sockets: &[Exact]) -> Result<Vec<String>, Obstacle> {
    let requests: Vec<Vec<u8>> =
        (1..).zip(sockets).map(|(sequence, socket)| socket.destroy(sequence)).collect();
    let (mut closed, mut gone) = (0, 0);
    for result in netlink.batch("close a socket", &requests)? {
        match result {
            None => closed += 1,
            Some(error) if error.is_gone() => gone += 1,
            Some(error) => return Err(error.into()),
        }
    }
    let mut said = vec![format!("{closed} closed")];
    if gone > 0 {
        said.push(format!("{gone} had closed already"));
    }
    Ok(said)
}
