//! Other processes' sockets in the current namespace: keepalive, probes, and their end.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

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

use super::Obstacle;
use crate::place::Place;

fn exact(socket: &SocketId) -> Exact {
    let SocketId { local, remote, interface, cookie, .. } = *socket;
    Exact { local, remote, interface, cookie }
}

fn settings(from: Keepalive) -> KeepaliveSettings {
    let Keepalive { enabled, idle, interval, probes } = from;
    KeepaliveSettings { enabled, idle, interval, probes }
}

fn keepalive(from: KeepaliveSettings) -> Keepalive {
    let KeepaliveSettings { enabled, idle, interval, probes } = from;
    Keepalive { enabled, idle, interval, probes }
}

/// Copies of the descriptors of sockets, for those that still are what they were.
fn borrow<'a>(
    place: &Place,
    sockets: impl Iterator<Item = &'a SocketId> + Clone,
) -> Result<Vec<Option<OwnedFd>>, Obstacle> {
    let mut holders: FxHashMap<u32, Option<Holder>> =
        sockets.clone().map(|socket| (socket.inode, None)).collect();
    let complete = procfs::holders(super::proc(), &place.pids, &mut holders);
    let mut found = 0;
    let copies: Vec<Option<OwnedFd>> = sockets
        .map(|socket| {
            let holder = holders.get(&socket.inode).copied().flatten()?;
            let copy = pidfd::borrow(holder.pid, holder.fd).ok()?;
            // The descriptor may have been closed and used again since it was found.
            let same = pidfd::cookie(&copy).ok() == Some(socket.cookie);
            found += usize::from(same);
            same.then_some(copy)
        })
        .collect();
    if found == 0 && !copies.is_empty() && !complete {
        return Err(Obstacle::Refused(
            "the descriptors of other users' processes may not be copied: run as root, or with \
             CAP_SYS_PTRACE"
                .to_owned(),
        ));
    }
    Ok(copies)
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
        if settings(pidfd::keepalive(&copy)?) == change.after {
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
                Some(is) if *is == change.after => programmed += 1,
                Some(_) => drifted += 1,
                None => closed += 1,
            }
        }
    }
    let mut said = vec![format!("{} set", set + programmed)];
    if programmed > 0 {
        said.push(format!("{programmed} of them in the kernel: no process lends their descriptor"));
    }
    if closed > 0 {
        said.push(format!("{closed} had closed, or their holder was not found"));
    }
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

fn ask(netlink: &Netlink, request: &[u8]) -> Result<Option<sock_diag::Socket>, Error> {
    match netlink.request("ask for a socket", request, sock_diag::parse) {
        Ok(socket) => Ok(socket),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

/// How long an answer to a probe is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Sends a keepalive probe on every socket, and says which were answered.
pub(super) fn touch(place: &Place, sockets: &[SocketId]) -> Result<Vec<String>, Obstacle> {
    let copies = borrow(place, sockets.iter())?;
    let netlink = Netlink::open(Protocol::SockDiag)?;
    let begun = Instant::now();
    let mut touched = Vec::new();
    for (socket, copy) in sockets.iter().zip(&copies) {
        let Some(copy) = copy else { continue };
        let before = pidfd::keepalive(copy)?;
        // A probe is due when the socket has been silent for as long as this.
        let now = Keepalive { enabled: true, idle: Duration::from_secs(1), ..before };
        let guard = Restore { copy, before };
        pidfd::set_keepalive(copy, &now)?;
        touched.push((socket, guard));
    }
    let closed = sockets.len() - touched.len();
    let (mut answered, mut ended) = (0, 0);
    while !touched.is_empty() && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(50));
        let mut left = Vec::new();
        for (socket, guard) in touched {
            match ask(&netlink, &exact(socket).get_with_info(1))? {
                None => ended += 1,
                Some(now)
                    if now.state != TcpState::Established && now.state != TcpState::CloseWait =>
                {
                    ended += 1;
                }
                Some(now) => {
                    let heard = now.info.map(|info| info.last_ack_recv.min(info.last_data_recv));
                    // Its own times are restored when the guard goes.
                    if heard.is_some_and(|heard| heard < begun.elapsed()) {
                        answered += 1;
                    } else {
                        left.push((socket, guard));
                    }
                }
            }
        }
        touched = left;
    }
    let mut said = vec![format!("{answered} answered")];
    if ended > 0 {
        said.push(format!("{ended} were refused by the other side and are closed"));
    }
    if !touched.is_empty() {
        let which: Vec<String> = touched
            .iter()
            .take(5)
            .map(|(socket, _)| format!("{} → {}", socket.local, socket.remote))
            .collect();
        said.push(format!(
            "{} did not answer within {} s: {}",
            touched.len(),
            PATIENCE.as_secs(),
            which.join(", ")
        ));
    }
    if closed > 0 {
        said.push(format!("{closed} had closed, or their holder was not found"));
    }
    Ok(said)
}

/// Gives a socket its own settings back, whatever happens.
#[derive(Debug)]
struct Restore<'a> {
    copy: &'a OwnedFd,
    before: Keepalive,
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        // A socket that has closed meanwhile needs none.
        let _ = pidfd::set_keepalive(self.copy, &self.before);
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
