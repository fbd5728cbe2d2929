//! The way of a session: from the client's socket through every table that translates it.

use std::net::SocketAddr;

use super::index::{Index, Pair, entry, socket};
use crate::{
    session::{EntryRef, SocketRef, Table},
    snapshot::{Entry, Ipvs, Listing, Namespace, ServiceId, Snapshot, TcpState},
};

/// A published port takes two (host, ingress); more than this is a loop.
const MAX_HOPS: usize = 4;

/// One director on the way, with what it remembers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hop {
    /// Index of the namespace.
    pub namespace: usize,
    /// What IPVS remembers.
    pub ipvs: Option<EntryRef>,
    /// What conntrack remembers.
    pub conntrack: Option<EntryRef>,
}

/// Where a session's way leads.
#[derive(Debug)]
pub(super) enum Route {
    /// Through directors that remember it.
    Hops(Vec<Hop>),
    /// To a director that does not.
    Missing {
        /// Index of its namespace.
        director: usize,
        /// The table that should have the entry.
        table: Table,
        /// What the director is sent: the addresses the entry would have.
        pair: Pair,
    },
    /// Through no director.
    Direct,
    /// To one of several directors.
    Ambiguous,
    /// To a director whose tables could not be read.
    Unreadable {
        /// Index of its namespace.
        director: usize,
    },
}

impl Hop {
    /// The entry that tells addresses: conntrack's knows more.
    pub(super) fn entry<'a>(&self, snapshot: &'a Snapshot) -> &'a Entry {
        let at = self.conntrack.or(self.ipvs).expect("a hop has at least one entry");
        entry(snapshot, at)
    }

    /// Finds by what may come out towards the backend, the most certain first. IPVS does not record
    /// the source that a later SNAT gives a packet: any address of the director, with the client's
    /// port.
    pub(super) fn onward<T>(
        &self,
        snapshot: &Snapshot,
        mut find: impl FnMut(Pair) -> Option<T>,
    ) -> Option<T> {
        let entry = self.entry(snapshot);
        match entry.seen_as {
            Some(seen_as) => find((seen_as, entry.backend)),
            None => find((entry.client, entry.backend)).or_else(|| {
                let mut addresses = snapshot.namespaces[self.namespace].addresses.iter();
                addresses.find_map(|address| {
                    find((SocketAddr::new(*address, entry.client.port()), entry.backend))
                })
            }),
        }
    }
}

/// Follows a client's socket towards the backend.
pub(super) fn follow(snapshot: &Snapshot, index: &Index, at: SocketRef) -> Route {
    let client = socket(snapshot, at);
    let mut here = at.namespace;
    let mut pair = (client.local, client.remote);
    let mut hops: Vec<Hop> = Vec::new();
    while hops.len() < MAX_HOPS {
        match next_hop(snapshot, index, &pair, here, &hops) {
            Found::One(hop) => {
                let entry = hop.entry(snapshot);
                hops.push(hop);
                here = hop.namespace;
                match entry.seen_as {
                    Some(seen_as) => pair = (seen_as, entry.backend),
                    // What comes out is not certain: a later director cannot be accused.
                    None => break,
                }
            }
            Found::Several => return Route::Ambiguous,
            Found::None => match expected(snapshot, index, &pair, here, client.state) {
                Expected::Nobody => break,
                Expected::One(director, table) => return missing(snapshot, director, table, pair),
                Expected::Several => {
                    return if hops.is_empty() { Route::Ambiguous } else { Route::Hops(hops) };
                }
            },
        }
    }
    if hops.is_empty() { Route::Direct } else { Route::Hops(hops) }
}

/// Follows a backend's socket, whose client is not known, towards the client.
pub(super) fn follow_back(snapshot: &Snapshot, index: &Index, at: SocketRef) -> Route {
    let server = socket(snapshot, at);
    let mut pair = (server.remote, server.local);
    let mut hops: Vec<Hop> = Vec::new();
    while hops.len() < MAX_HOPS {
        let backs = index.backs(snapshot, &pair);
        // The next one stands behind a director, of which nothing is known.
        let backs =
            backs.filter(|it| !hops.is_empty() || index.networks.reach(at.namespace, it.namespace));
        match gather(backs, usize::MAX, &hops) {
            Found::One(mut hop) => {
                let entry = hop.entry(snapshot);
                pair = (entry.client, entry.server);
                // Behind SNAT a backend's peer is in conntrack's entry; the one of IPVS is the client's.
                let same = |at: &EntryRef| at.namespace == hop.namespace && at.table == Table::Ipvs;
                hop.ipvs = hop.ipvs.or_else(|| index.entries(snapshot, &pair).find(same));
                hops.insert(0, hop);
            }
            Found::Several if hops.is_empty() => return Route::Ambiguous,
            Found::Several | Found::None => break,
        }
    }
    // A port that the backend's own namespace redirects (a Swarm task with a published port) is
    // no load balancer; the director may be behind it, or on another machine.
    let redirected = |hop: &Hop| {
        let entry = hop.entry(snapshot);
        hop.namespace == at.namespace && entry.server.ip() == entry.backend.ip()
    };
    if !hops.iter().all(redirected) {
        return Route::Hops(hops);
    }
    let (seen_as, backend) = pair;
    // Who does not listen is no backend: a client, say, whose service was removed.
    if !listens(&snapshot.namespaces[at.namespace], server.local) {
        return Route::Direct;
    }
    let mut directors = index.owners(seen_as.ip()).iter().copied().filter(|owner| {
        let namespace = &snapshot.namespaces[*owner];
        *owner != at.namespace
            && index.networks.reach(at.namespace, *owner)
            && !index.mirrored(snapshot, *owner, &(backend, seen_as))
            && (index.is_destination(*owner, backend)
                || (translates(namespace) && server.state == TcpState::Established))
    });
    match (directors.next(), directors.next()) {
        (None, _) => Route::Direct,
        (Some(director), None) => {
            let by_ipvs = index.is_destination(director, backend);
            let table = if by_ipvs { Table::Ipvs } else { Table::Conntrack };
            missing(snapshot, director, table, (backend, seen_as))
        }
        (Some(_), Some(_)) => Route::Ambiguous,
    }
}

