//! One change: where, what is there now, what will be.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize, Serializer};

use super::{DirectService, KeepaliveRules, KeepaliveTimes};
use crate::{
    duration::human,
    session::Table,
    snapshot::{EntryState, KeepaliveSettings, Namespace, ServiceId, Timeouts},
};

/// A network namespace, told from one that is made later under the same name or inode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Inode in nsfs; given anew when the namespace is gone.
    pub inode: u64,
    /// `SO_NETNS_COOKIE`, never given anew; absent before kernel 5.14.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cookie: Option<u64>,
    /// What people call it.
    pub name: String,
}

impl Place {
    /// The namespace as it was seen.
    #[must_use]
    pub fn of(namespace: &Namespace) -> Self {
        Self { inode: namespace.inode, cookie: namespace.cookie, name: namespace.name.clone() }
    }

    /// Whether this is the same namespace still. Without cookies the inode must do.
    #[must_use]
    pub fn is(&self, inode: u64, cookie: Option<u64>) -> bool {
        self.inode == inode
            && match (self.cookie, cookie) {
                (Some(mine), Some(other)) => mine == other,
                _ => true,
            }
    }
}

/// How a service chooses backends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduling {
    /// Name of the scheduler.
    pub scheduler: String,
    /// `IP_VS_SVC_F_*`.
    pub flags: u32,
}

/// An entry that shall live for a given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    /// Who connected, as the director sees it.
    pub client: SocketAddr,
    /// To whom.
    pub server: SocketAddr,
    /// Where its packets go.
    pub backend: SocketAddr,
    /// As whom the backend sees the client, where that is known.
    pub seen_as: Option<SocketAddr>,
    /// Mark of the IPVS service; 0 where that is found by address.
    pub fwmark: u32,
    /// State that it has, or shall have.
    pub state: EntryState,
    /// Lifetime left now; absent where it is gone.
    pub was: Option<Duration>,
    /// Lifetime that it shall have.
    pub will: Duration,
}

/// One socket of another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketId {
    /// Own address.
    pub local: SocketAddr,
    /// Peer's address.
    pub remote: SocketAddr,
    /// Interface it is bound to; 0 = none.
    #[serde(default)]
    pub interface: u32,
    /// The kernel's identity of the socket, never reused.
    pub cookie: u64,
    /// Inode, by which its holder is found.
    pub inode: u32,
}

/// Keepalive of one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepaliveChange {
    /// The socket.
    pub socket: SocketId,
    /// Its settings now; absent in a plan where they were not read: they are before they are
    /// changed.
    pub before: Option<KeepaliveSettings>,
    /// Its settings then.
    pub after: KeepaliveSettings,
    /// Whether it is reached by a program in the kernel, as no process lends its descriptor: found
    /// out when it is changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_kernel: bool,
}

/// What is changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// IPVS timeouts of the namespace. Lasting.
    Timeouts {
        /// Now.
        before: Timeouts,
        /// Then.
        after: Timeouts,
    },
    /// A kernel setting of the namespace, by its path below `/proc/sys`. Lasting.
    Sysctl {
        /// Its path, such as `net/ipv4/vs/sloppy_tcp`.
        path: String,
        /// Now.
        before: String,
        /// Then.
        after: String,
    },
    /// Scheduler and flags of a service. Lasting.
    Scheduler {
        /// The service.
        service: ServiceId,
        /// Now.
        before: Scheduling,
        /// Then.
        after: Scheduling,
    },
    /// Keepalive of sockets. Lasting.
    Keepalive {
        /// The sockets.
        sockets: Vec<KeepaliveChange>,
    },
    /// Keepalive for connections to come, by programs in the kernel. Lasting.
    NewSockets {
        /// Now; read before it is changed. Absent: nothing.
        before: Option<KeepaliveRules>,
        /// Then.
        after: Option<KeepaliveRules>,
    },
    /// Virtual addresses that are answered directly, by programs in the kernel. Lasting.
    Direct {
        /// Now; read before it is changed. Absent: nothing.
        before: Option<Vec<DirectService>>,
        /// Then.
        after: Option<Vec<DirectService>>,
    },
    /// Entries get a lifetime, and are made where they are gone. Nothing to undo: they run out.
    Entries {
        /// In which table.
        #[serde(skip, default = "ipvs")]
        table: Table,
        /// Which. The journal has only their number.
        #[serde(serialize_with = "number", skip_deserializing)]
        entries: Vec<Remembered>,
    },
    /// A keepalive probe is sent on sockets, whose settings are then as before.
    Touch {
        /// The sockets. The journal has the keepalive that they get for that moment.
        #[serde(serialize_with = "number", skip_deserializing)]
        sockets: Vec<SocketId>,
    },
    /// Sockets are closed, and their owners told (`ECONNABORTED`). Cannot be undone.
    Abort {
        /// The sockets. The journal has only their number.
        #[serde(serialize_with = "number", skip_deserializing)]
        sockets: Vec<SocketId>,
    },
    /// Connections to these addresses are closed, those that are still being made, too: as many as
    /// there are at that moment. Cannot be undone.
    Disconnect {
        /// Where nobody answers any more.
        peers: Vec<IpAddr>,
    },
    /// A receiver of IPVS sync messages is stopped that a Keepline left which was killed while it used
    /// it. Never planned: it is found.
    Receiver,
}

