//! What several of the protocols here share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// `AF_INET` and `NFPROTO_IPV4`, `include/linux/socket.h`.
pub(crate) const AF_INET: u8 = 2;
/// `AF_INET6` and `NFPROTO_IPV6`, `include/linux/socket.h`.
pub(crate) const AF_INET6: u8 = 10;

/// The address family of `address`.
pub(crate) const fn family_of(address: &SocketAddr) -> u8 {
    match address {
        SocketAddr::V4(_) => AF_INET,
        SocketAddr::V6(_) => AF_INET6,
    }
}

/// `duration` in whole seconds, rounded up: a lifetime asked for is never shortened.
pub(crate) fn whole_seconds(duration: Duration) -> u32 {
    let seconds = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

/// An IPv4 address from its bytes in network order.
pub(crate) const fn ipv4(octets: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]))
}

/// An IPv6 address from its bytes in network order.
pub(crate) fn ipv6(octets: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(octets))
}
