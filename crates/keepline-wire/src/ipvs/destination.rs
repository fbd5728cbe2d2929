//! Destinations: the backends of a service.

use std::net::SocketAddr;

use super::service::{Stats, parse_stats, put_id};
use super::{
    ATTR_DEST, CMD_DEL_DEST, CMD_GET_DEST, CMD_NEW_DEST, CMD_SET_DEST, ServiceId, address,
    address_bytes, body, command, family_number, query,
};
use crate::common::{AF_INET, AF_INET6};
use crate::nl::{NLM_F_DUMP, Request, WireError};

// IPVS_DEST_ATTR_*
const ADDR: u16 = 1;
const PORT: u16 = 2;
const FWD_METHOD: u16 = 3;
const WEIGHT: u16 = 4;
const U_THRESH: u16 = 5;
const L_THRESH: u16 = 6;
const ACTIVE_CONNS: u16 = 7;
const INACT_CONNS: u16 = 8;
const PERSIST_CONNS: u16 = 9;
const STATS: u16 = 10;
const ADDR_FAMILY: u16 = 11;
const STATS64: u16 = 12;

/// How packets get to a backend (`IP_VS_CONN_F_FWD_MASK`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forwarding {
    /// Addresses are rewritten, both directions pass the director.
    Masquerade,
    /// The backend is the director itself.
    Local,
    /// Encapsulated.
    Tunnel,
    /// To the backend's MAC address: answers pass the director by.
    DirectRoute,
    /// To the packet's own destination (cache bypass).
    Bypass,
    /// A method that this version does not know.
    Other(u32),
}

impl Forwarding {
    /// From `IPVS_DEST_ATTR_FWD_METHOD`.
    #[must_use]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Masquerade,
            1 => Self::Local,
            2 => Self::Tunnel,
            3 => Self::DirectRoute,
            4 => Self::Bypass,
            other => Self::Other(other),
        }
    }

    /// For `IPVS_DEST_ATTR_FWD_METHOD`, and for the low bits of a connection's flags.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Masquerade => 0,
            Self::Local => 1,
            Self::Tunnel => 2,
            Self::DirectRoute => 3,
            Self::Bypass => 4,
            Self::Other(other) => other,
        }
    }

    /// The word that ipvsadm(8) prints.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Masquerade => "Masq",
            Self::Local => "Local",
            Self::Tunnel => "Tunnel",
            Self::DirectRoute => "Route",
            Self::Bypass => "Bypass",
            Self::Other(_) => "Unknown",
        }
    }
}

/// A backend of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Address and port; port 0 keeps the port of the packet (fwmark services).
    pub address: SocketAddr,
    /// Weight; 0 takes no new sessions.
    pub weight: u32,
    /// How packets get there.
    pub forwarding: Forwarding,
    /// Established sessions.
    pub active: u32,
    /// Other sessions that still have an entry.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// No new sessions above this many; 0 is no limit.
    pub upper_threshold: u32,
    /// Sessions again below this many; 0 is three quarters of the upper threshold.
    pub lower_threshold: u32,
    /// Traffic; `None` in a destination that is to be created.
    pub stats: Option<Stats>,
}

impl Destination {
    /// A destination to create: weight 1, no thresholds.
    #[must_use]
    pub const fn new(address: SocketAddr, forwarding: Forwarding) -> Self {
        Self {
            address,
            weight: 1,
            forwarding,
            active: 0,
            inactive: 0,
            persistent: 0,
            upper_threshold: 0,
            lower_threshold: 0,
            stats: None,
        }
    }
}

/// A request for the destinations of a service. The answer is empty, without an error, where the
/// service is not there (`ip_vs_genl_dump_dests()`).
#[must_use]
pub fn dump_destinations(family: u16, service: &ServiceId, sequence: u32) -> Vec<u8> {
    put_id(query(family, CMD_GET_DEST, NLM_F_DUMP, sequence), service).finish()
}

/// A request to add a destination: address, forwarding, weight and thresholds count. `EEXIST`
/// where it is there, `ESRCH` where the service is not.
#[must_use]
pub fn new_destination(
    family: u16,
    service: &ServiceId,
    destination: &Destination,
    sequence: u32,
) -> Vec<u8> {
    put_destination(family, CMD_NEW_DEST, service, destination, sequence)
}

