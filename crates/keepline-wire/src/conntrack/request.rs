//! Requests to ctnetlink.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{
    CTA_ID, CTA_IP_V4_DST, CTA_IP_V4_SRC, CTA_IP_V6_DST, CTA_IP_V6_SRC, CTA_MARK,
    CTA_PROTO_DST_PORT, CTA_PROTO_ICMP_CODE, CTA_PROTO_ICMP_ID, CTA_PROTO_ICMP_TYPE,
    CTA_PROTO_ICMPV6_CODE, CTA_PROTO_ICMPV6_ID, CTA_PROTO_ICMPV6_TYPE, CTA_PROTO_NUM,
    CTA_PROTO_SRC_PORT, CTA_PROTOINFO, CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE, CTA_STATUS,
    CTA_TIMEOUT, CTA_TUPLE_IP, CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, CTA_TUPLE_REPLY, CTA_ZONE,
    Direction, Entry, IPPROTO_ICMP, IPPROTO_ICMPV6, MESSAGE_DELETE, MESSAGE_GET, MESSAGE_NEW,
    Status, TcpConntrackState, Tuple,
};
use crate::common::{family_of, whole_seconds};
use crate::nl::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Request};

const CTA_NAT_SRC: u16 = 6;
const CTA_NAT_DST: u16 = 13;
const CTA_MARK_MASK: u16 = 21;
const CTA_FILTER: u16 = 25;
const CTA_STATUS_MASK: u16 = 26;

/// `CTA_FILTER_ORIG_FLAGS`, `enum ctattr_filter`.
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
/// `CTA_FILTER_F_CTA_PROTO_NUM`, `net/netfilter/nf_internals.h`.
const CTA_FILTER_F_CTA_PROTO_NUM: u32 = 1 << 3;

// enum ctattr_nat, ctattr_protonat
const CTA_NAT_V4_MINIP: u16 = 1;
const CTA_NAT_V4_MAXIP: u16 = 2;
const CTA_NAT_PROTO: u16 = 3;
const CTA_NAT_V6_MINIP: u16 = 4;
const CTA_NAT_V6_MAXIP: u16 = 5;
const CTA_PROTONAT_PORT_MIN: u16 = 1;
const CTA_PROTONAT_PORT_MAX: u16 = 2;

const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: u16 = 4;
const CTA_PROTOINFO_TCP_FLAGS_REPLY: u16 = 5;
/// `IP_CT_TCP_FLAG_BE_LIBERAL`, `include/uapi/linux/netfilter/nf_conntrack_tcp.h`.
const TCP_FLAG_BE_LIBERAL: u8 = 0x08;

const IPPROTO_TCP: u8 = 6;

/// Which entries a dump is to return. The default is all.
///
/// The kernel's part is an optimisation and never the truth: what a kernel does not know it
/// ignores without an error (the attributes are parsed leniently, `nla_parse_deprecated()`), and
/// then sends more than was asked for. Check each answer with [`DumpFilter::matches`].
///
/// - `family`: every kernel.
/// - `mark`: since 3.6; `EOPNOTSUPP` from a kernel without `CONFIG_NF_CONNTRACK_MARK`.
/// - `protocol`: since 5.8 (`CTA_FILTER`), and only together with `family`, without which the
///   kernel would answer `EOPNOTSUPP` (`ctnetlink_parse_tuple_filter()`): it is not sent then.
/// - `status`: since 5.15 (`ctnetlink_filter_parse_status()`); `EINVAL` where the mask is 0.
///
/// A status filter keeps entries with `status & mask == value`: it can ask for all of several
/// bits, not for one of several. "Source or destination translated" takes two disjoint dumps:
/// `(DST_NAT, DST_NAT)` and `(SRC_NAT, SRC_NAT | DST_NAT)`. And neither finds what IPVS alone
/// translated (see [`Entry::translated`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DumpFilter {
    /// Address family: 2 (`AF_INET`) or 10 (`AF_INET6`).
    pub family: Option<u8>,
    /// Layer 4 protocol (`IPPROTO_*`).
    pub protocol: Option<u8>,
    /// Mark: value and mask.
    pub mark: Option<(u32, u32)>,
    /// Status bits ([`Status`]): value and mask.
    pub status: Option<(u32, u32)>,
}

impl DumpFilter {
    /// Whether `entry` is one that was asked for.
    #[must_use]
    pub fn matches(&self, entry: &Entry) -> bool {
        self.family.is_none_or(|family| family == family_of(&entry.original.source))
            && self.protocol.is_none_or(|protocol| protocol == entry.original.protocol)
            && self.mark.is_none_or(|(value, mask)| entry.mark & mask == value)
            && self.status.is_none_or(|(value, mask)| entry.status.0 & mask == value)
    }
}

