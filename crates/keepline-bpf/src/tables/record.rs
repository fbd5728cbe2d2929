//! The records that the programs write: `struct socket_record`, `struct entry_record` and `struct
//! conn_record` of `bpf/tables.h`.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    time::Duration,
};

/// Size of `struct socket_record`.
pub(super) const SOCKET: usize = 80;
/// Size of `struct entry_record`.
pub(super) const ENTRY: usize = 88;
/// Size of `struct conn_record`.
pub(super) const CONN: usize = 72;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A TCP socket, as the table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketSeen {
    /// Inode of its network namespace.
    pub netns: u32,
    /// Own address; IPv4 where an IPv6 socket speaks IPv4.
    pub local: SocketAddr,
    /// Peer's address, likewise.
    pub remote: SocketAddr,
    /// `include/net/tcp_states.h`: 1, 5 or 8.
    pub state: u8,
    /// The kernel's identity of the socket; 0: nobody has asked for it yet, so it has none.
    pub cookie: u64,
    /// Inode, where it was asked for; 0 when no process holds it.
    pub inode: u64,
    /// Interface it is bound to; 0: none.
    pub interface: u32,
    /// Since the last data sent, data received or acknowledgement received.
    pub idle: Duration,
    /// Since anything was received.
    pub heard: Duration,
    /// Keepalive, where it is on.
    pub keepalive: Option<KeepaliveSeen>,
}

/// Keepalive settings of a socket; None is the namespace's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepaliveSeen {
    /// `TCP_KEEPIDLE`.
    pub idle: Option<Duration>,
    /// `TCP_KEEPINTVL`.
    pub interval: Option<Duration>,
    /// `TCP_KEEPCNT`.
    pub probes: Option<u8>,
}

/// A TCP connection that conntrack knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntrySeen {
    /// Inode of the network namespace.
    pub netns: u32,
    /// Source and destination of the first packet.
    pub original: (SocketAddr, SocketAddr),
    /// Source and destination of the answers.
    pub reply: (SocketAddr, SocketAddr),
    /// `enum tcp_conntrack`.
    pub state: u8,
    /// Lifetime left, to the tick.
    pub expires: Duration,
    /// A flow table has it: the lifetime and the state say nothing.
    pub offloaded: bool,
}

/// A TCP connection that IPVS remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnSeen {
    /// Inode of the network namespace.
    pub netns: u32,
    /// Who connected.
    pub client: SocketAddr,
    /// To whom.
    pub vip: SocketAddr,
    /// Where its packets go.
    pub backend: SocketAddr,
    /// `IP_VS_TCP_S_*`, `include/net/ip_vs.h`.
    pub state: u16,
    /// Lifetime left, to the tick.
    pub expires: Duration,
}

fn bytes<const N: usize>(record: &[u8], at: usize) -> [u8; N] {
    // Every place is a constant within the record: a wrong one fails in the first test.
    record[at..at + N].try_into().expect("N bytes")
}

fn number(record: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes(record, at))
}

fn address(record: &[u8], at: usize, family: u8, port: u16, interface: u32) -> Option<SocketAddr> {
    match family {
        AF_INET => Some((Ipv4Addr::from(bytes::<4>(record, at)), port).into()),
        AF_INET6 => {
            let address = Ipv6Addr::from(bytes::<16>(record, at));
            Some(match address.to_ipv4_mapped() {
                Some(v4) => (v4, port).into(),
                None if address.is_unicast_link_local() => {
                    SocketAddrV6::new(address, port, 0, interface).into()
                }
                None => (address, port).into(),
            })
        }
        _ => None,
    }
}

/// Whole milliseconds, as `jiffies_to_msecs` and `tcp_info` have them.
fn time(ticks: u32, per_second: u32) -> Duration {
    Duration::from_millis(u64::from(ticks) * 1000 / u64::from(per_second.max(1)))
}

impl SocketSeen {
    /// None for a family that TCP does not have.
    pub(super) fn parse(record: &[u8; SOCKET], per_second: u32) -> Option<Self> {
        let interface = number(record, 72);
        let [family, state, keepalive, probes] = bytes(record, 76);
        let local_port = u16::from_ne_bytes(bytes(record, 32));
        let remote_port = u16::from_be_bytes(bytes(record, 34));
        let set = |ticks: u32| (ticks != 0).then(|| time(ticks, per_second));
        Some(Self {
            local: address(record, 0, family, local_port, interface)?,
            remote: address(record, 16, family, remote_port, interface)?,
            netns: number(record, 36),
            cookie: u64::from_ne_bytes(bytes(record, 40)),
            inode: u64::from_ne_bytes(bytes(record, 48)),
            idle: time(number(record, 56), per_second),
            heard: time(number(record, 60), per_second),
            keepalive: (keepalive != 0).then(|| KeepaliveSeen {
                idle: set(number(record, 64)),
                interval: set(number(record, 68)),
                probes: (probes != 0).then_some(probes),
            }),
            interface,
            state,
        })
    }
}

impl EntrySeen {
    /// None for a family that TCP does not have.
    pub(super) fn parse(record: &[u8; ENTRY], per_second: u32) -> Option<Self> {
        let [family, state, offloaded] = bytes(record, 80);
        let at = |which: usize| {
            let port = u16::from_be_bytes(bytes(record, 64 + 2 * which));
            // Conntrack does not know interfaces.
            match address(record, 16 * which, family, port, 0)? {
                SocketAddr::V4(v4) if family == AF_INET6 => {
                    Some((v4.ip().to_ipv6_mapped(), port).into())
                }
                other => Some(other),
            }
        };
        Some(Self {
            original: (at(0)?, at(1)?),
            reply: (at(2)?, at(3)?),
            netns: number(record, 72),
            expires: time(number(record, 76), per_second),
            state,
            offloaded: offloaded != 0,
        })
    }
}

