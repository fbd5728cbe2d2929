//! `keepalive` on sockets that are open: by their own settings, and for those that switch it on
//! and leave the times to the system, by the namespace's.

use std::{collections::BTreeSet, time::Duration};

use super::{Action, Change, KeepaliveChange, Place, Plan, SocketId, What, timeout::sysctl};
use crate::{
    judge::Judgement,
    session::{SocketRef, Verdict, Why},
    snapshot::{KeepaliveSettings, Snapshot, Socket},
};

/// How keepalive shall be. Absent values follow from the director's timeout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeepaliveWish {
    /// Silence before the first probe.
    pub idle: Option<Duration>,
    /// Between probes.
    pub interval: Option<Duration>,
    /// Unanswered probes before the connection is given up.
    pub probes: Option<u32>,
}

impl KeepaliveWish {
    /// Settings against a timeout: a third of it, so that lost probes are survived.
    #[must_use]
    pub fn against(&self, timeout: Duration) -> KeepaliveSettings {
        let whole = |time: Duration| Duration::from_secs(time.as_secs().max(1));
        let idle = self.idle.unwrap_or_else(|| whole(timeout / 3).min(Duration::from_secs(32_767)));
        KeepaliveSettings {
            enabled: true,
            idle,
            interval: self
                .interval
                .unwrap_or_else(|| whole((idle / 4).min(Duration::from_secs(75)))),
            probes: self.probes.unwrap_or(9),
        }
    }
}

/// Plans keepalive for every session that nothing else keeps alive.
#[must_use]
pub fn keepalive(snapshot: &Snapshot, judgement: &Judgement, wish: KeepaliveWish) -> Plan {
    let mut plan = Plan::new(Action::Keepalive);
    let mut changes: std::collections::BTreeMap<usize, Vec<KeepaliveChange>> =
        std::collections::BTreeMap::new();
    let mut seen: BTreeSet<SocketRef> = BTreeSet::new();
    let mut shortest: std::collections::BTreeMap<usize, KeepaliveSettings> =
        std::collections::BTreeMap::new();
    let mut lost = 0;
    for session in &judgement.sessions {
        lost += usize::from(session.verdict == Verdict::Orphaned);
        let Some(entry) = session.entry else { continue };
        if session.why == Why::KeptAlive || matches!(session.verdict, Verdict::Untracked) {
            continue;
        }
        let after = wish.against(entry.timeout);
        if after.idle.saturating_add(after.interval) >= entry.timeout
            && session.verdict != Verdict::Safe
        {
            plan.note(format!(
                "with these times a lost probe is enough to lose a session: {} is forgotten after {}",
                session.server,
                crate::duration::human(entry.timeout)
            ));
        }
        let at = session.socket;
        if !seen.insert(at) {
            continue;
        }
        let socket = &snapshot.namespaces[at.namespace].sockets[at.socket];
        let shorter = socket.keepalive.is_some_and(|now| {
            now.enabled && now.idle <= after.idle && now.interval <= after.interval
        });
        if shorter {
            continue;
        }
        changes.entry(at.namespace).or_default().push(KeepaliveChange {
            socket: id(socket),
            before: socket.keepalive,
            after,
        });
        shortest
            .entry(at.namespace)
            .and_modify(|known| {
                if after.idle < known.idle {
                    *known = after;
                }
            })
            .or_insert(after);
    }
    for (at, sockets) in changes {
        let namespace = &snapshot.namespaces[at];
        let place = Place::of(namespace);
        if let (Some(now), Some(after)) = (namespace.keepalive_defaults, shortest.get(&at)) {
            let mut lower = |name: &str, before: u64, after: u64| {
                if after < before {
                    let path = format!("net/ipv4/tcp_keepalive_{name}");
                    plan.changes
                        .push(Change { place: place.clone(), what: sysctl(&path, before, after) });
                }
            };
            lower("time", now.time, after.idle.as_secs());
            lower("intvl", now.intvl, after.interval.as_secs());
        }
        plan.changes.push(Change { place, what: What::Keepalive { sockets } });
    }
    if lost > 0 {
        plan.refuse(
            format!("{lost} orphaned"),
            "a probe would only get them reset: `keepline heal` brings them back first",
        );
    }
    plan
}

/// What names a socket.
pub(super) fn id(socket: &Socket) -> SocketId {
    SocketId {
        local: socket.local,
        remote: socket.remote,
        interface: socket.interface,
        cookie: socket.cookie,
        inode: socket.inode,
    }
}
