//! ctnetlink: the entries of connection tracking.
//!
//! Source: `include/uapi/linux/netfilter/nfnetlink.h`, `nfnetlink_conntrack.h`,
//! `nf_conntrack_common.h`, `nf_conntrack_tcp.h`; `net/netfilter/nf_conntrack_netlink.c`.
//! Values are in network byte order, except the flags inside `CTA_FILTER`.

mod request;

pub use request::{DumpFilter, NewEntry, create, delete, dump, get, set_timeout};

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::common::{ipv4, ipv6};
use crate::nl::{Attr, WireError, array, attrs};

/// `NFNL_SUBSYS_CTNETLINK`.
const SUBSYSTEM: u16 = 1;
/// Message type of an answer, and of requests that create or change an entry (`IPCTNL_MSG_CT_NEW`).
pub const MESSAGE_NEW: u16 = SUBSYSTEM << 8;
/// Message type of requests that read (`IPCTNL_MSG_CT_GET`).
pub const MESSAGE_GET: u16 = SUBSYSTEM << 8 | 1;
/// Message type of requests that delete, and of DESTROY events (`IPCTNL_MSG_CT_DELETE`).
pub const MESSAGE_DELETE: u16 = SUBSYSTEM << 8 | 2;

/// Length of `struct nfgenmsg`: family, version, resource id.
const NFGENMSG_LEN: usize = 4;

// enum ctattr_type
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_MARK: u16 = 8;
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;

// enum ctattr_tuple, ctattr_ip, ctattr_l4proto
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMP_CODE: u16 = 6;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
const CTA_PROTO_ICMPV6_CODE: u16 = 9;

// enum ctattr_protoinfo, ctattr_protoinfo_tcp, ctattr_counters
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const CTA_COUNTERS_PACKETS: u16 = 1;
const CTA_COUNTERS_BYTES: u16 = 2;

const IPPROTO_ICMP: u8 = 1;
const IPPROTO_ICMPV6: u8 = 58;

/// One direction of an entry: what its packets carry.
///
/// ICMP and ICMPv6 have no ports: the source port holds the identifier, the destination port
/// `type << 8 | code`, as in the kernel (`struct nf_conntrack_man`, `struct nf_conntrack_tuple`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port.
    pub destination: SocketAddr,
    /// Layer 4 protocol (`IPPROTO_*`; TCP is 6).
    pub protocol: u8,
}

impl Tuple {
    /// The tuple of the answering packets if nothing is translated
    /// (`nf_ct_invert_tuple()`, `net/netfilter/nf_conntrack_core.c`).
    #[must_use]
    pub fn reversed(&self) -> Self {
        let (mut source, mut destination) = (self.destination, self.source);
        if matches!(self.protocol, IPPROTO_ICMP | IPPROTO_ICMPV6) {
            source.set_port(self.source.port());
            destination.set_port(icmp_answer(self.protocol, self.destination.port()));
        }
        Self { source, destination, protocol: self.protocol }
    }
}

/// The ICMP type that answers this one, code kept; a type without an answer stays
/// (`invmap` in `nf_conntrack_proto_icmp.c` and `nf_conntrack_proto_icmpv6.c`).
const fn icmp_answer(protocol: u8, type_and_code: u16) -> u16 {
    let [kind, code] = type_and_code.to_be_bytes();
    let answer = match (protocol, kind) {
        (IPPROTO_ICMP, 8) => 0,                   // echo
        (IPPROTO_ICMP, 0) => 8,                   // echo reply
        (IPPROTO_ICMP, 13 | 15 | 17) => kind + 1, // timestamp, info, address mask
        (IPPROTO_ICMP, 14 | 16 | 18) => kind - 1, // and their replies
        (IPPROTO_ICMPV6, 128) => 129,             // echo
        (IPPROTO_ICMPV6, 129) => 128,             // echo reply
        (IPPROTO_ICMPV6, 139) => 140,             // node information query
        (IPPROTO_ICMPV6, 140) => 139,             // node information reply
        _ => kind,
    };
    u16::from_be_bytes([answer, code])
}

/// State of a TCP entry (`enum tcp_conntrack`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcpConntrackState {
    /// No state.
    None,
    /// A SYN was seen.
    SynSent,
    /// A SYN and its SYN+ACK were seen.
    SynRecv,
    /// Open.
    Established,
    /// One side has sent a FIN.
    FinWait,
    /// The FIN was acknowledged, the other side is still open.
    CloseWait,
    /// Both sides have sent a FIN.
    LastAck,
    /// Closed, waiting for stragglers.
    TimeWait,
    /// Reset.
    Close,
    /// Both sides have sent a SYN.
    SynSent2,
    /// A state that this version does not know.
    Other(u8),
}