enum Found {
    None,
    One(Hop),
    Several,
}

fn next_hop(snapshot: &Snapshot, index: &Index, pair: &Pair, here: usize, hops: &[Hop]) -> Found {
    let answering = || {
        index.entries(snapshot, pair).filter(|at| index.answers(here, pair.1.ip(), at.namespace))
    };
    match gather(answering(), here, hops) {
        // The same addresses in two networks: the one that owns the virtual address decides.
        Found::Several => gather(
            answering().filter(|at| index.owners(pair.1.ip()).contains(&at.namespace)),
            here,
            hops,
        ),
        found => found,
    }
}

/// Entries of one namespace make one hop; that of `here` comes first, as a packet meets it first.
fn gather(entries: impl Iterator<Item = EntryRef>, here: usize, hops: &[Hop]) -> Found {
    let mut found: Option<Hop> = None;
    let mut several = false;
    for at in entries {
        if hops.iter().any(|hop| hop.namespace == at.namespace) {
            continue;
        }
        let hop = match &mut found {
            Some(hop) if hop.namespace == at.namespace => hop,
            Some(hop) if hop.namespace == here => continue,
            Some(hop) if at.namespace == here => {
                *hop = Hop { namespace: here, ipvs: None, conntrack: None };
                hop
            }
            Some(_) => {
                several = true;
                continue;
            }
            None => found.insert(Hop { namespace: at.namespace, ipvs: None, conntrack: None }),
        };
        match at.table {
            Table::Ipvs => hop.ipvs = Some(at),
            Table::Conntrack => hop.conntrack = Some(at),
        }
    }
    match found {
        Some(hop) if !several || hop.namespace == here => Found::One(hop),
        Some(_) => Found::Several,
        None => Found::None,
    }
}

/// Namespaces that should have an entry, each once, with the table it should be in.
#[derive(Default)]
struct Directors(Vec<(usize, Table)>);

impl Directors {
    fn add(&mut self, namespace: usize, table: Table) {
        if !self.0.iter().any(|(known, _)| *known == namespace) {
            self.0.push((namespace, table));
        }
    }
}

enum Expected {
    Nobody,
    One(usize, Table),
    Several,
}

/// Who should have an entry for `pair`, since nobody has.
fn expected(
    snapshot: &Snapshot,
    index: &Index,
    pair: &Pair,
    here: usize,
    state: TcpState,
) -> Expected {
    let server = pair.1;
    let answers = |namespace: usize| index.answers(here, server.ip(), namespace);
    let mut directors = Directors::default();
    for &namespace in index.services(&server).iter().filter(|at| answers(**at)) {
        directors.add(namespace, Table::Ipvs);
    }
    // The old layout: marked and balanced in the client's own namespace, which does not own the VIP.
    if marks(&snapshot.namespaces[here], server, true) {
        directors.add(here, Table::Ipvs);
    }
    for &owner in index.owners(server.ip()) {
        let namespace = &snapshot.namespaces[owner];
        if owner == here || !answers(owner) {
            continue;
        }
        // Where no mark of its services could be read, owning the VIP and balancing by marks must do.
        let guessed = namespace.ipvs.as_ref().is_some_and(|ipvs| by_unseen_mark(namespace, ipvs));
        if guessed || marks(namespace, server, false) {
            directors.add(owner, Table::Ipvs);
        }
    }
    for &namespace in index.translators(&server).iter().filter(|at| answers(**at)) {
        directors.add(namespace, Table::Conntrack);
    }
    // A client whose server has closed may keep its socket (CLOSE_WAIT) long after the server's
    // is gone: with nothing but an address and translation to go by, that proves no director.
    if directors.0.is_empty() && state == TcpState::Established {
        for &owner in index.owners(server.ip()) {
            let namespace = &snapshot.namespaces[owner];
            // A client of its own address (a published port, from the host) whose other end is
            // not there has been led elsewhere, whoever listens.
            let led = owner == here || !listens(namespace, server);
            if answers(owner) && translates(namespace) && led {
                directors.add(owner, Table::Conntrack);
            }
        }
    }
    let mut directors = directors.0;
    directors.retain(|(namespace, _)| !index.mirrored(snapshot, *namespace, pair));
    if let Some(own) = directors.iter().find(|(namespace, _)| *namespace == here) {
        return Expected::One(own.0, own.1);
    }
    match directors.as_slice() {
        [] => Expected::Nobody,
        [(director, table)] => Expected::One(*director, *table),
        _ => Expected::Several,
    }
}

