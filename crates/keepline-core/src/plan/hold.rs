//! `hold`: entries that live as long as their sockets.

use std::{net::IpAddr, time::Duration};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    Action, Plan,
    entries::{Entries, Marks, renewed},
};
use crate::{
    judge::Judgement,
    session::{End, Session, Table, Verdict, Why},
    snapshot::{Entry, Snapshot},
};

/// How entries are held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HoldWish {
    /// Lifetime that an entry gets; absent: what a packet would give it.
    pub lifetime: Option<Duration>,
    /// Only entries that run out within this time; absent: all.
    pub due_within: Option<Duration>,
}

/// How often held sessions are looked at, at the least: half-closed ones run on a clock of 60 s.
const SELDOM: Duration = Duration::from_secs(20);
/// And at the most, for timeouts of seconds.
const OFTEN: Duration = Duration::from_millis(300);

/// How long to wait between two looks at what is held: a third of the shortest time that a director
/// forgets after, so that every idle session is seen twice before its entry runs out.
#[must_use]
pub fn pause(snapshot: &Snapshot) -> Duration {
    let timeouts = snapshot.namespaces.iter().flat_map(|namespace| {
        let ipvs = namespace.ipvs.as_ref().map(|ipvs| ipvs.timeouts.tcp);
        let conntrack = namespace.conntrack.as_ref().filter(|it| !it.entries.is_empty());
        let conntrack = conntrack.and_then(|it| it.timeouts).map(|it| it.established);
        ipvs.into_iter().chain(conntrack)
    });
    timeouts.min().map_or(SELDOM, |shortest| (shortest / 3).clamp(OFTEN, SELDOM))
}

/// Plans to renew the entry of every session whose socket is open on this machine: the client's, or
/// where the client is elsewhere the backend's.
#[must_use]
pub fn hold(snapshot: &Snapshot, judgement: &Judgement, wish: HoldWish) -> Plan {
    let mut plan = Plan::new(Action::Hold);
    let mut entries = Entries::default();
    let mut marks: FxHashMap<usize, Marks<'_>> = FxHashMap::default();
    let mut below = Below::default();
    let (mut lost, mut removed, mut unseen) = (0, 0, 0);
    let here: FxHashSet<IpAddr> =
        snapshot.namespaces.iter().flat_map(|namespace| namespace.addresses.clone()).collect();
    for session in &judgement.sessions {
        let (Some(at), Some(view)) = (session.entry_at, session.entry) else {
            lost += usize::from(session.verdict == Verdict::Orphaned);
            unseen += usize::from(session.why == Why::Unreadable);
            continue;
        };
        if session.why == Why::KeptAlive || session.verdict == Verdict::Untracked {
            continue;
        }
        // Its client lived on this machine, and its socket does no longer.
        if session.end == End::Backend && here.contains(&session.client.ip()) {
            continue;
        }
        if wish.due_within.is_some_and(|due| view.expires > due) {
            continue;
        }
        let entry = entry(snapshot, session);
        let will = wish.lifetime.unwrap_or(view.timeout);
        if will <= view.expires {
            continue;
        }
        let namespace = &snapshot.namespaces[at.namespace];
        if session.table == Some(Table::Ipvs) {
            let marks = marks.entry(at.namespace).or_insert_with(|| Marks::of(namespace));
            let Some(mark) = marks.get(entry.server, entry.backend) else {
                removed += 1;
                continue;
            };
            let held = renewed(entry, mark, view.expires, will);
            entries.add(at.namespace, Table::Ipvs, super::Remembered { state: view.state, ..held });
            // What translates must not run out before.
            if let Some(translating) = below.find(snapshot, at.namespace, entry)
                && translating.expires < will
            {
                let held = renewed(translating, 0, translating.expires, will);
                entries.add(at.namespace, Table::Conntrack, held);
            }
        } else {
            entries.add(at.namespace, Table::Conntrack, renewed(entry, 0, view.expires, will));
        }
    }
    if lost > 0 {
        plan.refuse(
            format!("{lost} orphaned"),
            "their entries are gone already: `keepline heal` brings them back",
        );
    }
    if unseen > 0 {
        plan.refuse(
            format!("{unseen} that could not be judged"),
            "their director's tables could not be read: `keepline check` says why",
        );
    }
    if removed > 0 {
        plan.refuse(
            format!("{removed} to a backend that the service no longer has"),
            "they end with it",
        );
    }
    plan.changes.extend(entries.into_changes(&snapshot.namespaces));
    plan
}

/// The entry by which a session is remembered.
fn entry<'a>(snapshot: &'a Snapshot, session: &Session) -> &'a Entry {
    crate::judge::entry(snapshot, session.entry_at.expect("only sessions with an entry are held"))
}

/// conntrack's entries below those of IPVS, looked for only where one may run out first.
#[derive(Debug, Default)]
struct Below<'a> {
    by_namespace:
        FxHashMap<usize, FxHashMap<(std::net::SocketAddr, std::net::SocketAddr), &'a Entry>>,
}

impl<'a> Below<'a> {
    fn find(
        &mut self,
        snapshot: &'a Snapshot,
        namespace: usize,
        entry: &Entry,
    ) -> Option<&'a Entry> {
        let seen = &snapshot.namespaces[namespace];
        let conntrack = seen.conntrack.as_ref()?;
        if seen.ipvs.as_ref()?.conntrack == Some(false) {
            return None;
        }
        let known = self.by_namespace.entry(namespace).or_insert_with(|| {
            conntrack.entries.iter().map(|entry| ((entry.client, entry.server), entry)).collect()
        });
        known.get(&(entry.client, entry.server)).copied()
    }
}