impl TcpConntrackState {
    /// From `CTA_PROTOINFO_TCP_STATE`.
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::None,
            1 => Self::SynSent,
            2 => Self::SynRecv,
            3 => Self::Established,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Close,
            9 => Self::SynSent2,
            other => Self::Other(other),
        }
    }

    /// For `CTA_PROTOINFO_TCP_STATE`.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::SynSent => 1,
            Self::SynRecv => 2,
            Self::Established => 3,
            Self::FinWait => 4,
            Self::CloseWait => 5,
            Self::LastAck => 6,
            Self::TimeWait => 7,
            Self::Close => 8,
            Self::SynSent2 => 9,
            Self::Other(other) => other,
        }
    }

    /// The name that conntrack(8) prints; `UNKNOWN` for [`TcpConntrackState::Other`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::SynSent2 => "SYN_SENT2",
            Self::Other(_) => "UNKNOWN",
        }
    }
}

/// Status bits of an entry (`enum ip_conntrack_status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Status(pub u32);

impl Status {
    /// It was expected by a helper.
    pub const EXPECTED: u32 = 1;
    /// Packets were seen both ways.
    pub const SEEN_REPLY: u32 = 1 << 1;
    /// Never dropped early when the table is full.
    pub const ASSURED: u32 = 1 << 2;
    /// It is in the table.
    pub const CONFIRMED: u32 = 1 << 3;
    /// The source is translated in the original direction.
    pub const SRC_NAT: u32 = 1 << 4;
    /// The destination is translated in the original direction.
    pub const DST_NAT: u32 = 1 << 5;
    /// TCP sequence numbers are adjusted.
    pub const SEQ_ADJUST: u32 = 1 << 6;
    /// The decision on source NAT has been taken.
    pub const SRC_NAT_DONE: u32 = 1 << 7;
    /// The decision on destination NAT has been taken.
    pub const DST_NAT_DONE: u32 = 1 << 8;
    /// Being removed.
    pub const DYING: u32 = 1 << 9;
    /// Its lifetime does not change with traffic, and cannot be set.
    pub const FIXED_TIMEOUT: u32 = 1 << 10;
    /// A template of a ruleset, not a connection.
    pub const TEMPLATE: u32 = 1 << 11;
    /// A helper was attached explicitly.
    pub const HELPER: u32 = 1 << 13;
    /// Its packets go through a flow table: conntrack sees no traffic and reports no lifetime.
    pub const OFFLOAD: u32 = 1 << 14;
    /// Its packets go through hardware.
    pub const HW_OFFLOAD: u32 = 1 << 15;

    /// Whether any of `bits` is set.
    #[must_use]
    pub const fn any(self, bits: u32) -> bool {
        self.0 & bits != 0
    }

    /// Whether all of `bits` are set.
    #[must_use]
    pub const fn all(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

/// Traffic of one direction; kept only with `net.netfilter.nf_conntrack_acct=1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As the first packet had it.
    pub original: Tuple,
    /// As the answers have it: shows any translation.
    pub reply: Tuple,
    /// Status bits.
    pub status: Status,
    /// TCP state; `None` for other protocols and for offloaded entries.
    pub tcp_state: Option<TcpConntrackState>,
    /// Lifetime left, in whole seconds (the kernel rounds down); `None` for offloaded entries
    /// and in DESTROY events.
    pub timeout: Option<Duration>,
    /// Mark (`ct mark`, connmark).
    pub mark: u32,
    /// Zone; 0 is the default. An entry that has a zone in one direction only shows that zone.
    pub zone: u16,
    /// The kernel's id, a hash of where the entry lies and of its original tuple
    /// (`nf_ct_get_id()`): a later entry with the same tuple usually has another one, but can
    /// have the same.
    pub id: Option<u32>,
    /// Traffic in the original direction.
    pub counters_original: Option<Counters>,
    /// Traffic in the reply direction.
    pub counters_reply: Option<Counters>,
}

impl Entry {
    /// Whether NAT, or IPVS with `vs.conntrack=1`, changes addresses or ports on the way.
    ///
    /// Decided by the tuples: IPVS rewrites the reply tuple without setting
    /// [`Status::DST_NAT`] (`ip_vs_update_conntrack()`, `net/netfilter/ipvs/ip_vs_nfct.c`).
    #[must_use]
    pub fn translated(&self) -> bool {
        self.reply != self.original.reversed()
    }
}

/// Which of the two tuples of an entry a request names.
///
/// The kernel finds an entry by either. The direction matters where an entry has its zone in one
/// direction only: it is found in that zone by that tuple, and in the default zone by the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// [`Entry::original`].
    Original,
    /// [`Entry::reply`].
    Reply,
}