/// What leaves nothing to undo need not be known one by one: a hundred thousand entries are.
fn number<T, S: Serializer>(list: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    list.len().serialize(serializer)
}

fn ipvs() -> Table {
    Table::Ipvs
}

/// A change in a namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Where.
    pub place: Place,
    /// What.
    pub what: What,
}

impl What {
    /// Whether it stays until it is undone.
    #[must_use]
    pub fn lasts(&self) -> bool {
        match self {
            Self::Timeouts { .. }
            | Self::Sysctl { .. }
            | Self::Scheduler { .. }
            | Self::Keepalive { .. }
            | Self::NewSockets { .. }
            | Self::Direct { .. } => true,
            Self::Entries { .. }
            | Self::Touch { .. }
            | Self::Abort { .. }
            | Self::Disconnect { .. }
            | Self::Receiver => false,
        }
    }

    /// The object, and from what to what: one line without names of others.
    #[must_use]
    pub fn describe(&self) -> (String, String) {
        let sockets = |count: usize| {
            if count == 1 { "1 socket".to_owned() } else { format!("{count} sockets") }
        };
        match self {
            Self::Timeouts { before, after } => {
                let pairs = [
                    ("tcp", before.tcp, after.tcp),
                    ("tcpfin", before.tcp_fin, after.tcp_fin),
                    ("udp", before.udp, after.udp),
                ];
                let changed = pairs.iter().filter(|(_, before, after)| before != after);
                let texts: Vec<String> = changed
                    .map(|(name, before, after)| {
                        format!("{name} {} s → {} s", before.as_secs(), after.as_secs())
                    })
                    .collect();
                ("IPVS timeouts".to_owned(), texts.join(", "))
            }
            Self::Sysctl { path, before, after } => {
                (path.replace('/', "."), format!("{before} → {after}"))
            }
            Self::Scheduler { service, before, after } => (
                format!("service {service}"),
                format!("{} → {}", scheduling(before), scheduling(after)),
            ),
            Self::Keepalive { sockets: changes } => {
                let after = changes.first().map_or(String::new(), |first| {
                    if !first.after.enabled {
                        return "keepalive off".to_owned();
                    }
                    format!(
                        "keepalive after {}, every {}, {} probes",
                        human(first.after.idle),
                        human(first.after.interval),
                        first.after.probes
                    )
                });
                let in_kernel = changes.iter().filter(|change| change.in_kernel).count();
                let way = if in_kernel > 0 {
                    format!(", {in_kernel} of them by a program in the kernel")
                } else {
                    String::new()
                };
                (sockets(changes.len()), after + &way)
            }
            Self::NewSockets { after, .. } => {
                ("connections to come".to_owned(), new_sockets(after.as_ref()))
            }
            Self::Direct { after, .. } => {
                ("direct connections".to_owned(), directly(after.as_deref()))
            }
            Self::Entries { table, entries } => {
                let (made, renewed): (Vec<&Remembered>, Vec<&Remembered>) =
                    entries.iter().partition(|entry| entry.was.is_none());
                let longest = entries.iter().map(|entry| entry.will).max().unwrap_or_default();
                let mut parts = Vec::new();
                if !renewed.is_empty() {
                    let soonest = renewed.iter().filter_map(|it| it.was).min().unwrap_or_default();
                    parts.push(format!(
                        "{} renewed (the first had {} left)",
                        renewed.len(),
                        human(soonest)
                    ));
                }
                if !made.is_empty() {
                    parts.push(format!("{} made anew", made.len()));
                }
                let count = entries.len();
                let noun = if count == 1 { "entry" } else { "entries" };
                (
                    format!("{count} {noun} in {}", table.name()),
                    format!("{}, to live {}", parts.join(", "), human(longest)),
                )
            }
            Self::Touch { sockets: all } => {
                (sockets(all.len()), "a keepalive probe is sent, settings stay".to_owned())
            }
            Self::Abort { sockets: all } => {
                (sockets(all.len()), "closed; their owners get ECONNABORTED".to_owned())
            }
            Self::Disconnect { peers } => {
                let first: Vec<String> = peers.iter().take(4).map(ToString::to_string).collect();
                let more = peers.len().saturating_sub(first.len());
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                (
                    format!("connections to {}{more}", first.join(", ")),
                    "closed; their owners get ECONNABORTED".to_owned(),
                )
            }
            Self::Receiver => (
                "IPVS sync receiver on lo".to_owned(),
                "left by a Keepline that was killed → stopped".to_owned(),
            ),
        }
    }

