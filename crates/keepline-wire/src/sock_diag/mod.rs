//! TCP sockets of a network namespace: dump, exact look-up, destruction.
//!
//! Source: `include/uapi/linux/inet_diag.h`, `sock_diag.h`; `net/ipv4/inet_diag.c`,
//! `net/ipv4/tcp_diag.c`. The protocol is `NETLINK_SOCK_DIAG` (4).

mod filter;
mod tcp_info;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

pub use filter::PeerFilter;
pub use tcp_info::TcpInfo;

use crate::common::{AF_INET, AF_INET6};
use crate::nl::{NLM_F_ACK, NLM_F_DUMP, Request, WireError, array, attrs};

/// Type of the old dump request and of its answers (`inet_diag.h`).
///
/// The newer `SOCK_DIAG_BY_FAMILY` walks the whole table once per address
/// family; this one has no family and gives both in one walk.
pub const TCPDIAG_GETSOCK: u16 = 18;
/// Type of the exact request and of its answer (`sock_diag.h`).
pub const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// Type of the request that closes a socket (`sock_diag.h`); kernel ≥ 4.5 with
/// `CONFIG_INET_DIAG_DESTROY`, else EOPNOTSUPP.
pub const SOCK_DESTROY: u16 = 21;

const IPPROTO_TCP: u8 = 6;

/// Request attribute of a dump: the filter.
const INET_DIAG_REQ_BYTECODE: u16 = 1;
/// Attributes of an answer.
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_MARK: u16 = 15;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// Bit of `idiag_ext` that asks for `INET_DIAG_INFO`. Mark (to CAP_NET_ADMIN) and cgroup
/// (kernel ≥ 5.7 with `CONFIG_SOCK_CGROUP_DATA`) come unasked: `inet_diag_msg_attrs_fill()`.
const EXT_INFO: u8 = 1 << (INET_DIAG_INFO - 1);
/// `INET_DIAG_NOCOOKIE` in both halves: any socket with these addresses.
pub const NO_COOKIE: u64 = u64::MAX;
/// Length of `struct inet_diag_msg`, the fixed part of an answer.
const ANSWER_LEN: usize = 72;

/// State of a TCP socket, `enum` in `include/net/tcp_states.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum TcpState {
    /// Open in both directions.
    Established = 1,
    /// SYN sent, nothing back yet.
    SynSent,
    /// SYN answered, the third packet missing. Dumps show [`Self::NewSynRecv`] sockets as this.
    SynRecv,
    /// We closed; our FIN is not acknowledged.
    FinWait1,
    /// We closed; the peer has not.
    FinWait2,
    /// Closed by both; late packets are awaited.
    TimeWait,
    /// Not connected, or aborted.
    Close,
    /// The peer closed; we have not.
    CloseWait,
    /// Both closed, the peer first; our FIN is not acknowledged.
    LastAck,
    /// Accepts connections.
    Listen,
    /// Both closed at once.
    Closing,
    /// A connection request without a socket of its own; needed only to ask for them.
    NewSynRecv,
}

impl TcpState {
    /// The state with this number, if there is one.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynRecv,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            12 => Self::NewSynRecv,
            _ => return None,
        })
    }

    /// The name as netstat and IPVS write it: `ESTABLISHED`, `FIN_WAIT1`, ….
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "ESTABLISHED",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::FinWait1 => "FIN_WAIT1",
            Self::FinWait2 => "FIN_WAIT2",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
            Self::NewSynRecv => "NEW_SYN_RECV",
        }
    }
}

/// A set of TCP states, one bit each (`TCPF_…`, `include/net/tcp_states.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct States(pub u32);

impl States {
    /// Every state of [`TcpState`].
    pub const ALL: Self = Self(0x1ffe);
    /// Sockets that had a handshake, are not listening and can still carry or await data:
    /// ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK and CLOSING.
    pub const CONNECTED: Self = Self::of(&[
        TcpState::Established,
        TcpState::FinWait1,
        TcpState::FinWait2,
        TcpState::CloseWait,
        TcpState::LastAck,
        TcpState::Closing,
    ]);
    /// ESTABLISHED alone.
    pub const ESTABLISHED: Self = Self::of(&[TcpState::Established]);
    /// LISTEN alone.
    pub const LISTEN: Self = Self::of(&[TcpState::Listen]);

    /// The set of `states`.
    #[must_use]
    pub const fn of(states: &[TcpState]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < states.len() {
            bits |= 1 << states[index] as u32;
            index += 1;
        }
        Self(bits)
    }

