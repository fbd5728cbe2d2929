//! Look-ups over a snapshot, built once per judgement.

use std::{
    cell::OnceCell,
    hash::BuildHasher,
    net::{IpAddr, SocketAddr},
};

use hashbrown::HashTable;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    session::{EntryRef, SocketRef, Table},
    snapshot::{Entry, LinkAddress, SecondLookResult, ServiceId, Snapshot, Socket},
};

/// From and to of a packet.
pub(super) type Pair = (SocketAddr, SocketAddr);

/// Entries by a pair of addresses. Holds positions only: the addresses stand in the snapshot.
#[derive(Debug)]
struct ByPair {
    table: HashTable<EntryRef>,
    key: fn(&Entry) -> Pair,
}

impl ByPair {
    fn new(capacity: usize, key: fn(&Entry) -> Pair) -> Self {
        Self { table: HashTable::with_capacity(capacity), key }
    }

    fn insert(&mut self, snapshot: &Snapshot, at: EntryRef) {
        let key = self.key;
        let hash = |at: &EntryRef| hash(&key(entry(snapshot, *at)));
        self.table.insert_unique(hash(&at), at, hash);
    }

    fn get<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        pair: &Pair,
    ) -> impl Iterator<Item = EntryRef> + 'a {
        let pair = *pair;
        let found = self.table.iter_hash(hash(&pair)).copied();
        found.filter(move |at| (self.key)(entry(snapshot, *at)) == pair)
    }
}

fn hash(pair: &Pair) -> u64 {
    rustc_hash::FxBuildHasher.hash_one(pair)
}

/// All look-ups.
#[derive(Debug)]
pub(super) struct Index {
    /// Entries by what the client sent: client → server.
    entries: ByPair,
    /// Entries by what the backend sees: seen-as → backend.
    backs: ByPair,
    /// Who owns an address.
    owners: FxHashMap<IpAddr, Vec<usize>>,
    /// Who has an Ethernet address.
    links: FxHashMap<LinkAddress, Vec<usize>>,
    /// Which Ethernet address a namespace sends to for an address.
    neighbours: FxHashMap<(usize, IpAddr), LinkAddress>,
    /// Who balances an address and port by an IPVS service of its own.
    services: FxHashMap<SocketAddr, Vec<usize>>,
    /// Who has translated an address and port for others.
    translated: FxHashMap<SocketAddr, Vec<usize>>,
    /// Backends that IPVS of a namespace leads to.
    destinations: FxHashSet<(usize, SocketAddr)>,
    looks: FxHashMap<(u64, u64), SecondLookResult>,
    /// Sockets of a namespace by their addresses, made when first asked for.
    sockets: Vec<OnceCell<FxHashSet<Pair>>>,
}

