//! Look-ups over a snapshot, built once per judgement.

use std::{
    net::{IpAddr, SocketAddr},
    sync::OnceLock,
};

use hashbrown::HashTable;
use rustc_hash::{FxHashMap, FxHashSet};

use super::networks::Networks;
use crate::{
    parallel,
    session::{EntryRef, SocketRef, Table},
    snapshot::{Entry, LinkAddress, SecondLookResult, ServiceId, Snapshot, Socket},
};

/// From and to of a packet.
pub(super) type Pair = (SocketAddr, SocketAddr);

/// Entries by a pair of addresses. Holds positions only: the addresses stand in the snapshot.
#[derive(Debug)]
struct ByPair {
    table: HashTable<Packed>,
    key: fn(&Entry) -> Pair,
}

/// A position in eight bytes, so that a table of many stays near the processor.
#[derive(Debug, Clone, Copy)]
struct Packed(u64);

impl Packed {
    /// Bits of the entry's index; below them one for the table, above them the namespace's.
    const ENTRY: u32 = 40;

    fn new(namespace: usize, table: Table, entry: usize) -> Self {
        let conntrack = u64::from(table == Table::Conntrack);
        Self((namespace as u64) << (Self::ENTRY + 1) | (entry as u64) << 1 | conntrack)
    }

    fn get(self) -> EntryRef {
        let table = if self.0 & 1 == 1 { Table::Conntrack } else { Table::Ipvs };
        let part = |bits: u64| usize::try_from(bits).expect("it was one");
        EntryRef {
            namespace: part(self.0 >> (Self::ENTRY + 1)),
            table,
            entry: part(self.0 >> 1 & ((1 << Self::ENTRY) - 1)),
        }
    }
}

impl ByPair {
    /// All entries of a snapshot, about `count`.
    fn new(snapshot: &Snapshot, count: usize, key: fn(&Entry) -> Pair) -> Self {
        let mut all = Self { table: HashTable::with_capacity(count), key };
        for (at, namespace) in snapshot.namespaces.iter().enumerate() {
            if let Some(ipvs) = &namespace.ipvs {
                all.insert(snapshot, at, Table::Ipvs, &ipvs.entries);
            }
            if let Some(conntrack) = &namespace.conntrack {
                all.insert(snapshot, at, Table::Conntrack, &conntrack.entries);
            }
        }
        all
    }

    fn insert(&mut self, snapshot: &Snapshot, namespace: usize, table: Table, entries: &[Entry]) {
        let key = self.key;
        for (number, row) in entries.iter().enumerate() {
            let at = Packed::new(namespace, table, number);
            let again = |at: &Packed| hash(&key(entry(snapshot, at.get())));
            self.table.insert_unique(hash(&key(row)), at, again);
        }
    }

    fn get<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        pair: &Pair,
    ) -> impl Iterator<Item = EntryRef> + 'a {
        let pair = *pair;
        let found = self.table.iter_hash(hash(&pair)).map(|at| at.get());
        found.filter(move |at| (self.key)(entry(snapshot, *at)) == pair)
    }
}

/// A quick hash, of which all bits are good: a product folded (wyhash). There are millions to be
/// made, and who could choose addresses so that they collide would first have to open the sessions.
pub(super) fn hash((from, to): &Pair) -> u64 {
    fn fold(one: u64, other: u64) -> u64 {
        let product = u128::from(one) * u128::from(other);
        #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
        let halves = (product as u64, (product >> 64) as u64);
        halves.0 ^ halves.1
    }
    fn word(address: &SocketAddr) -> u64 {
        let port = u64::from(address.port());
        match address {
            SocketAddr::V4(v4) => u64::from(u32::from(*v4.ip())) << 16 | port,
            SocketAddr::V6(v6) => {
                let bits = u128::from(*v6.ip());
                #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
                let halves = (bits as u64, (bits >> 64) as u64);
                fold(
                    halves.0 ^ 0x9e37_79b9_7f4a_7c15,
                    halves.1 ^ port << 48 ^ 0xd1b5_4a32_d192_ed03,
                )
            }
        }
    }
    let one = word(from) ^ 0xa076_1d64_78bd_642f;
    let other = word(to) ^ 0xe703_7ed1_a0b4_28db;
    // Folded twice: the first product of two small numbers leaves its upper half thin.
    fold(fold(one, 0x8ebc_6af0_9c88_c6e3) ^ other, 0x5899_65cc_7537_4cc3)
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
    /// Who is attached to whose network.
    pub(super) networks: Networks,
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
    sockets: Vec<OnceLock<FxHashSet<Pair>>>,
}

impl Index {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let count = snapshot.entries();
        let (entries, backs) = parallel::both(
            count,
            || ByPair::new(snapshot, count, |entry| (entry.client, entry.server)),
            // Without SNAT the backend sees the client itself.
            || {
                ByPair::new(snapshot, count, |entry| {
                    (entry.seen_as.unwrap_or(entry.client), entry.backend)
                })
            },
        );
        let mut index = Self {
            entries,
            backs,
            owners: FxHashMap::default(),
            links: FxHashMap::default(),
            networks: Networks::new(snapshot),
            neighbours: FxHashMap::default(),
            services: FxHashMap::default(),
            translated: FxHashMap::default(),
            destinations: FxHashSet::default(),
            sockets: vec![OnceLock::new(); snapshot.namespaces.len()],
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
                index.add_translated(at, &ipvs.entries);
            }
            if let Some(conntrack) = &namespace.conntrack {
                index.add_translated(at, &conntrack.entries);
            }
        }
        index
    }

    fn add_translated(&mut self, namespace: usize, entries: &[Entry]) {
        let mut last = None;
        for entry in entries {
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
        namespace == here
            || answering.is_none_or(|owners| owners.contains(&namespace))
                && self.networks.reach(here, namespace)
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
        if self.destinations.is_empty() {
            return false;
        }
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
