//! Which sockets are clients, which are backends; and which backend belongs to which client.

use std::net::SocketAddr;

use rustc_hash::FxHashMap;

use super::{
    index::{Index, Pair, socket},
    route::{self, Hop},
};
use crate::{
    session::SocketRef,
    snapshot::{Namespace, Snapshot, Socket},
};

/// The sockets of a snapshot by their side of the session.
#[derive(Debug)]
pub(super) struct Ends {
    /// Those that connected.
    pub clients: Vec<SocketRef>,
    /// Those that were accepted.
    pub servers: Vec<SocketRef>,
}

impl Ends {
    pub(super) fn new(snapshot: &Snapshot, index: &Index) -> Self {
        let mut ends = Self { clients: Vec::new(), servers: Vec::new() };
        for (number, namespace) in snapshot.namespaces.iter().enumerate() {
            for (position, socket) in namespace.sockets.iter().enumerate() {
                let at = SocketRef { namespace: number, socket: position };
                if accepted(snapshot, index, namespace, socket) {
                    ends.servers.push(at);
                } else {
                    ends.clients.push(at);
                }
            }
        }
        ends
    }
}

/// Whether a socket was accepted rather than connected: its port is listened on, or an entry or
/// an IPVS service leads to it. A service with marks leads to any port of a backend's address, and a
/// backend of one service is as a rule a client of others: what it says to a virtual address of
/// the same director, it says as a client.
fn accepted(snapshot: &Snapshot, index: &Index, namespace: &Namespace, socket: &Socket) -> bool {
    let listened = namespace.listeners.iter().any(|listener| {
        listener.port() == socket.local.port()
            && (listener.ip().is_unspecified() || listener.ip() == socket.local.ip())
    });
    listened
        || index.backs(snapshot, &(socket.remote, socket.local)).next().is_some()
        || index.owners(socket.remote.ip()).iter().any(|owner| {
            index.is_destination(*owner, socket.local)
                && !route::balances(snapshot, index, *owner, socket.remote)
                && !index
                    .entries(snapshot, &(socket.local, socket.remote))
                    .any(|at| at.namespace == *owner)
        })
}

/// The backends' sockets, each given to one session at the most.
#[derive(Debug)]
pub(super) struct Backends<'a> {
    snapshot: &'a Snapshot,
    index: &'a Index,
    ends: &'a Ends,
    by_pair: FxHashMap<Pair, usize>,
    by_port: Option<FxHashMap<u16, Vec<usize>>>,
    claimed: Vec<bool>,
}

impl<'a> Backends<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, index: &'a Index, ends: &'a Ends) -> Self {
        let mut by_pair =
            FxHashMap::with_capacity_and_hasher(ends.servers.len(), rustc_hash::FxBuildHasher);
        for (number, at) in ends.servers.iter().enumerate() {
            let socket = socket(snapshot, *at);
            by_pair.insert((socket.remote, socket.local), number);
        }
        let claimed = vec![false; ends.servers.len()];
        Self { snapshot, index, ends, by_pair, by_port: None, claimed }
    }

    /// The backend at the end of `hops`, if its socket is on this machine.
    pub(super) fn claim(&mut self, hops: &[Hop]) -> Option<SocketRef> {
        let last = hops.last()?;
        let number = last
            .onward(self.snapshot)
            .into_iter()
            .find_map(|pair| self.by_pair.get(&pair).copied())
            .filter(|number| !self.claimed[*number])?;
        self.claimed[number] = true;
        Some(self.ends.servers[number])
    }

    /// The backend of a session whose entry is gone: the one socket whose peer is the director
    /// with the client's own port. Nothing where there are several.
    pub(super) fn claim_forgotten(
        &mut self,
        client: SocketAddr,
        director: usize,
    ) -> Option<SocketRef> {
        let (snapshot, index) = (self.snapshot, self.index);
        let namespace = &snapshot.namespaces[director];
        let ends = self.ends;
        let by_port = self.by_port.get_or_insert_with(|| {
            let mut map: FxHashMap<u16, Vec<usize>> = FxHashMap::default();
            for (number, at) in ends.servers.iter().enumerate() {
                map.entry(socket(snapshot, *at).remote.port()).or_default().push(number);
            }
            map
        });
        let mut fitting = by_port.get(&client.port())?.iter().copied().filter(|number| {
            let server = socket(snapshot, ends.servers[*number]);
            let seen = server.remote == client || namespace.addresses.contains(&server.remote.ip());
            let led = match &namespace.ipvs {
                Some(_) => index.is_destination(director, server.local),
                None => true,
            };
            !self.claimed[*number] && seen && led
        });
        let number = fitting.next()?;
        if fitting.next().is_some() {
            return None;
        }
        self.claimed[number] = true;
        Some(self.ends.servers[number])
    }

    /// Backends' sockets of which no client is known.
    pub(super) fn unclaimed(&self) -> impl Iterator<Item = SocketRef> + '_ {
        self.ends
            .servers
            .iter()
            .zip(&self.claimed)
            .filter(|(_, claimed)| !**claimed)
            .map(|(at, _)| *at)
    }
}