    /// Whether `state` is in the set.
    #[must_use]
    pub const fn contains(self, state: TcpState) -> bool {
        self.0 & (1 << state as u32) != 0
    }
}

/// Which timer of a socket is armed (`idiag_timer`, `inet_sk_diag_fill()`). The kernel
/// shows one, and retransmission and zero-window probes hide an armed keepalive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Timer {
    /// None. In ESTABLISHED this proves that keepalive is off.
    Off,
    /// Data or a SYN awaits its acknowledgement; also tail-loss and reordering timers.
    Retransmit,
    /// Keepalive; in FIN_WAIT2 also the time until the socket is given up.
    Keepalive,
    /// TIME_WAIT and the FIN_WAIT2 sockets that no process holds.
    TimeWait,
    /// The peer's window is zero and is probed.
    Probe0,
    /// A number that this version does not know.
    Other(u8),
}

impl Timer {
    /// The timer with this `idiag_timer`.
    #[must_use]
    pub const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Off,
            1 => Self::Retransmit,
            2 => Self::Keepalive,
            3 => Self::TimeWait,
            4 => Self::Probe0,
            other => Self::Other(other),
        }
    }
}

/// One TCP socket (`struct inet_diag_msg` with its attributes).
///
/// IPv4-mapped IPv6 addresses (`::ffff:10.0.0.1`: an IPv6 socket that speaks IPv4) are
/// given as the IPv4 addresses that are on the wire; requests find such sockets by them.
/// Listeners on `::` stay IPv6. Link-local addresses carry the interface as scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// This end.
    pub local: SocketAddr,
    /// The other end; unspecified for listeners.
    pub remote: SocketAddr,
    /// State; FIN_WAIT2 sockets that no process holds are shown as FIN_WAIT2, not TIME_WAIT.
    pub state: TcpState,
    /// The armed timer.
    pub timer: Timer,
    /// Time until [`Self::timer`] fires, in whole milliseconds; 0 without a timer.
    pub timer_expires: Duration,
    /// Retransmissions so far (timer Retransmit) or unanswered probes (Keepalive, Probe0).
    pub retransmits_or_probes: u8,
    /// Names this socket until the next boot; never reused (`sock_gen_cookie()`).
    pub cookie: u64,
    /// Inode in `/proc/<pid>/fd`; 0 if no process holds the socket any more.
    pub inode: u32,
    /// Owner's user id, in the user namespace of whoever asked.
    pub uid: u32,
    /// Interface index the socket is bound to; 0 = none.
    pub interface: u32,
    /// Bytes received and not read; for a listener, connections not accepted.
    pub rqueue: u32,
    /// Bytes written and not acknowledged; for a listener, the backlog.
    pub wqueue: u32,
    /// Id (inode) of the socket's cgroup v2; `None` before kernel 5.7 or without a full socket.
    pub cgroup: Option<u64>,
    /// `SO_MARK`; `None` without CAP_NET_ADMIN.
    pub mark: Option<u32>,
    /// `tcp_info`, if asked for and the socket has one.
    pub info: Option<TcpInfo>,
}

impl Socket {
    /// Asks again for exactly this socket; ENOENT if it is gone, even if another has its addresses.
    #[must_use]
    pub fn get_again(&self, with_info: bool, sequence: u32) -> Vec<u8> {
        let ext = if with_info { EXT_INFO } else { 0 };
        self.exact().request(SOCK_DIAG_BY_FAMILY, 0, ext, sequence)
    }

    /// Closes exactly this socket, as [`destroy`] does.
    #[must_use]
    pub fn destroy(&self, sequence: u32) -> Vec<u8> {
        self.exact().request(SOCK_DESTROY, NLM_F_ACK, 0, sequence)
    }

    fn exact(&self) -> Exact {
        Exact {
            local: self.local,
            remote: self.remote,
            interface: self.interface,
            cookie: self.cookie,
        }
    }
}

/// Asks for every TCP socket of the namespace in one of `states`, IPv4 and IPv6 in one walk.
///
/// `tcp_info` is what makes a dump expensive; ask for it only where it is used.
/// Answers are of type [`TCPDIAG_GETSOCK`].
#[must_use]
pub fn dump(states: States, with_info: bool, sequence: u32) -> Vec<u8> {
    dump_request(states, with_info, sequence).finish()
}

