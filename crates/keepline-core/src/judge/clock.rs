//! The clock of a session: how long its entry lives, and whether keepalive comes in time.

use std::time::Duration;

use super::{
    Options,
    index::{Index, entry, socket},
    plain,
    route::Hop,
};
use crate::{
    session::{
        End, EntryRef, EntryView, Keepalive, LifetimeSource, Session, SocketRef, Table, Verdict,
        Why,
    },
    snapshot::{Listing, Snapshot, Socket, TcpState, Timer},
};

/// Judges a client's session by what the directors on its way remember.
pub(super) fn judge(
    snapshot: &Snapshot,
    index: &Index,
    at: SocketRef,
    backend: Option<SocketRef>,
    hops: &[Hop],
    options: &Options,
) -> Session {
    let mut session = plain(snapshot, at, Verdict::Unknown, Why::Unreadable);
    session.other_end = backend;
    decide(snapshot, index, &mut session, hops, options);
    session
}

/// The same for a session of which only the backend's socket is here.
pub(super) fn judge_from_backend(
    snapshot: &Snapshot,
    index: &Index,
    at: SocketRef,
    hops: &[Hop],
    options: &Options,
) -> Session {
    let mut session = plain(snapshot, at, Verdict::Unknown, Why::Unreadable);
    session.end = End::Backend;
    if let Some(first) = hops.first() {
        let entry = first.entry(snapshot);
        session.client = entry.client;
        session.server = entry.server;
    }
    decide(snapshot, index, &mut session, hops, options);
    session
}

/// What one director makes of a session.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    verdict: Verdict,
    why: Why,
    orphaned_in: Option<Duration>,
    keepalive: Keepalive,
}

impl Outcome {
    /// Ascending: the most urgent first.
    fn urgency(&self) -> (Verdict, Duration) {
        (self.verdict, self.orphaned_in.unwrap_or(Duration::MAX))
    }

    /// Whether this end does more for the session: one without keepalive does nothing.
    fn better_than(&self, other: &Self) -> bool {
        match (self.keepalive, other.keepalive) {
            (Keepalive::Off, _) => false,
            (_, Keepalive::Off) => true,
            _ => self.urgency() > other.urgency(),
        }
    }
}

/// The most urgent hop decides; of a session's two ends the better keepalive counts.
fn decide(
    snapshot: &Snapshot,
    index: &Index,
    session: &mut Session,
    hops: &[Hop],
    options: &Options,
) {
    let client = socket(snapshot, session.socket);
    let other = session.other_end.map(|end| socket(snapshot, end));
    session.backend = hops.last().map(|hop| hop.entry(snapshot).backend);
    session.keepalive = keepalive(client);
    let mut worst: Option<(Outcome, &Hop, Table, EntryView)> = None;
    for hop in hops {
        let Some((table, view)) = view(snapshot, index, hop, client.idle) else {
            session.director.get_or_insert(hop.namespace);
            continue;
        };
        let mut outcome = weigh(client, &view, options);
        if let Some(other) = other.map(|end| weigh(end, &view, options))
            && other.better_than(&outcome)
        {
            outcome = other;
        }
        if worst.as_ref().is_none_or(|(known, ..)| outcome.urgency() < known.urgency()) {
            worst = Some((outcome, hop, table, view));
        }
    }
    if let Some((outcome, hop, table, view)) = worst {
        session.verdict = outcome.verdict;
        session.why = outcome.why;
        session.orphaned_in = outcome.orphaned_in;
        session.keepalive = outcome.keepalive;
        session.director = Some(hop.namespace);
        session.table = Some(table);
        session.entry = Some(view);
        session.entry_at =
            if table == Table::Ipvs { hop.ipvs.or(hop.conntrack) } else { hop.conntrack };
    }
}

