//! Which sockets are clients, which are backends; and which backend belongs to which client.

use std::net::SocketAddr;

use hashbrown::{HashTable, hash_table::Entry};
use rustc_hash::FxHashMap;

use super::{
    index::{Index, Pair, hash, socket},
    route::{self, Hop},
};
use crate::{
    parallel::{self, PIECE},
    session::SocketRef,
    snapshot::{Namespace, Snapshot, Socket},
};

/// A backend's socket that a session leads to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate(u32);

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
        let pieces: Vec<(usize, usize)> = snapshot
            .namespaces
            .iter()
            .enumerate()
            .flat_map(|(at, it)| (0..it.sockets.len()).step_by(PIECE).map(move |from| (at, from)))
            .collect();
        let parts = parallel::map(&pieces, |(number, from)| {
            let namespace = &snapshot.namespaces[*number];
            let mut ends = Self { clients: Vec::new(), servers: Vec::new() };
            for (position, socket) in namespace.sockets.iter().enumerate().skip(*from).take(PIECE) {
                let at = SocketRef { namespace: *number, socket: position };
                if accepted(snapshot, index, namespace, socket) {
                    ends.servers.push(at);
                } else {
                    ends.clients.push(at);
                }
            }
            ends
        });
        let mut ends = Self { clients: Vec::new(), servers: Vec::new() };
        for part in parts {
            ends.clients.extend(part.clients);
            ends.servers.extend(part.servers);
        }
        ends
    }
}

impl Ends {
    /// From and to of what a server receives.
    fn sees(&self, snapshot: &Snapshot, number: u32) -> Pair {
        let socket = socket(snapshot, self.servers[number as usize]);
        (socket.remote, socket.local)
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
    /// Numbers of servers by what they see: from and to.
    by_pair: HashTable<u32>,
    by_port: Option<FxHashMap<u16, Vec<usize>>>,
    claimed: Vec<bool>,
}

impl<'a> Backends<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, index: &'a Index, ends: &'a Ends) -> Self {
        let mut by_pair = HashTable::with_capacity(ends.servers.len());
        let seen = |number: u32| ends.sees(snapshot, number);
        for number in (0..).take(ends.servers.len()) {
            let pair = seen(number);
            let same = |other: &u32| seen(*other) == pair;
            match by_pair.entry(hash(&pair), same, |number| hash(&seen(*number))) {
                // The same addresses in two networks.
                Entry::Occupied(mut known) => *known.get_mut() = number,
                Entry::Vacant(place) => drop(place.insert(number)),
            }
        }
        let claimed = vec![false; ends.servers.len()];
        Self { snapshot, index, ends, by_pair, by_port: None, claimed }
    }

    /// The backend at the end of `hops`, if its socket is on this machine: to be claimed.
    pub(super) fn at_the_end_of(&self, hops: &[Hop]) -> Option<Candidate> {
        hops.last()?.onward(self.snapshot, |pair| {
            let same = |number: &u32| self.ends.sees(self.snapshot, *number) == pair;
            self.by_pair.find(hash(&pair), same).copied().map(Candidate)
        })
    }

    /// The socket of a candidate.
    pub(super) fn socket(&self, candidate: Candidate) -> SocketRef {
        self.ends.servers[candidate.0 as usize]
    }

    /// Gives a backend to a session, if no other has it.
    pub(super) fn claim(&mut self, candidate: Candidate) -> bool {
        !std::mem::replace(&mut self.claimed[candidate.0 as usize], true)
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
