//! The IPVS sync message, version 1: how one director tells another of its entries.
//!
//! A backup daemon that takes one creates or re-arms the entries in it. Source:
//! `net/netfilter/ipvs/ip_vs_sync.c` (`struct ip_vs_sync_mesg`, `ip_vs_sync_v4`, `ip_vs_sync_v6`,
//! `ip_vs_process_message()`). Network byte order throughout.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::common::{ipv4, ipv6, whole_seconds};
use crate::nl::{WireError, align, array};

/// Multicast group that the daemons use by default (`IP_VS_SYNC_GROUP`).
pub const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 81);
/// UDP port that the daemons use by default (`IP_VS_SYNC_PORT`).
pub const PORT: u16 = 8848;
/// [`SyncConn::state`] of an open TCP session (`IP_VS_TCP_S_ESTABLISHED`).
pub const STATE_ESTABLISHED: u16 = 1;

/// Bit of [`SyncConn::flags`]: not established (`IP_VS_CONN_F_INACTIVE`).
pub const FLAG_INACTIVE: u32 = 0x100;
/// Bit of [`SyncConn::flags`]: a persistence template, no session (`IP_VS_CONN_F_TEMPLATE`).
pub const FLAG_TEMPLATE: u32 = 0x1000;

/// `SYNC_PROTO_VER`.
const VERSION: u8 = 1;
/// `struct ip_vs_sync_mesg`.
const HEADER_LEN: usize = 8;
/// The fields before the addresses, the same in `struct ip_vs_sync_v4` and `ip_vs_sync_v6`.
const FIXED_LEN: usize = 24;
const V4_LEN: usize = FIXED_LEN + 3 * 4;
const V6_LEN: usize = FIXED_LEN + 3 * 16;
/// `STYPE_F_INET6`.
const TYPE_INET6: u8 = 1;
/// `SVER_MASK`: the size; the bits above are the version of the connection's layout, 0.
const SIZE_MASK: u16 = 0x0fff;

/// One entry in a sync message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SyncConn {
    /// `IPPROTO_TCP` (6), `IPPROTO_UDP` (17) or `IPPROTO_SCTP` (132).
    pub protocol: u8,
    /// `IP_VS_CONN_F_*`: the forwarding method in the low three bits
    /// ([`Forwarding::code`](crate::ipvs::Forwarding::code)), [`FLAG_INACTIVE`], [`FLAG_TEMPLATE`].
    /// A backup ignores the bits that it does not take over (`IP_VS_CONN_F_BACKUP_MASK`).
    pub flags: u32,
    /// State of the protocol, such as [`STATE_ESTABLISHED`].
    pub state: u16,
    /// The client.
    pub client: SocketAddr,
    /// The VIP, with the port that the client uses, for fwmark services as well.
    pub vip: SocketAddr,
    /// The backend, with the port that it listens on.
    pub backend: SocketAddr,
    /// Mark of the service; 0 where it is found by address.
    pub fwmark: u32,
    /// Lifetime from the arrival on, in whole seconds; zero takes the namespace's value.
    pub timeout: Duration,
}

impl SyncConn {
    /// Whether a sync message can hold it: the three addresses must be of one family.
    #[must_use]
    pub const fn encodable(&self) -> bool {
        let v4 = self.client.is_ipv4();
        v4 == self.vip.is_ipv4() && v4 == self.backend.is_ipv4()
    }

    const fn encoded_len(&self) -> usize {
        if self.client.is_ipv4() { V4_LEN } else { V6_LEN }
    }
}

/// Builds the datagrams that carry `conns`, in order, none longer than `max_len` bytes unless a
/// single entry already is (80 bytes hold any). Lifetimes are rounded up to whole seconds.
///
/// A backup with another id than `sync_id` ignores them, unless its own is 0. Entries that are not
/// [`SyncConn::encodable`] are left out: the message has no form for them.
#[must_use]
pub fn encode(conns: &[SyncConn], sync_id: u8, max_len: usize) -> Vec<Vec<u8>> {
    // The size field has 16 bits.
    let max_len = max_len.min(usize::from(u16::MAX));
    let mut datagrams = Vec::new();
    let mut datagram = start(sync_id);
    for conn in conns.iter().filter(|conn| conn.encodable()) {
        let full = datagram[4] == u8::MAX || datagram.len() + conn.encoded_len() > max_len;
        if full && datagram[4] > 0 {
            datagrams.push(finish(datagram));
            datagram = start(sync_id);
        }
        append(&mut datagram, conn);
        datagram[4] += 1;
    }
    if datagram[4] > 0 {
        datagrams.push(finish(datagram));
    }
    datagrams
}

/// `struct ip_vs_sync_mesg`: reserved, syncid, size, nr_conns, version, spare.
fn start(sync_id: u8) -> Vec<u8> {
    vec![0, sync_id, 0, 0, 0, VERSION, 0, 0]
}

fn finish(mut datagram: Vec<u8>) -> Vec<u8> {
    let size = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
    datagram[2..4].copy_from_slice(&size.to_be_bytes());
    datagram
}

