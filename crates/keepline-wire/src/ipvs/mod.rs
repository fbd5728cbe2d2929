//! IPVS over generic netlink.
//!
//! Source: `include/uapi/linux/ip_vs.h`, `net/netfilter/ipvs/ip_vs_ctl.c`. Host byte order,
//! except addresses and ports. Every function that builds a request takes the number of the
//! family ([`crate::genl::get_family`] of [`FAMILY_NAME`]). Every command needs `CAP_NET_ADMIN` in
//! the initial user namespace (`GENL_ADMIN_PERM`), reading too: `EPERM` otherwise.

mod daemon;
mod destination;
mod service;

pub use daemon::{Daemon, DaemonState, del_daemon, get_daemons, new_daemon, parse_daemon};
pub use destination::{
    Destination, Forwarding, del_destination, dump_destinations, new_destination,
    parse_destination, set_destination,
};
pub use service::{
    Service, ServiceFlags, ServiceId, Stats, del_service, dump_services, get_service, new_service,
    parse_service, set_service,
};

use std::net::IpAddr;
use std::time::Duration;

use crate::common::{AF_INET, AF_INET6, ipv4, ipv6, whole_seconds};
use crate::genl;
use crate::nl::{Attr, NLM_F_ACK, Request, WireError, array, attrs};

/// Name of the generic netlink family (`IPVS_GENL_NAME`).
pub const FAMILY_NAME: &str = "IPVS";
/// `IPVS_GENL_VERSION`.
const VERSION: u8 = 1;

// IPVS_CMD_*
const CMD_NEW_SERVICE: u8 = 1;
const CMD_SET_SERVICE: u8 = 2;
const CMD_DEL_SERVICE: u8 = 3;
const CMD_GET_SERVICE: u8 = 4;
const CMD_NEW_DEST: u8 = 5;
const CMD_SET_DEST: u8 = 6;
const CMD_DEL_DEST: u8 = 7;
const CMD_GET_DEST: u8 = 8;
const CMD_NEW_DAEMON: u8 = 9;
const CMD_DEL_DAEMON: u8 = 10;
const CMD_GET_DAEMON: u8 = 11;
const CMD_SET_CONFIG: u8 = 12;
const CMD_GET_CONFIG: u8 = 13;
const CMD_GET_INFO: u8 = 15;

// IPVS_CMD_ATTR_*
const ATTR_SERVICE: u16 = 1;
const ATTR_DEST: u16 = 2;
const ATTR_DAEMON: u16 = 3;
const ATTR_TIMEOUT_TCP: u16 = 4;
const ATTR_TIMEOUT_TCP_FIN: u16 = 5;
const ATTR_TIMEOUT_UDP: u16 = 6;

// IPVS_INFO_ATTR_*
const INFO_VERSION: u16 = 1;
const INFO_CONN_TAB_SIZE: u16 = 2;

/// Lifetimes of entries in a network namespace: what `ipvsadm -l --timeout` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, established; the default is 900 s.
    pub tcp: Duration,
    /// TCP after a FIN; the default is 120 s.
    pub tcp_fin: Duration,
    /// UDP; the default is 300 s.
    pub udp: Duration,
}

/// A request for the timeouts; one answer, no acknowledgement.
#[must_use]
pub fn get_config(family: u16, sequence: u32) -> Vec<u8> {
    query(family, CMD_GET_CONFIG, 0, sequence).finish()
}

/// Decodes the answer to [`get_config`]. A kernel without TCP or UDP support in IPVS leaves their
/// timeouts out; they are zero then.
///
/// # Errors
/// The payload is cut off.
pub fn parse_config(payload: &[u8]) -> Result<Timeouts, WireError> {
    const WHAT: &str = "IPVS timeout";
    let mut timeouts =
        Timeouts { tcp: Duration::ZERO, tcp_fin: Duration::ZERO, udp: Duration::ZERO };
    for attr in attrs(genl::split(payload)?.1) {
        let attr = attr?;
        let field = match attr.kind {
            ATTR_TIMEOUT_TCP => &mut timeouts.tcp,
            ATTR_TIMEOUT_TCP_FIN => &mut timeouts.tcp_fin,
            ATTR_TIMEOUT_UDP => &mut timeouts.udp,
            _ => continue,
        };
        *field = seconds(&attr, WHAT)?;
    }
    Ok(timeouts)
}