impl ConnSeen {
    /// None for a family that TCP does not have.
    pub(super) fn parse(record: &[u8; CONN], per_second: u32) -> Option<Self> {
        let [family, backend_family] = bytes(record, 64);
        let at = |which: usize, family| {
            let port = u16::from_be_bytes(bytes(record, 48 + 2 * which));
            address(record, 16 * which, family, port, 0)
        };
        Some(Self {
            client: at(0, family)?,
            vip: at(1, family)?,
            backend: at(2, backend_family)?,
            state: u16::from_ne_bytes(bytes(record, 54)),
            netns: number(record, 56),
            expires: time(number(record, 60), per_second),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_comes_back_from_its_record() {
        let mut record = [0; SOCKET];
        record[..4].copy_from_slice(&[10, 0, 0, 1]);
        record[16..20].copy_from_slice(&[10, 0, 0, 2]);
        record[32..34].copy_from_slice(&4000_u16.to_ne_bytes());
        record[34..36].copy_from_slice(&80_u16.to_be_bytes());
        record[36..40].copy_from_slice(&4_026_531_840_u32.to_ne_bytes());
        record[40..48].copy_from_slice(&7_u64.to_ne_bytes());
        record[56..60].copy_from_slice(&500_u32.to_ne_bytes());
        record[60..64].copy_from_slice(&750_u32.to_ne_bytes());
        record[64..68].copy_from_slice(&15_000_u32.to_ne_bytes());
        record[76..80].copy_from_slice(&[AF_INET, 1, 1, 3]);
        let socket = SocketSeen::parse(&record, 250).unwrap();
        assert_eq!(socket.local, "10.0.0.1:4000".parse().unwrap());
        assert_eq!(socket.remote, "10.0.0.2:80".parse().unwrap());
        assert_eq!((socket.netns, socket.cookie, socket.state), (4_026_531_840, 7, 1));
        assert_eq!(socket.idle, Duration::from_secs(2));
        assert_eq!(socket.heard, Duration::from_secs(3));
        let keepalive = socket.keepalive.unwrap();
        assert_eq!(keepalive.idle, Some(Duration::from_secs(60)));
        assert_eq!((keepalive.interval, keepalive.probes), (None, Some(3)));
        // An IPv6 socket that speaks IPv4, and one that does not.
        record[..16].copy_from_slice(&Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets());
        record[16..32].copy_from_slice(&"fd00::2".parse::<Ipv6Addr>().unwrap().octets());
        record[76] = AF_INET6;
        let socket = SocketSeen::parse(&record, 250).unwrap();
        assert_eq!(socket.local, "10.0.0.1:4000".parse().unwrap());
        assert_eq!(socket.remote, "[fd00::2]:80".parse().unwrap());
        record[76] = 1;
        assert_eq!(SocketSeen::parse(&record, 250), None);
    }

    #[test]
    fn an_entry_comes_back_from_its_record() {
        let mut record = [0; ENTRY];
        for (which, last) in [1, 2, 3, 4].into_iter().enumerate() {
            record[16 * which..16 * which + 4].copy_from_slice(&[10, 0, 0, last]);
            record[64 + 2 * which..66 + 2 * which]
                .copy_from_slice(&(u16::from(last) * 1000).to_be_bytes());
        }
        record[72..76].copy_from_slice(&9_u32.to_ne_bytes());
        record[76..80].copy_from_slice(&1001_u32.to_ne_bytes());
        record[80..83].copy_from_slice(&[AF_INET, 3, 0]);
        let entry = EntrySeen::parse(&record, 250).unwrap();
        let address = |text: &str| text.parse().unwrap();
        assert_eq!(entry.original, (address("10.0.0.1:1000"), address("10.0.0.2:2000")));
        assert_eq!(entry.reply, (address("10.0.0.3:3000"), address("10.0.0.4:4000")));
        assert_eq!((entry.netns, entry.state, entry.offloaded), (9, 3, false));
        assert_eq!(entry.expires, Duration::from_millis(4004));
    }

    #[test]
    fn a_connection_of_ipvs_comes_back_from_its_record() {
        let mut record = [0; CONN];
        for (which, last) in [1, 2, 3].into_iter().enumerate() {
            record[16 * which..16 * which + 4].copy_from_slice(&[10, 0, 0, last]);
            record[48 + 2 * which..50 + 2 * which]
                .copy_from_slice(&(u16::from(last) * 1000).to_be_bytes());
        }
        record[54..56].copy_from_slice(&4_u16.to_ne_bytes());
        record[56..60].copy_from_slice(&9_u32.to_ne_bytes());
        record[60..64].copy_from_slice(&1001_u32.to_ne_bytes());
        record[64..66].copy_from_slice(&[AF_INET, AF_INET]);
        let seen = ConnSeen::parse(&record, 250).unwrap();
        let address = |text: &str| text.parse().unwrap();
        assert_eq!(seen.client, address("10.0.0.1:1000"));
        assert_eq!(seen.vip, address("10.0.0.2:2000"));
        assert_eq!(seen.backend, address("10.0.0.3:3000"));
        assert_eq!((seen.netns, seen.state), (9, 4));
        assert_eq!(seen.expires, Duration::from_millis(4004));
        record[64] = 1;
        assert_eq!(ConnSeen::parse(&record, 250), None);
    }
}
