//! The daemons that send and take sync messages.

use std::net::IpAddr;

use super::{
    ATTR_DAEMON, CMD_DEL_DAEMON, CMD_GET_DAEMON, CMD_NEW_DAEMON, body, command, query, text_bytes,
};
use crate::common::{ipv4, ipv6};
use crate::nl::{NLM_F_DUMP, WireError, array};

// IPVS_DAEMON_ATTR_*
const STATE: u16 = 1;
const MCAST_IFN: u16 = 2;
const SYNC_ID: u16 = 3;
const SYNC_MAXLEN: u16 = 4;
const MCAST_GROUP: u16 = 5;
const MCAST_GROUP6: u16 = 6;
const MCAST_PORT: u16 = 7;
const MCAST_TTL: u16 = 8;

/// Which of the two daemons of a network namespace (`IP_VS_STATE_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DaemonState {
    /// Sends sync messages.
    Master,
    /// Takes them.
    Backup,
}

impl DaemonState {
    const fn code(self) -> u32 {
        match self {
            Self::Master => 1,
            Self::Backup => 2,
        }
    }
}

/// A sync daemon. The optional fields are left to the kernel where they are `None`; a kernel
/// before 4.3 does not know or report them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Master or backup.
    pub state: DaemonState,
    /// Interface that it is bound to.
    pub interface: String,
    /// 0…255; a backup with 0 takes messages of any id.
    pub sync_id: u32,
    /// Longest UDP payload in bytes; the default follows the interface's MTU.
    pub sync_maxlen: Option<u16>,
    /// Multicast group, IPv4 or IPv6; the default is 224.0.0.81.
    pub mcast_group: Option<IpAddr>,
    /// UDP port; the default is 8848. A master with `sync_ports` > 1 counts up from it.
    pub mcast_port: Option<u16>,
    /// TTL or hop limit of the messages; the default is 1.
    pub mcast_ttl: Option<u8>,
}

/// A request for the daemons that run: at most one master and one backup.
#[must_use]
pub fn get_daemons(family: u16, sequence: u32) -> Vec<u8> {
    query(family, CMD_GET_DAEMON, NLM_F_DUMP, sequence).finish()
}

/// A request to start a daemon. `EEXIST` where one of its kind runs, `ENODEV` for an unknown
/// interface, `EINVAL` where a service has a backend of another address family.
#[must_use]
pub fn new_daemon(family: u16, daemon: &Daemon, sequence: u32) -> Vec<u8> {
    command(family, CMD_NEW_DAEMON, sequence)
        .nested(ATTR_DAEMON, |request| {
            let mut request = request
                .attr(STATE, &daemon.state.code().to_ne_bytes())
                .attr(MCAST_IFN, &text_bytes(&daemon.interface))
                .attr(SYNC_ID, &daemon.sync_id.to_ne_bytes());
            if let Some(length) = daemon.sync_maxlen {
                request = request.attr(SYNC_MAXLEN, &length.to_ne_bytes());
            }
            request = match daemon.mcast_group {
                Some(IpAddr::V4(group)) => request.attr(MCAST_GROUP, &group.octets()),
                Some(IpAddr::V6(group)) => request.attr(MCAST_GROUP6, &group.octets()),
                None => request,
            };
            if let Some(port) = daemon.mcast_port {
                request = request.attr(MCAST_PORT, &port.to_ne_bytes());
            }
            match daemon.mcast_ttl {
                Some(ttl) => request.attr(MCAST_TTL, &[ttl]),
                None => request,
            }
        })
        .finish()
}

/// A request to stop a daemon. `ESRCH` where none runs.
#[must_use]
pub fn del_daemon(family: u16, state: DaemonState, sequence: u32) -> Vec<u8> {
    command(family, CMD_DEL_DAEMON, sequence)
        .nested(ATTR_DAEMON, |request| request.attr(STATE, &state.code().to_ne_bytes()))
        .finish()
}

/// Decodes one answer to [`get_daemons`] (`ip_vs_genl_fill_daemon()`).
///
/// # Errors
/// State, interface or id are missing or unknown, or an attribute is too short for its type.
pub fn parse_daemon(payload: &[u8]) -> Result<Daemon, WireError> {
    const WHAT: &str = "IPVS sync daemon";
    let (mut state, mut interface, mut sync_id) = (None, None, None);
    let (mut sync_maxlen, mut mcast_group, mut mcast_port, mut mcast_ttl) =
        (None, None, None, None);
    for attr in body(payload, ATTR_DAEMON, WHAT)?.nested() {
        let attr = attr?;
        match attr.kind {
            STATE => {
                state = Some(match attr.u32(WHAT)? {
                    1 => DaemonState::Master,
                    2 => DaemonState::Backup,
                    other => return Err(WireError::invalid(WHAT, format!("state {other}"))),
                });
            }
            MCAST_IFN => interface = Some(attr.text()),
            SYNC_ID => sync_id = Some(attr.u32(WHAT)?),
            SYNC_MAXLEN => sync_maxlen = Some(attr.u16(WHAT)?),
            MCAST_GROUP => mcast_group = Some(ipv4(array(attr.value, 0, WHAT)?)),
            MCAST_GROUP6 => mcast_group = Some(ipv6(array(attr.value, 0, WHAT)?)),
            MCAST_PORT => mcast_port = Some(attr.u16(WHAT)?),
            MCAST_TTL => mcast_ttl = Some(attr.u8(WHAT)?),
            _ => {}
        }
    }
    match (state, interface, sync_id) {
        (Some(state), Some(interface), Some(sync_id)) => Ok(Daemon {
            state,
            interface,
            sync_id,
            sync_maxlen,
            mcast_group,
            mcast_port,
            mcast_ttl,
        }),
        _ => Err(WireError::invalid(WHAT, "no state, interface or id")),
    }
}