/// As [`dump`], and only sockets whose remote address is in one of `peers`
/// (address, prefix length). See [`dump_filtered`].
#[must_use]
pub fn dump_to_peers(
    states: States,
    with_info: bool,
    peers: &[(IpAddr, u8)],
    sequence: u32,
) -> Vec<u8> {
    dump_filtered(states, with_info, &PeerFilter::new(peers), sequence)
}

/// As [`dump`], and only sockets that pass `filter`. The kernel filters, so that the others
/// cost neither a message nor their `tcp_info`.
///
/// With more peers than a request can carry (see [`PeerFilter::fits`]) the dump is
/// unfiltered: the answer then holds more than was asked for, never less.
#[must_use]
pub fn dump_filtered(
    states: States,
    with_info: bool,
    filter: &PeerFilter,
    sequence: u32,
) -> Vec<u8> {
    let request = dump_request(states, with_info, sequence);
    match filter.bytecode() {
        Some(code) => request.attr(INET_DIAG_REQ_BYTECODE, &code),
        None => request,
    }
    .finish()
}

fn dump_request(states: States, with_info: bool, sequence: u32) -> Request {
    // struct inet_diag_req, 60 bytes. Family 0 is "any"; the socket id stays zero, as a
    // port in it would be a filter.
    let mut body = [0; 60];
    body[3] = if with_info { EXT_INFO } else { 0 };
    body[52..56].copy_from_slice(&states.0.to_ne_bytes());
    Request::new(TCPDIAG_GETSOCK, NLM_F_DUMP, sequence).bytes(&body)
}

/// Asks for the one socket with these addresses, and with this `cookie` if given.
///
/// The answer is one message of type [`SOCK_DIAG_BY_FAMILY`], or the error ENOENT: no such
/// socket, or its cookie differs (`inet_diag_find_one_icsk()`). A socket bound to an
/// interface is found only by [`Socket::get_again`]. Where no connection matches and no
/// cookie is given, the kernel answers with a *listener* on the local address: look at the
/// state.
#[must_use]
pub fn get(
    local: SocketAddr,
    remote: SocketAddr,
    cookie: Option<u64>,
    with_info: bool,
    sequence: u32,
) -> Vec<u8> {
    let ext = if with_info { EXT_INFO } else { 0 };
    Exact::new(local, remote, cookie).request(SOCK_DIAG_BY_FAMILY, 0, ext, sequence)
}

/// Closes a socket of any process: its owner gets ECONNABORTED, the peer a RST.
/// Needs CAP_NET_ADMIN; answered by an acknowledgement or ENOENT, as [`get`]. Without a
/// cookie it may hit a listener: give one.
#[must_use]
pub fn destroy(
    local: SocketAddr,
    remote: SocketAddr,
    cookie: Option<u64>,
    sequence: u32,
) -> Vec<u8> {
    Exact::new(local, remote, cookie).request(SOCK_DESTROY, NLM_F_ACK, 0, sequence)
}

/// What names one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exact {
    /// Own address.
    pub local: SocketAddr,
    /// Peer's address.
    pub remote: SocketAddr,
    /// Interface index the socket is bound to; 0 = none. A bound socket is found only with it.
    pub interface: u32,
    /// The kernel's identity of the socket.
    pub cookie: u64,
}

impl Exact {
    fn new(local: SocketAddr, remote: SocketAddr, cookie: Option<u64>) -> Self {
        let scope = |address| match address {
            SocketAddr::V6(v6) => SocketAddrV6::scope_id(&v6),
            SocketAddr::V4(_) => 0,
        };
        let interface = match scope(local) {
            0 => scope(remote),
            scope => scope,
        };
        Self { local, remote, interface, cookie: cookie.unwrap_or(NO_COOKIE) }
    }

    /// Asks for this socket without `tcp_info`; answered as [`get`].
    #[must_use]
    pub fn get(&self, sequence: u32) -> Vec<u8> {
        self.request(SOCK_DIAG_BY_FAMILY, 0, 0, sequence)
    }

    /// Closes this socket; acknowledged. See [`destroy`].
    #[must_use]
    pub fn destroy(&self, sequence: u32) -> Vec<u8> {
        self.request(SOCK_DESTROY, NLM_F_ACK, 0, sequence)
    }

    /// Asks for this socket with `tcp_info`; answered as [`get`].
    #[must_use]
    pub fn get_with_info(&self, sequence: u32) -> Vec<u8> {
        self.request(SOCK_DIAG_BY_FAMILY, 0, EXT_INFO, sequence)
    }

