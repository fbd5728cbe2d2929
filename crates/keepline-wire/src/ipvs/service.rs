//! Virtual services.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{
    ATTR_SERVICE, CMD_DEL_SERVICE, CMD_GET_SERVICE, CMD_NEW_SERVICE, CMD_SET_SERVICE, address,
    address_bytes, body, command, family_number, query, seconds, text_bytes,
};
use crate::common::{AF_INET, AF_INET6, whole_seconds};
use crate::nl::{Attr, NLM_F_DUMP, Request, WireError, array};

// IPVS_SVC_ATTR_*
const AF: u16 = 1;
const PROTOCOL: u16 = 2;
const ADDR: u16 = 3;
const PORT: u16 = 4;
const FWMARK: u16 = 5;
const SCHED_NAME: u16 = 6;
const FLAGS: u16 = 7;
const TIMEOUT: u16 = 8;
const NETMASK: u16 = 9;
const STATS: u16 = 10;
const PE_NAME: u16 = 11;
const STATS64: u16 = 12;

// IPVS_STATS_ATTR_*
const STATS_CONNS: u16 = 1;
const STATS_INPKTS: u16 = 2;
const STATS_OUTPKTS: u16 = 3;
const STATS_INBYTES: u16 = 4;
const STATS_OUTBYTES: u16 = 5;

/// What a service is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceId {
    /// Protocol, VIP and port.
    Address {
        /// `IPPROTO_TCP` (6), `IPPROTO_UDP` (17) or `IPPROTO_SCTP` (132).
        protocol: u8,
        /// VIP and port; port 0 takes all ports, which needs persistence.
        address: SocketAddr,
    },
    /// Packets that carry a firewall mark.
    Fwmark {
        /// The mark, never 0.
        mark: u32,
        /// Whether it is the service for IPv6: a mark may have one of each.
        v6: bool,
    },
}

impl ServiceId {
    /// `AF_INET` or `AF_INET6`.
    fn family(&self) -> u16 {
        match self {
            Self::Address { address, .. } => family_number(address.ip()),
            Self::Fwmark { v6, .. } => u16::from(if *v6 { AF_INET6 } else { AF_INET }),
        }
    }
}

/// Flags of a service (`IP_VS_SVC_F_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ServiceFlags(pub u32);

impl ServiceFlags {
    /// A client stays with its backend.
    pub const PERSISTENT: u32 = 1;
    /// It is in the table; set by the kernel.
    pub const HASHED: u32 = 1 << 1;
    /// Every UDP packet is scheduled anew.
    pub const ONEPACKET: u32 = 1 << 2;
    /// First flag of the scheduler: `sh-fallback`, `mh-fallback`.
    pub const SCHED1: u32 = 1 << 3;
    /// Second flag of the scheduler: `sh-port`, `mh-port`.
    pub const SCHED2: u32 = 1 << 4;
    /// Third flag of the scheduler.
    pub const SCHED3: u32 = 1 << 5;

    /// Whether all of `bits` are set.
    #[must_use]
    pub const fn all(self, bits: u32) -> bool {
        self.0 & bits == bits
    }

    /// The scheduler's flags as ipvsadm(8) writes them for `-b`, such as `mh-port`.
    #[must_use]
    pub fn scheduler_names(self, scheduler: &str) -> Vec<&'static str> {
        let names = match scheduler {
            "sh" => ["sh-fallback", "sh-port", "flag-3"],
            "mh" => ["mh-fallback", "mh-port", "flag-3"],
            _ => ["flag-1", "flag-2", "flag-3"],
        };
        [Self::SCHED1, Self::SCHED2, Self::SCHED3]
            .into_iter()
            .zip(names)
            .filter_map(|(bit, name)| self.all(bit).then_some(name))
            .collect()
    }
}

/// Traffic since the counters were last zeroed (`struct ip_vs_kstats`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Stats {
    /// Connections scheduled.
    pub conns: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