fn append(datagram: &mut Vec<u8>, conn: &SyncConn) {
    let kind = if conn.client.is_ipv4() { 0 } else { TYPE_INET6 };
    // At most 72: version 0 in the upper bits.
    let size = u16::try_from(conn.encoded_len()).unwrap_or(SIZE_MASK);
    datagram.extend_from_slice(&[kind, conn.protocol]);
    datagram.extend_from_slice(&size.to_be_bytes());
    datagram.extend_from_slice(&conn.flags.to_be_bytes());
    datagram.extend_from_slice(&conn.state.to_be_bytes());
    for address in [conn.client, conn.vip, conn.backend] {
        datagram.extend_from_slice(&address.port().to_be_bytes());
    }
    datagram.extend_from_slice(&conn.fwmark.to_be_bytes());
    datagram.extend_from_slice(&whole_seconds(conn.timeout).to_be_bytes());
    for address in [conn.client, conn.vip, conn.backend] {
        match address.ip() {
            IpAddr::V4(address) => datagram.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => datagram.extend_from_slice(&address.octets()),
        }
    }
}

/// Decodes a datagram into the sync id and its entries. Optional parameters (sequence numbers,
/// persistence data) are checked for length and skipped.
///
/// # Errors
/// It is not version 1, says another size than it has, or an entry does not fit: the kernel drops
/// such a message too.
pub fn decode(datagram: &[u8]) -> Result<(u8, Vec<SyncConn>), WireError> {
    const WHAT: &str = "IPVS sync message";
    let [reserved, sync_id, size_high, size_low, count, version, spare @ ..] =
        array::<HEADER_LEN>(datagram, 0, WHAT)?;
    if version != VERSION || reserved != 0 || spare != [0, 0] {
        return Err(WireError::invalid(WHAT, "not version 1"));
    }
    let size = usize::from(u16::from_be_bytes([size_high, size_low]));
    if size != datagram.len() {
        let why = format!("says {size} bytes, has {}", datagram.len());
        return Err(WireError::invalid(WHAT, why));
    }
    let mut conns = Vec::with_capacity(usize::from(count));
    let mut offset = HEADER_LEN;
    for _ in 0..count {
        let rest = datagram.get(offset..).unwrap_or(&[]);
        let (conn, size) = decode_conn(rest)?;
        conns.push(conn);
        offset = offset.saturating_add(align(size));
    }
    Ok((sync_id, conns))
}

/// One entry and the bytes that it takes, without padding.
fn decode_conn(bytes: &[u8]) -> Result<(SyncConn, usize), WireError> {
    const WHAT: &str = "IPVS sync entry";
    let be16 = |offset| array(bytes, offset, WHAT).map(u16::from_be_bytes);
    let be32 = |offset| array(bytes, offset, WHAT).map(u32::from_be_bytes);
    let [kind, protocol] = array(bytes, 0, WHAT)?;
    let version_and_size = be16(2)?;
    if version_and_size & !SIZE_MASK != 0 {
        let version = version_and_size >> 12;
        return Err(WireError::invalid(WHAT, format!("layout version {version}")));
    }
    let v6 = kind & TYPE_INET6 != 0;
    if !v6 && kind != 0 {
        return Err(WireError::invalid(WHAT, format!("type {kind}")));
    }
    let fixed = if v6 { V6_LEN } else { V4_LEN };
    let size = usize::from(version_and_size);
    if size < fixed || size > bytes.len() {
        let why = format!("{size} bytes, needs {fixed}, has {}", bytes.len());
        return Err(WireError::invalid(WHAT, why));
    }
    skip_parameters(&bytes[fixed..size])?;
    let address = |index: usize| -> Result<SocketAddr, WireError> {
        let ip = if v6 {
            ipv6(array(bytes, FIXED_LEN + 16 * index, WHAT)?)
        } else {
            ipv4(array(bytes, FIXED_LEN + 4 * index, WHAT)?)
        };
        Ok(SocketAddr::new(ip, be16(10 + 2 * index)?))
    };
    let conn = SyncConn {
        protocol,
        flags: be32(4)?,
        state: be16(8)?,
        client: address(0)?,
        vip: address(1)?,
        backend: address(2)?,
        fwmark: be32(16)?,
        timeout: Duration::from_secs(be32(20)?.into()),
    };
    Ok((conn, size))
}

/// Walks the optional parameters: type, length, that many bytes (`ip_vs_proc_sync_conn()`).
fn skip_parameters(mut bytes: &[u8]) -> Result<(), WireError> {
    const WHAT: &str = "IPVS sync parameter";
    while !bytes.is_empty() {
        let [_, len] = array(bytes, 0, WHAT)?;
        if len == 0 {
            return Err(WireError::invalid(WHAT, "empty"));
        }
        let need = 2 + usize::from(len);
        bytes =
            bytes.get(need..).ok_or(WireError::Short { what: WHAT, need, have: bytes.len() })?;
    }
    Ok(())
}