    /// `struct inet_diag_req_v2`, 56 bytes.
    fn request(&self, kind: u16, flags: u16, ext: u8, sequence: u32) -> Vec<u8> {
        let (family, source, destination) =
            match (self.local.ip().to_canonical(), self.remote.ip().to_canonical()) {
                (IpAddr::V4(local), IpAddr::V4(remote)) => {
                    (AF_INET, v4_bytes(local), v4_bytes(remote))
                }
                (local, remote) => (AF_INET6, v6_bytes(local), v6_bytes(remote)),
            };
        let mut body = Vec::with_capacity(56);
        body.extend_from_slice(&[family, IPPROTO_TCP, ext, 0]);
        body.extend_from_slice(&States::ALL.0.to_ne_bytes());
        // struct inet_diag_sockid
        body.extend_from_slice(&self.local.port().to_be_bytes());
        body.extend_from_slice(&self.remote.port().to_be_bytes());
        body.extend_from_slice(&source);
        body.extend_from_slice(&destination);
        body.extend_from_slice(&self.interface.to_ne_bytes());
        let [low, high] = halves(self.cookie);
        body.extend_from_slice(&low.to_ne_bytes());
        body.extend_from_slice(&high.to_ne_bytes());
        Request::new(kind, flags, sequence).bytes(&body).finish()
    }
}

fn v4_bytes(address: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&address.octets());
    bytes
}

fn v6_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Low half first, whatever the byte order: `sock_diag_save_cookie()`.
const fn halves(cookie: u64) -> [u32; 2] {
    #[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
    [cookie as u32, (cookie >> 32) as u32]
}

/// Reads the payload of one answer to [`dump`] or [`get`].
///
/// # Errors
/// Too short, an address family other than IPv4 and IPv6, a state that [`TcpState`] does
/// not know, or malformed attributes. Attributes that are missing are `None`.
pub fn parse(payload: &[u8]) -> Result<Socket, WireError> {
    const WHAT: &str = "inet_diag_msg";
    let fixed: [u8; ANSWER_LEN] = array(payload, 0, WHAT)?;
    let u32_at = |offset| array(&fixed, offset, WHAT).map(u32::from_ne_bytes);
    let [family, state, timer, retransmits_or_probes] = array(&fixed, 0, WHAT)?;
    let interface = u32_at(40)?;
    let address = |port, ip| -> Result<SocketAddr, WireError> {
        let port = u16::from_be_bytes(array(&fixed, port, WHAT)?);
        Ok(match family {
            AF_INET => (Ipv4Addr::from(array::<4>(&fixed, ip, WHAT)?), port).into(),
            AF_INET6 => v6_address(Ipv6Addr::from(array::<16>(&fixed, ip, WHAT)?), port, interface),
            other => return Err(WireError::invalid(WHAT, format!("address family {other}"))),
        })
    };
    let mut socket = Socket {
        local: address(4, 8)?,
        remote: address(6, 24)?,
        state: TcpState::from_u8(state)
            .ok_or_else(|| WireError::invalid(WHAT, format!("TCP state {state}")))?,
        timer: Timer::from_u8(timer),
        timer_expires: Duration::from_millis(u64::from(u32_at(52)?)),
        retransmits_or_probes,
        cookie: u64::from(u32_at(44)?) | u64::from(u32_at(48)?) << 32,
        inode: u32_at(68)?,
        uid: u32_at(64)?,
        interface,
        rqueue: u32_at(56)?,
        wqueue: u32_at(60)?,
        cgroup: None,
        mark: None,
        info: None,
    };
    for attr in attrs(payload.get(ANSWER_LEN..).unwrap_or(&[])) {
        let attr = attr?;
        match attr.kind {
            INET_DIAG_INFO => socket.info = TcpInfo::parse(attr.value),
            INET_DIAG_MARK => socket.mark = Some(attr.u32("INET_DIAG_MARK")?),
            // 0 is what the kernel gives where the socket has no cgroup any more.
            INET_DIAG_CGROUP_ID => {
                socket.cgroup = Some(attr.u64("INET_DIAG_CGROUP_ID")?).filter(|id| *id != 0);
            }
            _ => {}
        }
    }
    Ok(socket)
}

fn v6_address(ip: Ipv6Addr, port: u16, interface: u32) -> SocketAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => (v4, port).into(),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            SocketAddrV6::new(v6, port, 0, interface).into()
        }
        IpAddr::V6(v6) => (v6, port).into(),
    }
}