/// A request for all entries that match `filter`.
#[must_use]
pub fn dump(filter: &DumpFilter, sequence: u32) -> Vec<u8> {
    let family = filter.family.unwrap_or(0);
    let mut request = start(MESSAGE_GET, NLM_F_DUMP, family, sequence);
    if let (Some(_), Some(protocol)) = (filter.family, filter.protocol) {
        request = request
            .nested(CTA_TUPLE_ORIG, |request| {
                request.nested(CTA_TUPLE_PROTO, |request| request.attr(CTA_PROTO_NUM, &[protocol]))
            })
            .nested(CTA_FILTER, |request| {
                // nla_get_u32(): host order, unlike everything else here.
                request.attr(CTA_FILTER_ORIG_FLAGS, &CTA_FILTER_F_CTA_PROTO_NUM.to_ne_bytes())
            });
    }
    if let Some((value, mask)) = filter.mark {
        request =
            request.attr(CTA_MARK, &value.to_be_bytes()).attr(CTA_MARK_MASK, &mask.to_be_bytes());
    }
    if let Some((value, mask)) = filter.status {
        request = request
            .attr(CTA_STATUS, &value.to_be_bytes())
            .attr(CTA_STATUS_MASK, &mask.to_be_bytes());
    }
    request.finish()
}

/// A request for the one entry that has `tuple` in `direction`; one answer, no acknowledgement.
///
/// `ENOENT` where there is none.
#[must_use]
pub fn get(tuple: &Tuple, direction: Direction, zone: Option<u16>, sequence: u32) -> Vec<u8> {
    let kind = match direction {
        Direction::Original => CTA_TUPLE_ORIG,
        Direction::Reply => CTA_TUPLE_REPLY,
    };
    let mut request = start(MESSAGE_GET, 0, family_of(&tuple.source), sequence);
    request = put_tuple(request, kind, tuple);
    if let Some(zone) = zone {
        request = request.attr(CTA_ZONE, &zone.to_be_bytes());
    }
    request.finish()
}

/// A request to set the lifetime left of the entry that has `tuple` (in the default zone); it
/// counts down from there, and the next packet sets it to the namespace's value again.
///
/// `timeout` is rounded up to whole seconds. `ENOENT` where there is no entry, `EPERM` for one
/// with a fixed timeout (`__nf_ct_change_timeout()`).
#[must_use]
pub fn set_timeout(tuple: &Tuple, timeout: Duration, sequence: u32) -> Vec<u8> {
    let request = start(MESSAGE_NEW, NLM_F_ACK, family_of(&tuple.source), sequence);
    put_tuple(request, CTA_TUPLE_ORIG, tuple)
        .attr(CTA_TIMEOUT, &whole_seconds(timeout).to_be_bytes())
        .finish()
}

/// What [`create`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewEntry {
    /// As the client's packets arrive: client → VIP.
    pub original: Tuple,
    /// Destination translation: the backend.
    pub destination_nat: Option<SocketAddr>,
    /// Source translation: the address and port that the backend sees as its peer.
    pub source_nat: Option<SocketAddr>,
    /// Lifetime; rounded up to whole seconds.
    pub timeout: Duration,
    /// Mark.
    pub mark: u32,
    /// Zone; 0 is the default.
    pub zone: u16,
    /// State of a TCP entry; ignored for other protocols.
    pub tcp_state: TcpConntrackState,
}

/// A request to create an entry that is in use already: confirmed, replied to, assured; for TCP
/// with `be_liberal`, because the window of a running connection is not known.
///
/// The translation takes effect through `CTA_NAT_DST` and `CTA_NAT_SRC` alone. The reply tuple
/// sent along is the *untranslated* one: the kernel applies the NAT to it and sets the status bits
/// only if that changes something (`nf_nat_setup_info()`). An entry created with the translated
/// reply tuple would look right and translate nothing.
///
/// `EEXIST` where either tuple is taken; `EOPNOTSUPP` where NAT is wanted and `nf_nat` missing.
/// The backend knows its peer by address and port, so `source_nat` must be exactly what its socket
/// has. Where that is taken by another entry the kernel chooses another port: read the entry back.
#[must_use]
pub fn create(entry: &NewEntry, sequence: u32) -> Vec<u8> {
    // CONFIRMED must be there: ctnetlink_change_status() refuses to clear it.
    let status = Status::CONFIRMED | Status::SEEN_REPLY | Status::ASSURED;
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    let mut request = start(MESSAGE_NEW, flags, family_of(&entry.original.source), sequence);
    request = put_tuple(request, CTA_TUPLE_ORIG, &entry.original);
    request = put_tuple(request, CTA_TUPLE_REPLY, &entry.original.reversed());
    if let Some(backend) = entry.destination_nat {
        request = put_nat(request, CTA_NAT_DST, backend);
    }
    if let Some(source) = entry.source_nat {
        request = put_nat(request, CTA_NAT_SRC, source);
    }
    request = request
        .attr(CTA_STATUS, &status.to_be_bytes())
        .attr(CTA_TIMEOUT, &whole_seconds(entry.timeout).to_be_bytes())
        .attr(CTA_MARK, &entry.mark.to_be_bytes());
    if entry.original.protocol == IPPROTO_TCP {
        // struct nf_ct_tcp_flags: flags, mask.
        let flags = [TCP_FLAG_BE_LIBERAL, TCP_FLAG_BE_LIBERAL];
        request = request.nested(CTA_PROTOINFO, |request| {
            request.nested(CTA_PROTOINFO_TCP, |request| {
                request
                    .attr(CTA_PROTOINFO_TCP_STATE, &[entry.tcp_state.code()])
                    .attr(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, &flags)
                    .attr(CTA_PROTOINFO_TCP_FLAGS_REPLY, &flags)
            })
        });
    }
    if entry.zone != 0 {
        request = request.attr(CTA_ZONE, &entry.zone.to_be_bytes());
    }
    request.finish()
}

