//! What was seen on one machine at one time: plain data, made by `keepline-node`
//! or read from a capture file.

mod capture;
mod join;
mod select;
mod tables;
pub mod topology;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use capture::{CaptureError, SCHEMA};
pub use select::{Asked, Scope, Select, SelectError};
pub use tables::{
    Conntrack, ConntrackTimeouts, Destination, Entry, EntryState, Forwarding, Ipvs, Listing,
    Service, ServiceId, Timeouts,
};
pub use topology::Topology;

use crate::duration::seconds;

/// One look at one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`SCHEMA`].
    pub schema: String,
    /// Host name.
    pub host: String,
    /// When the look began.
    pub started: jiff::Timestamp,
    /// How long it took.
    #[serde(rename = "duration_seconds", with = "seconds")]
    pub duration: Duration,
    /// Kernel release, as `uname -r` gives it.
    pub kernel: String,
    /// Network namespaces, each once.
    pub namespaces: Vec<Namespace>,
    /// The second look at sessions that seemed orphaned.
    pub second_look: Vec<SecondLook>,
    /// What the Engine told, where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub topology: Option<Topology>,
    /// What is being held now, by whom ever.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub held: Vec<Scope>,
    /// Why names are missing, where there is an Engine that should have told them.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub unnamed: Vec<String>,
    /// Services and networks that were asked for.
    #[serde(skip_serializing_if = "Asked::is_empty", default)]
    pub asked: Asked,
    /// What could not be seen.
    pub incomplete: Vec<Incomplete>,
}

/// One network namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Namespace {
    /// Inode in nsfs: its identity.
    pub inode: u64,
    /// `SO_NETNS_COOKIE`: never given to another namespace, unlike the inode. Absent before kernel
    /// 5.14.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cookie: Option<u64>,
    /// What people call it: `host`, `lb_edja88p19`, a name in `/var/run/netns`, or `net:[4026532…]`.
    pub name: String,
    /// A path by which it can be entered, where there is one.
    pub path: Option<String>,
    /// Whether sessions of this namespace were asked for.
    pub selected: bool,
    /// The container whose namespace it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub container: Option<Container>,
    /// Its own addresses, loopback left out.
    pub addresses: Vec<IpAddr>,
    /// Ethernet addresses of its links, where it may be a director.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub links: Vec<LinkAddress>,
    /// Who answers for which address on its links.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub neighbours: Vec<(IpAddr, LinkAddress)>,
    /// Whether address translation is set up in it (nat chains of nftables or iptables).
    pub translates: bool,
    /// Whether the Engine's nftables data plane balances here instead of IPVS
    /// (tables `docker-lb-nat`, `docker-lb-dsr`).
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub nftables_balances: bool,
    /// Marks that netfilter sets here, by which IPVS knows what to balance.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub marks: Vec<Mark>,
    /// Addresses and ports on which it listens.
    pub listeners: Vec<SocketAddr>,
    /// Established and half-closed TCP sockets.
    pub sockets: Vec<Socket>,
    /// Keepalive times of sockets that leave them to the system, where there are sockets.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub keepalive_defaults: Option<KeepaliveDefaults>,
    /// IPVS, where the kernel has it and something is balanced here.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ipvs: Option<Ipvs>,
    /// Connection tracking, where it is active.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub conntrack: Option<Conntrack>,
    /// Owners of sockets by socket inode, for those that matter.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub processes: BTreeMap<u32, Process>,
}

/// An Ethernet address.
pub type LinkAddress = [u8; 6];

/// A rule that marks packets to an address or port: `iptables -t mangle … -j MARK`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Destination address; absent where any.
    pub address: Option<IpAddr>,
    /// First and last destination port; absent where any.
    pub ports: Option<(u16, u16)>,
    /// The mark.
    pub mark: u32,
}