/// Decodes one entry from the payload of a [`MESSAGE_NEW`] answer or event (`ctnetlink_fill_info()`).
///
/// Attributes that are not needed are skipped. Allocates nothing.
///
/// # Errors
/// A tuple is missing or without addresses, or an attribute is too short for its type.
pub fn parse(payload: &[u8]) -> Result<Entry, WireError> {
    const WHAT: &str = "conntrack entry";
    let body = payload.get(NFGENMSG_LEN..).ok_or(WireError::Short {
        what: WHAT,
        need: NFGENMSG_LEN,
        have: payload.len(),
    })?;
    let (mut original, mut reply) = (None, None);
    let mut status = Status::default();
    let mut tcp_state = None;
    let mut timeout = None;
    let mut mark = 0;
    let mut zone = None;
    let mut id = None;
    let (mut counters_original, mut counters_reply) = (None, None);
    for attr in attrs(body) {
        let attr = attr?;
        match attr.kind {
            CTA_TUPLE_ORIG => original = Some(parse_tuple(&attr, &mut zone)?),
            CTA_TUPLE_REPLY => reply = Some(parse_tuple(&attr, &mut zone)?),
            CTA_STATUS => status = Status(attr.be32("conntrack status")?),
            CTA_PROTOINFO => tcp_state = parse_tcp_state(&attr)?,
            CTA_TIMEOUT => {
                timeout = Some(Duration::from_secs(attr.be32("conntrack timeout")?.into()));
            }
            CTA_MARK => mark = attr.be32("conntrack mark")?,
            CTA_COUNTERS_ORIG => counters_original = Some(parse_counters(&attr)?),
            CTA_COUNTERS_REPLY => counters_reply = Some(parse_counters(&attr)?),
            CTA_ID => id = Some(attr.be32("conntrack id")?),
            CTA_ZONE => zone = Some(attr.be16("conntrack zone")?),
            _ => {}
        }
    }
    Ok(Entry {
        original: original.ok_or_else(|| WireError::invalid(WHAT, "no original tuple"))?,
        reply: reply.ok_or_else(|| WireError::invalid(WHAT, "no reply tuple"))?,
        status,
        tcp_state,
        timeout,
        mark,
        zone: zone.unwrap_or(0),
        id,
        counters_original,
        counters_reply,
    })
}

fn parse_tuple(attr: &Attr<'_>, zone: &mut Option<u16>) -> Result<Tuple, WireError> {
    const WHAT: &str = "conntrack tuple";
    let (mut source, mut destination): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    let (mut source_port, mut destination_port) = (0, 0);
    let mut protocol = None;
    for attr in attr.nested() {
        let attr = attr?;
        match attr.kind {
            CTA_TUPLE_IP => {
                for attr in attr.nested() {
                    let attr = attr?;
                    match attr.kind {
                        CTA_IP_V4_SRC => source = Some(ipv4(array(attr.value, 0, WHAT)?)),
                        CTA_IP_V4_DST => destination = Some(ipv4(array(attr.value, 0, WHAT)?)),
                        CTA_IP_V6_SRC => source = Some(ipv6(array(attr.value, 0, WHAT)?)),
                        CTA_IP_V6_DST => destination = Some(ipv6(array(attr.value, 0, WHAT)?)),
                        _ => {}
                    }
                }
            }
            CTA_TUPLE_PROTO => {
                for attr in attr.nested() {
                    let attr = attr?;
                    match attr.kind {
                        CTA_PROTO_NUM => protocol = Some(attr.u8(WHAT)?),
                        CTA_PROTO_SRC_PORT | CTA_PROTO_ICMP_ID | CTA_PROTO_ICMPV6_ID => {
                            source_port = attr.be16(WHAT)?;
                        }
                        CTA_PROTO_DST_PORT => destination_port = attr.be16(WHAT)?,
                        CTA_PROTO_ICMP_TYPE | CTA_PROTO_ICMPV6_TYPE => {
                            destination_port |= u16::from(attr.u8(WHAT)?) << 8;
                        }
                        CTA_PROTO_ICMP_CODE | CTA_PROTO_ICMPV6_CODE => {
                            destination_port |= u16::from(attr.u8(WHAT)?);
                        }
                        _ => {}
                    }
                }
            }
            CTA_TUPLE_ZONE => *zone = Some(attr.be16(WHAT)?),
            _ => {}
        }
    }
    match (source, destination, protocol) {
        (Some(source), Some(destination), Some(protocol)) => Ok(Tuple {
            source: SocketAddr::new(source, source_port),
            destination: SocketAddr::new(destination, destination_port),
            protocol,
        }),
        _ => Err(WireError::invalid(WHAT, "without addresses or protocol")),
    }
}

fn parse_tcp_state(attr: &Attr<'_>) -> Result<Option<TcpConntrackState>, WireError> {
    for attr in attr.nested() {
        let attr = attr?;
        if attr.kind != CTA_PROTOINFO_TCP {
            continue;
        }
        for attr in attr.nested() {
            let attr = attr?;
            if attr.kind == CTA_PROTOINFO_TCP_STATE {
                return attr.u8("conntrack TCP state").map(TcpConntrackState::from_code).map(Some);
            }
        }
    }
    Ok(None)
}

fn parse_counters(attr: &Attr<'_>) -> Result<Counters, WireError> {
    let mut counters = Counters::default();
    for attr in attr.nested() {
        let attr = attr?;
        match attr.kind {
            CTA_COUNTERS_PACKETS => counters.packets = attr.be64("conntrack packets")?,
            CTA_COUNTERS_BYTES => counters.bytes = attr.be64("conntrack bytes")?,
            _ => {}
        }
    }
    Ok(counters)
}
