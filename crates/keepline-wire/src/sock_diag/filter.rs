//! The filter that the kernel runs over a dump: `INET_DIAG_REQ_BYTECODE`,
//! `inet_diag_bc_run()` and `inet_diag_bc_audit()` in `net/ipv4/inet_diag.c`.

use std::net::IpAddr;

use crate::common::{AF_INET, AF_INET6};

/// `struct inet_diag_bc_op`: code, offset if it holds, offset if not.
const OP_LEN: u16 = 4;
/// `struct inet_diag_hostcond` without its address.
const HOSTCOND_LEN: u16 = 8;
/// Jump always (its condition never holds).
const INET_DIAG_BC_JMP: u8 = 1;
/// The remote address and port match.
const INET_DIAG_BC_D_COND: u8 = 8;
/// `inet_diag_hostcond.port`: any.
const ANY_PORT: i32 = -1;
/// The length of an attribute, header included, and the offset of a jump are 16 bits wide.
const MAX_CODE_LEN: usize = (u16::MAX - OP_LEN) as usize;

/// A filter on the remote end: the address is in one of some prefixes, optionally on one port.
///
/// An IPv4 prefix also matches IPv6 sockets that speak IPv4. The kernel tries the prefixes
/// one after the other for each socket: a filter is cheap for dozens, not for thousands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFilter {
    peers: Vec<(IpAddr, u8)>,
    port: Option<u16>,
}

impl PeerFilter {
    /// Sockets to any of `peers` (address, prefix length in bits; a length beyond the
    /// address is the whole address). No peers: no socket passes.
    #[must_use]
    pub fn new(peers: &[(IpAddr, u8)]) -> Self {
        let peers = peers.iter().map(|(ip, prefix_len)| canonical(*ip, *prefix_len)).collect();
        Self { peers, port: None }
    }

    /// Only sockets to this remote port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Whether one request can carry the filter: about 3,200 IPv4 or 2,000 IPv6 peers.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.code_len() <= MAX_CODE_LEN
    }

    fn code_len(&self) -> usize {
        let peer_len = |(ip, _): &(IpAddr, u8)| usize::from(condition_len(*ip) + OP_LEN);
        self.peers.iter().map(peer_len).sum::<usize>() + usize::from(OP_LEN)
    }

    /// The byte code, or `None` if it does not fit.
    ///
    /// Each peer is a condition and a jump to the end of the code, which accepts; where the
    /// condition fails, the jump is stepped over. After the last peer stands a jump past
    /// the end, which rejects.
    pub(super) fn bytecode(&self) -> Option<Vec<u8>> {
        let total = Some(self.code_len()).filter(|len| *len <= MAX_CODE_LEN)?;
        let mut code = Vec::with_capacity(total);
        for (ip, prefix_len) in &self.peers {
            let len = condition_len(*ip);
            push_op(&mut code, INET_DIAG_BC_D_COND, len, len + OP_LEN);
            push_hostcond(&mut code, *ip, *prefix_len, self.port);
            let to_end = u16::try_from(total - code.len()).ok()?;
            push_op(&mut code, INET_DIAG_BC_JMP, OP_LEN, to_end);
        }
        push_op(&mut code, INET_DIAG_BC_JMP, OP_LEN, 2 * OP_LEN);
        Some(code)
    }
}

/// The kernel knows mapped addresses as IPv4 and refuses prefixes longer than the address.
fn canonical(ip: IpAddr, prefix_len: u8) -> (IpAddr, u8) {
    match (ip, ip.to_canonical()) {
        (IpAddr::V6(_), IpAddr::V4(v4)) if prefix_len >= 96 => {
            (v4.into(), (prefix_len - 96).min(32))
        }
        (IpAddr::V4(_), _) => (ip, prefix_len.min(32)),
        (IpAddr::V6(_), _) => (ip, prefix_len.min(128)),
    }
}

/// A host condition with its op.
const fn condition_len(ip: IpAddr) -> u16 {
    OP_LEN + HOSTCOND_LEN + if ip.is_ipv4() { 4 } else { 16 }
}

fn push_op(code: &mut Vec<u8>, op: u8, yes: u16, no: u16) {
    // `yes` is one byte; the longest condition has 28.
    code.extend_from_slice(&[op, yes.to_le_bytes()[0]]);
    code.extend_from_slice(&no.to_ne_bytes());
}

fn push_hostcond(code: &mut Vec<u8>, ip: IpAddr, prefix_len: u8, port: Option<u16>) {
    let family = if ip.is_ipv4() { AF_INET } else { AF_INET6 };
    code.extend_from_slice(&[family, prefix_len, 0, 0]);
    code.extend_from_slice(&port.map_or(ANY_PORT, i32::from).to_ne_bytes());
    match ip {
        IpAddr::V4(v4) => code.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => code.extend_from_slice(&v6.octets()),
    }
}
