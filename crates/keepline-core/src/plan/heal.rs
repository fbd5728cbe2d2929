//! `heal`: forgotten sessions get their entry back, at the backend that holds the other end.
//! Never at a guess: where that is not known, the session is refused with the reason.

use std::{net::SocketAddr, time::Duration};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::{
    Action, Plan, Remembered,
    entries::{Entries, Marks, as_entered},
};
use crate::{
    judge::{Judgement, single_backend},
    session::{End, Session, SocketRef, Table, Verdict},
    snapshot::{EntryState, Namespace, Snapshot, TcpState},
};

/// Where sessions went in earlier looks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    known: FxHashMap<(String, SocketAddr, SocketAddr), Way>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    backend: SocketAddr,
    seen_as: Option<SocketAddr>,
    /// When it was last seen, by the caller's clock (seconds).
    seen: u64,
}

/// One row of a [`Memory`], as it is kept in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Name of the director: it stays when the namespace is rebuilt.
    pub director: String,
    /// Who connected, as the director sees it.
    pub client: SocketAddr,
    /// To whom.
    pub server: SocketAddr,
    /// Where its packets went.
    pub backend: SocketAddr,
    /// As whom the backend saw the client.
    pub seen_as: Option<SocketAddr>,
}

impl Memory {
    /// Adds every entry of `snapshot`, seen at `now`, any clock's seconds; what is newer counts.
    pub fn learn(&mut self, snapshot: &Snapshot, now: u64) {
        for row in rows(snapshot) {
            self.add(row, now);
        }
    }

    /// Adds one row, seen at `now`.
    pub fn add(&mut self, row: Row, now: u64) {
        let Row { director, client, server, backend, seen_as } = row;
        let unknown = Way { backend, seen_as, seen: now };
        let way = self.known.entry((director, client, server)).or_insert(unknown);
        // conntrack's row of a session knows more than that of IPVS.
        let seen_as = seen_as.or(way.seen_as.filter(|_| way.backend == backend));
        *way = Way { backend, seen_as, seen: now };
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Forgets what was last seen before `then`.
    pub fn forget(&mut self, then: u64) {
        self.known.retain(|_, way| way.seen >= then);
        self.known.shrink_to(self.known.len() * 2);
    }

    /// What it holds, as it is kept in a file.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        self.known.iter().map(|((director, client, server), way)| Row {
            director: director.clone(),
            client: *client,
            server: *server,
            backend: way.backend,
            seen_as: way.seen_as,
        })
    }

    fn get(&self, director: &str, client: SocketAddr, server: SocketAddr) -> Option<Way> {
        self.known.get(&(director.to_owned(), client, server)).copied()
    }
}

/// What a snapshot teaches: of sessions that were open.
pub fn rows(snapshot: &Snapshot) -> impl Iterator<Item = Row> {
    snapshot.namespaces.iter().flat_map(|namespace| {
        let ipvs = namespace.ipvs.iter().flat_map(|ipvs| &ipvs.entries);
        let conntrack = namespace.conntrack.iter().flat_map(|conntrack| &conntrack.entries);
        let open = ipvs.chain(conntrack).filter(|entry| entry.state == EntryState::Established);
        open.map(|entry| Row {
            director: namespace.name.clone(),
            client: entry.client,
            server: entry.server,
            backend: entry.backend,
            seen_as: entry.seen_as,
        })
    })
}

/// Plans to make the entries of orphaned sessions anew.
#[must_use]
pub fn heal(snapshot: &Snapshot, judgement: &Judgement, memory: &Memory) -> Plan {
    let mut plan = Plan::new(Action::Heal);
    let mut entries = Entries::default();
    let mut marks: FxHashMap<usize, Marks<'_>> = FxHashMap::default();
    for session in judgement.sessions.iter().filter(|it| it.verdict == Verdict::Orphaned) {
        let Some(director) = session.director else { continue };
        let namespace = &snapshot.namespaces[director];
        let marks = marks.entry(director).or_insert_with(|| Marks::of(namespace));
        match entry(snapshot, namespace, marks, session, memory) {
            Ok((table, entry)) => entries.add(director, table, entry),
            Err(why) => {
                plan.refuse(format!("{} → {}", session.client, session.server), why);
            }
        }
    }
    plan.changes.extend(entries.into_changes(&snapshot.namespaces));
    plan
}