/// A request to set the timeouts; a zero keeps what is there, fractions are rounded up.
///
/// An existing entry takes over the new value at its next packet. `EINVAL` above `INT_MAX / HZ`
/// seconds: 24.8 days with `HZ=1000` (`ip_vs_set_timeout()`).
#[must_use]
pub fn set_config(family: u16, timeouts: &Timeouts, sequence: u32) -> Vec<u8> {
    command(family, CMD_SET_CONFIG, sequence)
        .attr(ATTR_TIMEOUT_TCP, &whole_seconds(timeouts.tcp).to_ne_bytes())
        .attr(ATTR_TIMEOUT_TCP_FIN, &whole_seconds(timeouts.tcp_fin).to_ne_bytes())
        .attr(ATTR_TIMEOUT_UDP, &whole_seconds(timeouts.udp).to_ne_bytes())
        .finish()
}

/// What IPVS says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Version: major, minor, patch (`IP_VS_VERSION_CODE`; 1.2.1 since 2004).
    pub version: (u8, u8, u8),
    /// Buckets of the connection table.
    pub conn_tab_size: u32,
}

/// A request for version and table size; one answer, no acknowledgement.
#[must_use]
pub fn get_info(family: u16, sequence: u32) -> Vec<u8> {
    query(family, CMD_GET_INFO, 0, sequence).finish()
}

/// Decodes the answer to [`get_info`].
///
/// # Errors
/// The version is missing, or the payload is cut off.
pub fn parse_info(payload: &[u8]) -> Result<Info, WireError> {
    const WHAT: &str = "IPVS info";
    let mut version = None;
    let mut conn_tab_size = 0;
    for attr in attrs(genl::split(payload)?.1) {
        let attr = attr?;
        match attr.kind {
            INFO_VERSION => version = Some(attr.u32(WHAT)?),
            INFO_CONN_TAB_SIZE => conn_tab_size = attr.u32(WHAT)?,
            _ => {}
        }
    }
    let [_, major, minor, patch] =
        version.ok_or_else(|| WireError::invalid(WHAT, "no version"))?.to_be_bytes();
    Ok(Info { version: (major, minor, patch), conn_tab_size })
}

/// Starts a request that reads.
fn query(family: u16, command: u8, flags: u16, sequence: u32) -> Request {
    genl::request(family, command, VERSION, flags, sequence)
}

/// Starts a request that changes something, and wants an acknowledgement.
fn command(family: u16, command: u8, sequence: u32) -> Request {
    genl::request(family, command, VERSION, NLM_F_ACK, sequence)
}

/// The attribute of type `kind` in a payload, to be read as a list of attributes.
fn body<'a>(payload: &'a [u8], kind: u16, what: &'static str) -> Result<Attr<'a>, WireError> {
    for attr in attrs(genl::split(payload)?.1) {
        let attr = attr?;
        if attr.kind == kind {
            return Ok(attr);
        }
    }
    Err(WireError::invalid(what, "not in the message"))
}

/// `union nf_inet_addr`: 16 bytes, of which IPv4 uses the first four.
fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            bytes
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// Reads `union nf_inet_addr`.
fn address(bytes: &[u8], v4: bool, what: &'static str) -> Result<IpAddr, WireError> {
    if v4 { array(bytes, 0, what).map(ipv4) } else { array(bytes, 0, what).map(ipv6) }
}

/// The address family of `address`, as IPVS wants it.
fn family_number(address: IpAddr) -> u16 {
    u16::from(if address.is_ipv4() { AF_INET } else { AF_INET6 })
}

/// A NUL-terminated string, as `NLA_NUL_STRING` wants it.
fn text_bytes(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// A `u32` in seconds.
fn seconds(attr: &Attr<'_>, what: &'static str) -> Result<Duration, WireError> {
    Ok(Duration::from_secs(attr.u32(what)?.into()))
}
