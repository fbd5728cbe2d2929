//! A session: one TCP connection through a load balancer, as its client sees it.

use std::{fmt, net::SocketAddr, time::Duration};

use crate::{
    duration::human,
    finding::Code,
    snapshot::{EntryState, TcpState},
};

/// What becomes of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Its socket is open, its entry is gone.
    Orphaned,
    /// Its entry will run out within the horizon, unless traffic comes.
    AtRisk,
    /// Could not be told.
    Unknown,
    /// Its entry will not run out within the horizon.
    Safe,
    /// No load balancer between.
    Untracked,
}

impl Verdict {
    /// As it is written everywhere.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Orphaned => "orphaned",
            Self::AtRisk => "at-risk",
            Self::Unknown => "unknown",
            Self::Safe => "safe",
            Self::Untracked => "untracked",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The table that decides a session's fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// IPVS connection table.
    Ipvs,
    /// Connection tracking.
    Conntrack,
}

impl Table {
    /// As it is written everywhere.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipvs => "ipvs",
            Self::Conntrack => "conntrack",
        }
    }
}

/// Position of a socket in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketRef {
    /// Index of the namespace.
    pub namespace: usize,
    /// Index of the socket in it.
    pub socket: usize,
}

/// Position of an entry in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryRef {
    /// Index of the namespace.
    pub namespace: usize,
    /// Which of its tables.
    pub table: Table,
    /// Index in that.
    pub entry: usize,
}

/// The end of a session by which it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// The client's socket is on this machine.
    Client,
    /// Only the backend's socket is.
    Backend,
}

/// Where a lifetime is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifetimeSource {
    /// Read from the entry itself.
    Entry,
    /// The IPVS table was not read: timeout less the session's idle time.
    IdleTime,
}

/// The entry of a session, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryView {
    /// State.
    pub state: EntryState,
    /// Lifetime left.
    pub expires: Duration,
    /// What the next packet sets it to.
    pub timeout: Duration,
    /// Where `expires` is known from.
    pub source: LifetimeSource,
}

/// What is known of keepalive on a session, client's or backend's end, whichever is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keepalive {
    /// It is off.
    Off,
    /// It is on, with these settings, read from the socket.
    On {
        /// Silence before the first probe.
        idle: Duration,
        /// Between probes.
        interval: Duration,
    },
    /// It is on; the settings could not be read.
    OnUnread {
        /// The next probe comes no sooner than this.
        earliest: Duration,
    },
    /// It could not be told: another timer hides it.
    Hidden,
}

/// Why a session has its verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// No load balancer on the way.
    NoDirector,
    /// The director has no entry; confirmed by a second look.
    Forgotten,
    /// The same, seen from the backend's end.
    ForgottenAtBackend,
    /// No entry in the first look, and the second look failed.
    NotConfirmed,
    /// Several directors own the virtual address.
    Ambiguous,
    /// The director's tables could not be read.
    Unreadable,
    /// Keepalive keeps the entry alive.
    KeptAlive,
    /// The strategy `hold` keeps the entry alive.
    Held,
    /// The strategy `rehash` makes the entry anew at the client's next packet.
    Rehashed,
    /// Nothing keeps it alive, but its loss is further away than the horizon.
    BeyondHorizon,
    /// No keepalive.
    NoKeepalive,
    /// Keepalive comes after the entry is gone.
    KeepaliveLate,
    /// One lost probe is one too many.
    KeepaliveTight,
    /// One side has closed: a short clock runs.
    HalfClosed,
    /// Keepalive is on, but when it fires could not be read.
    KeepaliveUnproven,
}

/// One session.
#[derive(Debug, Clone)]
pub struct Session {
    /// The client's address, as the client sees it (seen from the backend: as the backend sees it).
    pub client: SocketAddr,
    /// The address the client connected to (the virtual address).
    pub server: SocketAddr,
    /// Where its packets go, where known.
    pub backend: Option<SocketAddr>,
    /// Verdict.
    pub verdict: Verdict,
    /// Reason for it.
    pub why: Why,
    /// Which end it is seen by.
    pub end: End,
    /// The socket it is seen by.
    pub socket: SocketRef,
    /// The socket of the other end, where it is on this machine.
    pub other_end: Option<SocketRef>,
    /// TCP state of the socket it is seen by.
    pub state: TcpState,
    /// Index of the director's namespace.
    pub director: Option<usize>,
    /// Where its entry is missing: from and to of what the director is sent by this end.
    pub sent: Option<Box<(SocketAddr, SocketAddr)>>,
    /// Table.
    pub table: Option<Table>,
    /// Entry, where it is there.
    pub entry: Option<EntryView>,
    /// Where its addresses were read: of an IPVS entry that was not listed, conntrack's.
    pub entry_at: Option<EntryRef>,
    /// Since the last packet.
    pub idle: Option<Duration>,
    /// Until the entry is gone, if nothing is sent.
    pub orphaned_in: Option<Duration>,
    /// Keepalive.
    pub keepalive: Keepalive,
    /// Findings about it.
    pub findings: Vec<Code>,
}

impl Session {
    /// The verdict's reason in words.
    #[must_use]
    pub fn reason(&self) -> String {
        let idle = self.idle.map_or_else(|| "unknown".to_owned(), human);
        let left = self.orphaned_in.map_or_else(|| "an unknown time".to_owned(), human);
        let timeout = self.entry.map_or_else(|| "unknown".to_owned(), |entry| human(entry.timeout));
        match self.why {
            Why::NoDirector => "no load balancer between".to_owned(),
            Why::Forgotten => format!("socket open, entry gone; silent for {idle}"),
            Why::ForgottenAtBackend => {
                format!(
                    "the backend's socket is open, the director's entry gone; silent for {idle}"
                )
            }
            Why::NotConfirmed => "no entry seen, but the second look failed".to_owned(),
            Why::Ambiguous => "several directors own this virtual address".to_owned(),
            Why::Unreadable => "the director's tables could not be read".to_owned(),
            Why::KeptAlive => match self.keepalive {
                Keepalive::On { idle, interval } => format!(
                    "keepalive after {} (every {}) against a timeout of {timeout}",
                    human(idle),
                    human(interval)
                ),
                _ => "kept alive".to_owned(),
            },
            Why::Held => format!("held: its entry is renewed before it runs out in {left}"),
            Why::Rehashed => {
                "the client's next packet makes a lost entry anew (mh, sloppy_tcp)".to_owned()
            }
            Why::BeyondHorizon => format!("no loss within the horizon; entry runs out in {left}"),
            Why::NoKeepalive => format!("no keepalive; entry runs out in {left}"),
            Why::KeepaliveLate => match self.keepalive {
                Keepalive::On { idle, .. } => format!(
                    "keepalive only after {}, forgotten after {timeout}; entry runs out in {left}",
                    human(idle)
                ),
                Keepalive::OnUnread { earliest } => format!(
                    "next keepalive probe in {} at the soonest; entry runs out in {left}",
                    human(earliest)
                ),
                _ => format!("keepalive comes too late; entry runs out in {left}"),
            },
            Why::KeepaliveTight => match self.keepalive {
                Keepalive::On { idle, interval } => format!(
                    "keepalive after {} and then every {}: one lost probe exceeds {timeout}",
                    human(idle),
                    human(interval)
                ),
                _ => format!("no room for a lost probe within {timeout}"),
            },
            Why::HalfClosed => format!(
                "half-closed ({}); entry runs out in {left}",
                self.entry.map_or("unknown", |entry| entry.state.name())
            ),
            Why::KeepaliveUnproven => {
                "keepalive may be on, its timing could not be read".to_owned()
            }
        }
    }
}
