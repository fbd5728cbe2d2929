//! Addresses, links and neighbours of a network namespace.
//!
//! Source: `include/uapi/linux/if_addr.h`, `if_link.h`, `neighbour.h`, `rtnetlink.h`; `inet_fill_ifaddr()` in
//! `net/ipv4/devinet.c`, `inet6_fill_ifaddr()` in `net/ipv6/addrconf.c`, `rtnl_fill_ifinfo()` in
//! `net/core/rtnetlink.c`, `neigh_fill_info()` in `net/core/neighbour.c`. The protocol is
//! `NETLINK_ROUTE` (0).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::common::{AF_INET, AF_INET6};
use crate::nl::{NLM_F_DUMP, Request, WireError, array, attrs};

/// Type of an answer to [`dump_addresses`].
pub const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Length of `struct ifaddrmsg`.
const IFADDRMSG_LEN: usize = 8;

/// One address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address of this end (on point-to-point links `IFA_ADDRESS` is the peer's).
    pub ip: IpAddr,
    /// Length of the network prefix, in bits.
    pub prefix_len: u8,
    /// Index of the interface.
    pub interface: u32,
    /// `RT_SCOPE_…`: 0 universe, 253 link, 254 host.
    pub scope: u8,
}

/// Asks for every IPv4 and IPv6 address. Answers are of type [`RTM_NEWADDR`].
#[must_use]
pub fn dump_addresses(sequence: u32) -> Vec<u8> {
    // struct ifaddrmsg of family 0, any.
    Request::new(RTM_GETADDR, NLM_F_DUMP, sequence).bytes(&[0; IFADDRMSG_LEN]).finish()
}

/// Reads the payload of one answer to [`dump_addresses`].
///
/// # Errors
/// Too short, a family other than IPv4 and IPv6, a prefix longer than the address, or no
/// address in it.
pub fn parse_address(payload: &[u8]) -> Result<Address, WireError> {
    const WHAT: &str = "ifaddrmsg";
    let [family, prefix_len, _flags, scope] = array(payload, 0, WHAT)?;
    let interface = u32::from_ne_bytes(array(payload, 4, WHAT)?);
    let (mut local, mut address) = (None, None);
    for attr in attrs(payload.get(IFADDRMSG_LEN..).unwrap_or(&[])) {
        let attr = attr?;
        match attr.kind {
            IFA_LOCAL => local = Some(ip(family, attr.value)?),
            IFA_ADDRESS => address = Some(ip(family, attr.value)?),
            _ => {}
        }
    }
    let ip = local.or(address).ok_or_else(|| WireError::invalid(WHAT, "no address"))?;
    if prefix_len > if ip.is_ipv4() { 32 } else { 128 } {
        return Err(WireError::invalid(WHAT, format!("{ip} has prefix length {prefix_len}")));
    }
    Ok(Address { ip, prefix_len, interface, scope })
}

/// An Ethernet address.
pub type LinkAddress = [u8; 6];

/// Type of an answer to [`dump_links`].
pub const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFLA_ADDRESS: u16 = 1;
/// Length of `struct ifinfomsg`.
const IFINFOMSG_LEN: usize = 16;

/// Asks for every link. Answers are of type [`RTM_NEWLINK`].
#[must_use]
pub fn dump_links(sequence: u32) -> Vec<u8> {
    Request::new(RTM_GETLINK, NLM_F_DUMP, sequence).bytes(&[0; IFINFOMSG_LEN]).finish()
}

/// Reads the Ethernet address of one link; `None` for a link that has none.
///
/// # Errors
/// Too short, or malformed attributes.
pub fn parse_link(payload: &[u8]) -> Result<Option<LinkAddress>, WireError> {
    array::<IFINFOMSG_LEN>(payload, 0, "ifinfomsg")?;
    for attr in attrs(&payload[IFINFOMSG_LEN..]) {
        let attr = attr?;
        if attr.kind == IFLA_ADDRESS {
            return Ok(attr.value.try_into().ok());
        }
    }
    Ok(None)
}

/// Type of an answer to [`dump_neighbours`].
pub const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// Length of `struct ndmsg`.
const NDMSG_LEN: usize = 12;

/// Asks for every IPv4 and IPv6 neighbour. Answers are of type [`RTM_NEWNEIGH`].
#[must_use]
pub fn dump_neighbours(sequence: u32) -> Vec<u8> {
    Request::new(RTM_GETNEIGH, NLM_F_DUMP, sequence).bytes(&[0; NDMSG_LEN]).finish()
}

/// Reads one neighbour: who has an address on the link. `None` where that is not resolved, is
/// not Ethernet, or is of another family (bridges list theirs here too).
///
/// # Errors
/// Too short, or malformed attributes.
pub fn parse_neighbour(payload: &[u8]) -> Result<Option<(IpAddr, LinkAddress)>, WireError> {
    let [family] = array(payload, 0, "ndmsg")?;
    array::<NDMSG_LEN>(payload, 0, "ndmsg")?;
    if family != AF_INET && family != AF_INET6 {
        return Ok(None);
    }
    let (mut address, mut link) = (None, None);
    for attr in attrs(&payload[NDMSG_LEN..]) {
        let attr = attr?;
        match attr.kind {
            NDA_DST => address = Some(ip(family, attr.value)?),
            NDA_LLADDR => link = attr.value.try_into().ok(),
            _ => {}
        }
    }
    Ok(address.zip(link))
}

fn ip(family: u8, value: &[u8]) -> Result<IpAddr, WireError> {
    match family {
        AF_INET => Ok(Ipv4Addr::from(array::<4>(value, 0, "IFA_ADDRESS")?).into()),
        AF_INET6 => Ok(Ipv6Addr::from(array::<16>(value, 0, "IFA_ADDRESS")?).into()),
        other => Err(WireError::invalid("ifaddrmsg", format!("address family {other}"))),
    }
}
