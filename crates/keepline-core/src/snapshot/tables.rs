//! The tables of a director: IPVS and connection tracking.

use std::{fmt, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::duration::seconds;

/// What IPVS or conntrack remembers of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Who connected.
    pub client: SocketAddr,
    /// To whom it connected: the virtual address.
    pub server: SocketAddr,
    /// Where its packets go.
    pub backend: SocketAddr,
    /// As whom the backend sees the client, where the table knows.
    pub seen_as: Option<SocketAddr>,
    /// State.
    pub state: EntryState,
    /// Lifetime left.
    #[serde(rename = "expires_seconds", with = "seconds")]
    pub expires: Duration,
}

/// State of an entry. Names as `/proc/net/ip_vs_conn` and `conntrack -L` print them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(
    missing_docs,
    reason = "the names are the kernel's: ip_vs_proto_tcp.c, nf_conntrack_tcp.h"
)]
pub enum EntryState {
    None,
    SynSent,
    SynRecv,
    Established,
    FinWait,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Synack,
    Other,
}

impl EntryState {
    /// As the kernel prints it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Listen => "LISTEN",
            Self::Synack => "SYNACK",
            Self::Other => "OTHER",
        }
    }

    /// One side has closed.
    #[must_use]
    pub fn half_closed(self) -> bool {
        matches!(self, Self::FinWait | Self::CloseWait | Self::LastAck)
    }
}

/// IPVS of one namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipvs {
    /// What `ipvsadm -L --timeout` shows.
    pub timeouts: Timeouts,
    /// Virtual services.
    pub services: Vec<Service>,
    /// How the entries were read.
    pub listing: Listing,
    /// TCP entries.
    pub entries: Vec<Entry>,
    /// `net.ipv4.vs.conntrack`: every entry has one in conntrack too.
    pub conntrack: Option<bool>,
    /// `net.ipv4.vs.expire_nodest_conn`.
    pub expire_nodest_conn: Option<bool>,
    /// `net.ipv4.vs.sloppy_tcp`: a packet from the middle of a session makes an entry.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sloppy_tcp: Option<bool>,
    /// `net.ipv4.vs.conn_reuse_mode`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub conn_reuse_mode: Option<u32>,
}

impl Ipvs {
    /// How many entries its services have, of any protocol and in any state.
    #[must_use]
    pub fn remembered(&self) -> u64 {
        self.services.iter().map(Service::remembered).sum()
    }

    /// Whether conntrack of its namespace knows as many sessions, but for those that came between the
    /// two looks. Who has emptied conntrack (`conntrack -F`) has made IPVS forget nothing.
    #[must_use]
    pub fn is_known_to(&self, conntrack: &Conntrack) -> bool {
        /// One in so many.
        const BETWEEN: u64 = 256;
        let remembered = self.remembered();
        conntrack.count >= remembered - remembered / BETWEEN
    }
}

/// How the IPVS entries were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Listing {
    /// From `/proc/net/ip_vs_conn`, or from the kernel's own table.
    Read,
    /// Not read: on this kernel it would take too long, and its table is not to be had. The namespace's conntrack stands in.
    TooSlow,
    /// Not read: the file could not be opened.
    Unreadable,
}

/// Lifetimes after the last packet, per network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// Established TCP. Default 900 s, `net/netfilter/ipvs/ip_vs_proto_tcp.c`.
    #[serde(rename = "tcp_seconds", with = "seconds")]
    pub tcp: Duration,
    /// TCP after a FIN. Default 120 s.
    #[serde(rename = "tcp_fin_seconds", with = "seconds")]
    pub tcp_fin: Duration,
    /// UDP. Default 300 s.
    #[serde(rename = "udp_seconds", with = "seconds")]
    pub udp: Duration,
}

