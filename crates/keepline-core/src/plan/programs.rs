//! What programs in the kernel shall do: keepalive for connections to come, and virtual addresses
//! that are answered without a load balancer.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Keepalive times of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepaliveTimes {
    /// Silence before the first probe, in seconds.
    pub idle_seconds: u64,
    /// Between probes, in seconds.
    pub interval_seconds: u64,
    /// Unanswered probes before the connection is given up; absent: as the namespace has it.
    pub probes: Option<u8>,
    /// Whether programs that set longer times later, or switch keepalive off, are held to these.
    #[serde(default = "yes")]
    pub enforce: bool,
}

fn yes() -> bool {
    true
}

/// Times for the connections of one namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepaliveRule {
    /// Cookie of the namespace.
    pub netns: u64,
    /// Only to this peer.
    pub peer: Option<IpAddr>,
    /// The times; absent: none, whatever all others get.
    pub times: Option<KeepaliveTimes>,
}

/// Keepalive for every connection to come, in a selection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepaliveRules {
    /// By namespace and peer, in their order.
    pub rules: Vec<KeepaliveRule>,
    /// For all others.
    pub everybody: Option<KeepaliveTimes>,
}

impl KeepaliveRules {
    /// Those of every rule.
    pub fn times(&self) -> impl Iterator<Item = &KeepaliveTimes> {
        self.rules.iter().filter_map(|rule| rule.times.as_ref()).chain(&self.everybody)
    }

    /// What a connection in this namespace to this peer gets: the most exact rule decides.
    #[must_use]
    pub fn times_of(&self, netns: Option<u64>, peer: IpAddr) -> Option<KeepaliveTimes> {
        let by = |peer: Option<IpAddr>| {
            self.rules.iter().find(|rule| Some(rule.netns) == netns && rule.peer == peer)
        };
        let rule = by(Some(peer.to_canonical())).or_else(|| by(None));
        rule.map_or(self.everybody, |rule| rule.times)
    }
}

/// One that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DirectBackend {
    /// Its address.
    pub address: IpAddr,
    /// Its port; absent: the one that the client asked for.
    pub port: Option<u16>,
    /// Its part of new connections; 0: none.
    pub weight: u32,
}

/// A virtual address as clients of one namespace see it, and who answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DirectService {
    /// Cookie of the clients' namespace.
    pub netns: u64,
    /// The virtual address.
    pub vip: IpAddr,
    /// Its port; absent: any.
    pub port: Option<u16>,
    /// Whether it is of UDP.
    pub udp: bool,
    /// Who answers.
    pub backends: Vec<DirectBackend>,
}
