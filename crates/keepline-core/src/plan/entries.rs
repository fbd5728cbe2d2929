//! From sessions and entries to what a table shall remember.

use std::{net::SocketAddr, time::Duration};

use rustc_hash::FxHashMap;

use super::{Change, Place, Remembered, What};
use crate::{
    judge::marked,
    session::Table,
    snapshot::{Destination, Entry, EntryState, Ipvs, Listing, Namespace, ServiceId},
};

/// Entries to remember, director by director.
#[derive(Debug, Default)]
pub(super) struct Entries {
    by_table: std::collections::BTreeMap<(usize, u8), Vec<Remembered>>,
}

impl Entries {
    pub(super) fn add(&mut self, namespace: usize, table: Table, entry: Remembered) {
        self.by_table
            .entry((namespace, u8::from(table == Table::Conntrack)))
            .or_default()
            .push(entry);
    }

    /// As changes: IPVS before conntrack, so that what translates outlives what balances.
    pub(super) fn into_changes(self, namespaces: &[Namespace]) -> impl Iterator<Item = Change> {
        self.by_table.into_iter().map(|((namespace, table), entries)| Change {
            place: Place::of(&namespaces[namespace]),
            what: What::Entries {
                table: if table == 0 { Table::Ipvs } else { Table::Conntrack },
                entries,
            },
        })
    }
}

/// Knows the marks of one director's services.
#[derive(Debug)]
pub(super) struct Marks<'a> {
    namespace: &'a Namespace,
    known: FxHashMap<(SocketAddr, SocketAddr), Option<u32>>,
}

impl<'a> Marks<'a> {
    pub(super) fn of(namespace: &'a Namespace) -> Self {
        Self { namespace, known: FxHashMap::default() }
    }

    /// The mark of the service that balances `server` to `backend`: 0 where that is found by
    /// address, None where there is no such service any more.
    pub(super) fn get(&mut self, server: SocketAddr, backend: SocketAddr) -> Option<u32> {
        let namespace = self.namespace;
        *self.known.entry((server, backend)).or_insert_with(|| mark(namespace, server, backend))
    }
}

fn mark(namespace: &Namespace, server: SocketAddr, backend: SocketAddr) -> Option<u32> {
    let ipvs = namespace.ipvs.as_ref()?;
    let leads = |destinations: &[Destination]| {
        destinations.iter().any(|destination| is_at(destination, backend))
    };
    let by_address = ipvs
        .services
        .iter()
        .any(|service| service.id == ServiceId::Tcp(server) && leads(&service.destinations));
    if by_address {
        return Some(0);
    }
    let marked = marked(namespace, server);
    let mut fitting = ipvs.services.iter().filter_map(|service| match service.id {
        ServiceId::Fwmark(mark)
            if marked.is_none_or(|it| it == mark) && leads(&service.destinations) =>
        {
            Some(mark)
        }
        _ => None,
    });
    let only = fitting.next()?;
    fitting.next().is_none().then_some(only)
}

/// Entries of open sessions in a director's IPVS table, with the mark of their service and the time
/// they have left. Where the table was not listed conntrack's stand in, and the time left is no more
/// than the whole timeout.
pub(super) fn open_sessions<'a>(
    namespace: &'a Namespace,
    ipvs: &'a Ipvs,
) -> impl Iterator<Item = (&'a Entry, u32, Duration)> {
    let mut marks = Marks::of(namespace);
    let listed = ipvs.listing == Listing::Read;
    let table = match &namespace.conntrack {
        Some(conntrack) if !listed => &conntrack.entries,
        _ => &ipvs.entries,
    };
    let open = table.iter().filter(|entry| entry.state == EntryState::Established);
    open.filter_map(move |entry| {
        let left = if listed { entry.expires } else { ipvs.timeouts.tcp };
        Some((entry, marks.get(entry.server, entry.backend)?, left))
    })
}

/// Whether a destination is this backend: of services by mark it has port 0.
pub(super) fn is_at(destination: &Destination, backend: SocketAddr) -> bool {
    destination.address.ip() == backend.ip()
        && [0, backend.port()].contains(&destination.address.port())
}

/// A backend's address as the director's entry has it. A service by mark keeps the port that the
/// client uses, whatever the backend's own namespace makes of it (published ports of Swarm).
pub(super) fn as_entered(
    namespace: &Namespace,
    server: SocketAddr,
    backend: SocketAddr,
) -> SocketAddr {
    let services = namespace.ipvs.iter().flat_map(|ipvs| &ipvs.services);
    let mut destinations = services.flat_map(|service| &service.destinations);
    let by_mark = |it: &Destination| it.address.port() == 0 && it.address.ip() == backend.ip();
    if destinations.any(by_mark) { SocketAddr::new(backend.ip(), server.port()) } else { backend }
}

/// An entry that is there, to live for `will` from now on.
pub(super) fn renewed(entry: &Entry, fwmark: u32, was: Duration, will: Duration) -> Remembered {
    Remembered {
        client: entry.client,
        server: entry.server,
        backend: entry.backend,
        seen_as: entry.seen_as,
        fwmark,
        state: entry.state,
        was: Some(was),
        will,
    }
}
