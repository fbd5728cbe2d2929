//! `touch` and `abort`: remedies on the sockets of sessions.

use std::collections::BTreeMap;

use super::{Action, Change, Place, Plan, SocketId, What, keepalive::id};
use crate::{
    judge::Judgement,
    session::{SocketRef, Verdict},
    snapshot::Snapshot,
};

/// Plans a probe on every session that has an entry.
#[must_use]
pub fn touch(snapshot: &Snapshot, judgement: &Judgement) -> Plan {
    let mut plan = Plan::new(Action::Touch);
    let (mut lost, mut unheld) = (0, 0);
    let chosen = judgement.sessions.iter().filter(|session| match session.verdict {
        Verdict::Orphaned => {
            lost += 1;
            false
        }
        Verdict::Untracked => false,
        Verdict::AtRisk | Verdict::Safe | Verdict::Unknown => {
            let namespace = &snapshot.namespaces[session.socket.namespace];
            let held = namespace.sockets[session.socket.socket].inode != 0;
            unheld += usize::from(!held);
            held
        }
    });
    let sockets = by_namespace(snapshot, chosen.map(|session| session.socket));
    plan.changes.extend(changes(snapshot, sockets, |sockets| What::Touch { sockets }));
    if lost > 0 {
        plan.refuse(
            format!("{lost} orphaned"),
            "a probe would be answered with a reset: `keepline heal` brings them back",
        );
    }
    if unheld > 0 {
        plan.refuse(format!("{unheld} that no process holds"), "they end by themselves");
    }
    plan
}

/// Plans to close the sockets of every orphaned session, both ends where they are here, and only
/// of those.
#[must_use]
pub fn abort(snapshot: &Snapshot, judgement: &Judgement) -> Plan {
    let mut plan = Plan::new(Action::Abort);
    let orphaned = judgement.sessions.iter().filter(|session| session.verdict == Verdict::Orphaned);
    // Its other end waits in vain too, and no reset can reach it.
    let ends = orphaned.flat_map(|it| std::iter::once(it.socket).chain(it.other_end));
    let sockets = by_namespace(snapshot, ends);
    plan.changes.extend(changes(snapshot, sockets, |sockets| What::Abort { sockets }));
    plan
}

/// What names the sockets of `ends`, namespace by namespace.
pub(super) fn by_namespace(
    snapshot: &Snapshot,
    ends: impl Iterator<Item = SocketRef>,
) -> BTreeMap<usize, Vec<SocketId>> {
    let mut sockets: BTreeMap<usize, Vec<SocketId>> = BTreeMap::new();
    for at in ends {
        let socket = id(&snapshot.namespaces[at.namespace].sockets[at.socket]);
        sockets.entry(at.namespace).or_default().push(socket);
    }
    sockets
}

/// A change for each namespace.
pub(super) fn changes(
    snapshot: &Snapshot,
    sockets: BTreeMap<usize, Vec<SocketId>>,
    what: impl Fn(Vec<SocketId>) -> What,
) -> impl Iterator<Item = Change> {
    sockets.into_iter().map(move |(at, sockets)| Change {
        place: Place::of(&snapshot.namespaces[at]),
        what: what(sockets),
    })
}