/// A virtual service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What it is found by.
    pub id: ServiceId,
    /// Scheduler, such as `rr` or `mh`; `none` if it has none.
    pub scheduler: String,
    /// Flags.
    pub flags: ServiceFlags,
    /// How long a client stays with its backend, in whole seconds; zero without persistence.
    pub persistence_timeout: Duration,
    /// Length of the prefix that persistence takes as one client: 32 or 128 for single addresses.
    pub persistence_prefix: u8,
    /// Persistence engine, such as `sip`.
    pub pe_name: Option<String>,
    /// Traffic; `None` in a service that is to be created.
    pub stats: Option<Stats>,
}

/// A request for all services (`ip_vs_genl_dump_services()`).
#[must_use]
pub fn dump_services(family: u16, sequence: u32) -> Vec<u8> {
    query(family, CMD_GET_SERVICE, NLM_F_DUMP, sequence).finish()
}

/// A request for one service; one answer, no acknowledgement. `ESRCH` where there is none.
#[must_use]
pub fn get_service(family: u16, id: &ServiceId, sequence: u32) -> Vec<u8> {
    let request = query(family, CMD_GET_SERVICE, 0, sequence);
    put_id(request, id).finish()
}

/// A request to create a service. `EEXIST` where it is there, `ENOENT` for an unknown scheduler
/// or persistence engine: the kernel tries to load their module first.
#[must_use]
pub fn new_service(family: u16, service: &Service, sequence: u32) -> Vec<u8> {
    put_service(command(family, CMD_NEW_SERVICE, sequence), service).finish()
}

/// A request to make a service what `service` says: scheduler, flags, persistence. Entries and
/// destinations stay. `ESRCH` where there is no such service, `ENOENT` for an unknown scheduler.
///
/// The kernel keeps nothing that is left out (`ip_vs_edit_service()`): change what [`parse_service`]
/// returned, and leave the rest of it as it is.
#[must_use]
pub fn set_service(family: u16, service: &Service, sequence: u32) -> Vec<u8> {
    put_service(command(family, CMD_SET_SERVICE, sequence), service).finish()
}

/// A request to delete a service and its destinations. `ESRCH` where there is none.
#[must_use]
pub fn del_service(family: u16, id: &ServiceId, sequence: u32) -> Vec<u8> {
    put_id(command(family, CMD_DEL_SERVICE, sequence), id).finish()
}

/// Appends `IPVS_CMD_ATTR_SERVICE` with what a service is found by.
pub(super) fn put_id(request: Request, id: &ServiceId) -> Request {
    request.nested(ATTR_SERVICE, |request| id_attrs(request, id))
}

fn put_service(request: Request, service: &Service) -> Request {
    request.nested(ATTR_SERVICE, |request| {
        // struct ip_vs_flags: flags, mask. All bits, so that flags can be cleared as well.
        let mut flags = [0; 8];
        flags[..4].copy_from_slice(&service.flags.0.to_ne_bytes());
        flags[4..].copy_from_slice(&u32::MAX.to_ne_bytes());
        let request = id_attrs(request, &service.id)
            .attr(SCHED_NAME, &text_bytes(&service.scheduler))
            .attr(FLAGS, &flags)
            .attr(TIMEOUT, &whole_seconds(service.persistence_timeout).to_ne_bytes())
            .attr(NETMASK, &netmask_bytes(service));
        match &service.pe_name {
            Some(name) => request.attr(PE_NAME, &text_bytes(name)),
            None => request,
        }
    })
}

fn id_attrs(request: Request, id: &ServiceId) -> Request {
    let request = request.attr(AF, &id.family().to_ne_bytes());
    match id {
        ServiceId::Address { protocol, address } => request
            .attr(PROTOCOL, &u16::from(*protocol).to_ne_bytes())
            .attr(ADDR, &address_bytes(address.ip()))
            .attr(PORT, &address.port().to_be_bytes()),
        ServiceId::Fwmark { mark, .. } => request.attr(FWMARK, &mark.to_ne_bytes()),
    }
}

/// IPv4: a mask in network order. IPv6: the length of the prefix in host order.
fn netmask_bytes(service: &Service) -> [u8; 4] {
    let prefix = u32::from(service.persistence_prefix);
    if service.id.family() == u16::from(AF_INET) {
        u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0).to_be_bytes()
    } else {
        prefix.to_ne_bytes()
    }
}