    /// The same the other way round; absent for what does not last.
    #[must_use]
    pub fn reversed(&self) -> Option<Self> {
        Some(match self.clone() {
            Self::Timeouts { before, after } => Self::Timeouts { before: after, after: before },
            Self::Sysctl { path, before, after } => {
                Self::Sysctl { path, before: after, after: before }
            }
            Self::Scheduler { service, before, after } => {
                Self::Scheduler { service, before: after, after: before }
            }
            Self::Keepalive { sockets } => Self::Keepalive {
                sockets: sockets
                    .into_iter()
                    .filter_map(|change| {
                        Some(KeepaliveChange {
                            before: Some(change.after),
                            after: change.before?,
                            ..change
                        })
                    })
                    .collect(),
            },
            Self::NewSockets { before, after } => Self::NewSockets { before: after, after: before },
            Self::Direct { before, after } => Self::Direct { before: after, after: before },
            Self::Entries { .. }
            | Self::Touch { .. }
            | Self::Abort { .. }
            | Self::Disconnect { .. }
            | Self::Receiver => return None,
        })
    }
}

fn new_sockets(rules: Option<&KeepaliveRules>) -> String {
    let Some(rules) = rules else { return "no keepalive from the kernel".to_owned() };
    let words = |times: &KeepaliveTimes| {
        let (idle, interval) = (times.idle_seconds, times.interval_seconds);
        format!(
            "keepalive after {}, every {}{}",
            human(Duration::from_secs(idle)),
            human(Duration::from_secs(interval)),
            if times.enforce { "" } else { ", not enforced" }
        )
    };
    let mut parts = Vec::new();
    if let Some(times) = &rules.everybody {
        parts.push(format!("every program of this machine: {}", words(times)));
    }
    let given = || rules.rules.iter().filter_map(|rule| Some((rule.netns, rule.times.as_ref()?)));
    if let Some((_, times)) = given().next() {
        let namespaces: std::collections::BTreeSet<u64> = given().map(|(netns, _)| netns).collect();
        let plural = if namespaces.len() == 1 { "namespace" } else { "namespaces" };
        parts.push(format!("of {} {plural}: {}", namespaces.len(), words(times)));
    }
    let without = rules.rules.iter().filter(|rule| rule.times.is_none()).count();
    if without > 0 {
        parts.push(format!("none for {without} of their peers"));
    }
    parts.join("; ")
}

fn directly(services: Option<&[DirectService]>) -> String {
    let Some(services) = services else { return "through the load balancer".to_owned() };
    let vips: std::collections::BTreeSet<_> = services.iter().map(|it| it.vip).collect();
    let namespaces: std::collections::BTreeSet<u64> = services.iter().map(|it| it.netns).collect();
    let first: Vec<String> = vips.iter().take(4).map(ToString::to_string).collect();
    let more = vips.len().saturating_sub(first.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "to {}{more} from {} namespace{}: past the load balancer",
        first.join(", "),
        namespaces.len(),
        if namespaces.len() == 1 { "" } else { "s" }
    )
}

/// `mh (mh-fallback, mh-port)`; flags that are not the scheduler's are left out.
fn scheduling(scheduling: &Scheduling) -> String {
    /// `IP_VS_SVC_F_SCHED1`, `SCHED2`, `SCHED3`.
    const FLAGS: [u32; 3] = [1 << 3, 1 << 4, 1 << 5];
    let names = match scheduling.scheduler.as_str() {
        "sh" => ["sh-fallback", "sh-port", "flag-3"],
        "mh" => ["mh-fallback", "mh-port", "flag-3"],
        _ => ["flag-1", "flag-2", "flag-3"],
    };
    let set: Vec<&str> = FLAGS
        .iter()
        .zip(names)
        .filter(|(flag, _)| scheduling.flags & **flag != 0)
        .map(|(_, name)| name)
        .collect();
    if set.is_empty() {
        scheduling.scheduler.clone()
    } else {
        format!("{} ({})", scheduling.scheduler, set.join(", "))
    }
}