impl Index {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let count = snapshot.entries();
        let mut index = Self {
            entries: ByPair::new(count, |entry| (entry.client, entry.server)),
            // Without SNAT the backend sees the client itself.
            backs: ByPair::new(count, |entry| {
                (entry.seen_as.unwrap_or(entry.client), entry.backend)
            }),
            owners: FxHashMap::default(),
            links: FxHashMap::default(),
            neighbours: FxHashMap::default(),
            services: FxHashMap::default(),
            translated: FxHashMap::default(),
            destinations: FxHashSet::default(),
            sockets: vec![OnceCell::new(); snapshot.namespaces.len()],
            looks: snapshot
                .second_look
                .iter()
                .map(|look| ((look.namespace, look.cookie), look.result))
                .collect(),
        };
        for (at, namespace) in snapshot.namespaces.iter().enumerate() {
            for address in &namespace.addresses {
                push(&mut index.owners, *address, at);
            }
            for link in &namespace.links {
                push(&mut index.links, *link, at);
            }
            let neighbours = namespace.neighbours.iter();
            index.neighbours.extend(neighbours.map(|(address, link)| ((at, *address), *link)));
            if let Some(ipvs) = &namespace.ipvs {
                for service in &ipvs.services {
                    if let ServiceId::Tcp(address) = service.id {
                        push(&mut index.services, address, at);
                    }
                    let backends = service.destinations.iter().map(|backend| backend.address);
                    index.destinations.extend(backends.map(|backend| (at, backend)));
                }
                index.add_entries(snapshot, at, Table::Ipvs, &ipvs.entries);
            }
            if let Some(conntrack) = &namespace.conntrack {
                index.add_entries(snapshot, at, Table::Conntrack, &conntrack.entries);
            }
        }
        index
    }

    fn add_entries(
        &mut self,
        snapshot: &Snapshot,
        namespace: usize,
        table: Table,
        entries: &[Entry],
    ) {
        let mut last = None;
        for (number, entry) in entries.iter().enumerate() {
            let at = EntryRef { namespace, table, entry: number };
            self.entries.insert(snapshot, at);
            self.backs.insert(snapshot, at);
            if entry.backend != entry.server && last != Some(entry.server) {
                last = Some(entry.server);
                push(&mut self.translated, entry.server, namespace);
            }
        }
    }

    /// Entries for what a client sent.
    pub(super) fn entries<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        pair: &Pair,
    ) -> impl Iterator<Item = EntryRef> + 'a {
        self.entries.get(snapshot, pair)
    }

    /// Entries for what a backend sees.
    pub(super) fn backs<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        pair: &Pair,
    ) -> impl Iterator<Item = EntryRef> + 'a {
        self.backs.get(snapshot, pair)
    }

    /// Namespaces that have `address` as their own.
    pub(super) fn owners(&self, address: IpAddr) -> &[usize] {
        self.owners.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Whether packets from `here` to `address` may go to `namespace`: addresses of different
    /// networks may overlap, but on the link one answers. What is not known rules nothing out.
    pub(super) fn answers(&self, here: usize, address: IpAddr, namespace: usize) -> bool {
        let answering = self.neighbours.get(&(here, address)).and_then(|link| self.links.get(link));
        namespace == here || answering.is_none_or(|owners| owners.contains(&namespace))
    }

    /// Namespaces with an IPVS service of this address.
    pub(super) fn services(&self, address: &SocketAddr) -> &[usize] {
        self.services.get(address).map_or(&[], Vec::as_slice)
    }

    /// Namespaces that hold entries which lead this address elsewhere.
    pub(super) fn translators(&self, address: &SocketAddr) -> &[usize] {
        self.translated.get(address).map_or(&[], Vec::as_slice)
    }

    /// Whether an IPVS service of `director` leads to `backend`; a destination with port 0
    /// keeps the client's port.
    pub(super) fn is_destination(&self, director: usize, backend: SocketAddr) -> bool {
        let any_port = SocketAddr::new(backend.ip(), 0);
        [backend, any_port].iter().any(|address| self.destinations.contains(&(director, *address)))
    }

    /// Whether the namespace itself holds the socket to which `pair` (from, to) goes.
    pub(super) fn mirrored(&self, snapshot: &Snapshot, namespace: usize, pair: &Pair) -> bool {
        let sockets = self.sockets[namespace].get_or_init(|| {
            let sockets = snapshot.namespaces[namespace].sockets.iter();
            sockets.map(|socket| (socket.remote, socket.local)).collect()
        });
        sockets.contains(pair)
    }

    pub(super) fn second_look(
        &self,
        snapshot: &Snapshot,
        at: SocketRef,
    ) -> Option<SecondLookResult> {
        let inode = snapshot.namespaces[at.namespace].inode;
        self.looks.get(&(inode, socket(snapshot, at).cookie)).copied()
    }
}

fn push<K: std::hash::Hash + Eq>(map: &mut FxHashMap<K, Vec<usize>>, key: K, value: usize) {
    let values = map.entry(key).or_default();
    if !values.contains(&value) {
        values.push(value);
    }
}

/// The socket at a position that came from the same snapshot.
pub(super) fn socket(snapshot: &Snapshot, at: SocketRef) -> &Socket {
    &snapshot.namespaces[at.namespace].sockets[at.socket]
}

/// The entry at a position that came from the same snapshot.
pub(crate) fn entry(snapshot: &Snapshot, at: EntryRef) -> &Entry {
    let namespace = &snapshot.namespaces[at.namespace];
    match at.table {
        Table::Ipvs => &namespace.ipvs.as_ref().expect("indexed from here").entries[at.entry],
        Table::Conntrack => {
            &namespace.conntrack.as_ref().expect("indexed from here").entries[at.entry]
        }
    }
}
