//! `keepalive` on sockets that are open: by their own settings, and for those that switch it on
//! and leave the times to the system, by the namespace's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{
    Action, Change, KeepaliveChange, KeepaliveRule, KeepaliveRules, KeepaliveTimes, Place, Plan,
    SocketId, What,
    direct::{self, clients, machine, wanted},
    directors,
    timeout::sysctl,
};
use crate::{
    judge::Judgement,
    session::{SocketRef, Verdict, Why},
    snapshot::{KeepaliveSettings, Snapshot, Socket},
};

/// How keepalive shall be. Absent values follow from the director's timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeepaliveWish {
    /// Silence before the first probe.
    pub idle: Option<Duration>,
    /// Between probes.
    pub interval: Option<Duration>,
    /// Unanswered probes before the connection is given up.
    pub probes: Option<u32>,
    /// Whether programs that set longer times later, or switch keepalive off, are held to these.
    pub enforce: bool,
}

impl Default for KeepaliveWish {
    fn default() -> Self {
        Self { idle: None, interval: None, probes: None, enforce: true }
    }
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
    let mut changes: BTreeMap<usize, Vec<KeepaliveChange>> = BTreeMap::new();
    let mut seen: BTreeSet<SocketRef> = BTreeSet::new();
    let mut shortest: BTreeMap<usize, KeepaliveSettings> = BTreeMap::new();
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
        let shorter = socket.keepalive.as_deref().is_some_and(|now| {
            now.enabled && now.idle <= after.idle && now.interval <= after.interval
        });
        if shorter {
            continue;
        }
        changes.entry(at.namespace).or_default().push(KeepaliveChange {
            socket: id(socket),
            before: socket.keepalive.as_deref().copied(),
            after,
            in_kernel: false,
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
        // Before the namespace's times: a socket without times of its own shows those, and gets
        // back what it has shown.
        plan.changes.push(Change { place: place.clone(), what: What::Keepalive { sockets } });
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
    }
    to_come(snapshot, judgement, wish, &mut plan);
    if lost > 0 {
        plan.refuse(
            format!("{lost} orphaned"),
            "a probe would only get them reset: `keepline heal` brings them back first",
        );
    }
    plan
}

/// Keepalive for connections to come: of every program where nothing was selected, else of the
/// namespaces that were, and to the directors of networks and services that were.
fn to_come(snapshot: &Snapshot, judgement: &Judgement, wish: KeepaliveWish, plan: &mut Plan) {
    let Some(host) = machine(snapshot) else { return };
    let mut rules = KeepaliveRules::default();
    let directors = directors(snapshot, judgement);
    let timeout = |at: usize| snapshot.namespaces[at].ipvs.as_ref().map(|ipvs| ipvs.timeouts.tcp);
    let sessions = judgement.sessions.iter().filter_map(|it| it.entry).map(|it| it.timeout);
    let shortest = directors.iter().filter_map(|at| timeout(*at)).chain(sessions).min();
    let shortest = match (shortest, wish.idle) {
        (Some(shortest), _) => shortest,
        // Without a director the wish alone decides.
        (None, Some(idle)) => idle.saturating_mul(3),
        (None, None) => return,
    };
    if snapshot.scope().namespaces.is_none() {
        rules.everybody = Some(times(wish, shortest));
    } else {
        let chosen = (0..).zip(&snapshot.namespaces).filter(|(_, it)| it.selected);
        for (_, namespace) in chosen.filter(|(at, _)| !directors.contains(at)) {
            if let Some(netns) = namespace.cookie {
                let times = Some(times(wish, shortest));
                let rule = KeepaliveRule { netns, peer: None, times };
                rules.rules.push(rule);
            }
        }
        for at in directors.iter().filter(|at| snapshot.concerns(&snapshot.namespaces[**at])) {
            let times = times(wish, timeout(*at).unwrap_or(shortest));
            for client in clients(snapshot, judgement, *at) {
                let Some(netns) = snapshot.namespaces[client].cookie else { continue };
                let peers = peers(snapshot, *at, client);
                rules.rules.extend(peers.map(|peer| KeepaliveRule {
                    netns,
                    peer: Some(peer),
                    times: Some(times),
                }));
            }
        }
        rules.rules.sort_unstable_by_key(|rule| (rule.netns, rule.peer));
        rules.rules.dedup_by_key(|rule| (rule.netns, rule.peer));
    }
    if rules != KeepaliveRules::default() {
        plan.changes.push(Change {
            place: Place::of(host),
            what: What::NewSockets { before: None, after: Some(rules) },
        });
    }
}

/// Whom connections of a namespace are with that go through a director and were asked for: a client's
/// peer is the virtual address, a backend's the director's own.
fn peers(snapshot: &Snapshot, director: usize, client: usize) -> impl Iterator<Item = IpAddr> {
    let director = &snapshot.namespaces[director];
    let topology = snapshot.topology.as_ref();
    let network = topology.and_then(|it| it.network_of_director(director.file()));
    let service = direct::service_of(snapshot, &snapshot.namespaces[client]);
    let serves =
        move || service.is_some_and(|it| snapshot.asked.services.iter().any(|asked| asked == it));
    director.addresses.iter().copied().filter(move |peer| {
        let is_virtual = network.is_some_and(|it| it.service_at(*peer).is_some());
        wanted(snapshot, director, *peer) || !is_virtual && serves()
    })
}

fn times(wish: KeepaliveWish, timeout: Duration) -> KeepaliveTimes {
    let settings = wish.against(timeout);
    KeepaliveTimes {
        idle_seconds: settings.idle.as_secs(),
        interval_seconds: settings.interval.as_secs(),
        probes: wish.probes.and_then(|probes| u8::try_from(probes).ok()),
        enforce: wish.enforce,
    }
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