/// A request to change weight, forwarding or thresholds of a destination. `ENOENT` where it is
/// not there, `ESRCH` where the service is not.
#[must_use]
pub fn set_destination(
    family: u16,
    service: &ServiceId,
    destination: &Destination,
    sequence: u32,
) -> Vec<u8> {
    put_destination(family, CMD_SET_DEST, service, destination, sequence)
}

/// A request to remove a destination. Its entries stay until they expire, unless
/// `expire_nodest_conn` is set. `ENOENT` where it is not there.
#[must_use]
pub fn del_destination(
    family: u16,
    service: &ServiceId,
    address: SocketAddr,
    sequence: u32,
) -> Vec<u8> {
    put_id(command(family, CMD_DEL_DEST, sequence), service)
        .nested(ATTR_DEST, |request| put_address(request, address))
        .finish()
}

fn put_destination(
    family: u16,
    kind: u8,
    service: &ServiceId,
    destination: &Destination,
    sequence: u32,
) -> Vec<u8> {
    put_id(command(family, kind, sequence), service)
        .nested(ATTR_DEST, |request| {
            put_address(request, destination.address)
                .attr(FWD_METHOD, &destination.forwarding.code().to_ne_bytes())
                .attr(WEIGHT, &destination.weight.to_ne_bytes())
                .attr(U_THRESH, &destination.upper_threshold.to_ne_bytes())
                .attr(L_THRESH, &destination.lower_threshold.to_ne_bytes())
        })
        .finish()
}

fn put_address(request: Request, address: SocketAddr) -> Request {
    request
        .attr(ADDR, &address_bytes(address.ip()))
        .attr(PORT, &address.port().to_be_bytes())
        .attr(ADDR_FAMILY, &family_number(address.ip()).to_ne_bytes())
}

/// Decodes one answer to [`dump_destinations`] (`ip_vs_genl_fill_dest()`).
///
/// A backend may be of another address family than its service (since 3.18, tunnels only). Older
/// kernels do not say the family: an address with nothing behind its first four bytes is taken
/// for IPv4 then.
///
/// # Errors
/// Address or port are missing, the family is unknown, or an attribute is too short for its type.
pub fn parse_destination(payload: &[u8]) -> Result<Destination, WireError> {
    const WHAT: &str = "IPVS destination";
    let (mut addr, mut port, mut af) = (None, None, None);
    let (mut stats, mut stats64) = (None, None);
    let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut destination = Destination::new(unspecified, Forwarding::Masquerade);
    for attr in body(payload, ATTR_DEST, WHAT)?.nested() {
        let attr = attr?;
        match attr.kind {
            ADDR => addr = Some(attr.value),
            PORT => port = Some(attr.be16(WHAT)?),
            FWD_METHOD => destination.forwarding = Forwarding::from_code(attr.u32(WHAT)?),
            WEIGHT => destination.weight = attr.u32(WHAT)?,
            U_THRESH => destination.upper_threshold = attr.u32(WHAT)?,
            L_THRESH => destination.lower_threshold = attr.u32(WHAT)?,
            ACTIVE_CONNS => destination.active = attr.u32(WHAT)?,
            INACT_CONNS => destination.inactive = attr.u32(WHAT)?,
            PERSIST_CONNS => destination.persistent = attr.u32(WHAT)?,
            ADDR_FAMILY => af = Some(attr.u16(WHAT)?),
            STATS => stats = Some(parse_stats(&attr, false)?),
            STATS64 => stats64 = Some(parse_stats(&attr, true)?),
            _ => {}
        }
    }
    let (Some(addr), Some(port)) = (addr, port) else {
        return Err(WireError::invalid(WHAT, "no address or port"));
    };
    let v4 = match af {
        Some(af) if af == u16::from(AF_INET) => true,
        Some(af) if af == u16::from(AF_INET6) => false,
        Some(af) => return Err(WireError::invalid(WHAT, format!("address family {af}"))),
        None => addr.iter().skip(4).all(|byte| *byte == 0),
    };
    destination.address = SocketAddr::new(address(addr, v4, WHAT)?, port);
    destination.stats = stats64.or(stats);
    Ok(destination)
}