fn missing(snapshot: &Snapshot, director: usize, table: Table, pair: Pair) -> Route {
    let namespace = &snapshot.namespaces[director];
    let unreadable = match table {
        Table::Conntrack => {
            namespace.conntrack.as_ref().is_none_or(|conntrack| !conntrack.readable)
        }
        Table::Ipvs => !remembers(namespace),
    };
    if unreadable {
        Route::Unreadable { director }
    } else {
        Route::Missing { director, table, pair }
    }
}

/// Whether the absence of an entry in this IPVS namespace says anything: the table was read, or
/// conntrack stands in for it.
fn remembers(namespace: &Namespace) -> bool {
    let Some(ipvs) = &namespace.ipvs else { return false };
    match ipvs.listing {
        Listing::Read => true,
        Listing::TooSlow | Listing::Unreadable => {
            let conntrack = namespace.conntrack.as_ref().filter(|it| it.readable);
            ipvs.conntrack == Some(true) && conntrack.is_some_and(|it| ipvs.is_known_to(it))
        }
    }
}

fn translates(namespace: &Namespace) -> bool {
    namespace.translates && namespace.conntrack.is_some()
}

/// Whether `director` balances what is sent to `server`.
pub(super) fn balances(
    snapshot: &Snapshot,
    index: &Index,
    director: usize,
    server: SocketAddr,
) -> bool {
    index.services(&server).contains(&director)
        || marks(&snapshot.namespaces[director], server, false)
}

/// Whether packets to `server` are marked in this namespace for one of its IPVS services.
/// `own`: they come from the namespace itself, so that only a rule with an address can be meant.
fn marks(namespace: &Namespace, server: SocketAddr, own: bool) -> bool {
    let Some(ipvs) = &namespace.ipvs else { return false };
    namespace.marks.iter().any(|mark| {
        mark.matches(server)
            && (!own || mark.address.is_some())
            && ipvs.services.iter().any(|service| service.id == ServiceId::Fwmark(mark.mark))
    })
}

/// The mark that packets to `server` get in this namespace, if one of its IPVS services has it.
pub(crate) fn marked(namespace: &Namespace, server: SocketAddr) -> Option<u32> {
    let ipvs = namespace.ipvs.as_ref()?;
    let rules = namespace.marks.iter().filter(|mark| mark.matches(server));
    rules
        .map(|rule| rule.mark)
        .find(|mark| ipvs.services.iter().any(|service| service.id == ServiceId::Fwmark(*mark)))
}

/// The only backend that the service behind `server` has, if it has one only: with its port as an
/// entry has it.
pub(crate) fn single_backend(namespace: &Namespace, server: SocketAddr) -> Option<SocketAddr> {
    let marked = marked(namespace, server);
    let service = namespace.ipvs.as_ref()?.services.iter().find(|service| match service.id {
        ServiceId::Tcp(address) => address == server,
        ServiceId::Fwmark(mark) => Some(mark) == marked,
        ServiceId::Udp(_) | ServiceId::Sctp(_) => false,
    })?;
    match service.destinations.as_slice() {
        [only] => {
            let port = Some(only.address.port()).filter(|port| *port != 0);
            Some(SocketAddr::new(only.address.ip(), port.unwrap_or(server.port())))
        }
        _ => None,
    }
}

/// Whether it balances by marks, and no rule that sets one of them was seen.
fn by_unseen_mark(namespace: &Namespace, ipvs: &Ipvs) -> bool {
    let mut wanted = ipvs.services.iter().filter_map(|service| match service.id {
        ServiceId::Fwmark(mark) => Some(mark),
        _ => None,
    });
    let seen = |mark: u32| namespace.marks.iter().any(|rule| rule.mark == mark);
    let mut any = false;
    wanted.all(|mark| {
        any = true;
        !seen(mark)
    }) && any
}

fn listens(namespace: &Namespace, server: SocketAddr) -> bool {
    namespace.listeners.iter().any(|listener| {
        listener.port() == server.port()
            && (listener.ip().is_unspecified() || listener.ip() == server.ip())
    })
}