/// The entry that decides at this hop, and its clock. None where the clock cannot be told.
fn view(
    snapshot: &Snapshot,
    index: &Index,
    hop: &Hop,
    idle: Option<Duration>,
) -> Option<(Table, EntryView)> {
    let namespace = &snapshot.namespaces[hop.namespace];
    let conntrack = namespace.conntrack.as_ref();
    let row = |at: EntryRef| entry(snapshot, at);
    if let (Some(ipvs), Some(at)) = (&namespace.ipvs, hop.ipvs) {
        let entry = row(at);
        let view = EntryView {
            state: entry.state,
            expires: entry.expires,
            timeout: ipvs.timeouts.of(entry.state),
            source: LifetimeSource::Entry,
        };
        return Some((Table::Ipvs, view));
    }
    let entry = row(hop.conntrack?);
    // IPVS frees its conntrack entry with its own (ip_vs_conn_expire), so where the listing was
    // not read, or skipped this one, the lifetime follows from the silence.
    if let Some(ipvs) = &namespace.ipvs
        && ipvs.conntrack == Some(true)
        && (ipvs.listing != Listing::Read || index.is_destination(hop.namespace, entry.backend))
    {
        let timeout = ipvs.timeouts.of(entry.state);
        let expires = timeout.saturating_sub(idle?);
        let source = LifetimeSource::IdleTime;
        return Some((Table::Ipvs, EntryView { state: entry.state, expires, timeout, source }));
    }
    let configured = conntrack
        .and_then(|conntrack| conntrack.timeouts)
        .and_then(|timeouts| timeouts.of(entry.state));
    let view = EntryView {
        state: entry.state,
        expires: entry.expires,
        // A timeout policy (nft ct timeout) may give more than the sysctl says.
        timeout: configured.map_or(entry.expires, |timeout| timeout.max(entry.expires)),
        source: LifetimeSource::Entry,
    };
    Some((Table::Conntrack, view))
}

/// What is known of a socket's keepalive.
pub(super) fn keepalive(socket: &Socket) -> Keepalive {
    match (socket.keepalive.as_deref(), socket.timer) {
        (Some(settings), _) if settings.enabled => {
            Keepalive::On { idle: settings.idle, interval: settings.interval }
        }
        (Some(_), _) | (None, Timer::Off) => Keepalive::Off,
        (None, Timer::Keepalive { expires }) => Keepalive::OnUnread { earliest: expires },
        (None, Timer::Hidden) => Keepalive::Hidden,
    }
}

fn weigh(end: &Socket, view: &EntryView, options: &Options) -> Outcome {
    let left = view.expires;
    let keepalive = keepalive(end);
    let half_closed = end.state != TcpState::Established || view.state.half_closed();
    let (verdict, why, orphaned_in) = match keepalive {
        Keepalive::On { idle, interval } => against(end, view, idle, interval),
        Keepalive::Off => (Verdict::AtRisk, Why::NoKeepalive, Some(left)),
        Keepalive::OnUnread { earliest } if earliest >= left => {
            (Verdict::AtRisk, Why::KeepaliveLate, Some(left))
        }
        Keepalive::OnUnread { .. } | Keepalive::Hidden => {
            (Verdict::Unknown, Why::KeepaliveUnproven, Some(left))
        }
    };
    let (verdict, why) = match verdict {
        Verdict::Safe => (verdict, why),
        _ if orphaned_in.is_some_and(|time| time > options.horizon) => {
            (Verdict::Safe, Why::BeyondHorizon)
        }
        Verdict::AtRisk if half_closed => (verdict, Why::HalfClosed),
        _ => (verdict, why),
    };
    Outcome { verdict, why, orphaned_in, keepalive }
}

/// Keepalive against the entry's clock. Probes start after `idle` of silence from the peer
/// (`tcp_keepalive_timer`, `net/ipv4/tcp_timer.c`), each answered probe restarts both clocks.
fn against(
    end: &Socket,
    view: &EntryView,
    idle: Duration,
    interval: Duration,
) -> (Verdict, Why, Option<Duration>) {
    let left = view.expires;
    let heard = end.heard.unwrap_or_default();
    // Overdue: probes are out and unanswered, the next follows within the interval.
    let probe_in = idle.checked_sub(heard).unwrap_or(interval);
    let after_a_lost_one = |probe: Duration| probe.saturating_add(interval);
    if after_a_lost_one(idle) < view.timeout && after_a_lost_one(probe_in) < left {
        (Verdict::Safe, Why::KeptAlive, None)
    } else if idle < view.timeout && probe_in < left {
        (Verdict::AtRisk, Why::KeepaliveTight, Some(left))
    } else {
        let orphaned_in =
            if probe_in < left { probe_in.saturating_add(view.timeout) } else { left };
        (Verdict::AtRisk, Why::KeepaliveLate, Some(orphaned_in))
    }
}