/// The entry that a session must have.
fn entry(
    snapshot: &Snapshot,
    namespace: &Namespace,
    marks: &mut Marks<'_>,
    session: &Session,
    memory: &Memory,
) -> Result<(Table, Remembered), String> {
    let (client, server) = ends(snapshot, namespace, session)?;
    if session.state != TcpState::Established {
        return Err("one side has closed it: `keepline abort` ends it".to_owned());
    }
    let (backend, seen_as) = backend(snapshot, namespace, session, client, server, memory)?;
    let backend = as_entered(namespace, server, backend);
    let remembered = |fwmark, will| Remembered {
        client,
        server,
        backend,
        seen_as,
        fwmark,
        state: EntryState::Established,
        was: None,
        will,
    };
    if session.table == Some(Table::Ipvs) {
        let ipvs = namespace.ipvs.as_ref().ok_or("its director no longer balances")?;
        let mark = marks.get(server, backend).ok_or_else(|| {
            format!(
                "its backend {backend} is no longer one of the service's: the task was replaced. \
                 `keepline abort` lets the client connect anew"
            )
        })?;
        return Ok((Table::Ipvs, remembered(mark, ipvs.timeouts.tcp)));
    }
    if seen_as.is_none() {
        return Err("as whom its backend knows the client is not known here".to_owned());
    }
    let established = namespace
        .conntrack
        .as_ref()
        .and_then(|conntrack| conntrack.timeouts)
        .map_or(Duration::from_secs(432_000), |timeouts| timeouts.established);
    Ok((Table::Conntrack, remembered(0, established)))
}

/// Client and server as the director sees them.
fn ends(
    snapshot: &Snapshot,
    namespace: &Namespace,
    session: &Session,
) -> Result<(SocketAddr, SocketAddr), String> {
    match (session.end, session.sent.as_deref().copied()) {
        (End::Client, Some(pair)) => Ok(pair),
        (End::Client, None) => Err("what its director is sent is not known".to_owned()),
        (End::Backend, _) => {
            // A port that comes in from outside: the table before this one still knows the client.
            let seen = socket(snapshot, session.socket).remote;
            let mut before = snapshot.namespaces.iter().filter_map(|other| {
                let conntrack = other.conntrack.as_ref()?;
                let mut fitting = conntrack.entries.iter().filter(|entry| {
                    namespace.addresses.contains(&entry.backend.ip())
                        && entry.seen_as.is_some_and(|it| it.port() == seen.port())
                });
                Some((fitting.next()?, fitting.next()))
            });
            match (before.next(), before.next()) {
                (Some((entry, None)), None) => {
                    Ok((entry.seen_as.unwrap_or(entry.client), entry.backend))
                }
                (Some(_), _) => Err("several clients fit it, and it is not told which".to_owned()),
                (None, _) => {
                    Err("its client's end is not on this machine: heal it on the client's node"
                        .to_owned())
                }
            }
        }
    }
}

fn backend(
    snapshot: &Snapshot,
    namespace: &Namespace,
    session: &Session,
    client: SocketAddr,
    server: SocketAddr,
    memory: &Memory,
) -> Result<(SocketAddr, Option<SocketAddr>), String> {
    if session.end == End::Backend {
        let own = socket(snapshot, session.socket);
        return Ok((own.local, Some(own.remote)));
    }
    if let Some(end) = session.other_end {
        let other = socket(snapshot, end);
        return Ok((other.local, Some(other.remote)));
    }
    let way = memory.get(&namespace.name, client, server).map(|it| (it.backend, it.seen_as));
    let way = way.or_else(|| Some((single_backend(namespace, server)?, None)));
    let Some(way) = way else {
        return Err("its backend is not on this machine, no earlier look knows it (keepline heal \
                    --from FILE takes a capture), and the service has several"
            .to_owned());
    };
    // A backend here that still had the session would have been found by its socket.
    let here = |other: &&Namespace| {
        !std::ptr::eq(*other, namespace) && other.addresses.contains(&way.0.ip())
    };
    if snapshot.namespaces.iter().any(|other| here(&other)) {
        return Err(format!(
            "backend {} is on this machine and has no socket for it: it has closed the session",
            way.0
        ));
    }
    Ok(way)
}

fn socket(snapshot: &Snapshot, at: SocketRef) -> &crate::snapshot::Socket {
    &snapshot.namespaces[at.namespace].sockets[at.socket]
}
