//! What a walk over the tables does not tell of a socket, asked of the kernel for a few: its
//! inode, and the cookie that it gets by being asked for.

use std::collections::BTreeMap;

use keepline_core::{Snapshot, session::SocketRef, snapshot::Socket};
use keepline_kernel::{
    Error,
    netlink::{Protocol, Socket as Netlink},
};
use keepline_wire::sock_diag::{self, Exact};
use rustc_hash::FxHashMap;

use crate::{
    parallel,
    place::{NO_WAY, Place},
};

/// Sockets that could not be completed, and why; None: they have closed.
pub(crate) type Incompletable = FxHashMap<SocketRef, Option<String>>;

/// No socket's cookie: they are counted from 1. From here down they stand for what has none.
const STAND_IN: u64 = u64::MAX - 1;

/// Whether a socket's own cookie is known.
fn has_cookie(socket: &Socket) -> bool {
    socket.cookie != 0 && socket.cookie < STAND_IN - u64::from(u32::MAX)
}

/// Completes those of `wanted` that lack something. One that has closed meanwhile gets a cookie by
/// which it will never be found.
pub(crate) fn complete(
    snapshot: &mut Snapshot,
    places: &[Place],
    wanted: impl Iterator<Item = SocketRef>,
) -> Incompletable {
    let mut incompletable = Incompletable::default();
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for at in wanted {
        let socket = &snapshot.namespaces[at.namespace].sockets[at.socket];
        if !has_cookie(socket) || socket.inode == 0 {
            groups.entry(at.namespace).or_default().push(at.socket);
        }
    }
    let groups: Vec<_> = groups.into_iter().collect();
    let told = parallel::map(&groups, |(namespace, sockets)| {
        let namespace = &snapshot.namespaces[*namespace];
        let place = places.iter().find(|place| place.inode == namespace.inode).ok_or(NO_WAY)?;
        let sockets: Vec<&Socket> = sockets.iter().map(|at| &namespace.sockets[*at]).collect();
        match place.enter(|| ask(&sockets)).and_then(|told| told) {
            Ok(told) => Ok(told),
            // Its sockets went with it.
            Err(error) if error.is_gone() => Ok(vec![None; sockets.len()]),
            Err(error) => Err(error.to_string()),
        }
    });
    for ((namespace, sockets), told) in groups.iter().zip(told) {
        for (number, &at) in sockets.iter().enumerate() {
            let socket = &mut snapshot.namespaces[*namespace].sockets[at];
            let why = match &told {
                Ok(told) => match told[number] {
                    Some((cookie, inode)) => {
                        (socket.cookie, socket.inode) = (cookie, inode);
                        continue;
                    }
                    None => None,
                },
                Err(why) => Some(why.clone()),
            };
            // It has no cookie to be asked for again.
            if !has_cookie(socket) {
                socket.cookie = STAND_IN - at as u64;
                incompletable.insert(SocketRef { namespace: *namespace, socket: at }, why);
            }
        }
    }
    incompletable
}

/// Cookie and inode of each, where it is still there. Runs in the sockets' namespace.
fn ask(sockets: &[&Socket]) -> Result<Vec<Option<(u64, u32)>>, Error> {
    let diag = Netlink::open(Protocol::SockDiag)?;
    let mut told = Vec::with_capacity(sockets.len());
    for (sequence, socket) in (1..).zip(sockets) {
        let cookie = if has_cookie(socket) { socket.cookie } else { sock_diag::NO_COOKIE };
        let Socket { local, remote, interface, .. } = **socket;
        let request = Exact { local, remote, interface, cookie }.get(sequence);
        told.push(match diag.request("ask for a socket", &request, sock_diag::parse) {
            // A listener answers for a connection that is not there.
            Ok(found) => found
                .filter(|found| found.state != sock_diag::TcpState::Listen)
                .map(|found| (found.cookie, found.inode)),
            Err(error) if error.is_gone() => None,
            Err(error) => return Err(error),
        });
    }
    Ok(told)
}