impl Timeouts {
    /// What an entry in `state` gets at its next packet. Only two of these can be set;
    /// the others are `tcp_timeouts` in `net/netfilter/ipvs/ip_vs_proto_tcp.c`.
    #[must_use]
    pub fn of(&self, state: EntryState) -> Duration {
        match state {
            EntryState::Established => self.tcp,
            EntryState::FinWait => self.tcp_fin,
            EntryState::SynSent | EntryState::TimeWait | EntryState::Listen => {
                Duration::from_secs(120)
            }
            EntryState::SynRecv | EntryState::CloseWait => Duration::from_secs(60),
            EntryState::LastAck => Duration::from_secs(30),
            EntryState::Close | EntryState::None | EntryState::Synack | EntryState::Other => {
                Duration::from_secs(10)
            }
        }
    }
}

/// How IPVS knows the traffic of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceId {
    /// By virtual address and port; TCP.
    Tcp(SocketAddr),
    /// By virtual address and port; UDP.
    Udp(SocketAddr),
    /// By virtual address and port; SCTP.
    Sctp(SocketAddr),
    /// By a mark that netfilter sets.
    Fwmark(u32),
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "TCP {address}"),
            Self::Udp(address) => write!(f, "UDP {address}"),
            Self::Sctp(address) => write!(f, "SCTP {address}"),
            Self::Fwmark(mark) => write!(f, "FWM {mark}"),
        }
    }
}

/// One virtual service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Identity.
    pub id: ServiceId,
    /// Scheduler: `rr`, `mh` …
    pub scheduler: String,
    /// `IP_VS_SVC_F_*`, `include/uapi/linux/ip_vs.h`.
    #[serde(default)]
    pub flags: u32,
    /// Persistence timeout, where persistent.
    #[serde(rename = "persistent_seconds", with = "seconds::option")]
    pub persistent: Option<Duration>,
    /// Backends.
    pub destinations: Vec<Destination>,
}

impl Service {
    /// How many entries it has, of any protocol and in any state.
    #[must_use]
    pub fn remembered(&self) -> u64 {
        let entries = |it: &Destination| u64::from(it.active) + u64::from(it.inactive);
        self.destinations.iter().map(entries).sum()
    }
}

/// One backend of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// Address; port 0 where the service is by mark and keeps the port.
    pub address: SocketAddr,
    /// Weight; 0 takes no new connections.
    pub weight: u32,
    /// How packets get there.
    pub forwarding: Forwarding,
    /// Entries in state ESTABLISHED.
    pub active: u32,
    /// Entries in other states.
    pub inactive: u32,
}

/// Forwarding method, `IP_VS_CONN_F_FWD_MASK`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forwarding {
    /// Addresses are rewritten.
    Masquerade,
    /// To this machine.
    Local,
    /// In a tunnel.
    Tunnel,
    /// By link-layer address.
    DirectRoute,
    /// Past the service.
    Bypass,
}

/// Connection tracking of one namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conntrack {
    /// Entries of every kind in the namespace.
    pub count: u64,
    /// `net.netfilter.nf_conntrack_max`.
    pub max: Option<u64>,
    /// Entries dropped early because the table was full, since the namespace began.
    pub early_drop: u64,
    /// Packets dropped because the table was full, likewise.
    pub drop: u64,
    /// Lifetimes.
    pub timeouts: Option<ConntrackTimeouts>,
    /// Whether the entries could be read.
    pub readable: bool,
    /// TCP entries that translate an address; the others are only counted.
    pub entries: Vec<Entry>,
}

/// `net.netfilter.nf_conntrack_tcp_timeout_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConntrackTimeouts {
    /// `…_established`. Default five days.
    #[serde(rename = "established_seconds", with = "seconds")]
    pub established: Duration,
    /// `…_close_wait`. Default 60 s.
    #[serde(rename = "close_wait_seconds", with = "seconds")]
    pub close_wait: Duration,
    /// `…_fin_wait`. Default 120 s.
    #[serde(rename = "fin_wait_seconds", with = "seconds")]
    pub fin_wait: Duration,
}

impl ConntrackTimeouts {
    /// What an entry in `state` gets at its next packet; absent for states no session rests in.
    #[must_use]
    pub fn of(&self, state: EntryState) -> Option<Duration> {
        match state {
            EntryState::Established => Some(self.established),
            EntryState::CloseWait => Some(self.close_wait),
            EntryState::FinWait => Some(self.fin_wait),
            _ => None,
        }
    }
}