/// Decodes one answer to [`dump_services`] or [`get_service`] (`ip_vs_genl_fill_service()`).
///
/// # Errors
/// What the service is found by is incomplete or of an unknown family, or an attribute is too short for its type.
pub fn parse_service(payload: &[u8]) -> Result<Service, WireError> {
    const WHAT: &str = "IPVS service";
    let (mut af, mut protocol, mut addr, mut port, mut fwmark) = (None, None, None, None, None);
    let mut scheduler = String::new();
    let mut flags = ServiceFlags::default();
    let mut persistence_timeout = Duration::ZERO;
    let mut netmask = None;
    let mut pe_name = None;
    let (mut stats, mut stats64) = (None, None);
    for attr in body(payload, ATTR_SERVICE, WHAT)?.nested() {
        let attr = attr?;
        match attr.kind {
            AF => af = Some(attr.u16(WHAT)?),
            PROTOCOL => protocol = Some(attr.u16(WHAT)?),
            ADDR => addr = Some(attr.value),
            PORT => port = Some(attr.be16(WHAT)?),
            FWMARK => fwmark = Some(attr.u32(WHAT)?),
            SCHED_NAME => scheduler = attr.text(),
            FLAGS => flags = ServiceFlags(attr.u32(WHAT)?),
            TIMEOUT => persistence_timeout = seconds(&attr, WHAT)?,
            NETMASK => netmask = Some(array::<4>(attr.value, 0, WHAT)?),
            PE_NAME => pe_name = Some(attr.text()),
            STATS => stats = Some(parse_stats(&attr, false)?),
            STATS64 => stats64 = Some(parse_stats(&attr, true)?),
            _ => {}
        }
    }
    let v4 = match af {
        Some(af) if af == u16::from(AF_INET) => true,
        Some(af) if af == u16::from(AF_INET6) => false,
        _ => return Err(WireError::invalid(WHAT, format!("address family {af:?}"))),
    };
    let id = match (fwmark, protocol, addr, port) {
        (Some(mark), ..) => ServiceId::Fwmark { mark, v6: !v4 },
        (None, Some(protocol), Some(addr), Some(port)) => ServiceId::Address {
            protocol: u8::try_from(protocol)
                .map_err(|_| WireError::invalid(WHAT, format!("protocol {protocol}")))?,
            address: SocketAddr::new(address(addr, v4, WHAT)?, port),
        },
        _ => return Err(WireError::invalid(WHAT, "neither fwmark nor address")),
    };
    Ok(Service {
        id,
        scheduler,
        flags,
        persistence_timeout,
        persistence_prefix: prefix(netmask, v4),
        pe_name,
        stats: stats64.or(stats),
    })
}

/// The prefix length behind `IPVS_SVC_ATTR_NETMASK`; single addresses where it is missing.
fn prefix(netmask: Option<[u8; 4]>, v4: bool) -> u8 {
    let prefix = match (netmask, v4) {
        (Some(mask), true) => Ipv4Addr::from(mask).to_bits().leading_ones(),
        (Some(length), false) => u32::from_ne_bytes(length).min(128),
        (None, true) => 32,
        (None, false) => 128,
    };
    u8::try_from(prefix).unwrap_or(u8::MAX)
}

/// `IPVS_*_ATTR_STATS` has 32-bit counts with 64-bit bytes, `IPVS_*_ATTR_STATS64` (since 4.1)
/// has 64 bits throughout.
pub(super) fn parse_stats(attr: &Attr<'_>, wide: bool) -> Result<Stats, WireError> {
    const WHAT: &str = "IPVS statistics";
    let mut stats = Stats::default();
    for attr in attr.nested() {
        let attr = attr?;
        let count = |attr: &Attr<'_>| {
            if wide { attr.u64(WHAT) } else { attr.u32(WHAT).map(u64::from) }
        };
        match attr.kind {
            STATS_CONNS => stats.conns = count(&attr)?,
            STATS_INPKTS => stats.packets_in = count(&attr)?,
            STATS_OUTPKTS => stats.packets_out = count(&attr)?,
            STATS_INBYTES => stats.bytes_in = attr.u64(WHAT)?,
            STATS_OUTBYTES => stats.bytes_out = attr.u64(WHAT)?,
            _ => {}
        }
    }
    Ok(stats)
}