/// A request to delete the entry that has `tuple` (in the default zone), and, with `id`, only if
/// it is still that one. `ENOENT` where there is none.
#[must_use]
pub fn delete(tuple: &Tuple, id: Option<u32>, sequence: u32) -> Vec<u8> {
    let request = start(MESSAGE_DELETE, NLM_F_ACK, family_of(&tuple.source), sequence);
    // Without a tuple this request would flush the table: put_tuple() always appends one.
    let mut request = put_tuple(request, CTA_TUPLE_ORIG, tuple);
    if let Some(id) = id {
        request = request.attr(CTA_ID, &id.to_be_bytes());
    }
    request.finish()
}

/// Starts a request with its `struct nfgenmsg`: family, version 0, resource id 0.
fn start(kind: u16, flags: u16, family: u8, sequence: u32) -> Request {
    Request::new(kind, flags, sequence).bytes(&[family, 0, 0, 0])
}

fn put_tuple(request: Request, kind: u16, tuple: &Tuple) -> Request {
    request.nested(kind, |request| {
        request
            .nested(CTA_TUPLE_IP, |request| {
                let request = match tuple.source.ip() {
                    IpAddr::V4(address) => request.attr(CTA_IP_V4_SRC, &address.octets()),
                    IpAddr::V6(address) => request.attr(CTA_IP_V6_SRC, &address.octets()),
                };
                match tuple.destination.ip() {
                    IpAddr::V4(address) => request.attr(CTA_IP_V4_DST, &address.octets()),
                    IpAddr::V6(address) => request.attr(CTA_IP_V6_DST, &address.octets()),
                }
            })
            .nested(CTA_TUPLE_PROTO, |request| {
                let request = request.attr(CTA_PROTO_NUM, &[tuple.protocol]);
                let first = tuple.source.port().to_be_bytes();
                let second = tuple.destination.port().to_be_bytes();
                match tuple.protocol {
                    IPPROTO_ICMP => request
                        .attr(CTA_PROTO_ICMP_ID, &first)
                        .attr(CTA_PROTO_ICMP_TYPE, &second[..1])
                        .attr(CTA_PROTO_ICMP_CODE, &second[1..]),
                    IPPROTO_ICMPV6 => request
                        .attr(CTA_PROTO_ICMPV6_ID, &first)
                        .attr(CTA_PROTO_ICMPV6_TYPE, &second[..1])
                        .attr(CTA_PROTO_ICMPV6_CODE, &second[1..]),
                    // Protocols without ports ignore them.
                    _ => request.attr(CTA_PROTO_SRC_PORT, &first).attr(CTA_PROTO_DST_PORT, &second),
                }
            })
    })
}

/// A translation to exactly `target` (`nfnetlink_parse_nat()`, `net/netfilter/nf_nat_core.c`).
fn put_nat(request: Request, kind: u16, target: SocketAddr) -> Request {
    request.nested(kind, |request| {
        let request = match target.ip() {
            IpAddr::V4(address) => request
                .attr(CTA_NAT_V4_MINIP, &address.octets())
                .attr(CTA_NAT_V4_MAXIP, &address.octets()),
            IpAddr::V6(address) => request
                .attr(CTA_NAT_V6_MINIP, &address.octets())
                .attr(CTA_NAT_V6_MAXIP, &address.octets()),
        };
        request.nested(CTA_NAT_PROTO, |request| {
            let port = target.port().to_be_bytes();
            request.attr(CTA_PROTONAT_PORT_MIN, &port).attr(CTA_PROTONAT_PORT_MAX, &port)
        })
    })
}
