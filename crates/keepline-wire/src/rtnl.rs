//! Addresses of a network namespace.
//!
//! Source: `include/uapi/linux/if_addr.h`, `rtnetlink.h`; `inet_fill_ifaddr()` in
//! `net/ipv4/devinet.c`, `inet6_fill_ifaddr()` in `net/ipv6/addrconf.c`. The protocol is
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

fn ip(family: u8, value: &[u8]) -> Result<IpAddr, WireError> {
    match family {
        AF_INET => Ok(Ipv4Addr::from(array::<4>(value, 0, "IFA_ADDRESS")?).into()),
        AF_INET6 => Ok(Ipv6Addr::from(array::<16>(value, 0, "IFA_ADDRESS")?).into()),
        other => Err(WireError::invalid("ifaddrmsg", format!("address family {other}"))),
    }
}