impl Mark {
    /// Whether packets to `server` get this mark.
    #[must_use]
    pub fn matches(&self, server: SocketAddr) -> bool {
        self.address.is_none_or(|address| address == server.ip())
            && self.ports.is_none_or(|(first, last)| (first..=last).contains(&server.port()))
    }
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name, where the Engine told.
    pub name: Option<String>,
    /// Whether an engine runs it that is in a container itself (Docker in Docker).
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub nested: bool,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id in the initial namespace.
    pub pid: u32,
    /// `comm`, up to 15 bytes; untrusted.
    pub command: String,
}

/// TCP states that matter here, `include/net/tcp_states.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TcpState {
    /// Both directions open.
    Established,
    /// We closed; the peer may still send.
    FinWait2,
    /// The peer closed; we may still send.
    CloseWait,
}

/// What the socket's timer tells of keepalive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timer {
    /// No timer: keepalive is off.
    Off,
    /// The keepalive timer runs: keepalive is on.
    Keepalive {
        /// Until it fires.
        #[serde(rename = "expires_seconds", with = "seconds")]
        expires: Duration,
    },
    /// Another timer runs and hides it.
    Hidden,
}

/// Keepalive settings read from the socket itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepaliveSettings {
    /// `SO_KEEPALIVE`.
    pub enabled: bool,
    /// `TCP_KEEPIDLE`.
    #[serde(rename = "idle_seconds", with = "seconds")]
    pub idle: Duration,
    /// `TCP_KEEPINTVL`.
    #[serde(rename = "interval_seconds", with = "seconds")]
    pub interval: Duration,
    /// `TCP_KEEPCNT`.
    pub probes: u32,
}

/// `net.ipv4.tcp_keepalive_{time,intvl,probes}` of a namespace, in seconds and as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepaliveDefaults {
    /// Silence before the first probe; the kernel's default is 7200.
    pub time: u64,
    /// Between probes; 75.
    pub intvl: u64,
    /// Unanswered probes before the connection is given up; 9.
    pub probes: u64,
}

/// One TCP socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Socket {
    /// Own address.
    pub local: SocketAddr,
    /// Peer's address.
    pub remote: SocketAddr,
    /// State.
    pub state: TcpState,
    /// Timer.
    pub timer: Timer,
    /// Since the last data sent, data received or acknowledgement received, whichever is the
    /// latest; absent where the kernel did not tell.
    #[serde(rename = "idle_seconds", with = "seconds::option")]
    pub idle: Option<Duration>,
    /// Since anything was received: from here the keepalive clock runs.
    #[serde(rename = "heard_seconds", with = "seconds::option")]
    pub heard: Option<Duration>,
    /// The kernel's identity of the socket, never reused.
    pub cookie: u64,
    /// Interface it is bound to; 0 = none.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub interface: u32,
    /// Inode; 0 when no process holds it any more.
    pub inode: u32,
    /// Read from the socket itself, where that was worth it and allowed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub keepalive: Option<Box<KeepaliveSettings>>,
}

/// The second look at a socket that seemed orphaned: the tables were asked again, exactly,
/// and after that the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondLook {
    /// Inode of the namespace the socket is in.
    pub namespace: u64,
    /// The socket.
    pub cookie: u64,
    /// What it showed.
    pub result: SecondLookResult,
}

/// What the second look showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecondLookResult {
    /// Still no entry, and after that still the same socket: orphaned.
    Confirmed,
    /// The director holds the other end itself: no load balancer between.
    Local,
    /// The socket has closed meanwhile.
    SocketGone,
    /// It could not be told.
    Failed,
}

/// Something that could not be seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incomplete {
    /// The thing: a namespace, a table.
    pub what: String,
    /// The reason.
    pub why: String,
    /// The way out, where there is one.
    pub help: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Snapshot {
    /// TCP sockets seen, listeners left out.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.namespaces.iter().map(|namespace| namespace.sockets.len()).sum()
    }

    /// Entries seen, each once where IPVS and conntrack hold the same.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.namespaces.iter().map(Namespace::entries).sum()
    }
}

impl Namespace {
    fn entries(&self) -> usize {
        let ipvs = self.ipvs.as_ref().map_or(0, |ipvs| ipvs.entries.len());
        let conntrack = self.conntrack.as_ref().map_or(0, |conntrack| conntrack.entries.len());
        ipvs.max(conntrack)
    }
}
